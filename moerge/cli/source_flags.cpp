#include "moerge/cli/source_flags.h"

#include "moerge/base/error.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/folder_flags.h"

namespace moerge {

void add_build_flags(CLI::App& app, SourceOptions& options, const std::string& group) {
  app.add_flag("--allow-crimes,!--no-allow-crimes", options.allow_crimes,
               "combine models of different types, such as llama and mistral")
      ->group(group);
  app.add_flag("--i-understand-this-is-not-useful-without-training", options.allow_all_same,
               "allow all experts to be one model")
      ->group(group);
  app.add_option("--random-seed", options.seed, "seed of random gates and noise (0)")
      ->check(whole_number)
      ->group(group);
}

void add_remote_flag(CLI::App& app, SourceOptions& options) {
  app.add_flag_callback(
         "--remote", [&options] { options.fetch = Fetch::used; },
         "of models that are not in the cache fetch only the tensors that are used, and keep none of them")
      ->group("Files");
}

void add_device_flags(CLI::App& app, SourceOptions& options, const std::string& what) {
  const std::string work = kWorkGroup;
  app.add_option("--device", options.device, "where " + what + " computed: cpu (the default), auto")
      ->group(work);
  app.add_flag("--load-in-4bit", options.four_bit, "compute with 4-bit weights")->group(work);
  app.add_flag("--load-in-8bit", options.eight_bit, "compute with 8-bit weights")->group(work);
}

void check_device_flags(const SourceOptions& options) {
  if (options.four_bit && options.eight_bit)
    fail(ErrorKind::usage, "--load-in-4bit and --load-in-8bit exclude each other");
}

}  // namespace moerge
