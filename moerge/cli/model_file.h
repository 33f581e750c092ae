#pragma once
// MODEL of chat and serve as a GGUF file: its own, or one that is made of it and kept for the next time.

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "moerge/base/progress.h"
#include "moerge/cli/inference_flags.h"
#include "moerge/cli/memory_fit.h"
#include "moerge/cli/model_source.h"

namespace moerge {

/// A GGUF whose memory has been judged.
struct ModelFile {
  std::filesystem::path path;
  std::string type;  // "Q8_0"; empty when the file does not say
  MemoryNeed need;
  int64_t trained_context = 0;
};

/// Makes the file where it is not there yet, once it is known to fit. Throws unsupported, with the numbers
/// and what would fit, when it does not; with flags.ignore_memory that is a warning. What is done is told
/// before it is done.
ModelFile prepare_model(const ModelSource& source, const InferenceFlags& flags, const ContextWish& wish,
                        Reporter& reporter);

}  // namespace moerge
