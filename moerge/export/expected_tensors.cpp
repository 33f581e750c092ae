#include "moerge/export/expected_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>

#include "moerge/base/error.h"
#include "moerge/export/converter_config.h"

namespace moerge {
namespace {

constexpr int64_t kMaxLayers = 100'000;

bool has_experts(const ExportFamily& family) { return family.expert_count != nullptr; }

// llama.cpp's graphs of the Qwen mixtures route in every layer; deepseek's is dense at the front only.
void refuse_dense_layers(const ExportFamily& family, const ConverterConfig& config) {
  for (const char* key : {"decoder_sparse_step", "moe_layer_freq"})
    if (const auto step = config.count({key}, 0); step && *step != 1)
      fail(ErrorKind::unsupported,
           "{}: \"{}\" is {}: some layers have no experts, and llama.cpp's {} has no place for them",
           config.where(), key, *step, family.arch);
  if (const Json* layers = config.find({"mlp_only_layers"}); layers && !layers->empty())
    fail(ErrorKind::unsupported,
         "{}: \"mlp_only_layers\" names layers without experts, and llama.cpp's {} has no place for them",
         config.where(), family.arch);
}

// Null or 0: none.
int64_t count_shared_experts(const ExportFamily& family, const ConverterConfig& config) {
  const std::optional<int64_t> count = config.count({"n_shared_experts"}, 0);
  if (family.arch != "deepseek") return count.value_or(0);
  if (count == 0 || config.is("n_shared_experts", nullptr))
    fail(ErrorKind::unsupported,
         "{}: \"n_shared_experts\" is 0 or null, and llama.cpp's deepseek cannot do without a shared expert "
         "(with \"norm_topk_prob\" and two or more experts per token another kind of GGUF is written, which "
         "can)",
         config.where());
  return config.needed_count({"n_shared_experts"});
}

void read_experts(const ExportFamily& family, const ConverterConfig& config, ExportDimensions& out) {
  refuse_dense_layers(family, config);
  const bool is_deepseek = family.model_type == "deepseek";
  out.experts = is_deepseek ? config.needed_count({family.expert_count})
                            : config.needed_count({"num_local_experts", family.expert_count});
  out.expert_ffn = config.needed_count({family.expert_ffn});
  if (family.arch == "qwen2moe") out.shared_ffn = config.needed_count({"shared_expert_intermediate_size"});
  if (!is_deepseek) return;
  out.shared_ffn = out.expert_ffn * count_shared_experts(family, config);
  if (out.shared_ffn > kMaxDimension)
    fail(ErrorKind::input, "{}: \"n_shared_experts\" times \"moe_intermediate_size\" is {}", config.where(),
         out.shared_ffn);
  if (family.arch == "deepseek")
    out.dense_layers = std::min(config.needed_count({"first_k_dense_replace"}, 0), out.layers);
}

// What llama.cpp's loader takes for granted.
void check_heads(const ExportFamily& family, const ConverterConfig& config, const ExportDimensions& sizes) {
  const std::string& where = config.where();
  if (sizes.heads % sizes.kv_heads != 0)
    fail(ErrorKind::input, "{}: num_attention_heads {} is no multiple of num_key_value_heads {}", where,
         sizes.heads, sizes.kv_heads);
  if (sizes.heads * sizes.head_dim > kMaxDimension)
    fail(ErrorKind::input, "{}: num_attention_heads {} times head_dim {} is too large", where, sizes.heads,
         sizes.head_dim);
  if (family.permuted && sizes.head_dim % 2 != 0)
    fail(ErrorKind::unsupported, "{}: heads of {} elements cannot be rotated in pairs", where,
         sizes.head_dim);
}

int64_t size_of(Extent extent, const ExportDimensions& sizes) {
  switch (extent) {
    case Extent::none:
      return 0;
    case Extent::one:
      return 1;
    case Extent::vocab:
      return sizes.vocab;
    case Extent::hidden:
      return sizes.hidden;
    case Extent::ffn:
      return sizes.ffn;
    case Extent::q_rows:
      return sizes.heads * sizes.head_dim;
    case Extent::kv_rows:
      return sizes.kv_heads * sizes.head_dim;
    case Extent::head_dim:
      return sizes.head_dim;
    case Extent::experts:
      return sizes.experts;
    case Extent::expert_ffn:
      return sizes.expert_ffn;
    case Extent::shared_ffn:
      return sizes.shared_ffn;
  }
  return 0;
}

Shape shape_of(const GgufTensorRow& row, const ExportDimensions& sizes) {
  Shape shape;
  for (const Extent extent : row.shape)
    if (extent != Extent::none) shape.push_back(size_of(extent, sizes));
  return shape;
}

using Warn = std::function<void(const std::string&)>;

void check_experts(const ExportFamily& family, const ConverterConfig& config, const ExportDimensions& sizes,
                   const std::string& where, const Warn& warn) {
  const int64_t used = config.count({"num_experts_per_tok"}).value_or(0);
  if (used < 1 || used > sizes.experts)
    fail(ErrorKind::unsupported, "{}: \"num_experts_per_tok\" is {}, expected 1 to {}, the number of experts",
         where, used, sizes.experts);
  if (family.arch == "llama") return;  // Mixtral always normalises the weights of the experts it picks
  if (used == sizes.experts) return;   // their weights sum to 1 as they are
  // modeling_deepseek.py, MoEGate: a single weight is not normalised.
  if (family.arch == "deepseek" && used == 1) return;
  // build_moe_ffn's norm_w in llama.cpp's src/models/.
  const bool normalises = family.arch == "qwen3moe" || family.arch == "granitemoe";
  if (config.is("norm_topk_prob", true) != normalises)
    warn(fmt::format("\"norm_topk_prob\" is {}, but llama.cpp's {} always computes as if it were {}",
                     !normalises, family.arch, normalises));
}

bool lies_in(const GgufTensorRow& row, int64_t layer, const ExportDimensions& sizes) {
  const bool is_shared = std::ranges::find(row.shape, Extent::shared_ffn) != std::end(row.shape);
  if (is_shared && sizes.shared_ffn == 0) return false;
  switch (row.place) {
    case GgufTensorRow::Place::outside:
      return false;
    case GgufTensorRow::Place::every_layer:
      return true;
    case GgufTensorRow::Place::dense_layer:
      return layer < sizes.dense_layers;
    case GgufTensorRow::Place::moe_layer:
      return layer >= sizes.dense_layers;
  }
  return false;
}

}  // namespace

ExportDimensions export_dimensions(const ExportFamily& family, const Json& config, const std::string& where) {
  const ConverterConfig source(family, config, where);
  ExportDimensions out;
  out.layers = source.needed_count({"num_hidden_layers"});
  if (out.layers > kMaxLayers)
    fail(ErrorKind::input, "{}: \"num_hidden_layers\" is {}, expected at most {}", where, out.layers,
         kMaxLayers);
  out.vocab = source.needed_count({"vocab_size"});
  out.hidden = source.needed_count({"hidden_size"});
  out.ffn = source.needed_count({"intermediate_size"});
  out.heads = source.needed_count({"num_attention_heads"});
  out.kv_heads = source.count({"num_key_value_heads"}).value_or(out.heads);
  out.head_dim = source.head_dim();
  out.tied_embeddings = source.is("tie_word_embeddings", true);
  check_heads(family, source, out);
  if (has_experts(family))
    read_experts(family, source, out);
  else
    out.dense_layers = out.layers;
  return out;
}

std::vector<ExpectedTensor> expected_tensors(const ExportFamily& family, const ExportDimensions& dimensions) {
  std::vector<ExpectedTensor> out;
  const auto add = [&](const GgufTensorRow& row, const std::string& prefix) {
    const Shape shape = shape_of(row, dimensions);
    const bool may_lack = (row.flags & kUnlessTied) && dimensions.tied_embeddings;
    out.push_back({fmt::format("{}{}.weight", prefix, row.name), shape, may_lack});
    if (row.flags & kHasBias) out.push_back({fmt::format("{}{}.bias", prefix, row.name), {shape[0]}, true});
  };
  for (const GgufTensorRow& row : family.tensors)
    if (row.place == GgufTensorRow::Place::outside) add(row, "");
  for (int64_t layer = 0; layer < dimensions.layers; layer++)
    for (const GgufTensorRow& row : family.tensors)
      if (lies_in(row, layer, dimensions)) add(row, fmt::format("blk.{}.", layer));
  return out;
}

std::vector<std::string> export_warnings(const ExportFamily& family, const Json& config,
                                         const std::string& where) {
  const ConverterConfig source(family, config, where);
  const ExportDimensions sizes = export_dimensions(family, config, where);
  std::vector<std::string> out;
  const auto warn = [&](const std::string& why) { out.push_back(fmt::format("{}: {}", where, why)); };

  const bool frees_heads = family.arch == "llama" || family.arch == "qwen3" || family.arch == "qwen3moe";
  if (!frees_heads && sizes.heads * sizes.head_dim != sizes.hidden)
    fail(ErrorKind::unsupported,
         "{}: {} heads of {} elements do not make up the hidden_size of {}, and llama.cpp's {} knows no "
         "other way",
         where, sizes.heads, sizes.head_dim, sizes.hidden, family.arch);
  if (has_experts(family)) check_experts(family, source, sizes, where, warn);
  if (source.find({"hidden_act"}) && !source.is("hidden_act", "silu"))
    warn(fmt::format("\"hidden_act\" is {}, but llama.cpp's {} always computes silu",
                     source.find({"hidden_act"})->dump(), family.arch));
  if (const Json* part = source.find({"partial_rotary_factor"});
      (part && *part != 1) || source.rope_number("partial_rotary_factor").value_or(1) != 1)
    warn("\"partial_rotary_factor\" is not 1, but the GGUF says that all of a head is rotated");
  const std::string type = source.rope_type();
  const bool is_plain = type.empty() || type == "default" || type == "none";
  const bool is_followed = family.arch != "deepseek" && (type == "linear" || type == "yarn");
  if (!is_plain && !is_followed && !(family.arch == "llama" && type == "llama3"))
    warn(fmt::format("its rope settings of type \"{}\" have no place in a GGUF of this kind and are left out",
                     type));
  return out;
}

}  // namespace moerge
