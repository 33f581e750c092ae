// A GGUF file, or the parts of a split one, as a model with a tokenizer.
#include "moerge/formats/gguf.h"
#include "moerge/model/gguf_tokenizer.h"
#include "moerge/model/model.h"
#include "moerge/model/tokenizer.h"
#include "tests/fuzz/target.h"

using namespace moerge;

namespace {

void read_tokenizer(const GgufMetadata& metadata) {
  try {
    if (!has_gguf_tokenizer(metadata)) return;
    const GgufTokenizer made = make_gguf_tokenizer(metadata, "model.gguf");
    parse_json(made.tokenizer_config_json, "tokenizer_config.json");
    const Tokenizer tokenizer(made.tokenizer_json, made.bos_token, "model.gguf");
    tokenizer.decode(tokenizer.encode("a text"));
  } catch (const Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::vector<std::string_view> parts = fuzz::split_files(fuzz::text_of(data, size));
  return fuzz::run([&] {
    for (const std::string_view part : parts) {
      const auto file = std::as_bytes(std::span(part));
      const GgufHeader header = parse_gguf(file, "part.gguf");
      for (const GgufTensor& tensor : header.tensors) fuzz::touch(file, tensor.offset, tensor.spec.bytes());
      read_tokenizer(header.metadata);
    }
    if (parts.size() > 9) return;
    const auto name = [&](size_t i) { return fmt::format("m-{:05}-of-{:05}.gguf", i + 1, parts.size()); };
    for (size_t i = 0; i < parts.size(); i++) fuzz::write(name(i), parts[i]);
    const Model model("m", {fuzz::folder() / name(0)});
    check_weights(*model.architecture, model.config, model.checkpoint);
    for (const StoredTensor& tensor : model.checkpoint.tensors()) {
      std::vector<std::byte> row(static_cast<size_t>(tensor.row_bytes()));
      if (tensor.rows() > 0) read_rows(tensor, tensor.rows() - 1, 1, row);
    }
  });
}
