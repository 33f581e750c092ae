#include "moerge/formats/gguf.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// Written by gguf-py's GGUFWriter: a value and an array of each kind, three tensors.
constexpr std::string_view kReference =
    "474755460300000003000000000000001300000000000000140000000000000067656e6572616c2e6172636869746563"
    "747572650800000005000000000000006c6c616d610200000000000000753800000000c8020000000000000069380100"
    "0000fd03000000000000007531360200000060ea030000000000000069313603000000d4fe0300000000000000753332"
    "0400000000286bee03000000000000006933320500000090eefeff0300000000000000663332060000000000003f0300"
    "000000000000796573070000000102000000000000006e6f070000000003000000000000007536340a00000005000000"
    "0000008003000000000000006936340b0000000000000000ffffff03000000000000006636340c0000009a9999999999"
    "b93f0400000000000000746578740800000007000000000000006772c3bcc39f650500000000000000612e6633320900"
    "00000600000002000000000000000000803f000020c00500000000000000612e69333209000000050000000300000000"
    "00000001000000feffffff030000000600000000000000612e626f6f6c09000000070000000200000000000000010006"
    "00000000000000612e746578740900000008000000030000000000000001000000000000006100000000000000000200"
    "00000000000062630400000000000000612e75380900000000000000030000000000000001020304000000000000006e"
    "6f726d01000000030000000000000000000000000000000000000001000000000000006d020000000300000000000000"
    "020000000000000001000000200000000000000001000000000000007102000000200000000000000002000000000000"
    "00080000004000000000000000000000000000000000803f000000400000000000000000000000000000000000000000"
    "0000003c00400042004400450000000000000000000000000000000000000000000102030405060708090a0b0c0d0e0f"
    "101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
    "4041424300000000000000000000000000000000000000000000000000000000";

std::string reference() {
  std::string out;
  for (size_t i = 0; i < kReference.size(); i += 2)
    out += static_cast<char>(std::stoi(std::string(kReference.substr(i, 2)), nullptr, 16));
  return out;
}

GgufHeader parse(std::string_view bytes) { return parse_gguf(std::as_bytes(std::span(bytes)), "m.gguf"); }

// What is wrong with a file; empty when nothing is. Anything but an Error fails the test.
std::string message_of(std::string_view bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    EXPECT_TRUE(error.message().starts_with("m.gguf: ")) << error.message();
    return error.message();
  }
  return "";
}

#define EXPECT_REFUSED(bytes, sentence) \
  EXPECT_NE(message_of(bytes).find(sentence), std::string::npos) << message_of(bytes)

// A file put together by hand, so that it can lie.
struct Bytes {
  std::string text;
  template <typename T>
  Bytes& put(T value) {
    text.append(reinterpret_cast<const char*>(&value), sizeof(T));
    return *this;
  }
  Bytes& name(std::string_view value) {
    put<uint64_t>(value.size());
    text += value;
    return *this;
  }
  Bytes& pair(std::string_view key, uint32_t type) { return name(key).put(type); }
  Bytes& tensor(std::string_view named, std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
    name(named).put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t n : dims) put(n);
    return put(type).put(offset);
  }
  Bytes& data(size_t bytes, size_t alignment = 32) {
    text.resize((text.size() + alignment - 1) / alignment * alignment + bytes);
    return *this;
  }
};

Bytes start(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  Bytes bytes;
  bytes.text = "GGUF";
  bytes.put(version).put(tensors).put(keys);
  return bytes;
}

GgufMetadata every_kind() {
  GgufMetadata m;
  m.set("general.architecture", std::string("llama"));
  m.set("u8", uint8_t{200});
  m.set("i8", int8_t{-3});
  m.set("u16", uint16_t{60000});
  m.set("i16", int16_t{-300});
  m.set("u32", uint32_t{4000000000});
  m.set("i32", int32_t{-70000});
  m.set("f32", 0.5f);
  m.set("yes", true);
  m.set("no", false);
  m.set("u64", (uint64_t{1} << 63) + 5);
  m.set("i64", -(int64_t{1} << 40));
  m.set("f64", 0.1);
  m.set("text", std::string("gr\u00fc\u00dfe"));
  m.set("a.f32", std::vector<float>{1.0f, -2.5f});
  m.set("a.i32", std::vector<int32_t>{1, -2, 3});
  m.set("a.bool", std::vector<bool>{true, false});
  m.set("a.text", std::vector<std::string>{"a", "", "bc"});
  m.set("a.u8", std::vector<uint8_t>{1, 2, 3});
  return m;
}

