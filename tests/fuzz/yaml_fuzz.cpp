// The YAML of a mixture.
#include "moerge/moe/config.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view yaml = fuzz::text_of(data, size);
  return fuzz::run([&] {
    MoeConfig config = parse_finished_config(yaml, "nowhere/moe.yaml");
    public_yaml(config);
    parse_moe_config(yaml, "nowhere/moe.yaml", true);
    settle_experts_per_token(config, 0, 0);
  });
}
