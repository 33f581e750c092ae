#pragma once
// Which type llama.cpp's quantiser gives each tensor of a model: its own code decides, run over a file that
// has the model's metadata and shapes and no data.

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moerge/formats/gguf.h"

namespace moerge {

struct QuantizeRequest {
  int file_type = 0;  // llama_ftype: the mixture, as general.file_type has it
  std::optional<DType> output_type = {}, embedding_type = {};  // of output.weight, of token_embd.weight
  std::vector<std::pair<std::string, DType>> overrides =
      {};                   // regular expression over names, first match wins
  bool importance = false;  // an importance matrix will be given: some mixtures then dare fewer bits
};

struct QuantizeDecision {
  std::vector<DType> types;  // one a tensor, in the order of the request
  /// Some tensor gets a type that is worthless without an importance matrix. Only told when the request has
  /// none.
  bool needs_importance = false;
};

/// `metadata`: general.architecture and the architecture's own keys. `tensors`: every tensor of the model
/// with the type it has before quantising. Throws usage for a regular expression that is none, input with
/// llama.cpp's own words when it does not accept the metadata.
QuantizeDecision decide_types(const GgufMetadata& metadata, std::span<const TensorSpec> tensors,
                              const QuantizeRequest& request);

}  // namespace moerge
