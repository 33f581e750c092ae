// adapter_config.json of a LoRA adapter.
#include "moerge/model/adapter_config.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return fuzz::run([&] {
    const Json json = parse_json(fuzz::text_of(data, size), "adapter_config.json");
    const AdapterConfig config = parse_adapter_config(json, "adapter_config.json");
    for (const char* module :
         {"model.layers.0.mlp.up_proj", "model.layers.11.self_attn.q_proj", "lm_head", "embed_tokens"})
      scale_of(config, module);
  });
}
