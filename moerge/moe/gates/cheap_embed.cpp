// An expert's row is the sum of the base model's token embeddings over all tokens of its prompts, at unit
// length, minus the same for its negative prompts, at unit length again; every layer gets the same rows. No
// forward pass.

#include <algorithm>

#include "moerge/moe/gates/list.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

std::vector<float> embedded(const std::vector<TokenSequence>& prompts, const StoredTensor& embedding) {
  const TensorView view = embedding.view();
  const auto hidden = static_cast<size_t>(view.shape[1]);
  const size_t row_bytes = hidden * static_cast<size_t>(info(view.dtype).bytes);
  std::vector<float> sum(hidden), row(hidden);
  for (const TokenSequence& prompt : prompts)
    for (const int32_t token : prompt) {
      to_f32(view.dtype, view.bytes.subspan(static_cast<size_t>(token) * row_bytes, row_bytes), row);
      for (size_t i = 0; i < hidden; i++) sum[i] += row[i];
    }
  normalise(sum);
  return sum;
}

GateTable make(const GateInput& input) {
  GateTable table(input.layers, std::ssize(input.experts), input.hidden);
  for (int64_t e = 0; e < table.experts; e++) {
    const ExpertTokens& expert = input.experts[static_cast<size_t>(e)];
    std::vector<float> row = embedded(expert.positive, *input.embedding);
    if (!expert.negative.empty()) {
      const std::vector<float> negative = embedded(expert.negative, *input.embedding);
      for (size_t i = 0; i < row.size(); i++) row[i] -= negative[i];
      normalise(row);
    }
    for (int64_t layer = 0; layer < table.layers; layer++)
      std::ranges::copy(row, table.row(layer, e).begin());
  }
  return table;
}

}  // namespace

const GateMode kCheapEmbed = {"cheap_embed", "token embeddings of the prompts, the same in every layer",
                              GateNeeds::embeddings, make};

}  // namespace moerge
