#include "moerge/export/tokenization_check.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/export/pre_tokenizer.h"

namespace moerge {
namespace {

// Nothing here changes under Unicode normalisation, which llama.cpp leaves out.
constexpr std::string_view kText =
    "The quick brown fox_jumps over 12 lazy dogs, doesn't it? WE'LL see; they'd've said \"don’t\".\n"
    "  two spaces,   three,\ttab,\t\ttwo tabs, a no-break\u00a0space, an ideographic\u3000space \r\n"
    "\r\n\n \n trailing   \n0 1 22 333 4444 55555 666666 7777777 1234567890 1,234.56 3e-10 0xFF ½ Ⅷ ٣٤٥ "
    "x2y3\n"
    "for (int i = 0; i < 10; ++i) {\n\t\treturn a[i] != b ? c::d : &e->f;  // camelCase HTTPServer\n}\n\n\n"
    "https://example.org/path?q=a%20b&c=d#e (a) [b] {c} <d> ... -- --- !!! ?! $5 €6 #7 @8 50% ^_^ ~ ` | \\\n"
    "Größe naïve Ελλάδα привет мир שלום עולם مرحبا हिन्दी ภาษาไทย 日本語のテキスト、中文文本。한국어 텍스트 "
    "👩‍👩‍👧 👍🏽 ∑∫≠ ‘q’ “q” „q“ «q» word\u200bword 'S 'T 'LL a's  b'T  "
    " ";
// llama.cpp's regular expressions recurse with every character of a match: no long runs of spaces.
constexpr size_t kSampledTokens = 256, kLongestSampled = 32, kSampledBytes = 2048;
constexpr size_t kAddedTokens = 64, kLongestAdded = 128;

bool is_plain_ascii(const std::string& text) {
  return !text.empty() && text.size() <= 64 &&
         std::ranges::all_of(text, [](char c) { return c == '\n' || c == '\t' || (c >= ' ' && c <= '~'); });
}

// A list of ids with what matters around the place `at`.
std::string excerpt(const std::vector<int32_t>& ids, size_t at, size_t count) {
  const size_t end = std::min(ids.size(), at + count);
  return fmt::format("[{}]", fmt::join(ids.begin() + static_cast<ptrdiff_t>(std::min(at, end)),
                                       ids.begin() + static_cast<ptrdiff_t>(end), ", "));
}

}  // namespace

std::vector<std::string> comparison_texts(const Tokenizer& tokenizer, const std::string& prefix) {
  std::string second = prefix + std::string(kText);
  const size_t longest = second.size() + kSampledBytes;
  const std::vector<Token> tokens = tokenizer.tokens();
  const size_t step = std::max<size_t>(1, tokens.size() / kSampledTokens);
  for (size_t i = 0; i < tokens.size() && second.size() < longest; i += step) {
    if (tokens[i].added || tokens[i].id > INT32_MAX) continue;
    const std::vector<int32_t> id = {static_cast<int32_t>(tokens[i].id)};
    if (const std::string text = tokenizer.decode(id); is_plain_ascii(text)) second += text;
  }
  return {prefix + std::string(pre_check_text()), second};
}

std::string added_tokens_text(const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (const Token& token : tokenizer.tokens())
    if (token.added && token.text.size() <= kLongestAdded) texts.push_back(token.text);
  if (texts.empty()) return {};
  std::string out;
  const size_t step = std::max<size_t>(1, texts.size() / kAddedTokens);
  for (size_t i = 0; i < texts.size(); i += step) out += " word" + texts[i] + " word " + texts[i];
  return out + " end";
}

std::string tokenization_difference(const Tokenizer& tokenizer, const LlamaVocabulary& vocabulary,
                                    const std::string& text) {
  const std::vector<int32_t> own = tokenizer.encode(text), other = vocabulary.tokenize(text);
  if (own == other) return {};
  const auto [mine, theirs] = std::ranges::mismatch(own, other);
  const size_t at = static_cast<size_t>(mine - own.begin());
  constexpr size_t kShown = 4;
  const size_t from = at > 0 ? at - 1 : 0;
  const size_t until = std::min(own.size(), from + kShown);
  const std::span<const int32_t> shown(own.begin() + static_cast<ptrdiff_t>(from),
                                       own.begin() + static_cast<ptrdiff_t>(until));
  std::string around = Json(tokenizer.decode(shown)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return fmt::format("{} becomes {}, in llama.cpp {}", around, excerpt(own, from, kShown),
                     excerpt(other, from, kShown));
}

}  // namespace moerge
