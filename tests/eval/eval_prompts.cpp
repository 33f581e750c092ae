// What tests/eval/prompts.py runs: eval_prompts TASK SHOTS LIMIT [--as-published] DOCUMENTS.jsonl
// [EXAMPLES.jsonl] prints the items of a task, one JSON object a line.

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/eval/catalog.h"
#include "moerge/eval/items.h"

namespace {

std::vector<moerge::Document> documents(const std::string& file) {
  std::ifstream in(file);
  std::vector<moerge::Document> out;
  for (std::string line; std::getline(in, line);) {
    std::string where = fmt::format("{}:{}", file, out.size() + 1);
    out.push_back({moerge::parse_json(line, where), where});
  }
  return out;
}

}  // namespace

int main(int count, char** values) try {
  std::vector<std::string> arguments(values + 1, values + count);
  const bool as_published = std::erase(arguments, "--as-published") > 0;
  if (arguments.size() < 4) return 2;
  const std::vector<moerge::Task> tasks = moerge::TaskCatalog(as_published).find(arguments[0]);
  moerge::TaskDocuments data = {.test = documents(arguments[3]), .fewshot = {}};
  if (arguments.size() > 4) data.fewshot = documents(arguments[4]);
  for (const moerge::EvalItem& item : moerge::make_items(tasks.at(0), data, std::atoi(arguments[1].c_str()),
                                                         std::atoi(arguments[2].c_str()))) {
    const moerge::Json line = {
        {"index", item.index},     {"contexts", item.contexts}, {"continuations", item.continuations},
        {"choices", item.choices}, {"gold", item.gold},         {"target", item.target},
        {"doc", item.doc}};
    fmt::print("{}\n", line.dump());
  }
  return 0;
} catch (const moerge::Error& error) {
  fmt::print(stderr, "{}\n", error.message());
  return 1;
}
