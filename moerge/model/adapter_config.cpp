#include "moerge/model/adapter_config.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <limits>

#include "moerge/base/error.h"
#include "moerge/model/config.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// Members that, when set, make the merge something else than W + scale * B A.
struct Variant {
  const char* key;
  std::string_view what;
};
constexpr Variant kVariants[] = {
    {"use_dora", "DoRA"},
    {"use_qalora", "QALoRA"},
    {"use_bdlora", "block-diagonal LoRA"},
    {"alora_invocation_tokens", "activated LoRA, which cannot be merged"},
    {"layer_replication", "LoRA over replicated layers"},
    {"lora_bias", "LoRA with biases of its own"},
    {"target_parameters", "LoRA on parameters that are no modules"},
    {"arrow_config", "Arrow"},
    {"kasa_config", "KaSA"},
    {"monteclora_config", "MonteCLoRA"},
};

// Beginnings of init_lora_weights whose training starts by taking B A out of the base's weights: the adapter
// fits those, not the base.
constexpr std::array<std::string_view, 5> kChangedBase = {"pissa", "olora", "corda", "lora_ga", "loftq"};

constexpr int64_t kMaxRank = 1 << 16;

// A matcher of patterns from a file must neither recurse deeply nor try for years: libstdc++'s polynomial
// matcher over short texts, without counted repetitions, which it unrolls.
constexpr size_t kMaxPattern = 256, kMaxModule = 512, kMaxExpressions = 1000;

bool is_set(const Json& value) {
  return !value.is_null() && value != false && !((value.is_array() || value.is_object()) && value.empty());
}

bool is_plain(std::string_view pattern) {
  return std::ranges::all_of(pattern,
                             [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '.'; });
}

// A pattern of letters, in which a point matches anything, as it does in the regular expression.
bool matches_plain(std::string_view pattern, std::string_view module) {
  if (pattern.size() > module.size()) return false;
  const size_t start = module.size() - pattern.size();
  if (start > 0 && module[start - 1] != '.') return false;
  for (size_t i = 0; i < pattern.size(); i++)
    if (pattern[i] != '.' && pattern[i] != module[start + i]) return false;
  return true;
}

// Refers to a group by its number, which the standard library reads without looking whether it fits.
bool refers_back(std::string_view pattern) {
  for (size_t i = 0; i + 1 < pattern.size(); i++)
    if (pattern[i] == '\\' && std::isdigit(static_cast<unsigned char>(pattern[++i]))) return true;
  return false;
}

std::regex compile(const std::string& pattern, const std::string& where) {
  auto flags = std::regex::ECMAScript;
#ifdef __GLIBCXX__
  flags |= std::regex_constants::__polynomial;
#endif
  if (pattern.size() > kMaxPattern || pattern.find_first_of("{\n") != std::string::npos ||
      refers_back(pattern))
    fail(ErrorKind::unsupported, "{}: the pattern \"{}\" is longer or more involved than moerge reads", where,
         pattern.substr(0, kMaxPattern));
  try {
    return std::regex("(.*\\.)?(" + pattern + ")", flags);
  } catch (const std::regex_error& error) {
    fail(ErrorKind::unsupported, "{}: the pattern \"{}\" is no regular expression that moerge reads ({})",
         where, pattern, error.what());
  }
}

bool matches(const ModulePattern& pattern, std::string_view module, const std::string& where) {
  if (!pattern.expression) return matches_plain(pattern.text, module);
  if (module.size() > kMaxModule)
    fail(ErrorKind::input, "{}: a module's name of {} characters", where, module.size());
  return std::regex_match(module.begin(), module.end(), *pattern.expression);
}

// PEFT, utils/other.py, get_pattern_key().
double value_for(const std::vector<ModulePattern>& patterns, double otherwise, std::string_view module,
                 const std::string& where) {
  for (const ModulePattern& pattern : patterns)
    if (matches(pattern, module, where)) return pattern.value;
  return otherwise;
}

std::vector<ModulePattern> read_patterns(const Json& json, const char* key, const std::string& where) {
  std::vector<ModulePattern> out;
  const auto found = json.find(key);
  if (found == json.end() || !is_set(*found)) return out;
  if (!found->is_object()) fail(ErrorKind::input, "{}: \"{}\" should be an object", where, key);
  size_t expressions = 0;
  for (const auto& [pattern, value] : found->items()) {
    if (!value.is_number())
      fail(ErrorKind::input, "{}: \"{}\" of \"{}\" should be a number, found {}", where, pattern, key,
           value.type_name());
    out.push_back({pattern, {}, value.get<double>()});
    if (is_plain(pattern)) continue;
    if (++expressions > kMaxExpressions)
      fail(ErrorKind::unsupported, "{}: \"{}\" has more than {} regular expressions", where, key,
           kMaxExpressions);
    out.back().expression = compile(pattern, where);
  }
  return out;
}

