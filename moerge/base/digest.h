#pragma once
// Hashes of files and texts: what vocabularies are recognised by, and how the Hub names what it stores.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace moerge {

enum class Hash { sha1, sha256 };

/// A hash that is fed piece by piece.
class Digest {
 public:
  explicit Digest(Hash hash);
  void add(std::span<const std::byte> bytes);
  void add(std::string_view text);
  /// In lower-case hexadecimal digits. Nothing may be added afterwards.
  std::string hex();

 private:
  struct Close {
    void operator()(void* context) const;
  };
  std::unique_ptr<void, Close> context_;
};

/// 64 hexadecimal digits.
std::string sha256_hex(std::string_view bytes);

/// So many hexadecimal digits, in lower case.
bool is_hex(std::string_view text, size_t digits);

/// What git's name of a file's content starts from: sha1("blob SIZE\0" + content).
Digest git_blob_digest(int64_t size);

}  // namespace moerge
