#pragma once
// Collecting an importance matrix ("imatrix"): a model reads text, and for every weight matrix the squares of
// what it is multiplied with are summed, column by column. A quantiser then rounds the columns that matter
// most with the most care. The sums are those of llama.cpp's tools/imatrix: `llama-imatrix -b SIZE` on the
// same model and text, with SIZE the smaller of chunk_size and 512, gives the same bits.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/progress.h"

namespace moerge {

/// For one tensor of a model.
struct SquareSums {
  std::vector<float> sums;      // [matrices, columns]; the matrices of a stacked tensor are its experts
  std::vector<int64_t> counts;  // rows that were summed: one for each expert, or one for the whole tensor
};

struct Imatrix {
  std::map<std::string, SquareSums> tensors;  // by their names in the GGUF file
  int64_t chunks = 0;
  int64_t chunk_size = 0;  // tokens
  int64_t tokens() const { return chunks * chunk_size; }
};

struct ImatrixOptions {
  int threads = 0;             // 0: default_threads()
  std::string device = "cpu";  // as in DecoderOptions
  int64_t chunk_size = 512;    // tokens that see each other; the next chunk starts anew
  std::optional<int64_t> max_chunks = std::nullopt;
  /// Also for output.weight, which quantisers keep at more bits than the rest; costs the time of its
  /// products.
  bool process_output = false;
};

inline constexpr int64_t kMinChunkSize = 16;  // llama.cpp collects nothing from fewer rows at once
inline constexpr int64_t kMaxChunkSize = 1 << 20;

/// Runs `model`, a GGUF file (or the first of a split one), over `text`. Where the vocabulary says so, the
/// first token of each chunk is replaced by BOS; what is left below a whole chunk is dropped. Special tokens
/// in the text are text. Memory: the model's pages, a context of chunk_size tokens and the result. Ends soon
/// after an interrupt. Throws usage for an unknown device; input for a file that is no model, a text of less
/// than one chunk and activations that are not finite; unsupported for models that do not read text from left
/// to right. llama.cpp's own messages are silent, its errors become part of ours. Not for two threads at
/// once.
Imatrix collect_imatrix(const std::filesystem::path& model, std::string_view text,
                        const ImatrixOptions& options, Reporter& reporter);

/// How many tokens the router of a layer sent to each of its experts.
struct ExpertLoad {
  int64_t layer;
  std::vector<int64_t> tokens;  // by expert
  /// What each would get from a router without preferences.
  int64_t even_share() const;
};

/// One for each layer with experts, in rising order; empty for a dense model.
std::vector<ExpertLoad> expert_loads(const Imatrix& imatrix);

/// Below this an expert's means are mostly noise: of n squares that scatter like a normal variable's, the
/// mean is off by sqrt(2 / n), an eighth.
inline constexpr int64_t kFewTokens = 128;

/// Sentences that name the experts that saw no token, and those that saw few: fewer than kFewTokens or less
/// than one in a hundred of an even share. They say what that means and what to do.
std::vector<std::string> load_warnings(std::span<const ExpertLoad> loads);

}  // namespace moerge
