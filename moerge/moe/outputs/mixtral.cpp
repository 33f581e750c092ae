// Mixtral from Llama and Mistral models. transformers: models/mixtral/configuration_mixtral.py.

#include "moerge/model/architectures/list.h"
#include "moerge/moe/outputs/base_config.h"
#include "moerge/moe/outputs/list.h"

namespace moerge {
namespace {

constexpr std::string_view kInputs[] = {"llama", "mistral"};

Json make_config(const MoeModels& models, const MoeConfig& config, DType dtype) {
  Json out = base_config(*models.base, kMixtral, dtype);
  out["sliding_window"] = nullptr;
  out["num_local_experts"] = std::ssize(models.experts);
  out["num_experts_per_tok"] = config.experts_per_token;
  out["output_router_logits"] = false;
  out["router_aux_loss_coef"] = 0.001;
  out["router_jitter_noise"] = 0.0;
  return out;
}

}  // namespace

const OutputArchitecture kMixtralOutput = {
    .name = "Mixtral",
    .architecture = &kMixtral,
    .inputs = kInputs,
    .own_head_dim = true,
    .make_config = make_config,
};

}  // namespace moerge
