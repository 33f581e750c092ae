#include "moerge/export/importance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/formats/gguf.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;
using testing::TempDir;

const fs::path kData = fs::path(MOERGE_SOURCE_DIR) / "tests/engine/imatrix";  // llama.cpp's own

std::string content(const fs::path& file) { return read_file(file, 1 << 20); }

std::string error_of(const fs::path& file) {
  try {
    read_importance(file);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.message();
  }
  return "no error";
}

Imatrix two_tensors() {
  Imatrix out = {.tensors = {}, .chunks = 3, .chunk_size = 512};
  out.tensors["blk.0.attn_q.weight"] = {{3, 1.5f, 0}, {1536}};
  out.tensors["blk.0.ffn_up_exps.weight"] = {{1, 2, 0, 0, 7, 9}, {10, 0, 3}};
  return out;
}

// -------- GGUF

TEST(Importance, MeansAreSumsThroughCountsAndOneWhereNothingWasSeen) {
  const Importance found = to_importance(two_tensors(), {"a.txt"});
  EXPECT_EQ(found.tensors.at("blk.0.attn_q.weight"), (std::vector<float>{3.f / 1536, 1.5f / 1536, 0}));
  EXPECT_EQ(found.tensors.at("blk.0.ffn_up_exps.weight"),
            (std::vector<float>{1.f / 10, 2.f / 10, 1, 1, 7.f / 3, 9.f / 3}));
  EXPECT_EQ(found.unseen.size(), 1u);
  EXPECT_EQ(found.unseen.at("blk.0.ffn_up_exps.weight"), std::vector<int64_t>{1});
}

TEST(Importance, WhatIsWrittenIsRead) {
  const TempDir dir;
  const std::vector<std::string> datasets = {"a.txt", "b.jsonl"};
  write_importance(dir / "out.gguf", two_tensors(), datasets);
  const Importance expected = to_importance(two_tensors(), datasets),
                   found = read_importance(dir / "out.gguf");
  EXPECT_EQ(found.tensors, expected.tensors);
  EXPECT_EQ(found.unseen, expected.unseen);
  EXPECT_EQ(found.datasets, datasets);
  EXPECT_EQ(found.chunks, 3);
  EXPECT_EQ(found.chunk_size, 512);
}

TEST(Importance, WritesTheBytesOfLlamaCpp) {
  const std::string reference = content(kData / "reference.gguf");
  Imatrix imatrix = {.tensors = {}, .chunks = 4, .chunk_size = 64};
  for (const GgufTensor& tensor : parse_gguf(std::as_bytes(std::span(reference)), "reference").tensors) {
    std::vector<float> values(static_cast<size_t>(tensor.spec.elements()));
    std::memcpy(values.data(), reference.data() + tensor.offset, values.size() * sizeof(float));
    const std::string& name = tensor.spec.name;
    if (name.ends_with(".in_sum2"))
      imatrix.tensors[name.substr(0, name.size() - 8)].sums = values;
    else
      for (const float value : values)
        imatrix.tensors[name.substr(0, name.size() - 7)].counts.push_back(std::lround(value));
  }
  const TempDir dir;
  write_importance(dir / "out.gguf", imatrix, {"text.txt"});
  EXPECT_TRUE(content(dir / "out.gguf") == reference);
}

TEST(Importance, ReplacesAFileWholeOrNotAtAll) {
  const TempDir dir;
  dir.write("out.gguf", "old");
  write_importance(dir / "out.gguf", two_tensors(), {});
  EXPECT_EQ(read_importance(dir / "out.gguf").tensors.size(), 2u);
  fs::create_directory(dir / "folder.gguf");
  EXPECT_ANY_THROW(write_importance(dir / "folder.gguf", two_tensors(), {}));
  EXPECT_ANY_THROW(write_importance(dir / "absent/out.gguf", two_tensors(), {}));
  int files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(dir.path())) files++;
  EXPECT_EQ(files, 2);
}

TEST(Importance, FindsATensorOfTheRightSize) {
  const Importance found = to_importance(two_tensors(), {});
  EXPECT_EQ(found.means("blk.0.attn_q.weight", 1, 3).size(), 3u);
  EXPECT_EQ(found.means("blk.0.ffn_up_exps.weight", 3, 2)[4], 7.f / 3);
  EXPECT_TRUE(found.means("blk.9.attn_q.weight", 1, 3).empty());
  EXPECT_THROW(found.means("blk.0.attn_q.weight", 1, 4), Error);
  EXPECT_THROW(found.means("blk.0.ffn_up_exps.weight", 4, 2), Error);
  EXPECT_THROW(found.means("blk.0.ffn_up_exps.weight", 4, 1), Error);
}

