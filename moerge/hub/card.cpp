#include "moerge/hub/card.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "moerge/base/json.h"
#include "moerge/base/terminal_text.h"

namespace moerge {
namespace {

constexpr std::string_view kHub = "https://huggingface.co/";
constexpr std::string_view kMark = "<!-- moerge card: ", kMarkEnd = " -->\n";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// One line of UTF-8 without control characters, blanks around it taken away.
std::string one_line(const std::string& text) {
  std::string out = terminal_text(text);
  for (char& c : out)
    if (c == '\n' || c == '\t') c = ' ';
  const size_t first = out.find_first_not_of(' '), last = out.find_last_not_of(' ');
  return first == std::string::npos ? "" : out.substr(first, last - first + 1);
}

// -------------------------------------------------------------------------------------------------- Markdown

// Where a piece of a paragraph stands.
struct Place {
  bool line_start = false;
  bool table = false;
};

// A backslash takes the meaning from any ASCII punctuation. An underscore inside a word has none.
std::string escape_text(const std::string& line, Place place) {
  constexpr std::string_view kAlways = "\\`*[]<>&~|$";
  std::string out;
  for (size_t i = 0; i < line.size(); i++) {
    const char c = line[i];
    const auto inside_word = [&](size_t at) {
      return at < line.size() && (is_letter(line[at]) || is_digit(line[at]));
    };
    const bool underscore = c == '_' && !(i > 0 && inside_word(i - 1) && inside_word(i + 1));
    const bool hash = c == '#' && (i == 0 || line[i - 1] == ' ' || line[i - 1] == '#');
    const bool marker = place.line_start && i == 0 && (c == '-' || c == '+' || c == '=');
    const bool number = place.line_start && (c == '.' || c == ')') && i > 0 &&
                        std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(i), is_digit);
    if (kAlways.find(c) != std::string_view::npos || underscore || hash || marker || number) out += '\\';
    out += c;
  }
  return out;
}

// The longest run of backticks in a text decides how many must fence it.
size_t longest_backticks(std::string_view text) {
  size_t longest = 0, run = 0;
  for (const char c : text) longest = std::max(longest, run = c == '`' ? run + 1 : 0);
  return longest;
}

std::string code_span(const std::string& text, Place place) {
  const std::string line = one_line(text);
  if (line.empty()) return "";
  // A table takes its bars before anything else, and no code span can hold every combination of bars and
  // backslashes.
  if (place.table && line.find('|') != std::string::npos) return escape_text(line, place);
  const std::string fence(longest_backticks(line) + 1, '`');
  const char* pad = line.starts_with('`') || line.ends_with('`') ? " " : "";
  return fence + pad + line + pad + fence;
}

std::string code_block(const std::string& language, const std::string& text) {
  const std::string clean = terminal_text(replace_all(replace_all(text, "\r\n", "\n"), "\r", "\n"));
  const std::string fence(std::max<size_t>(3, longest_backticks(clean) + 1), '`');
  return fmt::format("{}{}\n{}{}{}\n", fence, language, clean, clean.ends_with('\n') ? "" : "\n", fence);
}

std::string hub_page(const std::string& hub_name) {
  std::string out(kHub);
  for (const char c : hub_name)
    if (is_letter(c) || is_digit(c) || std::string_view("-_./~").find(c) != std::string_view::npos)
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  return out;
}

// Between spans blanks count; around the whole they do not.
std::string render_span(const CardSpan& span, Place place) {
  switch (span.kind) {
    case CardSpan::Kind::text: {
      const std::string line = one_line(span.text);
      if (line.empty()) return span.text.empty() ? "" : " ";
      const auto blank = [](char c) { return c == ' ' || c == '\n' || c == '\t'; };
      return (blank(span.text.front()) && !place.line_start ? " " : "") + escape_text(line, place) +
             (blank(span.text.back()) ? " " : "");
    }
    case CardSpan::Kind::code:
      return code_span(span.text, place);
    case CardSpan::Kind::link:
      if (span.hub_name.empty()) return code_span(span.text, place);
      return fmt::format("[{}]({})", code_span(span.text, place), hub_page(span.hub_name));
  }
  return "";
}

std::string render_text(const CardText& text, Place place = {.line_start = true}) {
  std::string out;
  for (const CardSpan& span : text) {
    place.line_start = place.line_start && out.empty();
    out += render_span(span, place);
  }
  return out;
}

std::string render_table(const CardTable& table) {
  std::string out;
  for (const std::string& column : table.columns)
    out += fmt::format("| {} ", escape_text(one_line(column), {.table = true}));
  out += "|\n";
  for (size_t i = 0; i < table.columns.size(); i++) out += i < table.first_number ? "| --- " : "| ---: ";
  out += "|\n";
  for (const CardText& row : table.rows) {
    for (const CardSpan& cell : row) out += fmt::format("| {} ", render_text({cell}, {.table = true}));
    out += "|\n";
  }
  return out + "\n";
}

std::string heading(int level, const std::string& title) {
  return fmt::format("{} {}\n\n", std::string(static_cast<size_t>(level), '#'),
                     escape_text(one_line(title), {}));
}

std::string paragraphs(const std::vector<CardText>& texts) {
  std::string out;
  for (const CardText& text : texts) out += render_text(text) + "\n\n";
  return out;
}

std::string render_list(const CardList& list) {
  std::string out = list.intro.empty() ? "" : render_text(list.intro) + "\n\n";
  int64_t number = list.first;
  for (const CardModel& model : list.models) {
    out += list.first < 0 ? "- " : fmt::format("{}. ", number++);
    out += render_text(model.name);
    if (!model.description.empty())
      out += fmt::format(" ({})", render_text(model.description, {.line_start = false}));
    out += "\n";
  }
  return out + "\n";
}

std::string render_section(const CardSection& section, int level = 2) {
  std::string out = heading(level, section.heading) + paragraphs(section.paragraphs);
  if (section.table) out += render_table(*section.table);
  for (const CardSection::Code& block : section.blocks) out += code_block(block.language, block.text) + "\n";
  return out;
}

// ----------------------------------------------------------------------------------------- front matter

// A word that no reader of YAML takes for anything but a text.
bool is_plain_word(const std::string& text) {
  constexpr std::array<std::string_view, 9> kMeaning = {"y",     "n",   "yes",  "no",  "on",
                                                        "false", "off", "true", "null"};
  return !text.empty() && text[0] >= 'a' && text[0] <= 'z' &&
         std::ranges::find(kMeaning, text) == kMeaning.end() && std::ranges::all_of(text, [](char c) {
           return (c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '_' || c == '.';
         });
}

std::string yaml_value(const std::string& text) { return is_plain_word(text) ? text : quoted_string(text); }

std::string yaml_entry(std::string_view key, const std::string& value) {
  return value.empty() ? "" : fmt::format("{}: {}\n", key, yaml_value(value));
}

std::string yaml_list(std::string_view key, const std::vector<std::string>& values) {
  std::string out;
  std::vector<std::string> seen;
  for (const std::string& value : values) {
    if (value.empty() || std::ranges::find(seen, value) != seen.end()) continue;
    seen.push_back(value);
    out += fmt::format("- {}\n", yaml_value(value));
  }
  return out.empty() ? "" : fmt::format("{}:\n{}", key, out);
}

// Never in scientific notation: YAML 1.1 reads "1e-05" as a text.
std::string number(double value) {
  std::string out = fmt::format("{:.4f}", value);
  out.erase(out.find_last_not_of('0') + 1);
  return out.ends_with('.') ? out + '0' : out;
}

std::string metric_name(const std::string& metric) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"acc", "accuracy"}, {"acc_norm", "normalized accuracy"}, {"exact_match", "exact match"}};
  for (const auto& [id, name] : kNames)
    if (id == metric) return std::string(name);
  return metric;
}

