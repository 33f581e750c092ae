#pragma once
// llama.cpp's own tokenizer, to see what it will make of a vocabulary before the file is written.

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "moerge/formats/gguf.h"

struct llama_model;

namespace moerge {

/// Safe to share between threads once made. llama.cpp's log is silent meanwhile; that setting is global, so
/// make one at a time.
class LlamaVocabulary {
 public:
  /// From the keys "tokenizer.*"; the rest and the chat templates are not looked at. Throws input, with
  /// llama.cpp's own words where it has any, when it would not load a file with these.
  explicit LlamaVocabulary(const GgufMetadata& metadata);

  /// Special tokens in the text are recognised, none is added. Throws input when llama.cpp gives up.
  std::vector<int32_t> tokenize(std::string_view text) const;
  /// Whether llama.cpp begins a prompt with the beginning-of-sequence token.
  bool adds_bos() const;

 private:
  struct Free {
    void operator()(llama_model* model) const;
  };
  std::unique_ptr<llama_model, Free> model_;
};

}  // namespace moerge
