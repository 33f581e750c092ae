#include "moerge/export/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "moerge/testing/tiny_vocabulary.h"

namespace moerge {
namespace {

using testing::byte_level;
using testing::sequence;
using testing::split;

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

PreTokenizer read(const Json& pre_tokenizer, bool ignore_merges = false) {
  return read_pre_tokenizer(
      {{"pre_tokenizer", pre_tokenizer}, {"model", {{"ignore_merges", ignore_merges}}}});
}

std::string best(const Json& pre_tokenizer, bool ignore_merges = false) {
  const auto names = pre_by_structure(read(pre_tokenizer, ignore_merges));
  return names.empty() ? "" : std::string(names.front());
}

TEST(PreTokenizer, HashOfARealVocabulary) {
  // Llama 3's tokens of the check text.
  std::vector<int32_t> ids = {
      128000, 198,   4815,   15073, 66597,  8004,   1602,  2355,  79772,  11187, 9468,  248,    222,   320,
      8416,   8,     27623,  114,   102470, 9468,   234,   104,   31643,  320,   36773, 100166, 98634, 8,
      26602,  227,   11410,  99,    247,    9468,   99,    247,   220,    18,    220,   1644,   220,   8765,
      220,    8765,  18,     220,   8765,   1644,   220,   8765,  8765,   220,   8765,  8765,   18,    220,
      8765,   8765,  1644,   220,   18,     13,     18,    220,   18,     497,   18,    220,    18,    1131,
      18,     220,   21549,  222,   98629,  241,    45358, 233,   21549,  237,   45358, 224,    21549, 244,
      21549,  115,   21549,  253,   45358,  223,    21549, 253,   21549,  95,    98629, 227,    76460, 223,
      949,    37046, 101067, 19000, 23182,  102301, 9263,  18136, 16,     36827, 21909, 56560,  54337, 19175,
      102118, 13373, 64571,  34694, 3114,   112203, 80112, 3436,  106451, 14196, 14196, 74694,  3089,  3089,
      29249,  17523, 3001,   27708, 7801,   358,    3077,  1027,  364,    83,    820,   568,    596,   1070,
      11,     364,   793,    499,   2771,   30,     364,   44,    539,    2771,  358,   3358,   1304,  433,
      11,     364,   35,     499,   1093,   1063,   15600, 30,    1226,   6,     43712, 264,    64966, 43};
  EXPECT_EQ(pre_by_hash(ids), "llama-bpe");
  ids.back()++;
  EXPECT_EQ(pre_by_hash(ids), "");
  EXPECT_EQ(pre_by_hash({}), "");
}

TEST(PreTokenizer, TablesAreWhole) {
  std::set<std::string_view> hashes;
  for (const PreHash& row : pre_hashes()) {
    EXPECT_EQ(row.sha256.size(), 64u);
    EXPECT_FALSE(row.name.empty());
    EXPECT_TRUE(hashes.insert(row.sha256).second) << row.sha256;
  }
  EXPECT_EQ(hashes.size(), 95u);
  EXPECT_TRUE(std::ranges::is_sorted(pre_names()));
  for (const std::string_view kind : pre_kinds())
    EXPECT_TRUE(std::ranges::binary_search(pre_names(), kind)) << kind;
  // 350 characters
  EXPECT_EQ(std::ranges::count_if(pre_check_text(), [](char c) { return (c & 0xc0) != 0x80; }), 350);
}

TEST(PreTokenizer, KnownByItsStructure) {
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  EXPECT_EQ(best(byte_level()), "gpt-2");
  EXPECT_EQ(best(sequence({digits, byte_level()})), "smollm");
  EXPECT_EQ(best(sequence({split(kLlama3), byte_level(false)}), true), "llama-bpe");
  EXPECT_EQ(best(sequence({split(kLlama3), byte_level(false)}), false), "dbrx");
  // The same written out, nested, with another way to say "keep the matches", and line breaks as they are.
  const std::string gpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  Json removed = split(gpt2);
  removed["behavior"] = "Removed", removed["invert"] = true;
  EXPECT_EQ(best(sequence({sequence({removed}), byte_level(false)})), "gpt-2");
  EXPECT_EQ(best(sequence({split("[\r\n]"), split(R"(\s?\p{L}+)"), split(R"(\s?\p{P}+)"),
                           split("[一-龥ࠀ-一가-퟿]+"), digits, byte_level(false)})),
            "deepseek-coder");
  EXPECT_EQ(best(sequence({split(R"(\p{N}{1,3})"), split("[一-龥぀-ゟ゠-ヿ]+"),
                           split(R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|and so on)"),
                           byte_level(false)})),
            "deepseek-v3");
  EXPECT_EQ(best(sequence({{{"type", "Punctuation"}, {"behavior", "Contiguous"}},
                           byte_level(),
                           {{"type", "Digits"}, {"individual_digits", false}},
                           split("[0-9][0-9][0-9]")})),
            "falcon");
}

TEST(PreTokenizer, NotKnownByItsStructure) {
  EXPECT_EQ(best(nullptr), "");
  EXPECT_EQ(best({{"type", "Metaspace"}}), "");
  EXPECT_EQ(best(sequence({split("e"), byte_level()})), "");
  EXPECT_EQ(best(split(kLlama3), true), "");  // no ByteLevel
  Json merged = split(kLlama3);
  merged["behavior"] = "MergedWithPrevious";
  EXPECT_EQ(best(sequence({merged, byte_level(false)}), true), "");
  // Wrong types are no crash: the tokenizers library has refused them before.
  for (const char* text :
       {"5", "[]", R"({"type": 5})", R"({"type": "Sequence", "pretokenizers": {"a": [1]}})",
        R"({"type": "Split", "pattern": 3})", R"({"type": "Split", "pattern": {"Regex": 1}})"})
    EXPECT_EQ(best(Json::parse(text)), "") << text;
}

TEST(PreTokenizer, DescribesItself) {
  EXPECT_EQ(describe(read(byte_level())), "GPT-2's pattern, then ByteLevel");
  EXPECT_EQ(describe(read(nullptr)), "none");
  const Json tokenizer = {
      {"normalizer", {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}}},
      {"pre_tokenizer", sequence({split(std::string(59, 'a') + "éé"), {{"type", "Whitespace"}}})}};
  EXPECT_EQ(describe(read_pre_tokenizer(tokenizer)),
            "normalizer Lowercase, then " + std::string(59, 'a') + "..., then Whitespace");
}

}  // namespace
}  // namespace moerge
