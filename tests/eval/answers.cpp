// Answers read and scored as `moerge eval` does it, for answers.py: a JSON object a line comes in, its scores
// by metric and filter go out, or an "error".

#include <iostream>

#include "moerge/base/error.h"
#include "moerge/eval/metrics.h"

namespace {

using namespace moerge;

Task gsm8k() {
  Task task;
  task.task = "gsm8k";
  task.output_type = OutputType::generate_until;
  task.filter_list = {{"strict-match", "#### (\\-?[0-9\\.\\,]+)"},
                      {"flexible-extract", "(-?[$0-9.,]{2,})|(-?[0-9]+)", -1}};
  task.metric_list = {{.metric = "exact_match",
                       .regexes_to_ignore = {",", "\\$", "(?s).*#### ", "\\.$"},
                       .ignore_case = true}};
  return task;
}

Task eq_bench() {
  Task task;
  task.task = "eq_bench";
  task.output_type = OutputType::generate_until;
  for (const char* metric : {"eqbench", "percent_parseable", "eqbench_v2", "eqbench_v1"})
    task.metric_list.push_back({.metric = metric});
  return task;
}

Json answer_of(const Json& request) {
  const Task task = request.at("task") == "gsm8k" ? gsm8k() : eq_bench();
  EvalItem item;
  item.where = "item";
  item.doc = request.at("doc");
  if (item.doc.contains("answer")) item.target = item.doc["answer"].get<std::string>();
  const std::string text = request.at("text").get<std::string>();
  Json out = {{"scores", Json::object()}};
  for (const auto& [key, value] : score_item(task, item, {.text = text})) out["scores"][key] = value;
  for (const AnswerFilter& filter : task.filter_list)
    out["found"][filter.name] = filtered_answer(filter, text);
  return out;
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    Json out;
    try {
      out = answer_of(parse_json(line, "request"));
    } catch (const Error& error) {
      out["error"] = error.message();
    }
    std::cout << out.dump() << '\n';
  }
}
