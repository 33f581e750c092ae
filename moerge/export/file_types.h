#pragma once
// The types of GGUF files as their users name them ("Q4_K_M"): mixtures that llama.cpp's quantiser knows,
// each a general.file_type.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/tensor/dtype.h"

namespace moerge {

struct FileType {
  std::string_view name;  // in file names and messages
  int id;                 // llama_ftype, general.file_type
  std::string_view summary;
};

std::span<const FileType> file_types();

/// "q4_k_m, Q5_K_M": any case, separated by commas or blanks, repetitions dropped. "Q4_K" means Q4_K_M as in
/// llama.cpp. Throws usage for a name that does not exist, with the nearest that does.
std::vector<const FileType*> parse_file_types(std::string_view list);

/// A tensor type by GGUF's name for it in any case ("q6_k"). Throws usage with the nearest; `flag` starts the
/// message.
DType parse_tensor_type(std::string_view name, std::string_view flag);

/// Whether llama.cpp refuses to give this tensor this type without importance values: its result would be
/// noise.
bool requires_importance(std::string_view tensor, DType dtype, const FileType& type);

}  // namespace moerge
