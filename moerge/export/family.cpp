#include "moerge/export/family.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

namespace moerge {
namespace {

using Place = GgufTensorRow::Place;
using Holds = CheckpointRow::Holds;

template <typename T>
std::vector<T> join(std::initializer_list<std::vector<T>> parts) {
  std::vector<T> out;
  for (const std::vector<T>& part : parts) out.insert(out.end(), part.begin(), part.end());
  return out;
}

using Tensors = std::vector<GgufTensorRow>;
using Sources = std::vector<CheckpointRow>;

const Tensors kEnds = {
    {"token_embd", Place::outside, {Extent::vocab, Extent::hidden}},
    {"output_norm", Place::outside, {Extent::hidden}},
};
const Tensors kOutput = {
    {"output", Place::outside, {Extent::vocab, Extent::hidden}, kUnlessTied},
};
const Tensors kOutputWithBias = {
    {"output", Place::outside, {Extent::vocab, Extent::hidden}, kHasBias | kUnlessTied},
};
// llama.cpp's qwen2moe does not fall back on the embeddings.
const Tensors kOutputAlways = {
    {"output", Place::outside, {Extent::vocab, Extent::hidden}},
};

const Tensors kAttention = {
    {"attn_norm", Place::every_layer, {Extent::hidden}},
    {"attn_q", Place::every_layer, {Extent::q_rows, Extent::hidden}, kHasBias},
    {"attn_k", Place::every_layer, {Extent::kv_rows, Extent::hidden}, kHasBias},
    {"attn_v", Place::every_layer, {Extent::kv_rows, Extent::hidden}, kHasBias},
    {"ffn_norm", Place::every_layer, {Extent::hidden}},
};
const Tensors kAttentionOutput = {
    {"attn_output", Place::every_layer, {Extent::hidden, Extent::q_rows}},
};
const Tensors kAttentionOutputWithBias = {
    {"attn_output", Place::every_layer, {Extent::hidden, Extent::q_rows}, kHasBias},
};
const Tensors kHeadNorms = {
    {"attn_q_norm", Place::every_layer, {Extent::head_dim}},
    {"attn_k_norm", Place::every_layer, {Extent::head_dim}},
};

const Tensors kDense = {
    {"ffn_gate", Place::dense_layer, {Extent::ffn, Extent::hidden}},
    {"ffn_up", Place::dense_layer, {Extent::ffn, Extent::hidden}},
    {"ffn_down", Place::dense_layer, {Extent::hidden, Extent::ffn}},
};
const Tensors kDenseWithBias = {
    {"ffn_gate", Place::dense_layer, {Extent::ffn, Extent::hidden}, kHasBias},
    {"ffn_up", Place::dense_layer, {Extent::ffn, Extent::hidden}, kHasBias},
    {"ffn_down", Place::dense_layer, {Extent::hidden, Extent::ffn}, kHasBias},
};
const Tensors kExperts = {
    {"ffn_gate_inp", Place::moe_layer, {Extent::experts, Extent::hidden}},
    {"ffn_gate_exps", Place::moe_layer, {Extent::experts, Extent::expert_ffn, Extent::hidden}},
    {"ffn_up_exps", Place::moe_layer, {Extent::experts, Extent::expert_ffn, Extent::hidden}},
    {"ffn_down_exps", Place::moe_layer, {Extent::experts, Extent::hidden, Extent::expert_ffn}},
};
const Tensors kSharedExpert = {
    {"ffn_gate_shexp", Place::moe_layer, {Extent::shared_ffn, Extent::hidden}},
    {"ffn_up_shexp", Place::moe_layer, {Extent::shared_ffn, Extent::hidden}},
    {"ffn_down_shexp", Place::moe_layer, {Extent::hidden, Extent::shared_ffn}},
};
const Tensors kSharedExpertGate = {
    {"ffn_gate_inp_shexp", Place::moe_layer, {Extent::one, Extent::hidden}},
};

const Sources kCommonNames = {
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
    {"lm_head", "output"},
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"post_attention_layernorm", "ffn_norm"},
};
const Sources kHeadNormNames = {
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
};
const Sources kDenseNames = {
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
};
// transformers 5 keeps the experts of a layer in two tensors, [experts, 2 * ffn, hidden] (gate above up) and
// [experts, hidden, ffn]; a router is "mlp.gate" in every family.
const Sources kStackNames = {
    {"mlp.gate", "ffn_gate_inp"},
    {"mlp.experts.gate_up_proj", "", Holds::fused_stack},
    {"mlp.experts.gate_proj", "ffn_gate_exps", Holds::stack},
    {"mlp.experts.up_proj", "ffn_up_exps", Holds::stack},
    {"mlp.experts.down_proj", "ffn_down_exps", Holds::stack},
};
const Sources kExpertNames = {
    {"mlp.experts.{}.gate_proj", "ffn_gate_exps", Holds::expert},
    {"mlp.experts.{}.up_proj", "ffn_up_exps", Holds::expert},
    {"mlp.experts.{}.down_proj", "ffn_down_exps", Holds::expert},
};
const Sources kMixtralNames = {
    {"block_sparse_moe.gate", "ffn_gate_inp"},
    {"block_sparse_moe.experts.{}.w1", "ffn_gate_exps", Holds::expert},
    {"block_sparse_moe.experts.{}.w3", "ffn_up_exps", Holds::expert},
    {"block_sparse_moe.experts.{}.w2", "ffn_down_exps", Holds::expert},
};
const Sources kSharedExpertNames = {
    {"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
    {"mlp.shared_expert.up_proj", "ffn_up_shexp"},
    {"mlp.shared_expert.down_proj", "ffn_down_shexp"},
    {"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
};
const Sources kSharedExpertsNames = {
    {"mlp.shared_experts.gate_proj", "ffn_gate_shexp"},
    {"mlp.shared_experts.up_proj", "ffn_up_shexp"},
    {"mlp.shared_experts.down_proj", "ffn_down_shexp"},
};

const ExportFamily kLlama = {
    .model_type = "llama",
    .class_name = "LlamaForCausalLM",
    .arch = "llama",
    .config_class = &kLlamaConfig,
    .permuted = true,
    .tensors = join({kEnds, kOutput, kAttention, kAttentionOutputWithBias, kDenseWithBias}),
    .sources = join({kCommonNames, kDenseNames}),
};
const ExportFamily kMistral = {
    .model_type = "mistral",
    .class_name = "MistralForCausalLM",
    .arch = "llama",
    .config_class = &kMistralConfig,
    .permuted = true,
    .tensors = join({kEnds, kOutput, kAttention, kAttentionOutputWithBias, kDenseWithBias}),
    .sources = join({kCommonNames, kDenseNames}),
};
const ExportFamily kMixtral = {
    .model_type = "mixtral",
    .class_name = "MixtralForCausalLM",
    .arch = "llama",
    .config_class = &kMixtralConfig,
    .permuted = true,
    .expert_count = "num_local_experts",
    .expert_ffn = "intermediate_size",
    .tensors = join({kEnds, kOutput, kAttention, kAttentionOutputWithBias, kExperts}),
    .sources = join({kCommonNames, kStackNames, kMixtralNames}),
};
const ExportFamily kQwen2 = {
    .model_type = "qwen2",
    .class_name = "Qwen2ForCausalLM",
    .arch = "qwen2",
    .config_class = &kQwen2Config,
    .permuted = false,
    .tensors = join({kEnds, kOutputWithBias, kAttention, kAttentionOutput, kDense}),
    .sources = join({kCommonNames, kDenseNames}),
};
const ExportFamily kQwen3 = {
    .model_type = "qwen3",
    .class_name = "Qwen3ForCausalLM",
    .arch = "qwen3",
    .config_class = &kQwen3Config,
    .permuted = false,
    .tensors = join({kEnds, kOutput, kAttention, kAttentionOutput, kHeadNorms, kDense}),
    .sources = join({kCommonNames, kHeadNormNames, kDenseNames}),
};
const ExportFamily kQwen2Moe = {
    .model_type = "qwen2_moe",
    .class_name = "Qwen2MoeForCausalLM",
    .arch = "qwen2moe",
    .config_class = &kQwen2MoeConfig,
    .permuted = false,
    .expert_count = "num_experts",
    .expert_ffn = "moe_intermediate_size",
    .tensors = join(
        {kEnds, kOutputAlways, kAttention, kAttentionOutput, kExperts, kSharedExpert, kSharedExpertGate}),
    .sources = join({kCommonNames, kStackNames, kExpertNames, kSharedExpertNames}),
};
const ExportFamily kQwen3Moe = {
    .model_type = "qwen3_moe",
    .class_name = "Qwen3MoeForCausalLM",
    .arch = "qwen3moe",
    .config_class = &kQwen3MoeConfig,
    .permuted = false,
    .expert_count = "num_experts",
    .expert_ffn = "moe_intermediate_size",
    .tensors = join({kEnds, kOutput, kAttention, kAttentionOutput, kHeadNorms, kExperts}),
    .sources = join({kCommonNames, kHeadNormNames, kStackNames, kExpertNames}),
};
const ExportFamily kDeepseek = {
    .model_type = "deepseek",
    .class_name = "DeepseekForCausalLM",
    .arch = "deepseek",
    .config_class = nullptr,
    .permuted = true,
    .expert_count = "n_routed_experts",
    .expert_ffn = "moe_intermediate_size",
    .tensors = join({kEnds, kOutput, kAttention, kAttentionOutput, kDense, kExperts, kSharedExpert}),
    .sources = join({kCommonNames, kDenseNames, kStackNames, kExpertNames, kSharedExpertsNames}),
};

// Llama's attention and a shared expert as well; its multipliers stay at 1.
const ExportFamily kNormalisedDeepseek = {
    .model_type = "deepseek",
    .class_name = "DeepseekForCausalLM",
    .arch = "granitemoe",
    .config_class = nullptr,
    .permuted = true,
    .expert_count = "n_routed_experts",
    .expert_ffn = "moe_intermediate_size",
    .tensors = join({kEnds, kOutput, kAttention, kAttentionOutputWithBias, kExperts, kSharedExpert}),
    .sources = join({kCommonNames, kStackNames, kExpertNames, kSharedExpertsNames}),
};

const ExportFamily* const kFamilies[] = {&kLlama, &kMistral,  &kMixtral,  &kQwen2,
                                         &kQwen3, &kQwen2Moe, &kQwen3Moe, &kDeepseek};

// Takes a number off the front, as the converter writes them: no sign, no leading zero.
std::optional<int64_t> take_number(std::string_view& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const auto length = static_cast<size_t>(end - text.data());
  if (error != std::errc() || text[0] == '-' || (text[0] == '0' && length > 1)) return {};
  text.remove_prefix(length);
  return value;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

bool take_back(std::string_view& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.remove_suffix(suffix.size());
  return true;
}

// Whether a name is that of a row; the number that stands for "{}", or -1.
std::optional<int64_t> match(const CheckpointRow& row, std::string_view name) {
  const size_t hole = row.name.find("{}");
  if (hole == std::string_view::npos) return name == row.name ? std::optional<int64_t>(-1) : std::nullopt;
  if (!take(name, row.name.substr(0, hole))) return {};
  const std::optional<int64_t> number = take_number(name);
  return name == row.name.substr(hole + 2) ? number : std::nullopt;
}

TensorMapping mapping_of(const ExportFamily& family, const GgufTensorRow& tensor, int64_t layer,
                         bool is_bias) {
  TensorMapping out;
  const char* suffix = is_bias ? "bias" : "weight";
  out.name = layer < 0 ? fmt::format("{}.{}", tensor.name, suffix)
                       : fmt::format("blk.{}.{}.{}", layer, tensor.name, suffix);
  out.layer = layer;
  out.rotary_q = family.permuted && tensor.name == "attn_q";
  out.rotary_k = family.permuted && tensor.name == "attn_k";
  out.keep_f32 = is_bias || tensor.shape[1] == Extent::none || tensor.name == "ffn_gate_inp" ||
                 tensor.name == "ffn_gate_inp_shexp";
  return out;
}

}  // namespace

std::span<const ExportFamily* const> export_families() { return kFamilies; }

const ExportFamily* find_export_family(std::string_view model_type) {
  for (const ExportFamily* family : kFamilies)
    if (family->model_type == model_type) return family;
  return nullptr;
}

const ExportFamily* choose_export_family(const Json& config, const std::string& where) {
  const ExportFamily* family = find_export_family(json_string(config, "model_type", where).value_or(""));
  if (family != &kDeepseek) return family;
  // modeling_deepseek.py, MoEGate: a single weight is never normalised.
  const bool normalised = json_bool(config, "norm_topk_prob", where).value_or(false) &&
                          json_int(config, "num_experts_per_tok", where).value_or(0) > 1;
  const bool alike = json_int(config, "first_k_dense_replace", where).value_or(0) == 0 &&
                     json_string(config, "scoring_func", where).value_or("softmax") == "softmax";
  return normalised && alike ? &kNormalisedDeepseek : family;
}

std::vector<TensorMapping> map_tensor(const ExportFamily& family, std::string_view checkpoint_name,
                                      int64_t layers) {
  std::string_view name = checkpoint_name;
  for (const std::string_view dropped : {".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"})
    if (name.ends_with(dropped)) return {TensorMapping{}};

  const bool is_bias = take_back(name, ".bias"), has_suffix = is_bias || take_back(name, ".weight");
  take(name, "model.");
  std::optional<int64_t> layer;
  if (take(name, "layers.")) {
    layer = take_number(name);
    if (!layer || *layer >= layers || !take(name, ".")) return {};
  }

  std::vector<TensorMapping> out;
  const auto add = [&](std::string_view target) -> TensorMapping* {
    for (const GgufTensorRow& tensor : family.tensors) {
      const bool fits = tensor.name == target && (tensor.place == Place::outside) == !layer;
      if (fits && (!is_bias || (tensor.flags & kHasBias)))
        return &out.emplace_back(mapping_of(family, tensor, layer.value_or(-1), is_bias));
    }
    return nullptr;
  };
  for (const CheckpointRow& row : family.sources) {
    const std::optional<int64_t> expert = match(row, name);
    if (!expert) continue;
    const bool is_stack = row.holds == Holds::stack || row.holds == Holds::fused_stack;
    if (!has_suffix && !is_stack) return {};
    const bool is_fused = row.holds == Holds::fused_stack;
    for (const std::string_view target : is_fused
                                             ? std::vector<std::string_view>{"ffn_gate_exps", "ffn_up_exps"}
                                             : std::vector<std::string_view>{row.target})
      if (TensorMapping* mapping = add(target)) {
        mapping->expert = *expert;
        mapping->stacked = is_stack;
      }
    if (is_fused && out.size() == 2) {
      out[0].part = TensorMapping::Part::first_half;
      out[1].part = TensorMapping::Part::second_half;
    }
    return out;
  }
  return out;
}

}  // namespace moerge
