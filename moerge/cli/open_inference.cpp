#include "moerge/cli/open_inference.h"

namespace moerge {

std::unique_ptr<Inference> open_inference(const std::string& model, const InferenceFlags& flags, int parallel,
                                          Reporter& reporter) {
  InferenceOptions options = inference_options(flags);
  options.model = model;
  options.name = options.model.stem().string();
  options.parallel = parallel;
  auto inference = std::make_unique<Inference>(options, [](double) {});
  if (!inference->info().template_note.empty()) reporter.warning(inference->info().template_note);
  return inference;
}

}  // namespace moerge
