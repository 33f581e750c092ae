#include "moerge/engine/expert_names.h"

#include <fmt/format.h>
#include <llama.h>

#include <algorithm>

namespace moerge {

// Not the model card's base models: those are in the order of the alphabet, each once.
std::vector<std::string> expert_names(const llama_model* model, int64_t experts) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < experts; i++) {
    std::string value(1024, '\0');
    const int32_t size = llama_model_meta_val_str(model, fmt::format("moerge.expert.{}.name", i).c_str(),
                                                  value.data(), value.size());
    if (size <= 0) return {};
    value.resize(std::min(static_cast<size_t>(size), value.size() - 1));
    names.push_back(std::move(value));
  }
  return names;
}

}  // namespace moerge
