// Merges tensors that are given as JSON, for methods.py beside this file.
//
// usage: merge_tensors < jobs.jsonl > results.jsonl
//
// A line: {"method": "ties", "dtype": "bfloat16", "shape": [4, 8], "base": 0 or null, "inputs": [[...], ...],
// "seed": 1, "values": {"weight": [0, 1, 0.5], "lambda": [1], ...}, "rows": rows of a block}; parameters that
// are left out have their defaults.
#include <iostream>

#include "moerge/base/json.h"
#include "moerge/testing/merge_tensor.h"

int main() {
  using namespace moerge;
  try {
    for (std::string line; std::getline(std::cin, line);) {
      const Json json = parse_json(line, "stdin");
      const auto inputs = json.at("inputs").get<testing::MergeRows>();
      const MergeJob job = testing::merge_job(json, json.at("shape").get<Shape>(), inputs.size());
      std::cout << Json(testing::merged(job, inputs, json.value("rows", int64_t{1} << 30))).dump() << "\n";
    }
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
