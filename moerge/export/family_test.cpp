#include "moerge/export/family.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace moerge {
namespace {

using Part = TensorMapping::Part;

TensorMapping only(const char* model_type, const char* name) {
  const auto mappings = map_tensor(*find_export_family(model_type), name, 4);
  EXPECT_EQ(mappings.size(), 1) << model_type << " " << name;
  return mappings.empty() ? TensorMapping{.name = "?"} : mappings[0];
}

bool has_no_place(const char* model_type, const std::string& name) {
  return map_tensor(*find_export_family(model_type), name, 4).empty();
}

TEST(ExportFamily, RowsFitTogether) {
  for (const ExportFamily* family : export_families()) {
    EXPECT_EQ(find_export_family(family->model_type), family);
    EXPECT_EQ(family->expert_count == nullptr, family->expert_ffn == nullptr);
    std::set<std::string_view> targets, filled;
    for (const GgufTensorRow& tensor : family->tensors) {
      EXPECT_TRUE(targets.insert(tensor.name).second) << family->model_type << " " << tensor.name;
      // A norm is what stays F32 whatever it is called, so its name must say so to other programs.
      EXPECT_EQ(tensor.shape[1] == Extent::none, tensor.name.ends_with("_norm")) << tensor.name;
    }
    for (const CheckpointRow& row : family->sources) {
      const std::string layer = fmt::format("model.layers.3.{}.weight", row.name);
      const std::string numbered =
          layer.find("{}") == layer.npos ? layer : fmt::format(fmt::runtime(layer), 7);
      auto mappings = map_tensor(*family, numbered, 4);
      if (mappings.empty()) mappings = map_tensor(*family, fmt::format("model.{}.weight", row.name), 4);
      ASSERT_FALSE(mappings.empty()) << family->model_type << " " << row.name;
      for (const TensorMapping& mapping : mappings) {
        std::string_view name = mapping.name;
        if (mapping.layer >= 0) name.remove_prefix(std::string_view("blk.3.").size());
        filled.insert(*targets.find(name.substr(0, name.find('.'))));
      }
    }
    EXPECT_EQ(filled, targets) << family->model_type;  // a tensor that nothing fills would always be missing
  }
  EXPECT_EQ(find_export_family("gpt2"), nullptr);
}

TEST(MapTensor, NamesWithAndWithoutModel) {
  for (const char* model_type : {"llama", "qwen3_moe", "deepseek"}) {
    EXPECT_EQ(only(model_type, "model.embed_tokens.weight").name, "token_embd.weight");
    EXPECT_EQ(only(model_type, "embed_tokens.weight").name, "token_embd.weight");
    EXPECT_EQ(only(model_type, "norm.weight").name, "output_norm.weight");
    EXPECT_EQ(only(model_type, "lm_head.weight").name, "output.weight");
    EXPECT_EQ(only(model_type, "model.layers.3.self_attn.o_proj.weight").name, "blk.3.attn_output.weight");
    EXPECT_EQ(only(model_type, "layers.3.self_attn.o_proj.weight").name, "blk.3.attn_output.weight");
  }
}

TEST(MapTensor, RotatedRowsOfLlamaAndDeepseekOnly) {
  for (const ExportFamily* family : export_families()) {
    const bool permuted = family->arch == "llama" || family->arch == "deepseek";
    const auto q = map_tensor(*family, "model.layers.0.self_attn.q_proj.weight", 1).at(0),
               k = map_tensor(*family, "model.layers.0.self_attn.k_proj.bias", 1).at(0),
               v = map_tensor(*family, "model.layers.0.self_attn.v_proj.weight", 1).at(0);
    EXPECT_EQ(q.rotary_q, permuted);
    EXPECT_EQ(k.rotary_k, permuted);
    EXPECT_TRUE(k.keep_f32);
    EXPECT_FALSE(q.rotary_k || k.rotary_q || v.rotary_q || v.rotary_k || q.keep_f32);
  }
}

TEST(MapTensor, OneTensorAnExpert) {
  const TensorMapping w1 = only("mixtral", "model.layers.2.block_sparse_moe.experts.7.w1.weight");
  EXPECT_EQ(w1.name, "blk.2.ffn_gate_exps.weight");
  EXPECT_EQ(w1.layer, 2);
  EXPECT_EQ(w1.expert, 7);
  EXPECT_FALSE(w1.stacked || w1.keep_f32);
  EXPECT_EQ(only("mixtral", "model.layers.2.block_sparse_moe.experts.7.w2.weight").name,
            "blk.2.ffn_down_exps.weight");
  EXPECT_EQ(only("mixtral", "model.layers.2.block_sparse_moe.experts.7.w3.weight").name,
            "blk.2.ffn_up_exps.weight");
  for (const char* model_type : {"qwen2_moe", "qwen3_moe", "deepseek"})
    EXPECT_EQ(only(model_type, "model.layers.2.mlp.experts.12.down_proj.weight").expert, 12);
}

TEST(MapTensor, FusedStacksOfEveryMixture) {
  for (const char* model_type : {"mixtral", "qwen2_moe", "qwen3_moe", "deepseek"})
    for (const std::string suffix : {"", ".weight"}) {
      const auto both =
          map_tensor(*find_export_family(model_type), "model.layers.1.mlp.experts.gate_up_proj" + suffix, 4);
      ASSERT_EQ(both.size(), 2);
      EXPECT_EQ(both[0].name, "blk.1.ffn_gate_exps.weight");
      EXPECT_EQ(both[1].name, "blk.1.ffn_up_exps.weight");
      EXPECT_EQ(both[0].part, Part::first_half);
      EXPECT_EQ(both[1].part, Part::second_half);
      EXPECT_TRUE(both[0].stacked && both[1].stacked);
      const TensorMapping down = only(model_type, ("model.layers.1.mlp.experts.down_proj" + suffix).c_str());
      EXPECT_EQ(down.name, "blk.1.ffn_down_exps.weight");
      EXPECT_TRUE(down.stacked);
      EXPECT_EQ(down.part, Part::whole);
      EXPECT_EQ(down.expert, -1);
      const TensorMapping router = only(model_type, "model.layers.1.mlp.gate.weight");
      EXPECT_EQ(router.name, "blk.1.ffn_gate_inp.weight");
      EXPECT_TRUE(router.keep_f32);
    }
}

TEST(MapTensor, SharedExperts) {
  EXPECT_EQ(only("qwen2_moe", "model.layers.0.mlp.shared_expert.up_proj.weight").name,
            "blk.0.ffn_up_shexp.weight");
  const TensorMapping gate = only("qwen2_moe", "model.layers.0.mlp.shared_expert_gate.weight");
  EXPECT_EQ(gate.name, "blk.0.ffn_gate_inp_shexp.weight");
  EXPECT_TRUE(gate.keep_f32);
  EXPECT_EQ(only("deepseek", "model.layers.0.mlp.shared_experts.up_proj.weight").name,
            "blk.0.ffn_up_shexp.weight");
  EXPECT_TRUE(has_no_place("deepseek", "model.layers.0.mlp.shared_expert_gate.weight"));
  EXPECT_TRUE(has_no_place("qwen3_moe", "model.layers.0.mlp.shared_expert.up_proj.weight"));
}

TEST(MapTensor, Dropped) {
  EXPECT_EQ(only("llama", "model.layers.0.self_attn.rotary_emb.inv_freq").name, "");
  EXPECT_EQ(only("qwen3", "model.rotary_emb.inv_freq").name, "");
}

TEST(MapTensor, WhatHasNoPlace) {
  for (const char* name : {"model.layers.4.input_layernorm.weight",
                           "model.layers.04.input_layernorm.weight",
                           "model.layers.-1.input_layernorm.weight",
                           "model.layers.99999999999999999999.input_layernorm.weight",
                           "model.layers..input_layernorm.weight",
                           "model.layers.0",
                           "model.layers.",
                           "model.",
                           "",
                           "weight",
                           ".weight",
                           "score.weight",
                           "model.layers.0.lm_head.weight",
                           "model.input_layernorm.weight",
                           "model.layers.0.self_attn.q_proj",
                           "model.layers.0.input_layernorm.bias",
                           "model.norm.bias",
                           "model.layers.0.mlp.gate.weight",
                           "model.layers.0.mlp.experts.gate_up_proj",
                           "model.layers.0.self_attn.q_norm.weight"})
    EXPECT_TRUE(has_no_place("llama", name)) << name;
  for (const char* name :
       {"model.layers.0.mlp.experts.01.up_proj.weight", "model.layers.0.mlp.experts.-1.up_proj.weight",
        "model.layers.0.mlp.experts.99999999999999999999.up_proj.weight",
        "model.layers.0.mlp.experts..up_proj.weight", "model.layers.0.mlp.experts.1.up_proj.bias",
        "model.layers.0.mlp.experts.gate_up_proj.bias", "model.layers.0.mlp.experts.1.up_proj",
        "model.layers.0.mlp.gate_proj.weight"})
    EXPECT_TRUE(has_no_place("qwen3_moe", name)) << name;
  EXPECT_TRUE(has_no_place("qwen2", "model.layers.0.self_attn.o_proj.bias"));
  EXPECT_TRUE(has_no_place("mixtral", "model.layers.0.mlp.gate_proj.weight"));
}

}  // namespace
}  // namespace moerge
