#include "moerge/cli/eval_tasks.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/eval/catalog.h"
#include "moerge/eval/data_source.h"

namespace moerge {
namespace {

int64_t shots_in(const Suite& suite, const Task& task) {
  if (const auto found = suite.shots.find(task.task); found != suite.shots.end()) return found->second;
  return suite.zero_shot ? 0 : task.num_fewshot;
}

void add(PreparedTasks& tasks, const Task& task, int64_t shots) {
  const bool known =
      std::ranges::any_of(tasks.runs, [&](const TaskRun& run) { return run.task.task == task.task; });
  if (!known) tasks.runs.push_back({.task = task, .shots = shots, .items = {}});
}

std::vector<PreparedTasks> choose_tasks(const TaskWish& wish, const TaskCatalog& catalog) {
  std::vector<PreparedTasks> out;
  for (const std::string& name : wish.suites)
    for (Suite& suite : catalog.suites(name)) {
      PreparedTasks& tasks = out.emplace_back();
      for (const SuiteGroup& group : suite.groups)
        for (const std::string& task : group.tasks) {
          const Task& found = catalog.tasks().at(task);
          add(tasks, found, wish.shots.value_or(shots_in(suite, found)));
        }
      tasks.suite = std::move(suite);
    }
  if (wish.tasks.empty()) return out;
  PreparedTasks& named = out.emplace_back();
  for (const std::string& name : wish.tasks)
    for (const Task& task : catalog.find(name)) add(named, task, wish.shots.value_or(task.num_fewshot));
  return out;
}

// Errors that say nothing about this task alone.
bool ends_all(const Error& error) { return error.kind() == ErrorKind::interrupted; }

void prepare(TaskRun& run, DataSource& source, int64_t limit) {
  try {
    const TaskDocuments documents = source.load(run.task, run.shots);
    run.data_revision = documents.revision;
    run.items = make_items(run.task, documents, run.shots, limit, &run.all_items);
    if (run.items.empty()) fail(ErrorKind::input, "{}: the data set has no items", run.task.task);
  } catch (const Error& error) {
    if (ends_all(error)) throw;
    run.items.clear();
    run.error = error.message();
  }
}

std::string in_columns(const std::vector<std::string>& names) {
  std::string out, line = " ";
  for (const std::string& name : names) {
    if (line.size() + name.size() > 98) {
      out += line + '\n';
      line = " ";
    }
    line += ' ' + name;
  }
  return out + line + '\n';
}

}  // namespace

std::vector<PreparedTasks> prepare_tasks(const TaskWish& wish, Reporter& reporter) {
  const TaskCatalog catalog(wish.as_published);
  std::vector<PreparedTasks> out = choose_tasks(wish, catalog);
  DataSource source({.folder = wish.data, .hub = command_hub_settings(process_environment)}, reporter);
  int64_t tasks = 0, items = 0;
  for (PreparedTasks& prepared : out)
    for (TaskRun& run : prepared.runs) {
      prepare(run, source, wish.limit);
      if (run.error) reporter.warning(fmt::format("{} is left out: {}", run.task.task, *run.error));
      tasks++;
      items += std::ssize(run.items);
    }
  reporter.info(fmt::format("{} task{}, {} items", tasks, tasks == 1 ? "" : "s", items));
  return out;
}

std::string list_tasks() {
  const TaskCatalog catalog;
  std::vector<std::string> tasks;
  for (const auto& [name, task] : catalog.tasks()) tasks.push_back(name);
  std::string out = "suites (--suite):\n";
  for (const std::string_view name : catalog.suite_names())
    for (const Suite& suite : catalog.suites(std::string(name))) {
      std::vector<std::string> groups;
      for (const SuiteGroup& group : suite.groups)
        groups.push_back(group.tasks.size() == 1
                             ? group.name
                             : fmt::format("{} ({} tasks)", group.name, group.tasks.size()));
      out += fmt::format("  {}: {}\n", name, fmt::join(groups, ", "));
    }
  out += "groups (--tasks):\n";
  for (const TaskGroup& group : catalog.groups())
    out += fmt::format("  {}: {} tasks\n", group.name, group.tasks.size());
  return out + "tasks (--tasks):\n" + in_columns(tasks);
}

}  // namespace moerge
