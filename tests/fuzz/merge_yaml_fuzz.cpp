// The YAML of a merge, of one or several documents.
#include "moerge/merge/stages.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view yaml = fuzz::text_of(data, size);
  return fuzz::run([&] {
    const MergeStages stages(yaml, "nowhere/merge.yaml");
    stages.models();
    if (stages.makes_mixture()) return;
    for (const ParameterSetting& setting : stages.result().parameters)
      for (const double t : {0.0, 0.3, 1.0}) evaluate(setting, "model.layers.0.mlp.up_proj.weight", t);
  });
}
