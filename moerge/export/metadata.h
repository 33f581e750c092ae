#pragma once
// The "general.*" keys of a GGUF: name, authorship, licence, ancestry and sampling settings, found where
// llama.cpp's converter finds them: the front matter of the model card, "_name_or_path" of config.json, the
// model's name, and generation_config.json. Source: llama.cpp, gguf-py/gguf/metadata.py.

#include <string>
#include <vector>

#include "moerge/export/model_description.h"
#include "moerge/formats/gguf.h"

namespace moerge {

/// Adds general.* (architecture, file_type and quantization_version are not among them). What cannot be read
/// is left out; the warnings say so.
///
/// Unlike the converter, which stops at a front matter that is damaged or has a number where a text should
/// be, this takes every single value for a text: `version: 1.0` is "1.0", `language: no` is Norwegian.
std::vector<std::string> add_general_metadata(GgufMetadata& metadata, const ExportSource& source,
                                              const ParameterCounts& counts);

}  // namespace moerge
