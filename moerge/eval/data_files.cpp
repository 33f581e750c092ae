#include "moerge/eval/data_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/progress.h"
#include "moerge/base/suggest.h"
#include "moerge/eval/regex.h"
#include "moerge/hub/card_source.h"

namespace moerge {
namespace {

constexpr size_t kMostPatterns = 1000;  // of a configuration
constexpr size_t kShownNames = 40;
constexpr std::string_view kDefault = "default";

// Names of splits, and what stands for them in names of files and folders.
struct SplitWords {
  std::string_view split;
  std::vector<std::string_view> words;
};
const std::array<SplitWords, 3> kSplits = {{{"train", {"train", "training"}},
                                            {"validation", {"validation", "valid", "dev", "val"}},
                                            {"test", {"test", "testing", "eval", "evaluation"}}}};
// Around such a word; the whole pattern of a folder, then of a file.
constexpr std::string_view kEdge = "[-._ 0-9]";
constexpr std::array<const char*, 4> kFolderPatterns = {"**/{0}/**", "**/{0}{1}*/**", "**/*{1}{0}/**",
                                                        "**/*{1}{0}{1}*/**"};
constexpr std::array<const char*, 2> kFilePatterns = {"**/{0}{1}*", "**/*{1}{0}{1}*"};
// A file of a split that lies in several: NAME-00000-of-00002.parquet.
constexpr std::string_view kShard = "[0-9][0-9][0-9][0-9][0-9]";

// Never data, unless a pattern names them.
constexpr std::array<std::string_view, 6> kNoData = {"README.md",         "config.json",
                                                     "dataset_info.json", "dataset_infos.json",
                                                     "dummy_data.zip",    "dataset_dict.json"};

std::string_view file_name(std::string_view path) { return path.substr(path.rfind('/') + 1); }

std::vector<std::string_view> parts_of(std::string_view path) {
  std::vector<std::string_view> parts;
  for (size_t start = 0;;) {
    const size_t slash = path.find('/', start);
    parts.push_back(path.substr(start, slash == path.npos ? slash : slash - start));
    if (slash == path.npos) return parts;
    start = slash + 1;
  }
}

void add_escaped(std::string& out, char c) {
  if (std::string_view("\\.+*?()|[]{}^$#&-~").find(c) != std::string_view::npos) out += '\\';
  out += c;
}

// One part of a pattern between slashes.
std::string part_expression(std::string_view part) {
  std::string out;
  for (size_t i = 0; i < part.size(); i++) {
    const size_t close =
        part[i] == '[' ? part.find(']', i + (part.substr(i + 1, 1) == "!" ? 3 : 2)) : part.npos;
    if (part[i] == '*') {
      out += "[^/]*";
    } else if (part[i] == '?') {
      out += "[^/]";
    } else if (close != part.npos) {
      std::string_view set = part.substr(i + 1, close - i - 1);
      out += set.starts_with('!') ? "[^" : "[";
      if (set.starts_with('!')) set.remove_prefix(1);
      for (size_t k = 0; k < set.size(); k++)
        if (set[k] == '-' && k > 0 && k + 1 < set.size())
          out += '-';
        else
          add_escaped(out, set[k]);
      out += ']';
      i = close;
    } else {
      add_escaped(out, part[i]);
    }
  }
  return out;
}

Regex glob_expression(std::string_view pattern) {
  std::string out = "(?s)^";
  const std::vector<std::string_view> parts = parts_of(pattern);
  for (size_t i = 0; i < parts.size(); i++) {
    const bool last = i + 1 == parts.size();
    if (parts[i] == "**") {
      out += last ? ".*" : "(?:.+/)?";
      continue;
    }
    if (parts[i].find("**") != std::string_view::npos)
      fail(ErrorKind::config, "\"{}\": \"**\" can only stand alone between two \"/\"", printable(pattern));
    out += parts[i] == "*" ? "[^/]+" : part_expression(parts[i]);
    if (!last) out += '/';
  }
  return Regex(out + "$", fmt::format("the pattern \"{}\"", printable(pattern)));
}

bool matches(const Regex& expression, std::string_view path) { return !expression.find_all(path, 1).empty(); }

// Hidden files and folders, and folders such as __pycache__, have to be named by a pattern as well.
bool is_hidden(std::string_view path, std::string_view pattern) {
  const auto dots = [](std::string_view text) {
    return std::ranges::count_if(parts_of(text), [](std::string_view part) {
      return part.starts_with('.') && part.find_first_not_of('.') != part.npos;
    });
  };
  const auto special = [](std::string_view text) {
    std::vector<std::string_view> parts = parts_of(text);
    parts.pop_back();
    return std::ranges::count_if(parts, [](std::string_view part) { return part.starts_with("__"); });
  };
  return dots(path) != dots(pattern) || special(path) != special(pattern);
}

std::string list_names(std::vector<std::string> names) {
  if (names.empty()) return "none";
  const size_t all = names.size();
  for (std::string& name : names) name = printable(name);
  if (all > kShownNames) names.resize(kShownNames);
  return fmt::format("{}{}", fmt::join(names, ", "),
                     all > kShownNames ? fmt::format(", ... ({} in all)", all) : "");
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& names) {
  const std::vector<std::string_view> candidates(names.begin(), names.end());
  const std::string near = nearest(word, candidates);
  return near.empty() ? "" : fmt::format("; did you mean \"{}\"?", printable(near));
}

std::vector<std::string> texts_of(const YamlNode& node) {
  if (node.kind == YamlNode::Kind::scalar) return {node.scalar};
  std::vector<std::string> out;
  for (const YamlNode& item : node.items)
    if (item.kind == YamlNode::Kind::scalar) out.push_back(item.scalar);
  return out;
}

std::string text_of(const YamlNode& map, std::string_view key) {
  const YamlNode* node = map.find(key);
  return node && node->kind == YamlNode::Kind::scalar ? node->scalar : "";
}

std::string without_dots(std::string folder) {
  while (folder.starts_with("./")) folder.erase(0, 2);
  while (folder.ends_with('/')) folder.pop_back();
  return folder == "." ? "" : folder;
}

std::string joined(const std::string& folder, std::string_view path) {
  while (path.starts_with("./")) path.remove_prefix(2);
  return folder.empty() ? std::string(path) : fmt::format("{}/{}", folder, path);
}

}  // namespace

bool matches_glob(std::string_view path, std::string_view pattern) {
  return matches(glob_expression(pattern), path);
}

bool is_data_file(std::string_view path) {
  const std::string name = lower_case(std::string(path));
  return name.ends_with(".jsonl") || name.ends_with(".ndjson") || name.ends_with(".json") ||
         name.ends_with(".parquet");
}

DataFiles::DataFiles(std::vector<std::string> paths, std::string_view card, DataLayout layout,
                     std::string where)
    : paths_(std::move(paths)), layout_(layout), where_(std::move(where)) {
  std::ranges::sort(paths_);
  if (layout == DataLayout::repository) read_card(card);
}

// configs:
// - config_name: main
//   data_files: a pattern, a list of them, or
//   - split: test
//     path: a pattern or a list of them
void DataFiles::read_card(std::string_view card) {
  const std::optional<YamlNode> front = read_front_matter(card);
  const YamlNode* configs = front ? front->find("configs") : nullptr;
  if (!configs || configs->kind == YamlNode::Kind::null) return;
  const auto wrong = [&](const YamlNode& at, std::string_view what) {
    fail(ErrorKind::config, "{}: \"configs\" in its README.md, line {}: {}", where_, at.line, what);
  };
  for (const YamlNode& entry : configs->items) {
    Configuration& it = configurations_.emplace_back();
    it.name = text_of(entry, "config_name");
    if (it.name.empty()) wrong(entry, "a configuration without config_name");
    it.folder = without_dots(text_of(entry, "data_dir"));
    it.is_default = text_of(entry, "default") == "true" || it.name == kDefault;
    const YamlNode* data = entry.find("data_files");
    if (!data || data->kind == YamlNode::Kind::null) continue;
    size_t count = 0;
    for (const YamlNode& item : data->items)
      if (item.kind == YamlNode::Kind::map) {
        const YamlNode* path = item.find("path");
        const std::string split = text_of(item, "split");
        if (split.empty() || !path) wrong(item, "data_files should have split and path");
        it.data.emplace_back(split, texts_of(*path));
      }
    if (it.data.empty()) it.data.emplace_back("train", texts_of(*data));
    for (const auto& [split, patterns] : it.data) count += patterns.size();
    if (count == 0 || count > kMostPatterns)
      wrong(*data, "data_files should be a pattern or a list of patterns");
  }
}

const DataFiles::Configuration& DataFiles::find(const std::string& name) const {
  std::vector<std::string> names;
  for (const Configuration& it : configurations_) names.push_back(it.name);
  if (name.empty()) {
    if (configurations_.size() == 1) return configurations_.front();
    const auto found = std::ranges::find(configurations_, true, &Configuration::is_default);
    if (found != configurations_.end()) return *found;
    fail(ErrorKind::config,
         "{} has several configurations, and the task does not say which (dataset_name): {}", where_,
         list_names(names));
  }
  const auto found = std::ranges::find(configurations_, name, &Configuration::name);
  if (found != configurations_.end()) return *found;
  fail(ErrorKind::config, "{} has no configuration \"{}\" (dataset_name){}; there are: {}", where_,
       printable(name), did_you_mean(name, names), list_names(names));
}

std::vector<std::string> DataFiles::matching(const std::string& folder,
                                             const std::vector<std::string>& patterns) const {
  std::vector<std::string> out;
  std::set<std::string> seen;
  for (const std::string& it : patterns) {
    const std::string pattern = joined(folder, it);
    const Regex expression = glob_expression(pattern);
    for (const std::string& path : paths_) {
      const std::string_view name = file_name(path);
      if (std::ranges::find(kNoData, name) != kNoData.end() && name != file_name(pattern)) continue;
      if (matches(expression, path) && !is_hidden(path, pattern) && seen.insert(path).second)
        out.push_back(path);
    }
  }
  return out;
}

std::vector<SplitFiles> DataFiles::by_names(const std::string& folder) const {
  std::vector<SplitFiles> out;
  const auto add = [&](std::string split, const std::vector<std::string>& patterns) {
    std::vector<std::string> files = matching(folder, patterns);
    if (!files.empty()) out.push_back({std::move(split), std::move(files)});
  };
  // data/SPLIT-00000-of-00002.parquet: any name is a split's.
  const std::string shard = fmt::format("-{0}-of-{0}*.*", kShard);
  const std::string start = joined(folder, "data/");
  std::set<std::string> names;
  for (const std::string& path : matching(folder, {"data/*" + shard})) {
    const size_t end = path.rfind("-of-");
    names.insert(path.substr(start.size(), end - 6 - start.size()));
  }
  for (const SplitWords& it : kSplits)
    if (names.erase(std::string(it.split)) > 0)
      add(std::string(it.split), {fmt::format("data/{}{}", it.split, shard)});
  for (const std::string& name : names) add(name, {fmt::format("data/{}{}", name, shard)});
  if (!out.empty()) return out;

  const auto by_words = [&](const auto& patterns) {
    for (const SplitWords& it : kSplits) {
      std::vector<std::string> all;
      for (const std::string_view word : it.words)
        for (const char* pattern : patterns) all.push_back(fmt::format(fmt::runtime(pattern), word, kEdge));
      add(std::string(it.split), all);
    }
  };
  by_words(kFolderPatterns);
  if (out.empty()) by_words(kFilePatterns);
  if (out.empty()) add("train", {"**"});
  return out;
}

// FOLDER/SPLIT/..., FOLDER/SPLIT-00000-of-00001.parquet, FOLDER/SPLIT.jsonl
std::vector<SplitFiles> DataFiles::by_folders(const std::string& folder) const {
  const Regex shards("^(.+?)-[0-9]{5}-of-[0-9]{5}.*$", where_);
  std::vector<SplitFiles> out;
  for (const std::string& path : paths_) {
    if (!path.starts_with(folder + "/") || !is_data_file(path)) continue;
    const std::string_view rest = std::string_view(path).substr(folder.size() + 1);
    const size_t slash = rest.find('/');
    std::string split(rest.substr(0, slash == rest.npos ? rest.rfind('.') : slash));
    if (const auto found = shards.find_all(split, 1); !found.empty()) split = found[0][1].value_or(split);
    if (layout_ == DataLayout::exported && split.starts_with("partial-")) split.erase(0, 8);
    const auto found = std::ranges::find(out, split, &SplitFiles::split);
    SplitFiles& it = found != out.end() ? *found : out.emplace_back(SplitFiles{split, {}});
    it.files.push_back(path);
  }
  return out;
}

std::vector<std::string> DataFiles::folders() const {
  std::set<std::string> out;
  for (const std::string& path : paths_)
    if (const size_t slash = path.find('/'); slash != std::string::npos && is_data_file(path))
      out.insert(path.substr(0, slash));
  return {out.begin(), out.end()};
}

std::vector<SplitFiles> DataFiles::splits(const std::string& configuration) const {
  if (!configurations_.empty()) {
    const Configuration& it = find(configuration);
    if (it.data.empty()) return by_names(it.folder);
    std::vector<SplitFiles> out;
    for (const auto& [split, patterns] : it.data) out.push_back({split, matching(it.folder, patterns)});
    std::erase_if(out, [](const SplitFiles& split) { return split.files.empty(); });
    return out;
  }
  const std::vector<std::string> names = folders();
  if (layout_ == DataLayout::exported && configuration.empty()) {
    const bool has_default = std::ranges::find(names, kDefault) != names.end();
    if (has_default || names.size() == 1) return by_folders(has_default ? std::string(kDefault) : names[0]);
    fail(ErrorKind::config,
         "{} has several configurations, and the task does not say which (dataset_name): {}", where_,
         list_names(names));
  }
  if (layout_ == DataLayout::repository && (configuration.empty() || configuration == kDefault))
    return by_names("");
  if (std::ranges::find(names, configuration) != names.end()) return by_folders(configuration);
  std::vector<std::string> known = names;
  if (layout_ == DataLayout::repository) known.insert(known.begin(), std::string(kDefault));
  fail(ErrorKind::config, "{} has no configuration \"{}\" (dataset_name){}; there are: {}", where_,
       printable(configuration), did_you_mean(configuration, known), list_names(known));
}

std::vector<std::string> DataFiles::files(const std::string& configuration, const std::string& split) const {
  const std::vector<SplitFiles> all = splits(configuration);
  const auto found = std::ranges::find(all, split, &SplitFiles::split);
  if (found == all.end()) {
    std::vector<std::string> names;
    for (const SplitFiles& it : all) names.push_back(it.split);
    fail(ErrorKind::config, "{}{} has no split \"{}\"{}; there are: {}", where_,
         configuration.empty() ? "" : fmt::format(" (configuration \"{}\")", printable(configuration)),
         printable(split), did_you_mean(split, names), list_names(names));
  }
  std::vector<std::string> out;
  std::ranges::copy_if(found->files, std::back_inserter(out),
                       [](const std::string& file) { return is_data_file(file); });
  if (out.empty())
    fail(ErrorKind::unsupported,
         "{}: \"{}\", its split \"{}\", is no .jsonl, .json or .parquet file, which moerge reads", where_,
         printable(found->files[0]), printable(split));
  return out;
}

}  // namespace moerge
