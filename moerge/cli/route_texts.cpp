#include "moerge/cli/route_texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/base/suggest.h"
#include "moerge/base/utf8.h"
#include "moerge/cli/json_lines.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxText = 256 << 20;
constexpr size_t kShownPrompt = 60;  // bytes

std::string last_component(std::string_view name) {
  while (name.size() > 1 && name.ends_with('/')) name.remove_suffix(1);
  return std::string(name.substr(name.rfind('/') + 1));
}

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// The beginning of a text, in whole characters.
std::string beginning(std::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xc0) == 0x80) most--;
  return std::string(text.substr(0, most)) + "...";
}

void check_utf8(std::string_view text, const std::string& where) {
  if (const std::optional<size_t> wrong = find_invalid_utf8(text))
    fail(ErrorKind::input, "{}: no UTF-8 text: byte {} is 0x{:02x}", where, *wrong,
         static_cast<unsigned char>(text[*wrong]));
}

// A .jsonl file's lines, any other file as one document.
std::vector<std::string> read_documents(const fs::path& file) {
  std::string content = read_file(file, kMaxText);
  check_utf8(content, file.string());
  std::vector<std::string> out;
  if (file.extension() == ".jsonl")
    out = json_lines(content, file.string());
  else
    out.push_back(std::move(content));
  std::erase_if(out, [](const std::string& text) { return text.empty(); });
  if (out.empty()) fail(ErrorKind::input, "{}: there is no text in it", file.string());
  return out;
}

// -------- labels

struct Labelled {
  int64_t meant;
  std::string rest;
};

// What is before one of the "=" names an expert.
std::optional<Labelled> split_label(const std::string& value, const ExpertNames& names) {
  for (size_t at = value.find('='); at != std::string::npos; at = value.find('=', at + 1))
    if (const std::optional<int64_t> expert = names.find(std::string_view(value).substr(0, at)))
      return Labelled{*expert, value.substr(at + 1)};
  return {};
}

[[noreturn]] void refuse_label(std::string_view flag, const std::string& value, const ExpertNames& names,
                               std::string_view otherwise) {
  const std::string label = value.substr(0, value.find('='));
  const std::string close = names.nearest_name(label);
  fail(ErrorKind::usage, "{} \"{}\": \"{}\" is no expert of this mixture{}; they are {}{}", flag,
       beginning(value, kShownPrompt), label,
       close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close), names.list(), otherwise);
}

}  // namespace

// -------- names

ExpertNames::ExpertNames(int64_t kept, const MoeConfig& config) : names_(static_cast<size_t>(kept)) {
  for (const ExpertConfig& expert : config.experts) names_.push_back(expert.source_model);
}

std::string ExpertNames::short_name(int64_t expert) const {
  return last_component(names_[static_cast<size_t>(expert)]);
}

std::optional<int64_t> ExpertNames::find(std::string_view label) const {
  if (is_number(label)) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(label.data(), label.data() + label.size(), number);
    if (error == std::errc() && number < count()) return number;
  }
  std::vector<int64_t> whole, last;
  for (int64_t e = 0; e < count(); e++) {
    const std::string& name = names_[static_cast<size_t>(e)];
    if (name.empty()) continue;
    if (name == label) whole.push_back(e);
    if (last_component(name) == label) last.push_back(e);
  }
  const std::vector<int64_t>& found = whole.empty() ? last : whole;
  if (found.size() > 1)
    fail(ErrorKind::usage, "the label \"{}\" names experts {}: say one by its number", label,
         fmt::join(found, ", "));
  return found.empty() ? std::nullopt : std::optional(found.front());
}

std::string ExpertNames::list() const {
  constexpr int64_t kMost = 12;
  if (std::ranges::all_of(names_, &std::string::empty))
    return count() == 1 ? "0" : fmt::format("0 to {}", count() - 1);
  std::string out;
  for (int64_t e = 0; e < std::min(kMost, count()); e++) {
    const std::string name = short_name(e);
    out += fmt::format("{}{}{}", e > 0 ? ", " : "", e, name.empty() ? "" : fmt::format(" ({})", name));
  }
  return count() > kMost ? fmt::format("{}, ... {}", out, count() - 1) : out;
}

std::string ExpertNames::nearest_name(std::string_view label) const {
  std::vector<std::string> known;
  for (int64_t e = 0; e < count(); e++)
    if (!names_[static_cast<size_t>(e)].empty()) known.push_back(short_name(e));
  return nearest(label, std::vector<std::string_view>(known.begin(), known.end()));
}

// -------- flags

LabelledText read_text_flag(const std::string& value, const ExpertNames& names) {
  std::string file = value;
  int64_t meant = -1;
  if (const std::optional<Labelled> labelled = split_label(value, names)) {
    meant = labelled->meant;
    file = labelled->rest;
  } else if (!fs::exists(value) && value.find('=') != std::string::npos) {
    refuse_label("--text", value, names, ", and there is no file of that name either");
  }
  if (!fs::exists(file)) fail(ErrorKind::usage, "--text \"{}\": there is no such file", file);
  return {file, file, meant, read_documents(file)};
}

LabelledText read_prompt_flag(const std::string& value, const ExpertNames& names) {
  std::string text = value;
  int64_t meant = -1;
  const size_t equals = value.find('=');
  if (equals == 0) {
    text.erase(0, 1);
  } else if (const std::optional<Labelled> labelled = split_label(value, names)) {
    meant = labelled->meant;
    text = labelled->rest;
  } else if (equals != std::string::npos) {
    const std::string label = value.substr(0, equals);
    if (is_number(label) || !names.nearest_name(label).empty())
      refuse_label("--prompt", value, names, ". For a text that begins like this write --prompt \"=TEXT\"");
  }
  const std::string name = fmt::format("\"{}\"", beginning(text, kShownPrompt));
  check_utf8(text, "--prompt");
  if (text.empty()) fail(ErrorKind::usage, "--prompt \"{}\": there is no text in it", value);
  return {name, "--prompt " + name, meant, {text}};
}

