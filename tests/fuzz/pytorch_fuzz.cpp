// A .bin file of torch.save. An input that begins like a pickle is one, in a sound archive around it.
#include "moerge/formats/pytorch.h"
#include "moerge/formats/zip.h"
#include "moerge/testing/tiny_pytorch.h"
#include "tests/fuzz/target.h"

using namespace moerge;

namespace {

std::string archive(std::string_view pickle) {
  return testing::zip_bytes({{"archive/data.pkl", std::string(pickle)},
                             {"archive/byteorder", "little"},
                             {"archive/data/0", std::string(64, 'a')},
                             {"archive/data/1", std::string(24, 'b')},
                             {"archive/version", "3\n"}});
}

void inside(std::span<const std::byte> file, const ZipRange& range) {
  fuzz::require(range.begin >= 0 && range.begin <= range.end && range.end <= std::ssize(file));
}

// What is asked of the Hub before a file is there.
void read_places(std::span<const std::byte> file) {
  try {
    constexpr std::string_view kNames[] = {"data.pkl", "byteorder"};
    inside(file, find_zip_directory(file, "model.bin"));
    for (const ZipRange& range : list_zip_headers(file, kNames, "model.bin")) inside(file, range);
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string input(fuzz::text_of(data, size));
  if (input.starts_with('\x80')) input = archive(input);
  const auto file = std::as_bytes(std::span(std::as_const(input)));
  return fuzz::run([&] {
    read_places(file);
    for (const WeightEntry& entry : parse_pytorch(file, "model.bin"))
      fuzz::touch(file, entry.offset, entry.spec.bytes());
  });
}
