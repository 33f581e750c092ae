#include "moerge/export/metadata.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include "moerge/base/error.h"
#include "moerge/base/utf8.h"
#include "moerge/base/yaml.h"
#include "moerge/export/model_name.h"

namespace moerge {
namespace {

constexpr size_t kMaxReferences = 1000;  // base models or datasets
constexpr std::string_view kHub = "https://huggingface.co/";

using Text = std::optional<std::string>;
using Warnings = std::vector<std::string>;

std::string replace_all(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// Splits where Python's splitlines does.
std::vector<std::string_view> lines_of(std::string_view text) {
  constexpr std::string_view kBreaks[] = {"\r\n", "\n",   "\r",       "\v",           "\f",          "\x1c",
                                          "\x1d", "\x1e", "\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9"};
  std::vector<std::string_view> lines;
  size_t start = 0, at = 0;
  while (at < text.size()) {
    size_t length = 0;
    for (const std::string_view line_break : kBreaks)
      if (length == 0 && text.substr(at).starts_with(line_break)) length = line_break.size();
    if (length > 0) {
      lines.push_back(text.substr(start, at - start));
      start = at + length;
    }
    at += std::max<size_t>(length, 1);
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

// The YAML between the "---" that a card begins with and the next; a map, empty when there is none.
YamlNode front_matter(const std::string& card, Warnings& warnings) {
  YamlNode none;
  none.kind = YamlNode::Kind::map;
  const auto ignore = [&](const std::string& why) {
    warnings.push_back(fmt::format("{}: its metadata is left out of the GGUF", why));
    return none;
  };
  if (!card.starts_with("---")) return none;
  if (!is_utf8(card)) return ignore("README.md is no UTF-8 text");
  const std::vector<std::string_view> lines = lines_of(card);
  if (lines[0] != "---") return none;
  std::string yaml;
  for (size_t i = 1; i < lines.size() && lines[i] != "---"; i++) yaml.append(lines[i]) += '\n';
  // The converter's own repairs: Norwegian is no boolean, and tabs do not indent.
  yaml = replace_all(replace_all(std::move(yaml), "- no\n", "- \"no\"\n"), "\t", "  ");
  try {
    YamlNode node = parse_yaml("\n" + yaml, "README.md");  // line numbers as in the card
    if (node.kind == YamlNode::Kind::map) return node;
    return node.kind == YamlNode::Kind::null
               ? none
               : ignore(
                     fmt::format("README.md: the front matter should be a map, found {}", node.kind_name()));
  } catch (const Error& error) {
    return ignore(error.message());
  }
}

// Collects what is known of a model; the first source that has a value wins.
class Description {
 public:
  Description(GgufMetadata& metadata, const ParameterCounts& counts, Warnings& warnings)
      : metadata_(metadata), counts_(counts), warnings_(warnings) {}

  void read_card(const YamlNode& card);
  void read_name(std::string_view id);
  void write_texts();

 private:
  // A single value; null counts as absent.
  Text text(const YamlNode& map, std::string_view key) {
    const YamlNode* node = map.find(key);
    if (!node || node->kind == YamlNode::Kind::null) return {};
    if (node->kind == YamlNode::Kind::scalar) return node->scalar;
    warnings_.push_back(
        fmt::format("README.md:{}:{}: \"{}\" should be a single value, found {}: it is left out", node->line,
                    node->column, key, node->kind_name()));
    return {};
  }
  void read_license(const YamlNode& card);
  void write_list(const YamlNode& card, const char* key, std::span<const char* const> card_keys);
  void write_references(const YamlNode& card, std::string_view prefix,
                        std::span<const char* const> card_keys);
  void write_reference(const YamlNode& node, const std::string& prefix);
  void write_id(const std::string& prefix, std::string_view id);
  void set(const std::string& key, const Text& value) {
    if (value && !value->empty()) metadata_.set(key, *value);
  }

  GgufMetadata& metadata_;
  const ParameterCounts& counts_;
  Warnings& warnings_;
  Text name_, author_, version_, organization_, description_, finetune_, basename_, size_label_, license_;
  Text source_url_, source_doi_, source_uuid_, source_repo_url_;

  // Where a text is found in a card and where it goes, in the order in which the converter looks.
  struct Member {
    Text Description::*text;
    const char* key;
    const char* card_keys[4];
  };
  static const Member kMembers[];
};

const Description::Member Description::kMembers[] = {
    {&Description::name_, "general.name", {"name", "model_name"}},
    {&Description::author_, "general.author", {"author", "model_author", "model_creator"}},
    {&Description::version_, "general.version", {"version", "model_version"}},
    {&Description::organization_, "general.organization", {"organization", "model_organization"}},
    {&Description::finetune_, "general.finetune", {"finetune", "model_finetune"}},
    {&Description::basename_, "general.basename", {"basename", "model_basename", "model_type"}},
    {&Description::description_, "general.description", {"description", "model_description"}},
    {&Description::size_label_, "general.size_label", {"size_label", "model_size_label"}},
    {&Description::source_url_, "general.source.url", {"url", "model_url"}},
    {&Description::source_doi_, "general.source.doi", {"doi", "model_doi"}},
    {&Description::source_uuid_, "general.source.uuid", {"uuid", "model_uuid"}},
    {&Description::source_repo_url_, "general.source.repo_url", {"repo_url", "model_repo_url"}},
};

constexpr const char* kReferenceKeys[] = {"name", "author", "version", "organization", "description",
                                          "url",  "doi",    "uuid",    "repo_url"};

void Description::read_card(const YamlNode& card) {
  for (const Member& member : kMembers)
    for (const char* key : member.card_keys)
      if (key && !(this->*member.text)) this->*member.text = text(card, key);
  read_license(card);
  set("general.license.name", text(card, "license_name"));
  set("general.license.link", text(card, "license_link"));
  constexpr const char* kBases[] = {"base_model", "base_models", "base_model_sources"};
  constexpr const char* kDatasets[] = {"datasets", "dataset", "dataset_sources"};
  constexpr const char* kTags[] = {"tags", "pipeline_tag"};
  constexpr const char* kLanguages[] = {"languages", "language"};
  write_references(card, "general.base_model", kBases);
  write_references(card, "general.dataset", kDatasets);
  write_list(card, "general.tags", kTags);
  write_list(card, "general.languages", kLanguages);
}

// Several licences are one text.
void Description::read_license(const YamlNode& card) {
  const YamlNode* node = card.find("license");
  if (!node || node->kind != YamlNode::Kind::sequence) {
    license_ = text(card, "license");
    return;
  }
  std::vector<std::string_view> all;
  for (const YamlNode& item : node->items)
    if (item.kind == YamlNode::Kind::scalar) all.push_back(item.scalar);
  license_ = fmt::format("{}", fmt::join(all, ","));
}

void Description::write_list(const YamlNode& card, const char* key, std::span<const char* const> card_keys) {
  std::vector<std::string> all;
  for (const char* card_key : card_keys) {
    const YamlNode* node = card.find(card_key);
    if (!node) continue;
    if (node->kind == YamlNode::Kind::scalar) all.push_back(node->scalar);
    for (const YamlNode& item : node->items)
      if (item.kind == YamlNode::Kind::scalar) all.push_back(item.scalar);
  }
  if (!all.empty()) metadata_.set(key, std::move(all));
}

void Description::write_references(const YamlNode& card, std::string_view prefix,
                                   std::span<const char* const> card_keys) {
  const YamlNode* node = nullptr;
  for (const char* key : card_keys)
    if (!node) node = card.find(key);
  if (!node) return;
  std::span<const YamlNode> all = node->items;
  if (node->kind == YamlNode::Kind::scalar) all = {node, 1};
  if (all.size() > kMaxReferences) {
    warnings_.push_back(fmt::format("README.md:{}:{}: the first {} of {} entries are taken into the GGUF",
                                    node->line, node->column, kMaxReferences, all.size()));
    all = all.first(kMaxReferences);
  }
  metadata_.set(fmt::format("{}.count", prefix), static_cast<uint32_t>(all.size()));
  for (size_t i = 0; i < all.size(); i++) write_reference(all[i], fmt::format("{}.{}", prefix, i));
}

// A model on the Hub ("organization/name"), an address, or a map that says everything itself.
void Description::write_reference(const YamlNode& node, const std::string& prefix) {
  if (node.kind == YamlNode::Kind::map)
    for (const char* key : kReferenceKeys) set(fmt::format("{}.{}", prefix, key), text(node, key));
  if (node.kind != YamlNode::Kind::scalar) return;
  const std::string& id = node.scalar;
  const bool is_address = id.starts_with("http://") || id.starts_with("https://") || id.starts_with("ssh://");
  if (!is_address) {
    write_id(prefix, id);
    const ModelName name = read_model_name(id, counts_.total);
    if (name.organization)
      set(prefix + ".repo_url", fmt::format("{}{}/{}", kHub, *name.organization, name.name));
    return;
  }
  set(prefix + ".repo_url", id);
  std::string_view path = id;
  for (const std::string_view start : {std::string_view("http://huggingface.co/"), kHub})
    if (id.starts_with(start)) path.remove_prefix(start.size());
  const size_t slash = path.find('/');
  const bool is_model = path.size() < id.size() && slash != std::string_view::npos && slash > 0 &&
                        slash + 1 < path.size() && path.find('/', slash + 1) == std::string_view::npos;
  if (is_model) write_id(prefix, path);
}

void Description::write_id(const std::string& prefix, std::string_view id) {
  const ModelName name = read_model_name(id, counts_.total);
  set(prefix + ".name", title_of(name.name));
  if (name.organization) set(prefix + ".organization", title_of(*name.organization));
  set(prefix + ".version", name.version);
}

void Description::read_name(std::string_view id) {
  const ModelName name = read_model_name(id, counts_.total);
  const auto fill = [](Text& text, const Text& value) {
    if (!text) text = value;
  };
  fill(name_, title_of(name.name));
  if (name.organization) fill(organization_, title_of(*name.organization));
  fill(basename_, name.basename);
  fill(finetune_, name.finetune);
  fill(version_, name.version);
  fill(size_label_, name.size_label);
}

void Description::write_texts() {
  if (!size_label_ && counts_.total > 0) size_label_ = size_label(counts_);
  for (const Member& member : kMembers) set(member.key, this->*member.text);
  set("general.license", license_);
}

// Keys of generation_config.json, as sampling settings of llama.cpp.
struct Setting {
  enum class Type { text, integer, number };
  const char* key;
  Type type;
  const char* names[2];
};
constexpr Setting kSettings[] = {
    {"sequence", Setting::Type::text, {"sequence"}},
    {"top_k", Setting::Type::integer, {"top_k"}},
    {"top_p", Setting::Type::number, {"top_p"}},
    {"min_p", Setting::Type::number, {"min_p"}},
    {"xtc_probability", Setting::Type::number, {"xtc_probability"}},
    {"xtc_threshold", Setting::Type::number, {"xtc_threshold"}},
    {"temp", Setting::Type::number, {"temperature"}},
    {"penalty_last_n", Setting::Type::integer, {"penalty_last_n"}},
    {"penalty_repeat", Setting::Type::number, {"penalty_repeat", "repetition_penalty"}},
    {"mirostat", Setting::Type::integer, {"mirostat"}},
    {"mirostat_tau", Setting::Type::number, {"mirostat_tau"}},
    {"mirostat_eta", Setting::Type::number, {"mirostat_eta"}},
};

std::optional<GgufValue> setting_value(const Json& value, Setting::Type type) {
  if (type == Setting::Type::text && value.is_string()) return value.get<std::string>();
  if (type == Setting::Type::number && value.is_number()) {
    const auto number = static_cast<float>(value.get<double>());
    return std::isfinite(number) ? std::optional<GgufValue>(number) : std::nullopt;
  }
  if (type != Setting::Type::integer || !value.is_number_integer()) return {};
  const double number = value.get<double>();  // exact where it fits
  if (std::abs(number) > std::numeric_limits<int32_t>::max()) return {};
  return static_cast<int32_t>(number);
}

void add_sampling(GgufMetadata& metadata, const std::filesystem::path& folder, Warnings& warnings) {
  const std::filesystem::path file = folder / "generation_config.json";
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(file, ignored)) return;
  Json config;
  try {
    config = read_json(file);
  } catch (const Error& error) {
    warnings.push_back(fmt::format("{}: its sampling settings are left out of the GGUF", error.message()));
    return;
  }
  if (!config.is_object()) {
    warnings.push_back(fmt::format("{}: should be a JSON object; it is left out of the GGUF", file.string()));
    return;
  }
  for (const Setting& setting : kSettings)
    for (const char* name : setting.names) {
      if (!name || !config.contains(name)) continue;
      const Json& value = config[name];
      const std::optional<GgufValue> known = setting_value(value, setting.type);
      const bool is_empty = value == "";
      if (known && !is_empty) metadata.set(fmt::format("general.sampling.{}", setting.key), *known);
      if (!known && !value.is_null())
        warnings.push_back(
            fmt::format("{}: \"{}\" is no value that a GGUF can hold; it is left out", file.string(), name));
      break;
    }
}

}  // namespace

std::vector<std::string> add_general_metadata(GgufMetadata& metadata, const ExportSource& source,
                                              const ParameterCounts& counts) {
  Warnings warnings;
  metadata.set("general.type", std::string("model"));
  add_sampling(metadata, source.folder, warnings);
  Description description(metadata, counts, warnings);
  description.read_card(front_matter(source.card, warnings));
  if (source.config.is_object())
    if (const auto path = source.config.find("_name_or_path");
        path != source.config.end() && path->is_string()) {
      const auto& id = path->get_ref<const std::string&>();
      if (std::ranges::count(id, '/') <= 1) description.read_name(id);  // more: a path on somebody's disk
    }
  description.read_name(source.name);
  description.write_texts();
  return warnings;
}

}  // namespace moerge
