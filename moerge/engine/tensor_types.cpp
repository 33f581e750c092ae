#include "moerge/engine/tensor_types.h"

#include <llama.h>

#include <map>
#include <regex>

#include "moerge/base/error.h"
#include "moerge/engine/hollow_file.h"
#include "moerge/engine/llama_log.h"

namespace moerge {
namespace {

ggml_type type_of(DType dtype) { return static_cast<ggml_type>(info(dtype).gguf_id); }

DType dtype_of(std::string_view ggml_name) {
  for (const DTypeInfo& row : dtype_table())
    if (row.gguf_id >= 0 && ggml_type_name(static_cast<ggml_type>(row.gguf_id)) == ggml_name)
      return row.dtype;
  throw std::logic_error("a type that the table lacks: " + std::string(ggml_name));
}

void check_patterns(const QuantizeRequest& request) {
  for (const auto& [pattern, dtype] : request.overrides) {
    try {
      const std::regex compiled(pattern);
    } catch (const std::regex_error& error) {
      fail(ErrorKind::usage, "\"{}\" is no regular expression: {}", pattern, error.what());
    }
  }
}

// The dry run says a line per tensor:
//   [   3/ 290] blk.0.attn_k.weight  - [ 64, 32, 1, 1], type =   bf16, size = 1.0 MiB -> 0.3 MiB (q4_K)
// or, for one that keeps its type, no arrow. Names contain no blanks.
std::map<std::string, DType, std::less<>> parse_report(std::string_view report) {
  std::map<std::string, DType, std::less<>> types;
  for (size_t begin = 0; begin < report.size();) {
    const size_t end = std::min(report.find('\n', begin), report.size());
    const std::string line(report.substr(begin, end - begin));
    begin = end + 1;
    static const std::regex pattern(
        R"(^\[ *\d+/ *\d+\] (\S+) +- \[.*\], type = +(\S+), size = .*?(\((\w+)\))?$)");
    if (std::smatch match; std::regex_match(line, match, pattern))
      types[match[1]] = dtype_of(match[match[4].matched ? 4 : 2].str());
  }
  return types;
}

}  // namespace

QuantizeDecision decide_types(const GgufMetadata& metadata, std::span<const TensorSpec> tensors,
                              const QuantizeRequest& request) {
  check_patterns(request);
  const GgufLayout layout = layout_gguf(metadata, tensors);
  const HollowFile file(layout.header, layout.file_size);

  std::vector<llama_model_tensor_override> overrides;
  for (const auto& [pattern, dtype] : request.overrides)
    overrides.push_back({pattern.c_str(), type_of(dtype)});
  overrides.push_back({nullptr, GGML_TYPE_COUNT});
  const float one = 1;
  const llama_model_imatrix_data importance[] = {{"some tensor", &one, 1}, {nullptr, nullptr, 0}};

  llama_model_quantize_params params = llama_model_quantize_default_params();
  params.nthread = 1;
  params.ftype = static_cast<llama_ftype>(request.file_type);
  params.dry_run = true;
  params.allow_requantize = true;
  if (request.output_type) params.output_tensor_type = type_of(*request.output_type);
  if (request.embedding_type) params.token_embedding_type = type_of(*request.embedding_type);
  if (!request.overrides.empty()) params.tt_overrides = overrides.data();
  if (request.importance) params.imatrix = importance;

  const LlamaLog log;
  try {
    if (llama_model_quantize(file.path().c_str(), "", &params) != 0)
      throw std::runtime_error(log.last_error());
  } catch (const std::runtime_error& error) {
    std::string_view reason = error.what();  // "llama_model_quantize: failed to quantize: REASON"
    if (const size_t at = reason.find("failed to quantize: "); at != reason.npos)
      reason.remove_prefix(at + 20);
    fail(ErrorKind::input, "llama.cpp does not accept this model: {}", reason);
  }
  const auto types = parse_report(log.text());
  QuantizeDecision decision;
  for (const TensorSpec& tensor : tensors) {
    const auto found = types.find(tensor.name);
    if (found == types.end()) throw std::logic_error("no type was decided for " + tensor.name);
    decision.types.push_back(found->second);
  }
  decision.needs_importance = log.text().find("will require an imatrix") != std::string::npos;
  return decision;
}

}  // namespace moerge
