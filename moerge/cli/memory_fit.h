#pragma once
// Whether a model and its context fit into memory, before it is loaded; and how long the context shall be.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/available_memory.h"
#include "moerge/formats/gguf.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/serve/inference_meter.h"

namespace moerge {

/// What of a GGUF decides about memory.
struct ModelShape {
  GgufMetadata metadata;
  std::vector<TensorSpec> tensors;
};

/// Up to a multiple of 256, as llama.cpp does it.
int64_t rounded_context(int64_t context);

ModelShape shape_of(const GgufFiles& files);

struct ContextWish {
  int64_t asked = 0;  // tokens of all requests together; 0: choose
  int parallel = 1;
  LlamaUse use;
  /// Nothing is checked without it.
  std::optional<AvailableMemory> available;
};

/// What a model would take with a context of a certain length.
struct MemoryNeed {
  int64_t context = 0;          // tokens of all requests together
  int64_t request_context = 0;  // that one of them may have
  int64_t weights = 0, cache = 0, compute = 0;
  bool fits = true;
  int64_t total() const { return weights + cache + compute; }
};

class MemoryFit {
 public:
  MemoryFit(ModelShape shape, ContextWish wish);
  MemoryFit(const MemoryFit&) = delete;
  MemoryFit& operator=(const MemoryFit&) = delete;
  ~MemoryFit();

  /// Tokens that the model was trained with; 0 when it does not say.
  int64_t trained_context() const { return trained_; }
  /// With weights of so many bytes: the longest of the contexts that may be chosen that fits, else the
  /// shortest. Where all fits easily nothing is measured: cache and compute are 0.
  MemoryNeed need(int64_t weights);
  /// The largest multiple of 256 below `context` that fits; 0 when that is less than 512.
  int64_t largest_context(int64_t weights, int64_t context);
  /// "needs 9.1 GB of memory (7.2 GB weights, ...), and 7.9 GB are available (/proc/meminfo)"
  std::string shortage(const MemoryNeed& need) const;

 private:
  LlamaMemory measure(int64_t context);
  bool fits(int64_t weights, int64_t context);
  bool fits_easily(int64_t weights, int64_t context) const;
  std::vector<int64_t> choices() const;
  int64_t request_context(int64_t context) const;

  ModelShape shape_;
  ContextWish wish_;
  int64_t trained_ = 0;
  std::unique_ptr<LlamaMeter> meter_;
  std::vector<std::pair<int64_t, LlamaMemory>> measured_;
};

}  // namespace moerge
