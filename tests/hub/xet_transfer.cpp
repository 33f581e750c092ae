// Drives moerge/hub/xet.h for tests/hub/xet.py:
//   xet_transfer upload REFRESH_URL TOKEN FILE SHA256 [FILE SHA256]...
//   xet_transfer download REFRESH_URL TOKEN HASH SIZE TARGET
// Prints "progress DONE TOTAL" lines; a failure is one line on stderr and the exit code that moerge would
// have.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/hub/xet.h"

int main(int count, char** values) {
  const std::vector<std::string> arguments(values + 1, values + count);
  const auto progress = [](int64_t done, int64_t total) {
    std::printf("progress %lld %lld\n", static_cast<long long>(done), static_cast<long long>(total));
    std::fflush(stdout);
  };
  moerge::install_interrupt_handler();
  try {
    if (arguments.size() >= 3 && arguments[0] == "upload") {
      std::vector<moerge::XetFile> files;
      for (size_t i = 3; i + 1 < arguments.size(); i += 2) files.push_back({arguments[i], arguments[i + 1]});
      moerge::xet_upload(arguments[1], arguments[2], files, progress);
    } else if (arguments.size() == 6 && arguments[0] == "download") {
      moerge::xet_download(arguments[1], arguments[2], arguments[3], std::stoll(arguments[4]), arguments[5],
                           progress);
    } else {
      std::fprintf(stderr, "see tests/hub/xet.py\n");
      return 2;
    }
  } catch (const moerge::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return moerge::exit_code(error.kind());
  }
}
