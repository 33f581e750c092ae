#pragma once
// What config.json says about a decoder, in one spelling, with the defaults of its transformers class filled
// in.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/tensor/dtype.h"

namespace moerge {

/// Rotary position embedding, as transformers' modeling_rope_utils reads it.
struct RopeConfig {
  double theta = 10000.0;
  std::string type = "default";  // default, linear, dynamic, llama3, yarn, longrope, ...
  Json scaling =
      nullptr;  // the whole rope_scaling object in the older spelling ("rope_type" inside), or null

  bool operator==(const RopeConfig&) const = default;
};

/// Larger than any model's; keeps every product of two of them inside 63 bits.
inline constexpr int64_t kMaxDimension = int64_t{1} << 30;

struct ModelConfig {
  std::string model_type;
  int64_t layers = 0, hidden = 0, ffn = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  int64_t max_positions = 0;
  double norm_epsilon = 0;
  std::string activation;  // hidden_act
  bool tied_embeddings = false;
  bool attention_bias = false, mlp_bias = false;
  std::optional<int64_t> sliding_window;  // tokens a query can look back, itself included
  std::vector<bool> windowed;             // per layer: whether it has that window; empty: all have
  bool explicit_head_dim = false;         // head_dim stood in the file
  RopeConfig rope;
  // Of a mixture, whose `ffn` is the width of one expert; 0 and their defaults else.
  int64_t experts = 0, experts_per_token = 0;
  int64_t shared_ffn = 0;      // width of what every token passes through besides; 0: nothing
  bool normalised = true;      // the chosen experts' weights sum to 1; else they are shares of all experts'
  double routed_scale = 1;     // then multiplies them
  std::optional<DType> dtype;  // torch_dtype or dtype
  Json raw;                    // the file as it is
  std::string where;           // its path, for messages
  std::string source = "config.json";  // what makes these statements, for messages: "its metadata" in GGUF
};

/// Writes a configuration's sizes, activation and norm into a config.json, since the defaults of another
/// class are other ones; head_dim only where `with_head_dim` (an explicit null is not understood by every
/// reader).
void write_sizes(const ModelConfig& config, bool with_head_dim, Json& out);

/// The same for rope, in the older spelling (rope_theta, rope_scaling), which transformers 4 and 5, vLLM and
/// llama.cpp all read.
void write_rope(const RopeConfig& rope, Json& out);

/// Whether a query of this layer sees only the last sliding_window tokens.
inline bool has_window(const ModelConfig& config, int64_t layer) {
  return config.sliding_window && (config.windowed.empty() || config.windowed[static_cast<size_t>(layer)]);
}

/// Which model_types a reader accepts.
enum class Families {
  known,  // those with a table in architectures/
  any,    // others as well, for work that takes tensors as they are
};

/// Reads FOLDER/config.json. Throws input for damaged files and unsupported for families that are not
/// accepted (the message lists those that are). Of a family without a table only model_type, vocab, dtype,
/// tied_embeddings and the document itself are set.
ModelConfig read_model_config(const std::filesystem::path& folder, Families families = Families::known);

/// The same from a parsed document.
ModelConfig parse_model_config(const Json& json, const std::string& where,
                               Families families = Families::known);

}  // namespace moerge
