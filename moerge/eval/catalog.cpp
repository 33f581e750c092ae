#include "moerge/eval/catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/suggest.h"
#include "moerge/base/yaml.h"
#include "moerge/eval/builtin_files.h"
#include "moerge/eval/task_file.h"

namespace moerge {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxFile = 4 << 20;
constexpr std::string_view kTasks = "tasks/", kSuites = "suites/", kBuiltin = "built-in ";

const BuiltinFile* find_builtin(std::string_view folder, std::string_view name) {
  for (const BuiltinFile& file : builtin_files())
    if (file.name.starts_with(folder) && file.name.substr(folder.size()) == name) return &file;
  return nullptr;
}

// A file beside the one that includes it, or one of ours.
IncludedFile include_file(const std::string& name, const std::string& file) {
  if (!file.starts_with(kBuiltin)) {
    const fs::path path = fs::path(file).parent_path() / name;
    std::error_code error;
    if (fs::exists(path, error)) return {read_file(path, kMaxFile), path.string()};
  }
  if (const BuiltinFile* builtin = find_builtin(kTasks, name))
    return {std::string(builtin->text), fmt::format("{}{}", kBuiltin, name)};
  fail(ErrorKind::config,
       "there is no file \"{}\" to include, neither beside this one nor among those of moerge", name);
}

TaskFileOptions file_options(bool as_published) {
  return {.include = include_file, .as_published = as_published};
}

bool is_yaml(const fs::path& path) { return path.extension() == ".yaml" || path.extension() == ".yml"; }

std::string suggestion(std::string_view word, const std::vector<std::string_view>& candidates) {
  const std::string close = nearest(word, candidates);
  return close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close);
}

std::vector<Task> tasks_of_file(const fs::path& path, bool as_published) {
  return parse_task_file(read_file(path, kMaxFile), path.string(), file_options(as_published)).tasks;
}

std::vector<Task> tasks_of_folder(const fs::path& folder, bool as_published) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder))
    if (entry.is_regular_file() && is_yaml(entry.path()) &&
        !entry.path().filename().string().starts_with('_'))
      files.push_back(entry.path());
  std::ranges::sort(files);
  if (files.empty())
    fail(ErrorKind::config, "{}: there are no task files (.yaml) in this folder", folder.string());
  std::vector<Task> out;
  for (const fs::path& file : files)
    for (Task& task : tasks_of_file(file, as_published)) out.push_back(std::move(task));
  return out;
}

}  // namespace

TaskCatalog::TaskCatalog(bool as_published) : as_published_(as_published) {
  for (const BuiltinFile& file : builtin_files())
    if (file.name.starts_with(kTasks)) add_tasks(file.text, std::string(file.name.substr(kTasks.size())));
  for (const BuiltinFile& file : builtin_files())
    if (file.name.starts_with(kSuites)) add_suite(file.text, std::string(file.name.substr(kSuites.size())));
}

void TaskCatalog::add_tasks(std::string_view text, const std::string& name) {
  if (name.starts_with('_')) return;
  TaskFile file = parse_task_file(text, fmt::format("{}{}", kBuiltin, name), file_options(as_published_));
  TaskGroup group = {.name = file.group, .tasks = {}};
  for (Task& task : file.tasks) {
    group.tasks.push_back(task.task);
    tasks_[task.task] = std::move(task);
  }
  if (!group.name.empty()) groups_.push_back(std::move(group));
}