const std::vector<TensorSpec> kSpecs = {
    {"norm", DType::f32, {3}}, {"m", DType::f16, {2, 3}}, {"q", DType::q8_0, {2, 32}}};

TEST(Gguf, WritesWhatGgufPyWrites) {
  const std::string file = reference();
  const GgufLayout layout = layout_gguf(every_kind(), kSpecs);
  EXPECT_EQ(layout.file_size, std::ssize(file));
  EXPECT_EQ(layout.header, file.substr(0, layout.header.size()));
  EXPECT_EQ(layout.offsets, (std::vector<int64_t>{std::ssize(layout.header), std::ssize(layout.header) + 32,
                                                  std::ssize(layout.header) + 64}));
}

TEST(Gguf, ReadsWhatGgufPyWrites) {
  const GgufHeader header = parse(reference());
  EXPECT_EQ(header.metadata.entries(), every_kind().entries());
  EXPECT_EQ(header.alignment, 32);
  const GgufLayout layout = layout_gguf(every_kind(), kSpecs);
  ASSERT_EQ(header.tensors.size(), 3u);
  for (size_t i = 0; i < 3; i++) {
    EXPECT_EQ(header.tensors[i].spec.name, kSpecs[i].name);
    EXPECT_EQ(header.tensors[i].spec.dtype, kSpecs[i].dtype);
    EXPECT_EQ(header.tensors[i].spec.shape, kSpecs[i].shape);
    EXPECT_EQ(header.tensors[i].offset, layout.offsets[i]);
  }
}

TEST(Gguf, Version2IsTheSame) {
  std::string file = reference();
  file[4] = 2;
  EXPECT_EQ(message_of(file), "");
}

TEST(GgufMetadata, LooksUpByKeyAndKind) {
  GgufMetadata m = parse(reference()).metadata;
  EXPECT_EQ(m.integer("u8"), 200);
  EXPECT_EQ(m.integer("i64"), -(int64_t{1} << 40));
  for (const char* none : {"u64", "f32", "yes", "text", "a.i32", "nothing"})
    EXPECT_FALSE(m.integer(none)) << none;
  EXPECT_EQ(m.number("f32"), 0.5);
  EXPECT_EQ(m.number("f64"), 0.1);
  EXPECT_EQ(m.number("i8"), -3);
  EXPECT_FALSE(m.number("yes"));
  EXPECT_EQ(m.boolean("yes"), true);
  EXPECT_EQ(m.boolean("no"), false);
  EXPECT_FALSE(m.boolean("u8"));
  EXPECT_EQ(*m.string("text"), "gr\u00fc\u00dfe");
  EXPECT_EQ(m.string("a.text"), nullptr);
  EXPECT_EQ(m.array<float>("a.f32")->size(), 2u);
  EXPECT_EQ(m.array<int32_t>("a.f32"), nullptr);

  m.erase("u8");
  m.erase("never there");
  m.set("i64", int64_t{7});
  m.set("last", true);
  EXPECT_EQ(m.find("u8"), nullptr);
  EXPECT_EQ(m.integer("i64"), 7);
  EXPECT_EQ(m.boolean("last"), true);
  EXPECT_EQ(m.entries().size(), every_kind().entries().size());
  EXPECT_EQ(m.entries()[1].first, "i8");
  EXPECT_EQ(m.entries().back().first, "last");
  const GgufHeader again = parse(layout_gguf(m, {}).header);
  EXPECT_EQ(again.metadata.entries(), m.entries());
}

TEST(Gguf, OtherAlignments) {
  for (const uint32_t alignment : {1u, 8u, 64u, 4096u}) {
    GgufMetadata m;
    m.set(std::string(kGgufAlignmentKey), alignment);
    const GgufLayout layout = layout_gguf(m, kSpecs);
    std::string file = layout.header;
    file.resize(static_cast<size_t>(layout.file_size));
    const GgufHeader header = parse(file);
    EXPECT_EQ(header.alignment, alignment);
    for (size_t i = 0; i < 3; i++) {
      EXPECT_EQ(header.tensors[i].offset, layout.offsets[i]);
      EXPECT_EQ(layout.offsets[i] % alignment, 0);
    }
  }
}

