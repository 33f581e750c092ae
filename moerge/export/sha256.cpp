#include "moerge/export/sha256.h"

#include <hash/hash.h>

namespace moerge {

std::string sha256_hex(std::string_view bytes) { return hash_sha256_hex(bytes.data(), bytes.size()); }

}  // namespace moerge
