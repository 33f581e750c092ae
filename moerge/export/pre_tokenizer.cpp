#include "moerge/export/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "moerge/base/digest.h"
#include "moerge/model/pre_tokenizer_patterns.h"

namespace moerge {
namespace {

using namespace pre_tokenizer_patterns;

// Patterns as the models' tokenizer.json spell them; llama.cpp has its own spelling of each in
// src/llama-vocab.cpp (llm_tokenizer_bpe), with the original beside it where the two differ.
constexpr std::string_view kDigits = R"(\p{N}+)";
constexpr std::string_view kThreeDigits = R"(\p{N}{1,3})";
constexpr std::string_view kPunctuation = R"([\p{P}]+)";
constexpr std::string_view kMiniCpm5 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kUfakzeka =
    R"([^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kExaoneMoe =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kBloom = R"( ?[^(\s|[.,!?…。，、।۔،])]+)";
constexpr std::string_view kNewline = R"([\r\n])";
constexpr std::string_view kDeepseekHan = "[一-龥ࠀ-一가-퟿]+";
constexpr std::string_view kDeepseekKana = "[一-龥぀-ゟ゠-ヿ]+";

// A pattern too long to repeat here is given by its beginning, with this at the end.
constexpr std::string_view kAndSoOn = "@";

struct Row {
  std::array<std::string_view, 6> cuts;  // unused ones at the end are empty
  std::string_view name;
  std::string_view when_ignoring_merges = name;
};

constexpr Row kRows[] = {
    {{kGpt2}, "gpt-2"},
    {{kDigit, kGpt2}, "smollm"},
    {{kLlama3}, "dbrx", "llama-bpe"},  // llama.cpp ties ignore_merges to the name
    {{kQwen2}, "qwen2"},
    {{kQwen35}, "qwen35"},
    {{kThreeDigits, kMiniCpm5}, "minicpm5"},
    {{kUfakzeka}, "ufakzeka"},
    {{kBailingMoe}, "bailingmoe"},
    {{kSeedCoder}, "seed-coder"},
    {{kExaoneMoe}, "exaone-moe"},
    {{kTekken}, "tekken"},
    {{kGpt4o}, "gpt-4o"},
    {{R"(\d{1,3}(?=(?:\d{3})*\b))", kGpt4o}, "tiny_aya"},
    {{kNewline, R"(\s?[A-Za-zµÀ-ÖØ-öø-ƺ@)", "\\s?[!-/:-~！-／：-～@", R"(\s+$)", kDeepseekHan, kDigit},
     "deepseek-llm"},
    {{kNewline, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepseekHan, kDigit}, "deepseek-coder"},
    {{kThreeDigits, kDeepseekKana, R"([!"#$%&'()*+,\-./:;<=>?@)"}, "deepseek-v3"},
    {{kPunctuation, kGpt2, kDigits, "[0-9][0-9][0-9]"}, "falcon"},
    {{kBloom}, "bloom"},
    {{kBloom, kDigit}, "viking"},
    {{kDigits, R"((?=(\d{3})+(?!\d)))"}, "superbpe"},
};

constexpr std::array<std::string_view, 26> kKinds = {
    "gpt-2",        "qwen2",          "smollm",   "llama-bpe", "dbrx",       "gpt-4o", "tekken",
    "deepseek-llm", "deepseek-coder", "falcon",   "qwen35",    "bailingmoe", "bloom",  "viking",
    "superbpe",     "seed-coder",     "ufakzeka", "jais-2",    "exaone-moe", "youtu",  "tiny_aya",
    "minicpm5",     "chameleon",      "afmoe",    "laguna",    "deepseek-v3"};

std::string_view text_of(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get_ref<const std::string&>()
                                                     : std::string_view();
}

bool flag_of(const Json& object, const char* key, bool otherwise) {
  const auto found = object.find(key);
  return found != object.end() && found->is_boolean() ? found->get<bool>() : otherwise;
}

// Line breaks and tabs may stand in a pattern as they are or escaped.
std::string escaped(std::string_view pattern) {
  std::string out;
  for (const char c : pattern) {
    if (c == '\r')
      out += "\\r";
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else
      out += c;
  }
  return out;
}

std::string split_pattern(const Json& split) {
  const auto pattern = split.find("pattern");
  if (pattern == split.end() || !pattern->is_object()) return "?";
  const std::string_view regex = text_of(*pattern, "Regex");
  if (regex.empty()) return fmt::format("the text \"{}\"", escaped(text_of(*pattern, "String")));
  const std::string_view behavior = text_of(split, "behavior");
  // What matches is kept as a word of its own: these two say so in opposite ways.
  const bool inverted = flag_of(split, "invert", false);
  if ((behavior == "Isolated" && !inverted) || (behavior == "Removed" && inverted)) return escaped(regex);
  return fmt::format("{} ({}{})", escaped(regex), behavior, inverted ? ", inverted" : "");
}

void collect(const Json& step, PreTokenizer& out) {
  if (!step.is_object()) return;
  const std::string_view type = text_of(step, "type");
  if (type == "Sequence") {
    if (const auto steps = step.find("pretokenizers"); steps != step.end() && steps->is_array())
      for (const Json& inner : *steps) collect(inner, out);
  } else if (type == "Split") {
    out.cuts.push_back(split_pattern(step));
  } else if (type == "Digits") {
    out.cuts.emplace_back(flag_of(step, "individual_digits", false) ? kDigit : kDigits);
  } else if (type == "Punctuation") {
    out.cuts.emplace_back(text_of(step, "behavior") == "Contiguous" ? kPunctuation : "Punctuation");
  } else if (type == "ByteLevel") {
    out.byte_level = true;
    out.adds_space = flag_of(step, "add_prefix_space", true);
    if (flag_of(step, "use_regex", true)) out.cuts.emplace_back(kGpt2);
  } else {
    out.cuts.emplace_back(type);
  }
}

void collect_normalizers(const Json& step, PreTokenizer& out) {
  if (!step.is_object()) return;
  const std::string_view type = text_of(step, "type");
  if (type != "Sequence") {
    out.normalizers.emplace_back(type);
    return;
  }
  if (const auto steps = step.find("normalizers"); steps != step.end() && steps->is_array())
    for (const Json& inner : *steps) collect_normalizers(inner, out);
}

bool matches(const Row& row, const PreTokenizer& pre_tokenizer) {
  const size_t length =
      static_cast<size_t>(std::find(row.cuts.begin(), row.cuts.end(), std::string_view()) - row.cuts.begin());
  return length == pre_tokenizer.cuts.size() &&
         std::equal(row.cuts.begin(), row.cuts.begin() + static_cast<ptrdiff_t>(length),
                    pre_tokenizer.cuts.begin(), [](std::string_view known, std::string_view cut) {
                      if (!known.ends_with(kAndSoOn)) return known == cut;
                      return cut.starts_with(known.substr(0, known.size() - kAndSoOn.size()));
                    });
}

}  // namespace

std::string_view pre_by_hash(std::span<const int32_t> ids) {
  const std::string text = fmt::format("[{}]", fmt::join(ids, ", "));  // Python's str(list)
  const std::string sha256 = sha256_hex(text);
  for (const PreHash& row : pre_hashes())
    if (row.sha256 == sha256) return row.name;
  return {};
}

PreTokenizer read_pre_tokenizer(const Json& tokenizer) {
  PreTokenizer out;
  if (const auto step = tokenizer.find("pre_tokenizer"); step != tokenizer.end()) collect(*step, out);
  if (const auto step = tokenizer.find("normalizer"); step != tokenizer.end())
    collect_normalizers(*step, out);
  if (const auto model = tokenizer.find("model"); model != tokenizer.end() && model->is_object())
    out.ignore_merges = flag_of(*model, "ignore_merges", false);
  return out;
}

std::string describe(const PreTokenizer& pre_tokenizer) {
  constexpr size_t kLongest = 60;  // of a pattern
  std::vector<std::string> steps;
  for (const std::string& type : pre_tokenizer.normalizers)
    steps.push_back(fmt::format("normalizer {}", type));
  for (const std::string& cut : pre_tokenizer.cuts) {
    size_t end = std::min(cut.size(), kLongest);
    while (end < cut.size() && (cut[end] & 0xc0) == 0x80) end--;  // no half characters
    steps.push_back(cut == kGpt2 ? "GPT-2's pattern" : cut.substr(0, end) + (end < cut.size() ? "..." : ""));
  }
  if (pre_tokenizer.byte_level) steps.emplace_back("ByteLevel");
  return steps.empty() ? "none" : fmt::format("{}", fmt::join(steps, ", then "));
}

std::vector<std::string_view> pre_by_structure(const PreTokenizer& pre_tokenizer) {
  if (!pre_tokenizer.byte_level) return {};
  for (const Row& row : kRows)
    if (matches(row, pre_tokenizer)) {
      const bool ignoring = pre_tokenizer.ignore_merges;
      if (row.name == row.when_ignoring_merges) return {row.name};
      return {ignoring ? row.when_ignoring_merges : row.name, ignoring ? row.name : row.when_ignoring_merges};
    }
  return {};
}

std::span<const std::string_view> pre_kinds() { return kKinds; }

}  // namespace moerge