TEST(Gguf, RefusesWhatItCannotWrite) {
  const std::vector<TensorSpec> specs = {{"x", DType::f8_e4m3, {4}}};
  EXPECT_THROW(layout_gguf({}, specs), Error);
}

TEST(Gguf, EveryTruncationIsAnError) {
  const std::string file = reference();
  const size_t data_ends = file.size() - 28;  // the last tensor's padding may be missing
  for (size_t size = 0; size < data_ends; size++)
    ASSERT_NE(message_of(std::string_view(file).substr(0, size)), "") << size;
  EXPECT_EQ(message_of(std::string_view(file).substr(0, data_ends)), "");
  EXPECT_REFUSED(file.substr(0, 20), "truncated or damaged: 3 tensors from byte 16 on, where 4 bytes follow");
}

TEST(Gguf, ChangedBytesNeverCrash) {
  const std::string file = reference();
  std::mt19937 random(1);
  for (size_t at = 0; at < file.size(); at++)
    for (const int change : {1, 0x7f, 0x80, 0xff, static_cast<int>(random() % 255 + 1)}) {
      std::string changed = file;
      changed[at] = static_cast<char>(changed[at] ^ change);
      message_of(changed);
    }
}

TEST(Gguf, RefusesOtherFiles) {
  EXPECT_REFUSED("", "4 bytes of \"GGUF\" from byte 0 on, where 0 bytes follow");
  EXPECT_REFUSED("GGML and more", "does not begin with \"GGUF\"");
  EXPECT_REFUSED("version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull");
  EXPECT_REFUSED(start(0, 0, 1).text, "version 1, which nobody reads any more");
  EXPECT_REFUSED(start(0, 0, 0).text, "version 0, versions 2 and 3 are read");
  EXPECT_REFUSED(start(0, 0, 4).text, "version 4");
  EXPECT_REFUSED(start(0, 0, 0x03000000).text, "big-endian");
  EXPECT_EQ(message_of(start(0, 0).text), "");
}

TEST(Gguf, CountsAreHeldAgainstTheFile) {
  for (const uint64_t many : {uint64_t{7}, uint64_t{1} << 40, uint64_t{1} << 63, UINT64_MAX}) {
    EXPECT_REFUSED(start(many, 0).text, fmt::format("{} tensors from byte", many));
    EXPECT_REFUSED(start(0, many).text, fmt::format("{} metadata keys from byte", many));
    Bytes key = start(0, 1), text = key, array = key, texts = key;
    EXPECT_REFUSED(key.put(many).put<uint8_t>('k').text + "12345", fmt::format("{} {}", many, "characters"));
    EXPECT_REFUSED(text.pair("k", 8).put(many).text, fmt::format("{} characters of a text", many));
    EXPECT_REFUSED(array.pair("k", 9).put<uint32_t>(5).put(many).put<uint32_t>(1).text,
                   fmt::format("{} elements of an array", many));
    EXPECT_REFUSED(texts.pair("k", 9).put<uint32_t>(8).put(many).put<uint64_t>(0).text,
                   fmt::format("{} elements of an array", many));
  }
}

TEST(Gguf, RefusesDamagedMetadata) {
  EXPECT_REFUSED(start(0, 1).pair("", 0).put<uint64_t>(0).text, "metadata key 0 is empty");
  EXPECT_REFUSED(start(0, 2).pair("k", 0).put<uint8_t>(0).pair("k", 0).put<uint64_t>(0).text,
                 "two metadata keys \"k\"");
  EXPECT_REFUSED(start(0, 1).pair("k", 13).put<uint64_t>(0).text, "\"k\" has type 13");
  EXPECT_REFUSED(start(0, 1).pair("k", UINT32_MAX).put<uint64_t>(0).text, "has type 4294967295");
  EXPECT_REFUSED(start(0, 1).pair("k", 9).put<uint32_t>(9).put<uint64_t>(0).text, "an array of arrays");
  EXPECT_REFUSED(start(0, 1).pair("k", 9).put<uint32_t>(14).put<uint64_t>(0).text, "has type 14");
  const std::string longest = message_of(start(0, 1).pair(std::string(5000, 'x'), 77).text);
  EXPECT_LT(longest.size(), 250u);
}

