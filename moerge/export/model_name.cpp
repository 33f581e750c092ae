#include "moerge/export/model_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "moerge/base/lower_case.h"

namespace moerge {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_upper(char c) { return c >= 'A' && c <= 'Z'; }
bool is_lower(char c) { return c >= 'a' && c <= 'z'; }
// Parts of letters beyond ASCII count as letters.
bool is_letter(char c) { return is_upper(c) || is_lower(c) || static_cast<unsigned char>(c) >= 0x80; }
char lower(char c) { return is_upper(c) ? static_cast<char>(c - 'A' + 'a') : c; }
char upper(char c) { return is_lower(c) ? static_cast<char>(c - 'a' + 'A') : c; }
bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r') || (c >= 0x1c && c <= 0x1f); }

// Reads a text from the front; each function takes what it names and says whether it was there.
struct Scanner {
  std::string_view rest;

  bool take(char c) {
    return take_if([&](char next) { return next == c; });
  }
  bool digit() { return take_if(is_digit); }
  bool letter_or_digit() { return digit() || take_if(is_letter); }
  bool digits() {
    if (!digit()) return false;
    while (digit()) {
    }
    return true;
  }
  bool word(std::string_view text) {
    if (!rest.starts_with(text)) return false;
    rest.remove_prefix(text.size());
    return true;
  }
  bool end() const { return rest.empty(); }

 private:
  template <typename Predicate>
  bool take_if(Predicate is) {
    if (rest.empty() || !is(rest.front())) return false;
    rest.remove_prefix(1);
    return true;
  }
};

// The patterns below are given in lower case.

// "7", "v0.1", "iter2"
bool is_version(std::string_view part, bool with_iteration = true) {
  Scanner scan{part};
  if (!scan.take('v') && with_iteration) scan.word("iter");
  if (!scan.digits()) return false;
  while (!scan.end())
    if (!scan.take('.') || !scan.digits()) return false;
  return true;
}

// "q4_k_m", "iq2_xs" is none (one letter at a time), "bf16", "fp32"
bool is_tensor_type(std::string_view part) {
  Scanner scan{part};
  scan.take('i');
  if (scan.take('q') && scan.digit()) {
    while (scan.take('_'))
      if (!scan.letter_or_digit() && !scan.take('_')) return false;
    return scan.end();
  }
  scan.rest = part;
  scan.take('b');
  if (!scan.take('f')) return false;
  scan.take('p');
  return scan.rest == "16" || scan.rest == "32";
}

// "7b", "8x7b", "1.5b", "a3b", "7b1", "small", "xxl"
bool is_size(std::string_view part) {
  for (const std::string_view word : {"small", "mini", "medium", "large", "xl", "xxl"})
    if (part == word) return true;
  Scanner scan{part};
  if (!scan.take('a')) {
    Scanner experts = scan;
    if (experts.digits() && experts.take('x')) scan = experts;
  }
  if (!scan.digits()) return false;
  Scanner fraction = scan;
  if ((fraction.take('.') || fraction.take('_')) && fraction.digits()) scan = fraction;
  if (!scan.take('k') && !scan.take('m') && !scan.take('b') && !scan.take('t')) return false;
  scan.digit();
  return scan.end();
}

bool is_finetune(std::string_view part) {
  return part == "chat" || part == "instruct" || part == "vision" || part == "lora";
}

enum Kind : unsigned { kBasename = 1, kSize = 2, kFinetune = 4, kVersion = 8, kType = 16 };

struct Part {
  std::string text;
  unsigned kinds = 0;
};

// "7b" -> "7B", "1_5b" -> "1.5B", "7b1" -> "7.1B"
std::string plain_size(std::string text) {
  std::ranges::replace(text, '_', '.');
  if (is_digit(text.back())) {
    const char letter = text[text.size() - 2], digit = text.back();
    text.resize(text.size() - 2);
    text += {'.', digit, letter};
  }
  if (text.size() > 1 && is_digit(text[text.size() - 2]) &&
      std::string_view("kmbt").find(text.back()) != std::string_view::npos)
    text.back() = upper(text.back());
  return text;
}

// Whether a size is far from the number of parameters, so that it must be something else.
bool is_other_size(const std::string& text, int64_t total_parameters) {
  const std::string number = text.substr(0, text.size() - 1);
  const size_t power = std::string_view(" KMBT").find(text.back());
  char* end = nullptr;
  const double value = std::strtod(number.c_str(), &end);
  if (total_parameters <= 0 || power == std::string_view::npos || !is_digit(number[0]) || *end) return false;
  const double parameters = value * std::pow(1000, static_cast<double>(power));
  const int64_t far = total_parameters / 8 * 7 + total_parameters % 8 * 7 / 8;
  return std::abs(parameters - static_cast<double>(total_parameters)) > static_cast<double>(far);
}

void classify(Part& part, bool is_first, int64_t total_parameters) {
  const std::string word = lower_case(part.text);
  if (is_version(word)) {
    part.kinds = kVersion;
  } else if (is_tensor_type(word)) {
    part.kinds = kType;
    std::ranges::transform(part.text, part.text.begin(), upper);
  } else if (!is_first && is_size(word)) {
    part.text = plain_size(part.text);
    part.kinds = kSize;
    if (is_other_size(part.text, total_parameters)) {  // the length of a context, most likely
      part.kinds = kFinetune;
      part.text.back() = lower(part.text.back());
    }
  } else if (!is_first && is_finetune(word)) {
    part.kinds = kFinetune;
  }
}

// Words like "small" only say the size where no number does.
void drop_size_words(std::vector<Part>& parts) {
  const auto has_digit = [](const Part& part) {
    return (part.kinds & kSize) && std::ranges::any_of(part.text, is_digit);
  };
  if (std::ranges::none_of(parts, has_digit)) return;
  for (Part& part : parts)
    if ((part.kinds & kSize) && std::ranges::all_of(part.text, is_letter)) part.kinds &= ~unsigned{kSize};
}

// The name of the base is what stands in front; versions belong to it unless they end it.
void find_basename(std::vector<Part>& parts) {
  bool at_start = true;
  for (Part& part : parts) {
    at_start = at_start && ((part.kinds == 0 && is_letter(part.text[0])) || (part.kinds & kVersion));
    if (at_start)
      part.kinds |= kBasename;
    else if (part.kinds == 0)
      part.kinds = kFinetune;
  }
  for (size_t i = parts.size(); i-- > 0;) {
    if (!(parts[i].kinds & kBasename) || parts[i].kinds == kBasename) break;
    parts[i].kinds &= ~unsigned{kBasename};
  }
}

template <typename Predicate>
std::optional<std::string> joined(const std::vector<Part>& parts, Predicate is_wanted) {
  std::string out;
  for (const Part& part : parts)
    if (is_wanted(part)) out += (out.empty() ? "" : "-") + part.text;
  return out.empty() ? std::nullopt : std::optional(out);
}

std::optional<std::string> joined_sizes(const std::vector<Part>& parts) {
  std::vector<Part> sizes;
  for (const Part& part : parts)
    if ((part.kinds & kSize) &&
        std::ranges::none_of(sizes, [&](const Part& known) { return known.text == part.text; }))
      sizes.push_back(part);
  return joined(sizes, [](const Part&) { return true; });
}

std::string rounded(int64_t count) {
  const auto value = static_cast<double>(std::abs(count));
  double scaled = value * 1e-3;
  char suffix = 'K';
  if (value > 1e12)
    scaled = value * 1e-12, suffix = 'T';
  else if (value > 1e9)
    scaled = value * 1e-9, suffix = 'B';
  else if (value > 1e6)
    scaled = value * 1e-6, suffix = 'M';
  const double whole = std::nearbyint(scaled);
  const int digits = whole == 0 ? 0 : static_cast<int>(fmt::format("{:.0f}", whole).size());
  return fmt::format("{:.{}f}{}", scaled, std::max(2 - digits, 0), suffix);
}

}  // namespace

