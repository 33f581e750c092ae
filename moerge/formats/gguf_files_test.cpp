#include "moerge/formats/gguf_files.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {

using testing::gguf_bytes;
using testing::TempDir;

template <typename Work>
std::string message_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_REFUSED(work, sentence) \
  EXPECT_NE(message_of([&] { work; }).find(sentence), std::string::npos) << message_of([&] { work; })

// Part `number` (from 0) of `count`, with one tensor of that name.
std::string part(uint16_t number, uint16_t count, const std::string& tensor, int32_t tensors = 3) {
  GgufMetadata m;
  if (number == 0) m.set("general.architecture", std::string("llama"));
  m.set("split.no", number);
  m.set("split.count", count);
  m.set("split.tensors.count", tensors);
  return gguf_bytes(m, {{{tensor, DType::f32, {1}}, "1234"}});
}

class Split : public ::testing::Test {
 protected:
  Split() {
    dir_.write("m-00001-of-00003.gguf", part(0, 3, "a"));
    dir_.write("m-00002-of-00003.gguf", part(1, 3, "b"));
    dir_.write("m-00003-of-00003.gguf", part(2, 3, "c"));
  }
  void expect_refused(const std::string& sentence) const {
    EXPECT_REFUSED(open_gguf(dir_ / "m-00001-of-00003.gguf"), sentence);
  }
  TempDir dir_;
};

TEST_F(Split, IsReadAsOne) {
  const GgufFiles files = open_gguf(dir_ / "m-00001-of-00003.gguf");
  EXPECT_EQ(files.files.size(), 3u);
  ASSERT_EQ(files.tensors.size(), 3u);
  EXPECT_EQ(files.tensors[2].tensor.spec.name, "c");
  EXPECT_EQ(files.tensors[2].file, files.files[2].get());
  EXPECT_NE(files.find("b"), nullptr);
  EXPECT_EQ(files.find("d"), nullptr);
  EXPECT_EQ(*files.metadata.string("general.architecture"), "llama");
}

TEST_F(Split, EveryPartMustBeThereAndInItsPlace) {
  EXPECT_REFUSED(open_gguf(dir_ / "m-00002-of-00003.gguf"), "name the first one, m-00001-of-00003.gguf");
  dir_.write("m-00002-of-00003.gguf", part(2, 3, "b"));
  expect_refused("says that it is part 3 of 3, not part 2 of 3");
  dir_.write("m-00002-of-00003.gguf", part(1, 4, "b"));
  expect_refused("says that it is part 2 of 4");
  dir_.write("m-00002-of-00003.gguf", gguf_bytes({}, {}));
  expect_refused("says that it is part 1 of 1");
  dir_.write("m-00002-of-00003.gguf", part(1, 3, "a"));
  expect_refused("\"a\" is in an earlier part already");
  dir_.write("m-00002-of-00003.gguf", "GGUF");
  expect_refused("m-00002-of-00003.gguf: truncated");
  std::filesystem::remove(dir_ / "m-00002-of-00003.gguf");
  expect_refused("part 2 of 3, m-00002-of-00003.gguf, is missing");
}

TEST_F(Split, CountsAndNamesMustAgree) {
  dir_.write("m-00001-of-00003.gguf", part(0, 3, "a", 4));
  expect_refused("its parts hold 3 tensors, 4 are announced");
  dir_.write("m-00001-of-00003.gguf", part(0, 2, "a"));
  expect_refused("one of 2 parts, and it is not called so: NAME-00001-of-00002.gguf is expected");
  dir_.write("m-00001-of-00003.gguf", part(3, 3, "a"));
  expect_refused("damaged: part 4 of 3");
  dir_.write("other.gguf", part(0, 3, "a"));
  EXPECT_REFUSED(open_gguf(dir_ / "other.gguf"), "is not called so");
  dir_.write("one.gguf", part(0, 1, "a", 1));
  EXPECT_EQ(open_gguf(dir_ / "one.gguf").tensors.size(), 1u);
}

TEST_F(Split, StandsForItsFolder) {
  EXPECT_EQ(find_gguf(dir_.path()), dir_ / "m-00001-of-00003.gguf");
  dir_.write("notes.txt", "x");
  std::filesystem::create_directory(dir_ / "folder.gguf");
  EXPECT_EQ(find_gguf(dir_.path()), dir_ / "m-00001-of-00003.gguf");
  dir_.write("n.GGUF", "x");
  EXPECT_REFUSED(find_gguf(dir_.path()),
                 "2 GGUF files in this folder and no other weights: name the one you mean "
                 "(m-00001-of-00003.gguf, n.GGUF)");
  dir_.write("model.safetensors.index.json", "{}");
  EXPECT_EQ(find_gguf(dir_.path()), std::nullopt);
}

TEST(FindGguf, OtherWeightsComeFirst) {
  const TempDir dir;
  dir.write("m.gguf", "x");
  EXPECT_EQ(find_gguf(dir.path()), dir / "m.gguf");
  dir.write("pytorch_model.bin", "x");
  EXPECT_EQ(find_gguf(dir.path()), std::nullopt);
}

TEST(FindGguf, SaysWhatIsMissing) {
  const TempDir dir;
  EXPECT_EQ(find_gguf(dir.path()), std::nullopt);
  dir.write("m-00002-of-00003.gguf", "x");
  EXPECT_REFUSED(find_gguf(dir.path()), "m-00001-of-00003.gguf is missing");
}

TEST(FindGguf, OnlyTheExactPatternIsAPart) {
  for (const char* name : {"m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-0001-of-00003.gguf",
                           "m-00001-of-0000x.gguf", "-00001-of-00003.gguf"}) {
    const TempDir dir;
    dir.write(name, "x");
    EXPECT_EQ(find_gguf(dir.path()), dir / name);
  }
}

TEST(OpenGguf, OrdersTensorsByOffset) {
  const TempDir dir;
  std::string bytes = gguf_bytes({}, {{{"a", DType::f32, {1}}, "1111"}, {{"b", DType::f32, {1}}, "2222"}});
  std::swap(bytes[bytes.find("a\x01")], bytes[bytes.find("b\x01")]);
  const size_t first = bytes.find("b\x01"), second = bytes.find("a\x01");
  std::swap(bytes[first + 1 + 4 + 8 + 4], bytes[second + 1 + 4 + 8 + 4]);  // the offsets' low bytes
  dir.write("m.gguf", bytes);
  const GgufFiles files = open_gguf(dir / "m.gguf");
  EXPECT_EQ(files.tensors[0].tensor.spec.name, "a");
  EXPECT_LT(files.tensors[0].tensor.offset, files.tensors[1].tensor.offset);
}

}  // namespace
}  // namespace moerge