TEST(Gguf, RefusesOddAlignments) {
  const auto with = [](uint32_t type, auto value) {
    return start(0, 1).pair(kGgufAlignmentKey, type).put(value).text;
  };
  EXPECT_REFUSED(with(4, uint32_t{0}), "is 0, a power of two up to 2^31 is expected");
  EXPECT_REFUSED(with(4, uint32_t{3}), "is 3, a power of two");
  EXPECT_REFUSED(with(5, int32_t{-32}), "is -32, a power of two");
  EXPECT_REFUSED(with(10, uint64_t{1} << 63), "a power of two");
  EXPECT_REFUSED(with(10, uint64_t{1} << 40), "a power of two");
  EXPECT_REFUSED(with(6, 32.0f), "a power of two");
  EXPECT_EQ(message_of(with(4, uint32_t{1} << 31)), "");  // no tensors: nothing to align
  EXPECT_REFUSED(
      start(1, 1).pair(kGgufAlignmentKey, 4).put(uint32_t{1} << 31).tensor("t", {1}, 0, 0).data(64).text,
      "the tensors start at byte 2147483648");
}

TEST(Gguf, RefusesDamagedTensors) {
  const auto one = [](std::vector<uint64_t> dims, uint32_t type, uint64_t offset) {
    return start(1, 0).tensor("t", std::move(dims), type, offset).data(128).text;
  };
  EXPECT_EQ(message_of(one({8, 2}, 0, 64)), "");
  EXPECT_EQ(message_of(one({32}, 0, 0)), "");
  EXPECT_EQ(message_of(one({}, 0, 0)), "");
  EXPECT_EQ(message_of(one({0, 7}, 0, 128)), "");
  EXPECT_REFUSED(one({33}, 0, 0), "takes 132 bytes from byte 0 of the data, which has 128");
  EXPECT_REFUSED(one({1}, 0, 128), "takes 4 bytes from byte 128");
  EXPECT_REFUSED(one({8}, 0, 48), "starts at byte 48 of the data, a multiple of 32 is expected");
  EXPECT_REFUSED(one({8}, 0, (uint64_t{1} << 63) - 32), "from byte 9223372036854775776 of the data");
  EXPECT_REFUSED(one({8}, 0, UINT64_MAX - 31), "starts at byte 18446744073709551584");
  EXPECT_REFUSED(one({1, 1, 1, 1, 1}, 0, 0), "5 dimensions, at most 4");
  EXPECT_REFUSED(one({uint64_t{1} << 63}, 0, 0), "a dimension of \"t\" is 9223372036854775808");
  EXPECT_REFUSED(one({uint64_t{1} << 32, uint64_t{1} << 32}, 0, 0), "larger than any file");
  EXPECT_REFUSED(one({uint64_t{1} << 62}, 0, 0), "larger than any file");
  EXPECT_REFUSED(one({33}, 8, 0), "\"t\" is Q8_0, in blocks of 32, and its rows have 33 elements");
  EXPECT_REFUSED(one({}, 8, 0), "its rows have 1 elements");
  EXPECT_REFUSED(one({8}, 4, 0), "tensor type 4, which this program does not know");  // a type ggml dropped
  EXPECT_REFUSED(one({8}, UINT32_MAX, 0), "tensor type 4294967295");
}

TEST(Gguf, TensorsStandAlone) {
  const auto two = [](const char* second, uint64_t offset) {
    return start(2, 0).tensor("a", {9}, 0, 32).tensor(second, {8}, 0, offset).data(128).text;
  };
  EXPECT_EQ(message_of(two("b", 0)), "");
  EXPECT_EQ(message_of(two("b", 96)), "");
  EXPECT_REFUSED(two("a", 96), "two tensors named \"a\"");
  EXPECT_REFUSED(two("b", 32), "overlap");
  EXPECT_REFUSED(two("b", 64), "\"a\" and \"b\" overlap");
}

}  // namespace
}  // namespace moerge
