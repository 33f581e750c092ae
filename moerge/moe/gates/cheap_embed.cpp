// An expert's row is the sum of the base model's token embeddings over all tokens of its prompts, at unit
// length, minus the same for its negative prompts, at unit length again; every layer gets the same rows. No
// forward pass.

#include <algorithm>

#include "moerge/moe/gates/list.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

std::vector<float> embedded(const std::vector<TokenSequence>& prompts, const StoredTensor& embedding) {
  const auto hidden = static_cast<size_t>(embedding.row_elements());
  std::vector<float> sum(hidden), row(hidden);
  std::vector<std::byte> bytes(static_cast<size_t>(embedding.row_bytes()));
  for (const TokenSequence& prompt : prompts)
    for (const int32_t token : prompt) {
      read_rows(embedding, token, 1, bytes);
      to_f32(embedding.spec.dtype, bytes, row);
      for (size_t i = 0; i < hidden; i++) sum[i] += row[i];
    }
  normalise(sum);
  return sum;
}

Gates make(const GateInput& input) {
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
  return {std::move(table)};
}

}  // namespace

const GateMode kCheapEmbed = {"cheap_embed", "token embeddings of the prompts, the same in every layer",
                              GateNeeds::embeddings, make};

}  // namespace moerge
