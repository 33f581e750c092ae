// The report as Markdown: what LLM AutoEval puts into a gist, in the same order.

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "moerge/base/terminal_text.h"
#include "moerge/eval/results.h"

namespace moerge {
namespace {

// One line of a table; nothing in it is markup or controls a terminal.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : terminal_text(text)) {
    if (std::string_view("\\`*[]<>&~|$").find(c) != std::string_view::npos) out += '\\';
    out += c == '\n' || c == '\t' ? ' ' : c;
  }
  return out;
}

size_t width_of(const std::string& text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

/// Columns as wide as what is in them, so that the text can be read as it is.
class Table {
 public:
  /// `left`: how many columns from the left are not numbers.
  Table(std::vector<std::string> columns, size_t left) : left_(left) { rows_.push_back(std::move(columns)); }
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  std::string text() const {
    std::vector<size_t> widths(rows_[0].size(), 1);
    for (const auto& row : rows_)
      for (size_t i = 0; i < row.size(); i++) widths[i] = std::max(widths[i], width_of(row[i]));
    std::string out;
    for (size_t r = 0; r < rows_.size(); r++) {
      for (size_t i = 0; i < widths.size(); i++) {
        const std::string blanks(widths[i] - width_of(rows_[r][i]), ' ');
        out += i < left_ ? fmt::format("| {}{} ", rows_[r][i], blanks)
                         : fmt::format("| {}{} ", blanks, rows_[r][i]);
      }
      out += "|\n";
      if (r > 0) continue;
      for (size_t i = 0; i < widths.size(); i++)
        out += i < left_ ? fmt::format("|{}", std::string(widths[i] + 2, '-'))
                         : fmt::format("|{}:", std::string(widths[i] + 1, '-'));
      out += "|\n";
    }
    return out + "\n";
  }

 private:
  size_t left_;
  std::vector<std::vector<std::string>> rows_;
};

std::string score_text(const std::optional<double>& score) {
  return score ? fmt::format("{:.2f}", *score) : "–";
}

std::string summary(const EvalReport& report, const SuiteResult& suite) {
  std::vector<std::string> columns = {"Model"}, row = {cell(report.model)};
  for (const GroupResult& group : suite.groups) {
    columns.push_back(cell(group.name));
    row.push_back(score_text(group.score));
  }
  if (suite.groups.size() > 1) {
    columns.emplace_back("Average");
    row.push_back(score_text(suite.average));
  }
  Table table(std::move(columns), 1);
  table.add(std::move(row));
  return table.text();
}

std::string version_text(double version) { return fmt::format("{:g}", version); }

void add_rows(Table& table, const TaskResult& result) {
  std::string name = cell(result.task.task), version = version_text(result.task.version),
              shots = fmt::format("{}", result.shots);
  if (result.scores.empty() || result.error) {
    table.add({name, version, shots, "–", "–", "", "–"});
    return;
  }
  for (const MetricScore& score : result.scores) {
    const double factor = percent_factor(score.metric).value_or(1);
    std::string metric = cell(score.metric);
    if (score.filter != "none") metric += ", " + cell(score.filter);
    table.add({name, version, shots, metric,
               score.failed.empty() ? fmt::format("{:.2f}", factor * score.value) : "failed",
               score.error ? "±" : "", score.error ? fmt::format("{:.2f}", factor * *score.error) : ""});
    name.clear(), version.clear(), shots.clear();
  }
}

// What a reader of the numbers has to know: failures, runs that were cut short.
std::string remarks(const std::vector<const TaskResult*>& results) {
  std::string out, partial;
  for (const TaskResult* result : results) {
    const std::string name = cell(result->task.task);
    if (result->error) out += fmt::format("{}: {}\n\n", name, cell(*result->error));
    for (const MetricScore& score : result->scores)
      if (!score.failed.empty()) out += fmt::format("{}: {}\n\n", name, cell(score.failed));
    if (!result->error && result->items < result->all_items)
      partial +=
          fmt::format("{}{} {} of {}", partial.empty() ? "" : ", ", name, result->items, result->all_items);
  }
  if (!partial.empty()) out += fmt::format("Items asked: {}. Not comparable with whole runs.\n\n", partial);
  return out;
}

std::string task_table(const std::vector<const TaskResult*>& results) {
  Table table({"Task", "Version", "Shots", "Metric", "Value", "", "Stderr"}, 1);
  for (const TaskResult* result : results) add_rows(table, *result);
  return table.text() + remarks(results);
}

std::string group_part(const GroupResult& group, const EvalReport& report) {
  std::vector<const TaskResult*> results;
  for (const std::string& task : group.tasks)
    for (const TaskResult& result : report.tasks)
      if (result.task.task == task) results.push_back(&result);
  std::string out = fmt::format("### {}\n\n", cell(group.name));
  if (!results.empty()) out += task_table(results);
  if (group.score)
    out += fmt::format("Average: {:.2f}%{}\n\n", *group.score,
                       group.error ? fmt::format(" (± {:.2f})", *group.error) : "");
  else
    out += fmt::format("No average: {}\n\n", cell(group.missing));
  return group.note.empty() ? out : out + cell(group.note) + "\n\n";
}

// Where the routers of a mixture sent each task: a column for each expert, or the most chosen of many.
std::string routing_part(const EvalReport& report) {
  std::vector<const TaskResult*> routed;
  int64_t experts = 0;
  size_t layers = 0;
  for (const TaskResult& result : report.tasks)
    if (result.routing) {
      routed.push_back(&result);
      experts = std::max(experts, result.routing->experts());
      layers = std::max(layers, result.routing->layers.size());
    }
  if (routed.empty()) return "";
  const bool few = experts <= kMaxShownExperts;
  std::vector<std::string> columns = {"Task", "Items"};
  if (few)
    for (int64_t expert = 0; expert < experts; expert++)
      columns.push_back(cell(expert_label(expert, report.expert_names)));
  else
    columns.insert(columns.end(), {"Never chosen", "Most chosen"});
  Table table(std::move(columns), 1);
  for (const TaskResult* result : routed) {
    std::vector<std::string> row = {cell(result->task.task), fmt::format("{}", result->routing->items)};
    if (few) {
      std::vector<double> shares = expert_shares(*result->routing);
      shares.resize(static_cast<size_t>(experts));
      for (const double share : shares) row.push_back(fmt::format("{:.1f}", share));
    } else {
      row.push_back(fmt::format("{} of {}", never_chosen(*result->routing),
                                experts * std::ssize(result->routing->layers)));
      row.push_back(cell(most_chosen(*result->routing, report.expert_names)));
    }
    table.add(std::move(row));
  }
  return fmt::format(
      "### Routing\n\nShares of the routers' choices in percent, the mean over {} {}; a router without "
      "preferences gives each of the {} experts {:.1f}.\n\n{}",
      layers, layers == 1 ? "layer" : "layers", experts, 100.0 / static_cast<double>(experts), table.text());
}

std::string elapsed(double seconds) {
  const auto all = static_cast<int64_t>(std::max(0.0, seconds) + 0.5);
  return fmt::format("{:02}:{:02}:{:02}", all / 3600, all / 60 % 60, all % 60);
}

}  // namespace