ModelName read_model_name(std::string_view id, int64_t total_parameters) {
  ModelName out;
  out.name = id;
  if (id.find(' ') != std::string_view::npos) return out;  // a sentence
  if (const size_t slash = id.find('/'); slash != std::string_view::npos) {
    if (!id.starts_with('.')) out.organization = std::string(id.substr(0, slash));
    out.name = id.substr(slash + 1);
  }
  std::vector<Part> parts;
  size_t position = 0;
  for (size_t start = 0; start <= out.name.size(); start++) {
    const size_t end = std::min(out.name.find('-', start), out.name.size());
    if (end > start) {
      Part part{out.name.substr(start, end - start)};
      classify(part, position == 0, total_parameters);
      parts.push_back(std::move(part));
      position++;
    }
    start = end;
  }
  drop_size_words(parts);
  find_basename(parts);

  const auto of = [](Kind kind) { return [kind](const Part& part) { return (part.kinds & kind) != 0; }; };
  out.size_label = joined_sizes(parts);
  out.finetune = joined(parts, of(kFinetune));
  out.version =
      joined(parts, [](const Part& part) { return (part.kinds & kVersion) && !(part.kinds & kBasename); });
  if (out.size_label || out.finetune || out.version) out.basename = joined(parts, of(kBasename));
  return out;
}

std::string title_of(std::string_view name) {
  std::string out, word;
  const auto finish = [&] {
    if (word.empty()) return;
    const bool is_lowercase = std::ranges::none_of(word, is_upper) && std::ranges::any_of(word, is_letter);
    if (is_lowercase && !is_digit(word[0]) && !(word[0] == 'v' && is_version(word, false))) {
      bool in_word = false;
      for (char& c : word) {
        if (!in_word) c = upper(c);
        in_word = is_letter(c);
      }
    }
    out += (out.empty() ? "" : " ") + word;
    word.clear();
  };
  for (const char c : name) {
    if (c == '-' || is_space(c))
      finish();
    else
      word += c;
  }
  finish();
  return out;
}

std::string size_label(const ParameterCounts& counts) {
  if (counts.experts > 0)
    return fmt::format("{}x{}", counts.experts, rounded(std::abs(counts.shared) + std::abs(counts.expert)));
  return rounded(counts.total);
}

}  // namespace moerge
