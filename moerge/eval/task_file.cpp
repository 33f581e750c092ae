#include "moerge/eval/task_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/yaml.h"
#include "moerge/eval/task_keys.h"

namespace moerge {
namespace {

constexpr int kMaxIncludes = 8;  // one in the other

class FileReader {
 public:
  explicit FileReader(const TaskFileOptions& options) : options_(options) {}

  TaskFile read(std::string_view text, const std::string& file) {
    std::vector<TaskLayer> layers;
    load(text, file, 0, layers);
    TaskFile out;
    if (!layers.empty()) read_tasks(layers, file, out);
    throw_problems();
    return out;
  }

 private:
  struct Source {
    YamlNode root;
    YamlProblems problems;
  };

  // The layers of a file: what it includes, then itself.
  void load(std::string_view text, const std::string& file, int depth, std::vector<TaskLayer>& layers) {
    Source& source = sources_.emplace_back(Source{{}, YamlProblems(file)});
    source.root = parse_yaml(text, file);
    refuse_functions(text, source.problems);
    if (!source.problems.expect_map(source.root, "a task file")) return;
    check_task_keys(source.root, source.problems);
    for (const std::string& name : source.problems.texts(source.root, "include")) {
      const YamlNode& at = *source.root.find("include");
      if (depth >= kMaxIncludes) {
        source.problems.error(at, fmt::format("more than {} files include one another", kMaxIncludes));
      } else if (!options_.include) {
        source.problems.error(at, "files cannot be included here");
      } else {
        try {
          const IncludedFile included = options_.include(name, file);
          load(included.text, included.file, depth + 1, layers);
        } catch (const Error& error) {
          source.problems.error(at, error.message());
        }
      }
    }
    layers.push_back({&source.root, &source.problems});
  }

  // A tag is lost in the tree. Only where a value can begin: elsewhere it is part of a text.
  static void refuse_functions(std::string_view text, YamlProblems& problems) {
    constexpr std::string_view kTag = "!function";
    int line = 1;
    for (size_t start = 0; start < text.size(); line++) {
      const size_t end = std::min(text.find('\n', start), text.size());
      const std::string_view row = text.substr(start, end - start);
      start = end + 1;
      const size_t at = row.find(kTag);
      if (at == std::string_view::npos) continue;
      std::string_view before = row.substr(0, at);
      while (before.ends_with(' ')) before.remove_suffix(1);
      if (!before.ends_with(':') && !before.ends_with('-')) continue;
      YamlNode node;
      node.line = line;
      node.column = static_cast<int>(at) + 1;
      problems.error(node,
                     "\"!function\" is Python code, which cannot run here: write a template, or steps under "
                     "\"process_docs\"");
    }
  }

  void read_tasks(const std::vector<TaskLayer>& layers, const std::string& file, TaskFile& out) {
    const TaskLayer& own = layers.back();
    const YamlNode* tasks = own.map->find("task");
    if (!tasks || tasks->kind != YamlNode::Kind::sequence) {
      out.tasks.push_back(read_task(layers, file));
      return;
    }
    out.group = own.problems->text(*own.map, "group").value_or("");
    if (out.group.empty())
      own.problems->error(*tasks, "a list under \"task\" needs a \"group\" that names all of them");
    if (tasks->items.empty()) own.problems->error(*tasks, "the list under \"task\" is empty");
    std::set<std::string> names;
    for (const YamlNode& item : tasks->items) {
      if (!own.problems->expect_map(item, "a task of a group")) continue;
      check_task_keys(item, *own.problems);
      std::vector<TaskLayer> more = layers;
      more.push_back({&item, own.problems});
      Task task = read_task(std::move(more), file);
      if (!names.insert(task.task).second)
        own.problems->error(item, fmt::format("the group has two tasks \"{}\"", task.task));
      out.tasks.push_back(std::move(task));
    }
  }

  Task read_task(std::vector<TaskLayer> layers, const std::string& file) {
    std::vector<TaskLayer> published = layers;
    for (const TaskLayer& layer : layers) {
      const YamlNode* keys = layer.map->find("as_published");
      if (!keys || keys->kind == YamlNode::Kind::null) continue;
      if (!layer.problems->expect_map(*keys, "\"as_published\"")) continue;
      check_task_keys(*keys, *layer.problems);
      published.push_back({keys, layer.problems});
    }
    if (published.size() == layers.size()) return read_task_keys(layers, file);
    // Both, so that a problem of either shows.
    Task plain = read_task_keys(layers, file);
    Task as_published = read_task_keys(published, file);
    return options_.as_published ? std::move(as_published) : std::move(plain);
  }

  // What several tasks share would be told for each.
  void throw_problems() {
    std::vector<std::string> lines;
    for (const Source& source : sources_) {
      try {
        source.problems.throw_if_any();
      } catch (const Error& error) {
        lines.push_back(error.message());
      }
    }
    std::string all = fmt::format("{}", fmt::join(lines, "\n")), out;
    std::set<std::string_view> seen;
    for (size_t start = 0; start < all.size();) {
      const size_t end = std::min(all.find('\n', start), all.size());
      const std::string_view line = std::string_view(all).substr(start, end - start);
      if (seen.insert(line).second) out += fmt::format("{}{}", out.empty() ? "" : "\n", line);
      start = end + 1;
    }
    if (!out.empty()) throw Error(ErrorKind::config, out);
  }

  const TaskFileOptions& options_;
  std::deque<Source> sources_;
};

}  // namespace

TaskFile parse_task_file(std::string_view text, const std::string& file, const TaskFileOptions& options) {
  return FileReader(options).read(text, file);
}

Task parse_task(std::string_view text, const std::string& file, const TaskFileOptions& options) {
  TaskFile out = parse_task_file(text, file, options);
  if (out.tasks.size() != 1)
    fail(ErrorKind::config, "{}: {} tasks, where one is expected", file, out.tasks.size());
  return std::move(out.tasks.front());
}

}  // namespace moerge