std::string report_markdown(const EvalReport& report) {
  std::string out, parts;
  std::set<std::string> in_suites;
  const bool headings = report.suites.size() > 1;
  for (const SuiteResult& suite : report.suites) {
    if (headings) out += fmt::format("## {}\n\n", cell(suite.title));
    out += summary(report, suite);
    if (headings) parts += fmt::format("## {}, by task\n\n", cell(suite.title));
    for (const GroupResult& group : suite.groups) {
      parts += group_part(group, report);
      in_suites.insert(group.tasks.begin(), group.tasks.end());
    }
    if (suite.groups.size() > 1 && suite.average)
      parts += fmt::format("Average score: {:.2f}%{}\n\n", *suite.average,
                           suite.error ? fmt::format(" (± {:.2f})", *suite.error) : "");
  }
  std::vector<const TaskResult*> others;
  for (const TaskResult& result : report.tasks)
    if (!in_suites.contains(result.task.task)) others.push_back(&result);
  if (!others.empty()) {
    if (report.suites.empty())
      out += fmt::format("Model: {}\n\n", cell(report.model));
    else
      parts += "### Other tasks\n\n";
    parts += task_table(others);
  }
  return out + parts + routing_part(report) + fmt::format("Elapsed time: {}\n", elapsed(report.seconds));
}

}  // namespace moerge
