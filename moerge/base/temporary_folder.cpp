#include "moerge/base/temporary_folder.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string>
#include <system_error>

#include "moerge/base/error.h"

namespace moerge {

TemporaryFolder::TemporaryFolder(std::string_view purpose) {
  std::string name =
      (std::filesystem::temp_directory_path() / fmt::format("moerge-{}-XXXXXX", purpose)).string();
  if (!mkdtemp(name.data())) fail_errno("cannot create a folder like", name);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;  // nobody needs it any more
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace moerge
