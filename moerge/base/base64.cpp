#include "moerge/base/base64.h"

#include <openssl/evp.h>

#include <algorithm>

namespace moerge {

std::string base64(std::string_view bytes) {
  constexpr size_t kPiece = 3 << 20;  // whole groups, and small enough for OpenSSL's int
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4 + 1);
  for (size_t at = 0; at < bytes.size(); at += kPiece) {
    const size_t count = std::min(kPiece, bytes.size() - at), begin = out.size();
    out.resize(begin + (count + 2) / 3 * 4 + 1);  // OpenSSL ends it with a null character
    EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data() + begin),
                    reinterpret_cast<const unsigned char*>(bytes.data() + at), static_cast<int>(count));
    out.pop_back();
  }
  return out;
}

}  // namespace moerge
