#pragma once
// What `moerge gguf CONFIG` would write of a plan, and what llama.cpp needs to run it.

#include <cstdint>
#include <string>
#include <vector>

#include "moerge/engine/llama_memory.h"
#include "moerge/export/file_types.h"
#include "moerge/export/model_description.h"
#include "moerge/plan/plan.h"

namespace moerge {

struct GgufForecast {
  struct File {
    const FileType* type;
    int64_t bytes = 0;    // of the file, exactly
    int64_t weights = 0;  // of its tensors
  };
  struct Context {
    int64_t tokens = 0;
    bool beyond_model = false;  // more than the model's max_position_embeddings
    LlamaMemory memory = {};
  };
  std::string refusal;         // one line; empty: it can be written
  std::string memory_refusal;  // likewise, of `contexts`
  std::vector<File> files;
  std::vector<Context> contexts;
  std::vector<std::string> warnings;
};

/// BF16, Q8_0 and Q4_K_M, at 4096 and 32768 tokens; `max_positions`: the model's, 0 where they are not known.
/// Nothing about the model throws.
GgufForecast forecast_gguf(const ExportSource& source, const Plan& plan, int64_t max_positions);

}  // namespace moerge
