#pragma once
// llama.cpp's own quantiser, to compare with.

#include <llama.h>

#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace moerge::testing {

/// What `llama-quantize --imatrix` makes of a file.
inline void quantize_with_llama(const std::filesystem::path& in, const std::filesystem::path& out,
                                int file_type,
                                const std::map<std::string, std::vector<float>>& importance = {}) {
  std::vector<llama_model_imatrix_data> data;
  for (const auto& [name, values] : importance) data.push_back({name.c_str(), values.data(), values.size()});
  data.push_back({nullptr, nullptr, 0});
  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.nthread = 2;
  params.ftype = static_cast<llama_ftype>(file_type);
  if (!importance.empty()) params.imatrix = data.data();
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  if (llama_model_quantize(in.c_str(), out.c_str(), &params) != 0)
    throw std::runtime_error("llama.cpp cannot quantise " + in.string());
}

}  // namespace moerge::testing
