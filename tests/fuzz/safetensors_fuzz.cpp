// A .safetensors file.
#include "moerge/formats/safetensors.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = fuzz::bytes_of(data, size);
  return fuzz::run([&] {
    const SafetensorsHeader header = parse_safetensors(file, "model.safetensors");
    std::vector<TensorSpec> specs;
    for (const WeightEntry& entry : header.entries) {
      fuzz::touch(file, entry.offset, entry.spec.bytes());
      specs.push_back(entry.spec);
    }
    // What was read can be written, and read again.
    std::string again = safetensors_header(specs);
    int64_t bytes = 0;
    for (const TensorSpec& spec : specs) bytes += spec.bytes();
    again.append(static_cast<size_t>(bytes), '\0');
    const auto copy = parse_safetensors(std::as_bytes(std::span(again)), "copy");
    fuzz::require(copy.entries.size() == specs.size());
  });
}
