#include "moerge/serve/inference_meter.h"

#include <ggml-backend.h>

#include <algorithm>
#include <array>

#include "moerge/serve/inference_state.h"

namespace moerge {
namespace {

bool has_graphics_card() {
  return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU) != nullptr ||
         ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_IGPU) != nullptr;
}

// Without the flags that say where layers go: reading them connects to the hosts.
InferenceOptions without_places(InferenceOptions options) {
  constexpr std::array<std::string_view, 5> kPlaces = {"--rpc", "--device", "-dev", "--override-tensor",
                                                       "-ot"};
  std::vector<std::string>& flags = options.llama_flags;
  for (size_t i = 0; i + 1 < flags.size();)
    if (std::ranges::find(kPlaces, flags[i]) != kPlaces.end())
      flags.erase(flags.begin() + static_cast<ptrdiff_t>(i), flags.begin() + static_cast<ptrdiff_t>(i) + 2);
    else
      i++;
  return options;
}

}  // namespace

std::string flag_value(const std::vector<std::string>& flags, std::initializer_list<std::string_view> names) {
  std::string value;
  for (size_t i = 0; i + 1 < flags.size(); i++)
    if (std::ranges::find(names, flags[i]) != names.end()) value = flags[i + 1];
  return value;
}

InferenceUse inference_use(const InferenceOptions& options) {
  const common_params params = parse_params(without_places(options));
  const int requests = std::max(1, params.n_parallel);
  return {.memory = {.sequences = requests,
                     .unified = params.kv_unified,
                     .outputs = requests,  // the engine asks for the last token's of each request
                     .batch = params.n_batch,
                     .micro_batch = params.n_ubatch,
                     .key_type = params.cache_type_k,
                     .value_type = params.cache_type_v,
                     .flash_attention = params.flash_attn_type},
          .context = std::max(0, params.n_ctx)};
}

bool leaves_processor(const InferenceOptions& options) {
  if (!flag_value(options.llama_flags, {"--rpc"}).empty()) return true;
  if (flag_value(options.llama_flags, {"--device", "-dev"}) == "none") return false;
  if (flag_value(options.llama_flags, {"-ngl", "--gpu-layers", "--n-gpu-layers"}) == "0") return false;
  return has_graphics_card();
}

}  // namespace moerge