bool is_partial(const CardScore& score) { return score.items > 0 && score.items < score.all_items; }

// https://github.com/huggingface/hub-docs/blob/main/modelcard.md
std::string model_index(const Card& card) {
  if (card.scores.empty()) return "";
  std::string out = fmt::format("model-index:\n- name: {}\n  results:\n", quoted_string(card.title));
  for (const CardScore& score : card.scores) {
    out += fmt::format(
        "  - task:\n      type: text-generation\n      name: Text Generation\n"
        "    dataset:\n      name: {}\n      type: {}\n",
        quoted_string(score.dataset_name.empty() ? score.task : score.dataset_name),
        quoted_string(score.dataset.empty() ? score.task : score.dataset));
    if (!score.dataset_config.empty())
      out += fmt::format("      config: {}\n", quoted_string(score.dataset_config));
    if (!score.split.empty()) out += fmt::format("      split: {}\n", quoted_string(score.split));
    if (score.shots || is_partial(score)) out += "      args:\n";
    if (score.shots) out += fmt::format("        num_few_shot: {}\n", *score.shots);
    if (is_partial(score)) out += fmt::format("        limit: {}\n", score.items);
    const std::string name =
        metric_name(score.metric) + (score.filter.empty() ? "" : fmt::format(" ({})", score.filter));
    out += fmt::format("    metrics:\n    - type: {}\n      value: {}\n      name: {}\n",
                       quoted_string(score.metric), number(score.value), quoted_string(name));
  }
  return out;
}

std::string front_matter(const Card& card) {
  std::string out = "---\n" + yaml_list("language", card.languages);
  out += yaml_entry("license", card.license.id);
  out += yaml_entry("license_name", card.license.name);
  out += yaml_entry("license_link", card.license.link);
  out += yaml_list("base_model", card.base_models);
  if (!card.base_models.empty()) out += yaml_entry("base_model_relation", card.base_model_relation);
  out += yaml_entry("library_name", card.library_name);
  out += yaml_list("tags", card.tags);
  out += yaml_entry("pipeline_tag", card.pipeline_tag);
  return out + model_index(card) + "---\n\n";
}

