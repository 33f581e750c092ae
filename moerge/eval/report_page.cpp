// Reports beside each other on one page of HTML: no script, nothing from elsewhere. Widths of bars are
// attributes of SVG and colours are classes, so that the page's policy allows one style sheet, by its hash.

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "moerge/base/base64.h"
#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/html_text.h"
#include "moerge/eval/results.h"

namespace moerge {
namespace {

constexpr std::string_view kBeginning = "<!doctype html>\n<!-- moerge eval -->\n";
constexpr size_t kManyTasks = 24;  // of a group; they are folded

// Okabe and Ito's colours, told apart by colour-blind readers, a violet for their
// yellow, which is faint on a light page, and grey for their black.
// https://jfly.uni-koeln.de/color/ The second eight are the same, half as strong.
constexpr std::array kColours = {"#0072b2", "#e69f00", "#009e73", "#cc79a7",
                                 "#56b4e9", "#d55e00", "#999999", "#7b61c4"};

constexpr std::string_view kStyle = R"css(
:root { color-scheme: light dark; --page: #fff; --text: #1c1e21; --soft: #5d646b; --line: #d9dde1; --box: #f0f2f4; }
@media (prefers-color-scheme: dark) { :root { --page: #15171a; --text: #e4e6e8; --soft: #a0a7ae; --line: #363b41;
  --box: #23282d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 64rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .5rem; }
h3, summary { font-size: .95rem; font-weight: 600; margin: 1.4rem 0 .3rem; }
summary { cursor: pointer; }
p { margin: .3rem 0 .6rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.models { margin: 0; padding: 0; list-style: none; }
.models li { margin: .25rem 0; overflow-wrap: anywhere; }
.swatch { display: inline-block; width: .8em; height: .8em; margin-right: .5em; vertical-align: -.05em; }
.row { display: grid; grid-template-columns: minmax(0, 17rem) minmax(0, 1fr); gap: .2rem 1rem; align-items: center;
  padding: .45rem 0; border-bottom: 1px solid var(--line); break-inside: avoid; }
.what { overflow-wrap: anywhere; line-height: 1.3; }
.what small { display: block; color: var(--soft); }
.bar { display: grid; grid-template-columns: minmax(0, 1fr) 7.2rem; gap: .6rem; align-items: center; line-height: 1.25; }
.bar svg { display: block; width: 100%; height: .75rem; }
.bar span { font-variant-numeric: tabular-nums; font-size: .87rem; white-space: nowrap; }
.total .what { font-weight: 700; }
.track { fill: var(--box); }
.named span { margin-right: 1.2rem; white-space: nowrap; }
.range { stroke: var(--text); stroke-width: 1.3; fill: none; vector-effect: non-scaling-stroke; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; max-width: 14rem; overflow-wrap: anywhere; }
th:first-child, td.left { text-align: left; }
th[scope=row] { color: var(--text); font-weight: 400; min-width: 9rem; }
td { white-space: nowrap; }
td.left { color: var(--soft); }
td.best { font-weight: 700; }
@media (max-width: 36rem) { body { padding: 1.2rem 1rem 3rem; } .row { grid-template-columns: minmax(0, 1fr); }
  .bar { grid-template-columns: minmax(0, 1fr) 6.6rem; } }
@media print { body { max-width: none; padding: 0; } }
)css";

std::string style() {
  std::string out(kStyle);
  for (size_t i = 0; i < kMaxPageReports; i++)
    out += fmt::format(".c{} {{ fill: {};{} }}\n", i, kColours[i % kColours.size()],
                       i < kColours.size() ? "" : " fill-opacity: .5;");
  return out;
}

std::string sha256_base64(std::string_view text) {
  const std::string hex = sha256_hex(text);
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return base64(bytes);
}

/// A score of one model in a row of bars, in percent (or what the metric has instead).
struct Value {
  double value = 0;
  std::optional<double> error = {};
  std::string remark = {};  // "100 of 1172 items"
};
/// What several models are compared by.
struct Row {
  std::string name, detail = {};
  std::vector<std::optional<Value>> values = {};  // by report
  bool percent = true, higher_is_better = true, total = false;
};

std::string number(const Value& value) {
  return value.error ? fmt::format("{:.2f} ± {:.2f}", value.value, *value.error)
                     : fmt::format("{:.2f}", value.value);
}

// The ink is clipped at 0 and 100; the number beside it is not.
double clipped(double percent) { return std::clamp(percent, 0.0, 100.0); }

class Page {
 public:
  explicit Page(std::span<const EvalReport> reports) : reports_(reports) {}

  std::string html() {
    std::string out = head() + "<main>\n" + models();
    for (const EvalReport& report : reports_)
      for (const SuiteResult& suite : report.suites)
        if (suites_.insert(suite.name).second) out += suite_part(suite);
    const std::vector<std::string> others = other_tasks();
    if (!others.empty())
      out += fmt::format("<section>\n<h2>{}</h2>\n{}</section>\n", suites_.empty() ? "Tasks" : "Other tasks",
                         task_rows(others));
    return out + problems() + routing() + table() + "</main>\n</body>\n</html>\n";
  }

 private:
  std::string head() const {
    const std::string css = style();
    const std::string title = reports_.size() == 1
                                  ? fmt::format("Evaluation of {}", html_text(reports_[0].model))
                                  : fmt::format("Evaluation of {} models", reports_.size());
    return fmt::format(
        "{}<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta "
        "http-equiv=\"Content-Security-Policy\" "
        "content=\"default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'\">\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n"
        "<style>{}</style>\n</head>\n<body>\n<header>\n<h1>{}</h1>\n</header>\n",
        kBeginning, sha256_base64(css), title, css, title);
  }

  static std::string swatch(size_t report) {
    return fmt::format(
        "<svg class=\"swatch\" viewBox=\"0 0 8 8\" aria-hidden=\"true\"><rect class=\"c{}\" "
        "width=\"8\" height=\"8\" rx=\"1.5\"/></svg>",
        report);
  }

  std::string models() const {
    std::string out = "<ul class=\"models\">\n";
    for (size_t i = 0; i < reports_.size(); i++) {
      const EvalReport& report = reports_[i];
      std::string detail;
      for (const std::string& part : {report.model_file, report.date.substr(0, 10)})
        if (!part.empty()) detail += (detail.empty() ? "" : ", ") + html_text(part);
      out += fmt::format("<li>{}{}{}</li>\n", swatch(i), html_text(report.model),
                         detail.empty() ? "" : fmt::format(" <span class=\"soft\">({})</span>", detail));
    }
    return out +
           "</ul>\n<p class=\"soft\">Bars go from 0 to 100; the line at a bar's end is one standard error "
           "to each side.</p>\n";
  }

  const TaskResult* find(size_t report, const std::string& task) const {
    for (const TaskResult& result : reports_[report].tasks)
      if (result.task.task == task) return &result;
    return nullptr;
  }

  // All models by the metric that the first of them is best known by.
  Row task_row(const std::string& task) const {
    Row row = {.name = task, .values = std::vector<std::optional<Value>>(reports_.size())};
    std::vector<std::string> metric;
    for (size_t i = 0; i < reports_.size(); i++) {
      const TaskResult* result = find(i, task);
      const MetricScore* score = result ? headline_score(*result, metric) : nullptr;
      if (!score) continue;
      const std::optional<double> factor = percent_factor(score->metric);
      if (metric.empty()) {
        metric = {fmt::format("{},{}", score->metric, score->filter)};
        row.detail =
            score->filter == "none" ? score->metric : fmt::format("{}, {}", score->metric, score->filter);
        row.detail += fmt::format(", {}-shot", result->shots);
        row.percent = factor.has_value();
        row.higher_is_better = score->higher_is_better;
      }
      Value value = {.value = score->value * factor.value_or(1)};
      if (score->error) value.error = *score->error * factor.value_or(1);
      if (result->items < result->all_items)
        value.remark = fmt::format("{} of {} items", result->items, result->all_items);
      row.values[i] = std::move(value);
    }
    return row;
  }

  std::string bar(const Row& row, size_t report) const {
    const std::optional<Value>& value = row.values[report];
    const std::string said =
        value ? number(*value) + (value->remark.empty() ? "" : ", " + value->remark) : "no score";
    std::string out =
        fmt::format("<div class=\"bar\" title=\"{}: {}\">", html_text(reports_[report].model), said);
    if (row.percent && value) {
      out += fmt::format(
          "<svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect "
          "class=\"track\" "
          "width=\"100\" height=\"8\"/><rect class=\"c{}\" width=\"{:.2f}\" height=\"8\"/>",
          report, clipped(value->value));
      if (value->error) {
        const double from = clipped(value->value - *value->error), to = clipped(value->value + *value->error);
        out += fmt::format("<path class=\"range\" d=\"M{0:.2f} 4H{1:.2f}M{0:.2f} 1.5V6.5M{1:.2f} 1.5V6.5\"/>",
                           from, to);
      }
      out += "</svg>";
    } else {
      out += fmt::format("<span>{}</span>", swatch(report));
    }
    return out + fmt::format("<span>{}</span></div>\n", value ? number(*value) : "–");
  }

  std::string row_html(const Row& row) const {
    std::string detail = row.detail;
    for (const auto& value : row.values)
      if (value && !value->remark.empty()) {
        detail += ", " + value->remark;
        break;
      }
    std::string out = fmt::format("<div class=\"row{}\"><div class=\"what\">{}{}</div><div>\n",
                                  row.total ? " total" : "", html_text(row.name),
                                  detail.empty() ? "" : fmt::format("<small>{}</small>", html_text(detail)));
    for (size_t i = 0; i < reports_.size(); i++)
      if (row.values[i]) out += bar(row, i);
    if (std::ranges::none_of(row.values, [](const auto& value) { return value.has_value(); }))
      out += "<span class=\"soft\">no score</span>";
    return out + "</div></div>\n";
  }

  std::string task_rows(const std::vector<std::string>& tasks) {
    std::string out;
    for (const std::string& task : tasks) {
      Row row = task_row(task);
      out += row_html(row);
      if (in_table_.insert(task).second) table_.push_back(std::move(row));
    }
    return out;
  }

  const SuiteResult* find_suite(size_t report, const std::string& name) const {
    for (const SuiteResult& suite : reports_[report].suites)
      if (suite.name == name) return &suite;
    return nullptr;
  }

  std::string suite_part(const SuiteResult& first) {
    std::string out = fmt::format("<section>\n<h2>{}</h2>\n", html_text(first.title));
    Row total = {
        .name = "Average", .values = std::vector<std::optional<Value>>(reports_.size()), .total = true};
    std::vector<Row> rows;
    for (const GroupResult& group : first.groups)
      rows.push_back({.name = group.name,
                      .detail = group.metric,
                      .values = std::vector<std::optional<Value>>(reports_.size())});
    for (size_t i = 0; i < reports_.size(); i++) {
      const SuiteResult* suite = find_suite(i, first.name);
      if (!suite) continue;
      if (suite->average) total.values[i] = Value{.value = *suite->average, .error = suite->error};
      for (const GroupResult& group : suite->groups)
        for (Row& row : rows)
          if (row.name == group.name && group.score)
            row.values[i] = Value{.value = *group.score, .error = group.error};
    }
    if (rows.size() > 1) {
      out += row_html(total);
      for (const Row& row : rows) out += row_html(row);
      table_.push_back(total);
      table_.back().name = first.title + ", average";
    }
    for (const GroupResult& group : first.groups) out += group_part(group, rows.size() > 1);
    return out + "</section>\n";
  }

  std::string group_part(const GroupResult& group, bool has_row) {
    const std::string note =
        group.note.empty() ? "" : fmt::format("<p class=\"soft\">{}</p>\n", html_text(group.note));
    in_suites_.insert(group.tasks.begin(), group.tasks.end());
    const std::string rows = task_rows(group.tasks);
    if (has_row && group.tasks.size() < 2) return note;
    if (group.tasks.size() >= kManyTasks)
      return fmt::format("<details>\n<summary>{}, {} tasks</summary>\n{}{}</details>\n",
                         html_text(group.name), group.tasks.size(), note, rows);
    return fmt::format("<h3>{}</h3>\n{}{}", html_text(group.name), note, rows);
  }

  std::vector<std::string> other_tasks() const {
    std::vector<std::string> out;
    for (const EvalReport& report : reports_)
      for (const TaskResult& result : report.tasks)
        if (!in_suites_.contains(result.task.task) && std::ranges::find(out, result.task.task) == out.end())
          out.push_back(result.task.task);
    return out;
  }

  std::string problems() const {
    std::string out;
    const auto add = [&](const EvalReport& report, const TaskResult& result, const std::string& why) {
      out += fmt::format("<p>{}, {}: {}</p>\n", html_text(report.model), html_text(result.task.task),
                         html_text(why));
    };
    for (const EvalReport& report : reports_)
      for (const TaskResult& result : report.tasks) {
        if (result.error) add(report, result, *result.error);
        for (const MetricScore& score : result.scores)
          if (!score.failed.empty()) add(report, result, score.failed);
      }
    return out.empty() ? out : "<section>\n<h2>Without a score</h2>\n" + out + "</section>\n";
  }

  // A bar for each task, cut in the shares of the experts.
  std::string routing() const {
    std::string out;
    for (const EvalReport& report : reports_) {
      int64_t experts = 0;
      std::string rows;
      for (const TaskResult& result : report.tasks) {
        if (!result.routing) continue;
        experts = std::max(experts, result.routing->experts());
        rows += routing_row(report, result);
      }
      if (rows.empty()) continue;
      std::string names;
      if (experts <= kMaxShownExperts)
        for (int64_t expert = 0; expert < experts; expert++)
          names += fmt::format("<span>{}{}</span> ", swatch(static_cast<size_t>(expert)),
                               html_text(expert_label(expert, report.expert_names)));
      out += fmt::format("<h3>{}</h3>\n<p class=\"named\">{}</p>\n{}", html_text(report.model), names, rows);
    }
    return out.empty() ? out
                       : "<section>\n<h2>Routing</h2>\n<p class=\"soft\">Shares of the routers' choices that "
                         "each expert got, the mean over the layers.</p>\n" +
                             out + "</section>\n";
  }

  static std::string routing_row(const EvalReport& report, const TaskResult& result) {
    const std::string name =
        fmt::format("<div class=\"row\"><div class=\"what\">{}<small>{} items</small></div>",
                    html_text(result.task.task), result.routing->items);
    if (result.routing->experts() > kMaxShownExperts)
      return fmt::format("{}<div>{}</div></div>\n", name,
                         html_text(most_chosen(*result.routing, report.expert_names)));
    const std::vector<double> shares = expert_shares(*result.routing);
    std::string parts, said;
    double from = 0;
    for (size_t expert = 0; expert < shares.size(); expert++) {
      parts += fmt::format("<rect class=\"c{}\" x=\"{:.2f}\" width=\"{:.2f}\" height=\"8\"/>", expert, from,
                           shares[expert]);
      said += fmt::format("{}{:.0f}", expert ? " / " : "", shares[expert]);
      from += shares[expert];
    }
    return fmt::format(
        "{}<div class=\"bar\" title=\"{}\"><svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" "
        "aria-hidden=\"true\">{}</svg><span>{}</span></div></div>\n",
        name, said, parts, shares.size() <= 4 ? said : "");
  }

  static std::optional<size_t> best_of(const Row& row) {
    std::optional<size_t> best;
    for (size_t i = 0; i < row.values.size(); i++) {
      if (!row.values[i]) continue;
      const double sign = row.higher_is_better ? 1 : -1;
      if (!best || sign * row.values[i]->value > sign * row.values[*best]->value) best = i;
    }
    return best;
  }

  std::string table() const {
    std::string out =
        "<section>\n<h2>All numbers</h2>\n<div class=\"wide\" tabindex=\"0\">\n<table>\n<thead><tr>"
        "<th scope=\"col\">task</th><th scope=\"col\">metric</th>";
    for (size_t i = 0; i < reports_.size(); i++)
      out += fmt::format("<th scope=\"col\">{}{}</th>", swatch(i), html_text(reports_[i].model));
    out += "</tr></thead>\n<tbody>\n";
    for (const Row& row : table_) {
      const std::optional<size_t> best = reports_.size() > 1 ? best_of(row) : std::nullopt;
      out += fmt::format("<tr><th scope=\"row\">{}</th><td class=\"left\">{}</td>", html_text(row.name),
                         html_text(row.detail));
      for (size_t i = 0; i < row.values.size(); i++)
        out += fmt::format("<td{}>{}</td>", best == i ? " class=\"best\"" : "",
                           row.values[i] ? number(*row.values[i]) : "–");
      out += "</tr>\n";
    }
    return out + "</tbody>\n</table>\n</div>\n</section>\n";
  }

  std::span<const EvalReport> reports_;
  std::set<std::string> suites_, in_suites_, in_table_;
  std::vector<Row> table_;
};

}  // namespace

std::string report_page(std::span<const EvalReport> reports) {
  if (reports.empty() || reports.size() > kMaxPageReports)
    fail(ErrorKind::usage, "{} reports: a page compares 1 to {}", reports.size(), kMaxPageReports);
  return Page(reports).html();
}

bool is_report_page(std::string_view beginning) { return beginning.starts_with(kBeginning); }

}  // namespace moerge
