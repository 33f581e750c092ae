#pragma once
// Merge methods as data: what a method is called, what it takes, and a function that makes one output tensor
// of several. mergekit 0.1.5 is the peer: names, parameters and defaults are its own.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/tensor/tensor.h"

namespace moerge {

struct ParameterSpec {
  enum class Type { number, integer, flag };
  /// Whose it is: of the tensor as a whole, of each model but the base, of each model.
  enum class Scope { tensor, model_but_base, model };
  std::string_view name;
  Type type;
  Scope scope;
  std::optional<double> fallback;  // none: it has to be said
  std::string_view summary;
};

enum class BaseRole {
  ignored,   // one model among the others
  optional,  // where there is one, the others count as differences from it
  required,
};

/// What becomes of a tensor that some of the models do not have.
enum class MissingInput {
  refused,
  single_passes,       // where only one model has it, its own is taken
  single_base_passes,  // where only the base has it, the base's is taken
  base_or_none,        // likewise, and where too few have it there is none
};

struct MergeMethod;

/// One output tensor as its method sees it: the values that the parameters have here, and what there is to
/// merge. Inputs are in the order of the configuration.
struct MergeJob {
  const MergeMethod* method = nullptr;
  std::string name = {};     // of the output, for messages and random streams
  Shape shape = {};          // of the inputs and of the output
  DType dtype = DType::f32;  // in which mergekit computes: bfloat16, float16 or float32
  uint64_t seed = 0;
  size_t inputs = 0;
  std::optional<size_t> base = {};            // its place among the inputs
  std::vector<std::string> input_names = {};  // the models, for random streams
  /// By parameter in the table's order, then by input: one value where the parameter is the tensor's. What a
  /// base has no value for is 0.
  std::vector<std::vector<double>> values = {};

  int64_t elements() const;
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t columns() const;  // elements of a row
  std::vector<size_t> without_base() const;
  double value(std::string_view parameter, size_t input = 0) const;
};

/// A stretch of whole rows of every input, float32, as the inputs' own type rounded them.
struct MergeBlock {
  int64_t first;  // its first element, in the tensor
  std::span<const std::span<const float>> inputs;
  size_t size() const { return inputs[0].size(); }
};

/// Empties a vector and gives back its memory, which "= {}" does not: merges of all tensors live as long as
/// the plan.
template <typename T>
void discard(std::vector<T>& values) {
  std::vector<T>().swap(values);
}

/// Merges one tensor. What it has to know of all values first it gathers in passes; then any block can be
/// computed, from any thread. Memory does not grow with the tensor.
class TensorMerge {
 public:
  virtual ~TensorMerge() = default;
  virtual int passes() const { return 0; }
  /// Whether a pass has to see one of these elements. Others may come as well.
  virtual bool wants(int /*pass*/, int64_t /*first*/, int64_t /*count*/) const { return true; }
  /// The blocks of a pass come in their order, and cover what it wants.
  virtual void look(int /*pass*/, const MergeBlock& /*block*/) {}
  virtual void end_pass(int /*pass*/) {}
  /// `out` is rounded to the job's type.
  virtual void combine(const MergeBlock& block, std::span<float> out) const = 0;
};

struct MergeMethod {
  std::string_view name, title, paper, summary;
  std::span<const ParameterSpec> parameters;
  BaseRole base;
  int min_models, max_models;  // the base counts; max 0: any number
  MissingInput missing;
  /// What is wrong with the values of a job's parameters, as the end of a sentence; empty: nothing. Null:
  /// every value will do.
  std::string (*check)(const MergeJob& job) = nullptr;
  std::unique_ptr<TensorMerge> (*make)(const MergeJob& job);
};

std::span<const MergeMethod* const> merge_methods();
const MergeMethod* find_merge_method(std::string_view name);

}  // namespace moerge
