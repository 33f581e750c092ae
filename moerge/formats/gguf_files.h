#pragma once
// A model as GGUF files: one, or the parts of one that llama.cpp's gguf-split made.

#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

#include "moerge/base/file.h"
#include "moerge/formats/gguf.h"

namespace moerge {

struct GgufFiles {
  struct Tensor {
    GgufTensor tensor;
    const MappedFile* file;
  };
  std::filesystem::path path;  // the file, or the first part
  GgufMetadata metadata;       // of the first part, which has all of it
  std::vector<std::unique_ptr<MappedFile>> files;
  std::vector<Tensor> tensors;  // by part and offset; a name is there once

  const Tensor* find(std::string_view name) const;
};

/// Opens and validates a file and, where it says that it is the first of several, the other parts beside it
/// (NAME-00002-of-0000N.gguf). Throws input with the name of a part that is missing or belongs elsewhere.
GgufFiles open_gguf(const std::filesystem::path& path);

/// The GGUF file that a folder without other weights stands for (of a split one, the first part); empty when
/// there is none. Throws unsupported, with their names, when there are several.
std::optional<std::filesystem::path> find_gguf(const std::filesystem::path& folder);

/// True for names that end in ".gguf", in any case.
bool is_gguf_name(const std::filesystem::path& path);

}  // namespace moerge
