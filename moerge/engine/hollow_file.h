#pragma once
// Models without data, for llama.cpp's code to look at. Internal to engine/.

#include <cstdint>
#include <string>
#include <string_view>

namespace moerge {

/// A file of the given size that takes memory for `header` only; gone with this object. Throws io.
class HollowFile {
 public:
  HollowFile(std::string_view header, int64_t size);
  HollowFile(const HollowFile&) = delete;
  HollowFile& operator=(const HollowFile&) = delete;
  ~HollowFile();

  std::string path() const;

 private:
  int fd_;
};

}  // namespace moerge
