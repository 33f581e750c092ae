// The section of a model card on where its routers send tokens, from the JSON of `moerge route`.

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/moe/card.h"
#include "moerge/moe/routing_report.h"

namespace moerge {
namespace {

constexpr size_t kMaxTexts = 8;       // columns that a page has place for
constexpr size_t kMaxExperts = 1024;  // rows
constexpr size_t kMaxName = 40;       // of a text, bytes

[[noreturn]] void refuse(const std::string& where, const std::string& what) {
  fail(ErrorKind::input, "{}: {}: what `moerge route --json` prints is expected", where, what);
}

const Json& list_in(const Json& object, const char* key, const std::string& where) {
  const auto found = object.is_object() ? object.find(key) : object.end();
  if (!object.is_object() || found == object.end() || !found->is_array())
    refuse(where, fmt::format("no list \"{}\" in it", key));
  return *found;
}

double number_in(const Json& object, const char* key, const std::string& where) {
  const std::optional<double> value = object.is_object() ? json_number(object, key, where) : std::nullopt;
  if (!value || !(*value >= 0 && *value <= 1))
    refuse(where, fmt::format("\"{}\" should be a share from 0 to 1", key));
  return *value;
}

// Whole characters of the beginning.
std::string shorten(const std::string& name) {
  if (name.size() <= kMaxName) return name;
  size_t end = kMaxName;
  while (end > 0 && (static_cast<unsigned char>(name[end]) & 0xc0) == 0x80) end--;
  return name.substr(0, end) + "...";
}

}  // namespace

CardSection routing_section(const Json& report, const std::string& where) {
  const Json& experts = list_in(report, "experts", where);
  const Json& texts = list_in(report, "texts", where);
  if (experts.empty() || experts.size() > kMaxExperts)
    refuse(where, fmt::format("\"experts\" has {} entries", experts.size()));
  const size_t shown = std::min(texts.size(), kMaxTexts);
  CardTable table = {.columns = {"Expert", "Chosen"}};
  for (size_t t = 0; t < shown; t++) {
    const std::optional<std::string> name =
        texts[t].is_object() ? json_string(texts[t], "name", where) : std::nullopt;
    if (!name) refuse(where, "a text without a \"name\"");
    if (list_in(texts[t], "first_share", where).size() != experts.size())
      refuse(where,
             fmt::format("\"first_share\" of the text \"{}\" should have {} entries", *name, experts.size()));
    table.columns.push_back(shorten(*name));
  }
  for (size_t e = 0; e < experts.size(); e++) {
    const double share = number_in(experts[e], "share", where);
    const std::string name = json_string(experts[e], "name", where).value_or("");
    CardText row = {card_text(name.empty() ? std::to_string(e) : fmt::format("{} {}", e, name)),
                    card_text(percent(share))};
    for (size_t t = 0; t < shown; t++) {
      const Json& first = texts[t]["first_share"][e];
      if (!first.is_number()) refuse(where, "\"first_share\" should hold numbers");
      row.push_back(card_text(percent(first.get<double>())));
    }
    table.rows.push_back(std::move(row));
  }
  const int64_t tokens = json_int(report, "tokens", where).value_or(0);
  std::string text = fmt::format(
      "Where the routers send {} tokens, averaged over the layers: how often an expert is among the chosen "
      "ones",
      tokens);
  if (shown > 0) text += ", and of each text the share of tokens that it is the first choice for";
  text += '.';
  if (texts.size() > shown) text += fmt::format(" {} further texts are left out.", texts.size() - shown);
  return {.heading = "Routing", .paragraphs = {{card_text(std::move(text))}}, .table = std::move(table)};
}

}  // namespace moerge