std::vector<int64_t> read_rows_of(const Json& list, const std::string& where) {
  std::vector<int64_t> rows;
  if (!list.is_array())
    fail(ErrorKind::input,
         "{}: \"trainable_token_indices\" should be a list of numbers, or one for each module", where);
  for (const Json& row : list) {
    if (!row.is_number_integer() || row < 0 || row > kMaxDimension)
      fail(ErrorKind::input, "{}: \"trainable_token_indices\" holds {}", where, row.dump());
    rows.push_back(row.get<int64_t>());
  }
  return rows;
}

void read_token_rows(const Json& json, AdapterConfig& config) {
  const auto found = json.find("trainable_token_indices");
  if (found == json.end() || !is_set(*found)) return;
  if (found->is_object())
    for (const auto& [module, rows] : found->items())
      config.token_rows[module] = read_rows_of(rows, config.where);
  else
    config.token_rows["embed_tokens"] = read_rows_of(*found, config.where);
}

void read_modules_to_save(const Json& json, AdapterConfig& config) {
  const auto found = json.find("modules_to_save");
  if (found == json.end() || !is_set(*found)) return;
  const bool valid =
      found->is_array() && std::ranges::all_of(*found, [](const Json& name) { return name.is_string(); });
  if (!valid) fail(ErrorKind::input, "{}: \"modules_to_save\" should be a list of names", config.where);
  for (const Json& name : *found) config.modules_to_save.push_back(name.get<std::string>());
}

void check_kind(const Json& json, const std::string& where) {
  const auto type = json_string(json, "peft_type", where);
  if (!type) fail(ErrorKind::input, "{}: no \"peft_type\" in it: not an adapter in PEFT's layout", where);
  if (*type != "LORA")
    fail(ErrorKind::unsupported, "{}: an adapter of type {}; LORA is read: merge it with PEFT first", where,
         *type);
  for (const Variant& variant : kVariants)
    if (const auto found = json.find(variant.key); found != json.end() && is_set(*found))
      fail(ErrorKind::unsupported, "{}: \"{}\" is set: {}; plain LoRA is read: merge it with PEFT first",
           where, variant.key, variant.what);
  const auto init = json.find("init_lora_weights");
  if (init == json.end() || !init->is_string()) return;
  const auto how = init->get<std::string>();
  for (const std::string_view name : kChangedBase)
    if (how.starts_with(name))
      fail(ErrorKind::unsupported,
           "{}: \"init_lora_weights\" is \"{}\": the adapter fits a changed base; save it with PEFT's "
           "path_initial_model_for_weight_conversion, or merge it there",
           where, how);
}

}  // namespace

AdapterConfig read_adapter_config(const fs::path& folder) {
  const fs::path file = folder / "adapter_config.json";
  if (!fs::exists(file))
    fail(ErrorKind::input, "{}: no adapter_config.json in this folder: {}", folder.string(),
         fs::exists(folder / "config.json") ? "it is a model, not an adapter"
                                            : "not an adapter in PEFT's layout");
  return parse_adapter_config(read_json(file), file.string());
}

AdapterConfig parse_adapter_config(const Json& json, const std::string& where) {
  AdapterConfig config = {};
  config.where = where;
  if (!json.is_object()) fail(ErrorKind::input, "{}: should be a JSON object", config.where);
  check_kind(json, config.where);
  config.rank = json_int(json, "r", config.where).value_or(8);
  config.alpha = json_number(json, "lora_alpha", config.where).value_or(8);
  config.rank_stabilised = json_bool(json, "use_rslora", config.where).value_or(false);
  config.rank_pattern = read_patterns(json, "rank_pattern", config.where);
  config.alpha_pattern = read_patterns(json, "alpha_pattern", config.where);
  config.ensure_weight_tying = json_bool(json, "ensure_weight_tying", config.where).value_or(false);
  read_modules_to_save(json, config);
  read_token_rows(json, config);
  return config;
}

int64_t rank_of(const AdapterConfig& config, std::string_view module) {
  const double rank = value_for(config.rank_pattern, static_cast<double>(config.rank), module, config.where);
  if (!(rank >= 1 && rank <= static_cast<double>(kMaxRank)) || rank != std::floor(rank))
    fail(ErrorKind::input, "{}: the rank for {} is {}, expected 1 to {}", config.where, module, rank,
         kMaxRank);
  return static_cast<int64_t>(rank);
}

double scale_of(const AdapterConfig& config, std::string_view module) {
  const auto rank = static_cast<double>(rank_of(config, module));
  const double alpha = value_for(config.alpha_pattern, config.alpha, module, config.where);
  const double scale = alpha / (config.rank_stabilised ? std::sqrt(rank) : rank);
  if (!(std::abs(scale) <= std::numeric_limits<float>::max()))
    fail(ErrorKind::input, "{}: \"lora_alpha\" for {} is {}", config.where, module, alpha);
  return scale;
}

}  // namespace moerge
