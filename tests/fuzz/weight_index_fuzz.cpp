// model.safetensors.index.json or pytorch_model.bin.index.json.
#include "moerge/formats/weight_files.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return fuzz::run([&] {
    for (const auto& [name, shard] : parse_weight_index(fuzz::text_of(data, size), "index.json")) {
      const std::filesystem::path file = std::filesystem::path("folder") / shard;
      fuzz::require(file.parent_path() == "folder" && file.filename() == shard);
    }
  });
}
