#pragma once
// MODEL of chat and serve, made ready to answer.

#include <memory>
#include <string>

#include "moerge/base/progress.h"
#include "moerge/cli/inference_flags.h"
#include "moerge/cli/memory_fit.h"
#include "moerge/serve/inference.h"

namespace moerge {

/// How the options use a model, and the memory that it may take: MOERGE_MEMORY_LIMIT, else what is available;
/// nothing when layers may go elsewhere.
ContextWish context_wish(const InferenceOptions& options);

/// `model`: what the user gave. `parallel`: requests at once. Says what is loaded and what there is to know
/// of it.
std::unique_ptr<Inference> open_inference(const std::string& model, const InferenceFlags& flags, int parallel,
                                          Reporter& reporter);

}  // namespace moerge