std::vector<LabelledText> configured_prompts(int64_t kept, const MoeConfig& config) {
  std::vector<LabelledText> out;
  for (size_t e = 0; e < config.experts.size(); e++)
    for (const std::string& prompt : config.experts[e].positive_prompts)
      if (!prompt.empty()) {
        const std::string name = fmt::format("\"{}\"", beginning(prompt, kShownPrompt));
        out.push_back({name, "the prompt " + name, kept + static_cast<int64_t>(e), {prompt}});
      }
  return out;
}

// -------- windows

TextCutter::TextCutter(const Tokenizer& tokenizer, int64_t window, int64_t max_tokens)
    : tokenizer_(tokenizer),
      window_(window),
      max_tokens_(max_tokens),
      bos_(tokenizer.bos_token().value_or("")) {
  if (!bos_.empty()) prefix_ = tokenizer.encode(bos_);
  if (std::ssize(prefix_) * 2 > window_) prefix_.clear();
}

// The tokens of a document, or of its beginning where that is certain to hold more than max_tokens; the last
// of them may not be what the whole document has.
TokenSequence TextCutter::encode_beginning(const std::string& document, int64_t max_tokens,
                                           bool& whole) const {
  constexpr int64_t kBytes = 16, kSpare = 64;  // of a token; tokens that a cut may have changed
  for (size_t size = static_cast<size_t>(std::max<int64_t>(4096, max_tokens * kBytes));; size *= 2) {
    whole = size >= document.size();
    size_t end = std::min(size, document.size());
    while (!whole && end > 0 && (static_cast<unsigned char>(document[end]) & 0xc0) == 0x80) end--;
    TokenSequence ids = tokenizer_.encode(bos_ + document.substr(0, end));
    if (std::ranges::equal(std::span(ids).first(std::min(ids.size(), prefix_.size())), prefix_))
      ids.erase(ids.begin(), ids.begin() + std::ssize(prefix_));
    if (whole || std::ssize(ids) > max_tokens + kSpare) return ids;
  }
}

void TextCutter::add(const LabelledText& text, std::vector<RoutedText>& texts,
                     std::vector<TextWindow>& windows) const {
  RoutedText out = {.name = text.name, .meant = text.meant, .documents = 0};
  for (const std::string& document : text.documents) {
    const int64_t left = max_tokens_ - out.tokens;
    if (left == 0) {
      out.left_out += std::ssize(document);
      continue;
    }
    bool whole = true;
    TokenSequence ids = encode_beginning(document, left, whole);
    if (ids.empty()) continue;
    if (!whole || std::ssize(ids) > left) {
      ids.resize(static_cast<size_t>(left));
      out.left_out += std::max<int64_t>(0, std::ssize(document) - std::ssize(tokenizer_.decode(ids)));
    }
    out.documents++;
    out.tokens += std::ssize(ids);
    add_windows(texts.size(), ids, windows);
  }
  if (out.tokens == 0) fail(ErrorKind::input, "{}: the tokenizer makes no tokens of it", text.where);
  texts.push_back(std::move(out));
}

void TextCutter::add_sequences(RoutedText text, std::span<const TokenSequence> sequences,
                               std::vector<RoutedText>& texts, std::vector<TextWindow>& windows) const {
  text.documents = 0;
  for (const TokenSequence& sequence : sequences) {
    std::span<const int32_t> ids = sequence;
    if (std::ranges::equal(ids.first(std::min(ids.size(), prefix_.size())), prefix_))
      ids = ids.subspan(prefix_.size());
    ids = ids.first(std::min(ids.size(), static_cast<size_t>(max_tokens_ - text.tokens)));
    if (ids.empty()) continue;
    text.documents++;
    text.tokens += std::ssize(ids);
    add_windows(texts.size(), ids, windows);
  }
  if (text.tokens > 0) texts.push_back(std::move(text));
}

// `ids`: without the token in front.
void TextCutter::add_windows(size_t text, std::span<const int32_t> ids,
                             std::vector<TextWindow>& windows) const {
  const auto step = static_cast<size_t>(window_) - prefix_.size();
  for (size_t first = 0; first < ids.size(); first += step) {
    TextWindow window = {text, prefix_, std::ssize(prefix_)};
    const auto part = ids.subspan(first, std::min(step, ids.size() - first));
    window.tokens.insert(window.tokens.end(), part.begin(), part.end());
    windows.push_back(std::move(window));
  }
}

// A token's text depends on its neighbours (SentencePiece's spaces, characters of several tokens): it is what
// it adds to the text of the few before it.
std::vector<std::string> TextCutter::pieces(std::span<const int32_t> tokens) const {
  constexpr std::string_view kIncomplete = "\xef\xbf\xbd";
  constexpr size_t kLongestCharacter = 8;  // tokens
  std::vector<std::string> out(tokens.size());
  size_t context = 0, read = 0;
  for (size_t i = 0; i < tokens.size(); i++) {
    const std::string before = tokenizer_.decode(tokens.subspan(context, read - context));
    const std::string with = tokenizer_.decode(tokens.subspan(context, i + 1 - context));
    const bool waits =
        with.ends_with(kIncomplete) && i + 1 < tokens.size() && i + 1 - read < kLongestCharacter;
    if (waits) continue;
    out[i] = with.starts_with(before) ? with.substr(before.size()) : tokenizer_.decode(tokens.subspan(i, 1));
    context = read;
    read = i + 1;
  }
  return out;
}

}  // namespace moerge