void TaskCatalog::add_suite(std::string_view text, const std::string& name) {
  static constexpr std::array<std::string_view, 5> kKeys = {"suite", "title", "zero_shot", "shots", "groups"};
  static constexpr std::array<std::string_view, 3> kGroupKeys = {"name", "tasks", "metrics"};
  const std::string file = fmt::format("{}{}", kBuiltin, name);
  const YamlNode root = parse_yaml(text, file);
  YamlProblems problems(file);
  problems.check_keys(root, kKeys);
  Suite suite;
  suite.suite = problems.text(root, "suite").value_or("");
  suite.title = problems.text(root, "title").value_or(suite.suite);
  suite.zero_shot = problems.text(root, "zero_shot").value_or("false") == "true";
  // A group's name stands for its tasks.
  const auto expanded = [&](const YamlNode& at, const std::string& wanted) -> std::vector<std::string> {
    if (tasks_.contains(wanted)) return {wanted};
    if (const auto group = std::ranges::find(groups_, wanted, &TaskGroup::name); group != groups_.end())
      return group->tasks;
    problems.error(at, fmt::format("there is no task or group \"{}\"", wanted));
    return {};
  };
  if (const YamlNode* shots = root.find("shots"))
    for (const auto& entry : shots->entries)
      for (const std::string& task : expanded(entry.key, entry.key.scalar))
        suite.shots[task] = problems.integer(*shots, entry.key.scalar).value_or(0);
  if (const YamlNode* groups = root.find("groups"))
    for (const YamlNode& node : groups->items) {
      problems.check_keys(node, kGroupKeys);
      SuiteGroup group = {.name = problems.text(node, "name").value_or(""),
                          .tasks = {},
                          .metrics = problems.texts(node, "metrics")};
      for (const std::string& wanted : problems.texts(node, "tasks"))
        for (std::string& task : expanded(node, wanted)) group.tasks.push_back(std::move(task));
      suite.groups.push_back(std::move(group));
    }
  problems.throw_if_any();
  for (const SuiteGroup& group : suite.groups) {
    const std::string plain = lower_case(group.name);
    if (group.tasks.size() > 1 && std::ranges::find(groups_, plain, &TaskGroup::name) == groups_.end())
      groups_.push_back({.name = plain, .tasks = group.tasks});
  }
  suites_.push_back(std::move(suite));
}

std::vector<Task> TaskCatalog::find(const std::string& what) const {
  if (const auto found = tasks_.find(what); found != tasks_.end()) return {found->second};
  if (const auto group = std::ranges::find(groups_, what, &TaskGroup::name); group != groups_.end()) {
    std::vector<Task> out;
    for (const std::string& task : group->tasks) out.push_back(tasks_.at(task));
    return out;
  }
  const fs::path path = what;
  std::error_code error;
  if (fs::is_directory(path, error)) return tasks_of_folder(path, as_published_);
  if (fs::exists(path, error)) {
    if (is_yaml(path)) return tasks_of_file(path, as_published_);
    fail(ErrorKind::config, "{}: a task file is YAML (.yaml); its \"data_files\" names the items", what);
  }
  if (is_yaml(path) || what.find('/') != std::string::npos)
    fail(ErrorKind::config, "{}: there is no such task file or folder", what);
  std::vector<std::string_view> names, group_names;
  for (const auto& [name, task] : tasks_) names.push_back(name);
  for (const TaskGroup& group : groups_) group_names.push_back(group.name);
  names.insert(names.end(), group_names.begin(), group_names.end());
  fail(ErrorKind::config,
       "there is no task \"{}\"{}; there are {} tasks, the groups {}, and files of your own (.yaml)", what,
       suggestion(what, names), tasks_.size(), fmt::join(group_names, ", "));
}

std::vector<std::string_view> TaskCatalog::suite_names() const {
  std::vector<std::string_view> out;
  for (const Suite& suite : suites_) out.push_back(suite.suite);
  return out;
}

std::vector<Suite> TaskCatalog::suites(const std::string& name) const {
  if (name == "all") return suites_;
  for (const Suite& suite : suites_)
    if (suite.suite == name) return {suite};
  std::vector<std::string_view> names = suite_names();
  names.push_back("all");
  fail(ErrorKind::config, "there is no suite \"{}\"{}; the suites are {}", name, suggestion(name, names),
       fmt::join(names, ", "));
}

}  // namespace moerge
