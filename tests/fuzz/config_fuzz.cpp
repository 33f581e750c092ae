// config.json of a model whose weights are sound, and what the parts of the program make of it.
#include "moerge/engine/rope.h"
#include "moerge/export/converter_config.h"
#include "moerge/export/expected_tensors.h"
#include "moerge/export/family.h"
#include "moerge/export/hyperparameters.h"
#include "moerge/model/config.h"
#include "moerge/model/mixture.h"
#include "moerge/model/model.h"
#include "moerge/model/quantization.h"
#include "moerge/testing/tiny_model.h"
#include "tests/fuzz/target.h"

using namespace moerge;

namespace {

// The tensors of a tiny dense model, as far as their places go.
std::vector<StoredTensor> tensors() {
  std::vector<StoredTensor> out;
  for (const testing::TinyTensor& tensor : testing::tiny_tensors(1))
    out.push_back({{tensor.name, DType::f32, tensor.shape}, nullptr, 0});
  return out;
}

// Frequencies are made once it is known that the weights have these dimensions.
constexpr int64_t kLargestHead = 1024;

void make_gguf_metadata(const Json& json) {
  const ExportFamily* family = choose_export_family(json, "config.json");
  if (!family) return;
  export_dimensions(*family, json, "config.json");
  export_warnings(*family, json, "config.json");
  GgufMetadata metadata;
  add_hyperparameters(metadata, *family, json, "config.json");
  if (ConverterConfig(*family, json, "config.json").head_dim() <= kLargestHead)
    rope_frequency_factors(*family, json, "config.json");
}

void make_rope(const ModelConfig& config) {
  if (config.head_dim <= kLargestHead) rope_frequencies(config, 4096);
}

// One reader's refusal does not keep the others from it.
template <typename Read>
void try_to(Read read) {
  try {
    read();
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return fuzz::run([&] {
    const Json json = parse_json(fuzz::text_of(data, size), "config.json");
    try_to([&] { make_gguf_metadata(json); });
    const ModelConfig config = parse_model_config(json, "config.json");
    Json written = json;
    write_sizes(config, true, written);
    write_rope(config.rope, written);
    parse_json(json_text(written), "written");
    try_to([&] { make_rope(config); });
    Model model("tiny", "folder", json, tensors());
    dequantize_weights(model.config, model.checkpoint);
    check_weights(*model.architecture, model.config, model.checkpoint);
    list_weights(*model.architecture, model.config, model.checkpoint);
    if (!model.is_mixture()) return;
    const Architecture& dense = *find_architecture(model.architecture->mixture->expert_type);
    for (const int64_t expert : {int64_t{0}, model.config.experts - 1, kSharedExpert})
      try_to([&] {
        check_expert(model.config, expert, "tiny");
        parse_model_config(expert_config_json(model.config, *model.architecture, dense, expert), "expert");
      });
  });
}
