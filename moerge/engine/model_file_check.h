#pragma once
// Whether llama.cpp is worth asking.

#include <filesystem>

namespace moerge {

/// Throws input for a GGUF file that is damaged or no model: llama.cpp's own reading is less strict and its
/// messages are for its developers.
void check_model_file(const std::filesystem::path& file);

}  // namespace moerge
