#pragma once
// A fine-tune as a LoRA adapter of its base: which modules change, and what the adapter will hold of each. No
// weight is decomposed here (lora_factors.h), nothing written (lora_folder.h).

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moerge/model/model.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct LoraOptions {
  int64_t rank = 32;                           // the most of any module
  std::vector<std::string> include, exclude;   // regular expressions, found anywhere in a module's name
  std::vector<std::string> save_modules = {};  // stored whole: names or their last parts
  bool embed_lora = false;                     // embeddings and lm_head are decomposed too
  bool skip_undecomposable = false;            // norms and biases are left out
  bool distribute_scale = true;                // the singular values' roots on both factors; else all on A
  double epsilon = 0;                          // singular values up to it count as 0
  std::optional<DType> dtype = {};             // of all tensors; empty: of the models
  uint64_t seed = 0;
};

/// How the adapter holds a module's change.
enum class LoraForm {
  linear,     // lora_B [out, r] times lora_A [r, in]
  embedding,  // lora_embedding_A [r, vocab], lora_embedding_B [hidden, r]: the product's transpose is added
  whole,      // the fine-tune's own tensor, in place of the base's
};

struct LoraModule {
  std::string name;    // "model.layers.0.mlp.up_proj"
  std::string tensor;  // the name with ".weight" or ".bias"
  LoraForm form;
  const StoredTensor *model, *base;
  int64_t rank = 0;  // at first the most that it can be; 0: whole, or nothing was found to be different
  // After decompose(): squared Frobenius norms of the difference, of what the written factors leave of it,
  // and of the singular values that were kept.
  double difference = 0, residual = 0, kept = 0;
  std::vector<std::byte> a = {}, b = {};  // the factors as they are written, in the adapter's type

  bool is_bias() const { return tensor.ends_with(".bias"); }
  /// The matrix of the difference, [rows, columns] as the model stores it.
  const Shape& shape() const { return model->spec.shape; }
  /// ||D - BA|| / ||D||, of the factors as they are written.
  double error() const;
  /// The share of ||D||^2 that the kept singular values have.
  double kept_energy() const { return difference > 0 ? kept / difference : 1; }
};

struct LoraPlan {
  std::unique_ptr<Model> model, base;
  LoraOptions options;
  DType dtype;                        // of the factors
  std::vector<LoraModule> modules;    // in the model's order; a bias is an entry of its own
  std::vector<std::string> all;       // the names of all modules of the base
  bool ties = false;                  // embeddings that change serve as the output too
  int64_t equal = 0, unselected = 0;  // tensors that are left out
  std::vector<std::string> skipped;   // likewise, for options.skip_undecomposable
  std::vector<std::string> warnings, notes;

  bool has_factors() const;
};

/// Compares the models' tensors, which reads those that are equal whole. Throws input for models that do not
/// fit each other, config when nothing differs, usage for an expression that is none or matches nothing.
LoraPlan plan_lora(const std::string& model, const ModelLocation& model_location, const std::string& base,
                   const ModelLocation& base_location, const LoraOptions& options);

/// The adapter's tensors under PEFT's names, one step each, in the order of plan.modules. `lora` must stay
/// where it is, and be decomposed before the plan is executed.
Plan adapter_tensors(const LoraPlan& lora);

}  // namespace moerge
