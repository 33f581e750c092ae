// The files beside tokenizer.json: tokenizer_config.json, special_tokens_map.json, added_tokens.json and
// config.json, in this order.
#include "moerge/model/hf_tokenizer.h"
#include "moerge/model/tokenizer.h"
#include "moerge/testing/tiny_model.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizer = fuzz::write("model/tokenizer.json", testing::kTinyTokenizer);
  constexpr const char* kNames[] = {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
  auto files = fuzz::split_files(fuzz::text_of(data, size));
  files.resize(4, "{}");
  for (size_t i = 0; i < std::size(kNames); i++)
    fuzz::write(std::filesystem::path("model") / kNames[i], files[i]);
  return fuzz::run([&] {
    const std::filesystem::path folder = tokenizer.parent_path();
    const Json config = parse_json(files[3], "config.json");
    const HfTokenizer made = load_hf_tokenizer(read_tokenizer_files(folder), config);
    made.tokenizer.encode("<s>abc</s>", true);
    Tokenizer(folder).encode("<s>abc</s>", true);
  });
}
