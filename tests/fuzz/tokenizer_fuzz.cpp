// tokenizer.json, read by the tokenizers library.
#include "moerge/model/tokenizer.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return fuzz::run([&] {
    Tokenizer tokenizer(fuzz::text_of(data, size), {}, "tokenizer.json");
    fuzz::require(tokenizer.vocab_size() >= 0 && tokenizer.model_size() >= 0);
    const std::vector<Token> tokens = tokenizer.tokens();
    for (const char* text : {"", "abc  the\n<s>a", "\xc3\xa9\xe2\x96\x81 \xf0\x9f\x98\x80 1234'll </s>"})
      for (const bool special : {false, true}) {
        try {
          tokenizer.decode(tokenizer.encode(text, special));
        } catch (const Error&) {  // this text, not the others
        }
      }
    tokenizer.add_tokens(std::vector<Token>{{.text = "<new>", .added = true, .special = true},
                                            {.text = "abc", .added = true, .normalized = true}});
    tokenizer.difference(tokenizer);
    tokenizer.encode("abc<new>");
  });
}
