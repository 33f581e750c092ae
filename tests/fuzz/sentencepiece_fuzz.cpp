// tokenizer.model, and the tokenizer.json that is made of it.
#include "moerge/model/hf_tokenizer.h"
#include "moerge/model/sentencepiece_model.h"
#include "moerge/model/tokenizer.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = fuzz::write("model/tokenizer.model", fuzz::text_of(data, size));
  return fuzz::run([&] {
    parse_sentencepiece_model(fuzz::bytes_of(data, size), "tokenizer.model");
    const TokenizerFiles files = read_tokenizer_files(file.parent_path());
    const HfTokenizer made = load_hf_tokenizer(files, Json::object());
    made.tokenizer.decode(made.tokenizer.encode("the sea", true));
  });
}