CardSection evaluation(const std::vector<CardScore>& scores) {
  CardTable table = {.columns = {"Task", "Metric", "Shots", "Value", "\u00b1"}, .first_number = 2};
  const bool partial = std::ranges::any_of(scores, is_partial);
  if (partial) table.columns.emplace_back("Items");
  std::string harnesses;
  for (const CardScore& score : scores) {
    const std::string harness = score.harness.empty() ? "the LM Evaluation Harness" : score.harness;
    if (harnesses.find(harness) == std::string::npos)
      harnesses += (harnesses.empty() ? "" : " and ") + harness;
    table.rows.push_back(
        {card_code(score.task),
         card_code(score.filter.empty() ? score.metric : fmt::format("{}, {}", score.metric, score.filter)),
         card_text(score.shots ? std::to_string(*score.shots) : ""), card_text(number(score.value)),
         card_text(score.error ? number(*score.error) : "")});
    if (partial)
      table.rows.back().push_back(
          card_text(is_partial(score) ? fmt::format("{} of {}", score.items, score.all_items) : "all"));
  }
  return {.heading = "Evaluation",
          .paragraphs = {{card_text(fmt::format("Measured with {}.", harnesses))}},
          .table = std::move(table)};
}

CardSection versions(const std::vector<std::string>& repositories) {
  CardText text = {card_text("Quantised as GGUF: ")};
  for (size_t i = 0; i < repositories.size(); i++) {
    if (i > 0) text.push_back(card_text(", "));
    text.push_back(card_link(repositories[i], repositories[i]));
  }
  text.push_back(card_text("."));
  return {.heading = "Quantised versions", .paragraphs = {std::move(text)}};
}

// FNV-1a: tells a slip of the hand, not a forgery.
std::string checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

}  // namespace

CardSpan card_text(std::string text) { return {CardSpan::Kind::text, std::move(text)}; }
CardSpan card_code(std::string text) { return {CardSpan::Kind::code, std::move(text)}; }
CardSpan card_link(std::string text, std::string hub_name) {
  return {CardSpan::Kind::link, std::move(text), std::move(hub_name)};
}

std::string render_card(const Card& card) {
  std::string out = front_matter(card) + heading(1, card.title) + paragraphs(card.intro);
  for (const CardList& list : card.models) out += render_list(list);
  out += paragraphs(card.remarks);
  if (!card.numbers.rows.empty()) out += render_table(card.numbers);
  for (const CardSection& section : card.sections) out += render_section(section);
  if (!card.scores.empty()) out += render_section(evaluation(card.scores));
  if (!card.configuration.empty())
    out += render_section({.heading = "Configuration", .blocks = {{"yaml", card.configuration}}});
  if (!card.usage.empty()) out += heading(2, "Usage");
  for (const CardSection& section : card.usage) out += render_section(section, 3);
  if (!card.quantised.empty()) out += render_section(versions(card.quantised));
  return fmt::format("{}{}{}{}", out, kMark, checksum(out), kMarkEnd);
}

CardState card_state(std::string_view readme) {
  const size_t mark = readme.rfind(kMark);
  if (mark == std::string_view::npos) return CardState::foreign;
  const std::string_view text = readme.substr(0, mark), end = readme.substr(mark + kMark.size());
  return end == checksum(text) + std::string(kMarkEnd) ? CardState::ours : CardState::edited;
}

std::string quoted_string(const std::string& text) {
  const std::string json = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  // What JSON may hold as it is and YAML may not: delete, C1 controls, line separators, the byte order mark,
  // the two non-characters of the first plane.
  std::string out;
  for (size_t i = 0; i < json.size(); i++) {
    const auto byte = [&](size_t at) { return static_cast<unsigned char>(at < json.size() ? json[at] : 0); };
    const unsigned first = byte(i), second = byte(i + 1), third = byte(i + 2);
    const unsigned wide = (first & 0x0fU) << 12 | (second & 0x3fU) << 6 | (third & 0x3fU);
    if (first == 0x7f) {
      out += "\\u007f";
    } else if (first == 0xc2 && second < 0xa0) {
      out += fmt::format("\\u{:04x}", second);
      i += 1;
    } else if ((first == 0xe2 || first == 0xef) &&
               (wide == 0x2028 || wide == 0x2029 || wide == 0xfeff || wide == 0xfffe || wide == 0xffff)) {
      out += fmt::format("\\u{:04x}", wide);
      i += 2;
    } else {
      out += json[i];
    }
  }
  return out;
}

std::string shell_word(const std::string& text) {
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  if (std::ranges::any_of(text, is_control)) {  // bash's own quotes, which keep it in one line
    std::string word = text.starts_with('-') ? "$'./" : "$'";
    for (const char c : text)
      if (is_control(c))
        word += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
      else
        word += c == '\'' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
    return word + "'";
  }
  const bool plain = !text.empty() && std::ranges::all_of(text, [](char c) {
    return is_letter(c) || is_digit(c) || std::string_view("-_./+=:@%").find(c) != std::string_view::npos;
  });
  const std::string word = plain ? text : "'" + replace_all(text, "'", "'\\''") + "'";
  return text.starts_with('-') ? (plain ? "./" + word : "'./" + word.substr(1)) : word;
}

}  // namespace moerge
