#include "moerge/base/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>

#include "moerge/base/error.h"

namespace moerge {
namespace {

void check(int result) {
  if (result != 1) fail(ErrorKind::io, "the hash function of OpenSSL failed");
}

}  // namespace

void Digest::Close::operator()(void* context) const { EVP_MD_CTX_free(static_cast<EVP_MD_CTX*>(context)); }

Digest::Digest(Hash hash) : context_(EVP_MD_CTX_new()) {
  check(context_ ? 1 : 0);
  check(EVP_DigestInit_ex(static_cast<EVP_MD_CTX*>(context_.get()),
                          hash == Hash::sha1 ? EVP_sha1() : EVP_sha256(), nullptr));
}

void Digest::add(std::span<const std::byte> bytes) {
  check(EVP_DigestUpdate(static_cast<EVP_MD_CTX*>(context_.get()), bytes.data(), bytes.size()));
}

void Digest::add(std::string_view text) { add(std::as_bytes(std::span(text))); }

std::string Digest::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned int size = 0;
  check(EVP_DigestFinal_ex(static_cast<EVP_MD_CTX*>(context_.get()), bytes.data(), &size));
  std::string out;
  for (unsigned int i = 0; i < size; i++) out += fmt::format("{:02x}", bytes[i]);
  return out;
}

std::string sha256_hex(std::string_view bytes) {
  Digest digest(Hash::sha256);
  digest.add(bytes);
  return digest.hex();
}

Digest git_blob_digest(int64_t size) {
  Digest digest(Hash::sha1);
  digest.add(fmt::format("blob {}", size));
  digest.add(std::string_view("\0", 1));
  return digest;
}

bool is_hex(std::string_view text, size_t digits) {
  return text.size() == digits &&
         std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace moerge