// A file with one tensor "t" that `change` has spoilt.
struct Parts {
  GgufMetadata metadata;
  std::vector<TensorSpec> specs = {{"t.in_sum2", DType::f32, {2, 2}}, {"t.counts", DType::f32, {2, 1}}};
  std::vector<float> sums = {1, 2, 3, 4}, counts = {5, 6};
};

std::string spoilt(const std::function<void(Parts&)>& change) {
  Parts parts;
  parts.metadata.set("general.type", std::string("imatrix"));
  parts.metadata.set("imatrix.datasets", std::vector<std::string>{"text"});
  parts.metadata.set("imatrix.chunk_count", uint32_t{1});
  parts.metadata.set("imatrix.chunk_size", uint32_t{512});
  change(parts);
  const GgufLayout layout = layout_gguf(parts.metadata, parts.specs);
  std::string out = layout.header;
  out.resize(static_cast<size_t>(layout.file_size));
  const std::vector<float>* values[] = {&parts.sums, &parts.counts};
  for (size_t i = 0; i < layout.offsets.size(); i++)
    std::memcpy(out.data() + layout.offsets[i], values[i]->data(),
                std::min(values[i]->size() * sizeof(float), out.size() - layout.offsets[i]));
  return out;
}

TEST(Importance, RefusesGgufFilesThatAreNone) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(),
                  kMax = std::numeric_limits<float>::infinity();
  const std::vector<std::pair<std::string, std::function<void(Parts&)>>> table = {
      {"no error", [](Parts&) {}},
      {"no error", [](Parts& p) { p.metadata.erase("general.type"); }},
      {"of type \"model\", expected an importance matrix",
       [](Parts& p) { p.metadata.set("general.type", std::string("model")); }},
      {"no importance matrix", [](Parts& p) { p.metadata.erase("imatrix.datasets"); }},
      {"no importance matrix", [](Parts& p) { p.metadata.erase("imatrix.chunk_count"); }},
      {"no importance matrix", [](Parts& p) { p.metadata.set("imatrix.chunk_size", std::string("512")); }},
      {"-1 chunks", [](Parts& p) { p.metadata.set("imatrix.chunk_count", int32_t{-1}); }},
      {"\"t.in_sum2\" is there, \"t.counts\" is missing", [](Parts& p) { p.specs.pop_back(); }},
      {"\"t.counts\" is there, \"t.in_sum2\" is missing",
       [](Parts& p) { p.specs[0].name = "something else"; }},
      {"the importance matrix is empty", [](Parts& p) { p.specs.clear(); }},
      {"\"t.in_sum2\" is float16, float32 is expected", [](Parts& p) { p.specs[0].dtype = DType::f16; }},
      {"\"t.counts\" is int32, float32 is expected", [](Parts& p) { p.specs[1].dtype = DType::i32; }},
      {"4 values and \"t.counts\" 3: they do not divide", [](Parts& p) { p.specs[1].shape = {3}; }},
      {"they do not divide", [](Parts& p) { p.specs[1].shape = {0}; }},
      {"they do not divide",
       [](Parts& p) {
         p.specs[0].shape = {0, 2};
       }},
      {"\"t.counts\" counts -1 rows", [](Parts& p) { p.counts[1] = -1; }},
      {"counts nan rows", [=](Parts& p) { p.counts[0] = kNan; }},
      {"counts inf rows", [=](Parts& p) { p.counts[0] = kMax; }},
      {"the mean square of column 2 of \"t\" is nan", [=](Parts& p) { p.sums[2] = kNan; }},
      {"the mean square of column 0 of \"t\" is -0.2", [](Parts& p) { p.sums[0] = -1; }},
      {"the mean square of column 3 of \"t\" is inf", [=](Parts& p) { p.sums[3] = kMax; }},
  };
  const TempDir dir;
  for (const auto& [sentence, change] : table) {
    const std::string message = error_of(dir.write("file.gguf", spoilt(change)));
    EXPECT_NE(message.find(sentence), std::string::npos)
        << "expected: " << sentence << "\nfound: " << message;
  }
}

// -------- legacy

