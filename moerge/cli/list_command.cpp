// moerge list methods: what there is to choose from.

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/merge/summary.h"

namespace moerge {

int run_list(std::string_view program, const std::vector<std::string>& arguments) {
  CLI::App app(
      "Prints what a YAML can choose from.\n\n"
      "example:  moerge list methods          # of \"moerge merge\", with parameters, defaults and papers\n",
      std::string(program));
  std::string what;
  bool json = false;
  app.add_option("WHAT", what, "methods")->required()->check(CLI::IsMember({"methods"}));
  app.add_flag("--json", json, "for scripts");
  if (!parse_arguments(app, arguments, program)) return 0;
  print_result(json ? json_text(methods_json()) : methods_text());
  return 0;
}

}  // namespace moerge
