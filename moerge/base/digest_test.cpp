#include "moerge/base/digest.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

TEST(Digest, TestVectorsOfTheStandards) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Digest sha1(Hash::sha1);
  sha1.add(std::string_view("a"));
  sha1.add(std::string_view("bc"));
  EXPECT_EQ(sha1.hex(), "a9993e364706816aba3e25717850c26c9cd0d89d");
}

TEST(Digest, NamesAFileAsGitDoes) {
  EXPECT_EQ(git_blob_digest(0).hex(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
  Digest digest = git_blob_digest(6);
  digest.add(std::string_view("hello\n"));
  EXPECT_EQ(digest.hex(), "ce013625030ba8dba906f756967f9e9ca394464a");
}

}  // namespace
}  // namespace moerge