template <typename T>
std::string raw(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::string name(const std::string& text) { return raw(static_cast<int32_t>(text.size())) + text; }
std::string entry(const std::string& text, int32_t calls, const std::vector<float>& values) {
  std::string out = name(text) + raw(calls) + raw(static_cast<int32_t>(values.size()));
  for (const float value : values) out += raw(value);
  return out;
}

TEST(Importance, ReadsTheLegacyFormat) {
  const TempDir dir;
  const std::string two = raw(2) + entry("a", 3, {3, 1}) + entry("b", 0, {5});
  const Importance plain = read_importance(dir.write("old.dat", two));
  EXPECT_EQ(plain.tensors.at("a"), (std::vector<float>{1, 1.f / 3}));
  EXPECT_EQ(plain.tensors.at("b"), std::vector<float>{5});
  EXPECT_EQ(plain.chunks, 0);
  EXPECT_TRUE(plain.datasets.empty());
  EXPECT_EQ(read_importance(dir.write("old.dat", two + raw(7))).chunks, 7);
  const Importance full = read_importance(dir.write("old.dat", two + raw(7) + name("wiki.txt")));
  EXPECT_EQ(full.datasets, std::vector<std::string>{"wiki.txt"});
  EXPECT_EQ(full.chunks, 7);
}

TEST(Importance, BothFormatsOfLlamaCppMeanTheSame) {
  const Importance now = read_importance(kData / "reference.gguf"),
                   old = read_importance(kData / "reference.dat");
  EXPECT_EQ(now.datasets, std::vector<std::string>{"text.txt"});
  EXPECT_EQ(now.datasets, old.datasets);
  EXPECT_EQ(now.chunks, 4);
  EXPECT_EQ(old.chunks, 4);
  ASSERT_EQ(now.tensors.size(), old.tensors.size());
  for (const auto& [tensor, means] : now.tensors) {
    const std::vector<float>& others = old.tensors.at(tensor);
    ASSERT_EQ(means.size(), others.size()) << tensor;
    for (size_t i = 0; i < means.size(); i++) EXPECT_NEAR(means[i], others[i], 1e-6 * means[i]) << tensor;
  }
}

TEST(Importance, RefusesLegacyFilesThatAreNone) {
  const std::string good = entry("a", 1, {1});
  const std::vector<std::pair<std::string, std::string>> table = {
      {"the number of entries is missing", ""},
      {"the number of entries is missing", "abc"},
      {"0 entries are announced", raw(0)},
      {"-1 entries are announced", raw(-1) + good},
      {"the number of characters of a name is missing", raw(2) + good},
      {"-5 characters of a name are announced", raw(1) + raw(-5)},
      {"0 characters of a name are announced", raw(1) + entry("", 1, {1})},
      {"2147483647 characters of a name are announced", raw(1) + raw(INT32_MAX) + "abc"},
      {"0 values are announced", raw(1) + entry("a", 1, {})},
      {"2147483647 values are announced", raw(1) + name("a") + raw(1) + raw(INT32_MAX) + raw(1.f)},
      {"-2147483648 values are announced", raw(1) + name("a") + raw(1) + raw(INT32_MIN) + raw(1.f)},
      {"two entries \"a\"", raw(2) + good + good},
      {"the mean square of column 0 of \"a\" is nan", raw(1) + entry("a", 1, {NAN})},
      {"the mean square of column 1 of \"a\" is -2", raw(1) + entry("a", 2, {1, -4})},
      {"the number of chunks is missing", raw(1) + good + "x"},
      {"9 characters of a dataset are announced", raw(1) + good + raw(1) + raw(9) + "short"},
      {"something follows at byte", raw(1) + good + raw(1) + name("text") + "x"},
  };
  const TempDir dir;
  for (const auto& [sentence, bytes] : table) {
    const std::string message = error_of(dir.write("file.dat", bytes));
    EXPECT_NE(message.find(sentence), std::string::npos)
        << "expected: " << sentence << "\nfound: " << message;
  }
}

// What is cut off or changed gives an error or other numbers, never a crash or a value that is no mean
// square.
TEST(Importance, SurvivesDamage) {
  const TempDir dir;
  for (const char* original : {"reference.gguf", "reference.dat"}) {
    const std::string good = content(kData / original);
    const auto attempt = [&](const std::string& bytes) {
      fs::remove(dir / "file");  // some file systems wait for the disk where a file is cut and written anew
      try {
        for (const auto& [tensor, means] : read_importance(dir.write("file", bytes)).tensors)
          for (const float mean : means) ASSERT_TRUE(std::isfinite(mean) && mean >= 0);
      } catch (const Error&) {
      }
    };
    for (size_t i = 0; i < good.size(); i += 7) attempt(good.substr(0, i));
    for (size_t i = 0; i < good.size(); i += 3)
      for (const char value : {'\0', '\x7f', '\x80', '\xff'}) {
        std::string changed = good;
        changed[i] = value;
        attempt(changed);
      }
  }
}

}  // namespace
}  // namespace moerge
