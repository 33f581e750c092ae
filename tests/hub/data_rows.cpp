// Drives moerge/eval/data_source.h for tests/hub/data_sets.py:
//   data_rows PATH CONFIGURATION SPLIT FEWSHOT_SPLIT REVISION [FOLDER]
// Prints the commit, then each row of both splits as a line of JSON. A failure is one line on stderr and the
// exit code that moerge would have.
#include <cstdio>
#include <string>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/eval/data_source.h"

int main(int count, char** values) {
  const std::vector<std::string> arguments(values + 1, values + count);
  if (arguments.size() < 5) {
    std::fprintf(stderr, "see tests/hub/data_sets.py\n");
    return 2;
  }
  try {
    moerge::Reporter reporter(moerge::Verbosity::normal);
    moerge::Task task;
    task.task = "task";
    task.data = {.path = arguments[0],
                 .name = arguments[1],
                 .revision = arguments[4],
                 .test_split = arguments[2],
                 .fewshot_split = arguments[3]};
    const moerge::DataOptions options = {.folder = arguments.size() > 5 ? arguments[5] : "",
                                         .hub = moerge::hub_settings(moerge::process_environment)};
    const moerge::TaskDocuments found = moerge::DataSource(options, reporter).load(task, 1);
    std::printf("%s\n", found.revision.c_str());
    for (const auto& documents : {found.test, found.fewshot})
      for (const moerge::Document& document : documents) std::printf("%s\n", document.members.dump().c_str());
  } catch (const moerge::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return moerge::exit_code(error.kind());
  }
}
