#include "moerge/formats/safetensors.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/formats/sink.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::safetensors_bytes;

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), "f");
}

std::string message_of(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "";
}

// A file with this header text and this many bytes of data.
std::string with_header(const std::string& header, size_t data = 0) {
  std::string length(8, '\0');
  for (size_t i = 0; i < 8; i++) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return length + header + std::string(data, 'x');
}

void expect_refused(const std::string& file, const std::string& because) {
  const std::string message = message_of(file);
  EXPECT_NE(message.find(because), std::string::npos) << "expected: " << because << "\nfound: " << message;
}

TEST(Safetensors, ReadsWhatIsThere) {
  const SafetensorsHeader header = parse(safetensors_bytes(
      {{"b", "F32", {2, 3}, std::string(24, 'b')}, {"a", "BF16", {}, "xy"}, {"empty", "I64", {0, 5}, ""}}));
  ASSERT_EQ(header.entries.size(), 3u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.entries[0].spec.name, "b");
  EXPECT_EQ(header.entries[0].spec.shape, (Shape{2, 3}));
}

TEST(Safetensors, WritesWhatItReads) {
  const std::vector<TensorSpec> specs = {{"x \"quoted\"", DType::bf16, {3}}, {"y", DType::f32, {2, 2}}};
  const std::string header = safetensors_header(specs);
  EXPECT_EQ(header.size() % 8, 0u);
  const SafetensorsHeader read = parse(header + std::string(6 + 16, '\0'));
  ASSERT_EQ(read.entries.size(), 2u);
  EXPECT_EQ(read.entries[0].spec.name, specs[0].name);
  EXPECT_EQ(read.entries[1].offset, std::ssize(header) + 6);
  EXPECT_EQ(read.metadata.at("format"), "pt");
}

TEST(Safetensors, RefusesWrongLengths) {
  expect_refused("", "no safetensors file");
  expect_refused("1234567", "no safetensors file");
  expect_refused(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10), "claims 18446744073709551615 bytes");
  expect_refused(std::string("\x00\xe1\xf5\x05\x00\x00\x00\x00{}", 10), "truncated");
  expect_refused(std::string(8, '\0'), "does not start with");
  expect_refused(with_header(" {}"), "does not start with");
}

TEST(Safetensors, RefusesWrongOffsets) {
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7), "truncated");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9),
                 "after the last tensor");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})", 12),
                 "hole or an overlap");
  expect_refused(
      with_header(
          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
          12),
      "hole or an overlap");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8),
                 "does not take");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
                 "does not take");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8), "negative");
  expect_refused(
      with_header(R"({"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,8]}})", 8),
      "does not take");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})"),
                 "does not take");
  expect_refused(
      with_header(R"({"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,8]}})", 8),
      "too large");
  expect_refused(
      with_header(
          R"({"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}})", 8),
      "does not take");
}

TEST(Safetensors, RefusesWrongMembers) {
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[2]}})"), "missing");
  expect_refused(with_header(R"({"a":{"shape":[0],"data_offsets":[0,0]}})"), "missing");
  expect_refused(with_header(R"({"a":{"dtype":"F33","shape":[0],"data_offsets":[0,0]}})"), "unknown dtype");
  expect_refused(with_header(R"({"a":{"dtype":5,"shape":[0],"data_offsets":[0,0]}})"), "a number");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}})"),
                 "unknown member");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[[0]],"data_offsets":[0,0]}})"),
                 "unexpected list");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[0],"shape":[0],"data_offsets":[0,0]}})"),
                 "given twice");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0,0]}})"), "two numbers");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":[0.5],"data_offsets":[0,0]}})"), "fraction");
  expect_refused(with_header(R"({"a":{"dtype":"F32","shape":null,"data_offsets":[0,0]}})"), "null");
  expect_refused(
      with_header(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})",
                  4),
      "dimensions");
  expect_refused(with_header(R"({"a":5})"), "a number");
  expect_refused(with_header(R"({"a":[]})"), "unexpected list");
  expect_refused(with_header(R"({"__metadata__":{"x":{}}})"), "unexpected object");
  expect_refused(with_header(R"({"__metadata__":{"x":1}})"), "a number");
}

TEST(Safetensors, RefusesDuplicatesAndBrokenText) {
  expect_refused(
      with_header(
          R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})"),
      "two tensors named");
  expect_refused(with_header("{\"\xff\xfe\":{}}"), "not valid JSON");
  expect_refused(with_header("{\"a\":"), "not valid JSON");
  expect_refused(with_header("{} trailing"), "not valid JSON");
  std::string deep = R"({"a":)";
  for (int i = 0; i < 1'000'000; i++) deep += R"({"dtype":)";
  expect_refused(with_header(deep), "unexpected object");
  expect_refused(with_header(R"({"a":{"shape":)" + std::string(1'000'000, '[')), "unexpected list");
}

}  // namespace
}  // namespace moerge
