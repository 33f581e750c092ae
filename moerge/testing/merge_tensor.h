#pragma once
// A tensor that is merged as a test says: jobs as JSON, blocks of so many rows.

#include <algorithm>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/merge/method.h"

namespace moerge::testing {

using MergeRows = std::vector<std::vector<float>>;

/// {"method": "ties", "dtype": "bfloat16", "base": 0 or null, "values": {"weight": [0, 1, 0.5], "lambda":
/// [1]}, "seed": 1}; parameters that are left out have their defaults.
inline MergeJob merge_job(const Json& json, const Shape& shape, size_t inputs) {
  MergeJob job = {.method = find_merge_method(json.at("method").get<std::string>()),
                  .name = "layers.0.weight"};
  if (!job.method) throw std::invalid_argument("no such method");
  job.shape = shape;
  job.dtype = find_dtype(json.at("dtype").get<std::string>())->dtype;
  job.seed = json.value("seed", uint64_t{0});
  job.inputs = inputs;
  if (!json.at("base").is_null()) job.base = json.at("base").get<size_t>();
  for (size_t i = 0; i < inputs; i++) job.input_names.push_back("model" + std::to_string(i));
  const Json& values = json.at("values");
  for (const ParameterSpec& spec : job.method->parameters) {
    const auto given = values.find(std::string(spec.name));
    job.values.push_back(given != values.end() ? given->get<std::vector<double>>()
                                               : std::vector<double>(inputs, spec.fallback.value_or(0)));
  }
  return job;
}

inline std::vector<float> merged(const MergeJob& job, const MergeRows& inputs, int64_t rows) {
  const std::unique_ptr<TensorMerge> merge = job.method->make(job);
  const auto for_each_block = [&](const auto& use) {
    for (int64_t row = 0; row < job.rows(); row += rows) {
      const auto first = static_cast<size_t>(row * job.columns());
      const auto size = static_cast<size_t>(std::min(rows, job.rows() - row) * job.columns());
      std::vector<std::span<const float>> parts;
      for (const std::vector<float>& input : inputs) parts.push_back(std::span(input).subspan(first, size));
      use(MergeBlock{static_cast<int64_t>(first), parts});
    }
  };
  for (int pass = 0; pass < merge->passes(); pass++) {
    for_each_block([&](const MergeBlock& block) { merge->look(pass, block); });
    merge->end_pass(pass);
  }
  std::vector<float> out(inputs[0].size());
  for_each_block([&](const MergeBlock& block) {
    merge->combine(block, std::span(out).subspan(static_cast<size_t>(block.first), block.size()));
  });
  return out;
}

}  // namespace moerge::testing
