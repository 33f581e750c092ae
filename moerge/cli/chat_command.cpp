// moerge chat MODEL: arguments, and the order in which things happen.

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/inference_flags.h"
#include "moerge/cli/open_inference.h"

namespace moerge {

int run_chat(std::string_view program, const std::vector<std::string>& arguments) {
  std::string model, prompt;
  bool routing = false;
  InferenceFlags flags;
  CLI::App app("Talks with a model in the terminal.", std::string(program));
  app.add_option("MODEL", model, "a GGUF file")->required();
  app.add_option("-p,--prompt", prompt, "one message");
  app.add_flag("--show-routing", routing, "show which experts have each token");
  add_inference_flags(app, flags);
  if (!parse_arguments(app, split_llama_flags(arguments, flags), program)) return 0;
  Reporter reporter(Verbosity::normal);
  const std::unique_ptr<Inference> inference = open_inference(model, flags, 1, reporter);
  Answer answer(
      *inference, RequestKind::chat,
      {{"messages", {{{"role", "user"}, {"content", prompt}}}}, {"stream", true}, {"routing", routing}},
      [] { return false; });
  while (const auto piece = answer.next()) print_result(routing ? piece->body.dump() + "\n" : piece->text);
  if (answer.error()) print_error_line(answer.error()->dump());
  return 0;
}

}  // namespace moerge
