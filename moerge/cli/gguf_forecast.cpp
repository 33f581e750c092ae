#include "moerge/cli/gguf_forecast.h"

#include <algorithm>
#include <array>
#include <iterator>

#include "moerge/base/error.h"
#include "moerge/cli/export_source.h"
#include "moerge/export/write.h"

namespace moerge {
namespace {

constexpr const char* kTypes = "bf16,q8_0,q4_k_m";
constexpr std::array<int64_t, 2> kContexts = {4096, 32768};

std::string first_line(const Error& error) { return error.message().substr(0, error.message().find('\n')); }

void add_warnings(const std::vector<std::string>& from, std::vector<std::string>& to) {
  for (const std::string& warning : from)
    if (std::ranges::find(to, warning) == to.end()) to.push_back(warning);
}

void add_files(GgufForecast& forecast, const ExportPlan& plan, const std::string& name) {
  for (const FileType* type : parse_file_types(kTypes)) {
    const OutputFile file = plan_output(plan, *type, name + ".gguf", {});
    add_warnings(file.warnings, forecast.warnings);
    int64_t weights = 0;
    for (const TensorSpec& spec : file.specs) weights += spec.bytes();
    forecast.files.push_back({type, file.bytes(), weights});
  }
}

void add_contexts(GgufForecast& forecast, const ExportPlan& plan, int64_t max_positions) {
  std::vector<TensorSpec> specs;
  for (const ExportTensor& tensor : plan.tensors) specs.push_back(tensor.spec);
  const std::vector<LlamaMemory> memory = llama_memory(plan.metadata, specs, kContexts);
  for (size_t i = 0; i < memory.size(); i++)
    forecast.contexts.push_back({kContexts[i], max_positions > 0 && kContexts[i] > max_positions, memory[i]});
}

}  // namespace

GgufForecast forecast_gguf(const ExportSource& source, const Plan& planned, int64_t max_positions) {
  GgufForecast forecast;
  try {
    const ExportPlan plan = plan_export(source, planned, {});
    add_warnings(plan.warnings, forecast.warnings);
    add_files(forecast, plan, source.name);
    try {
      add_contexts(forecast, plan, max_positions);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      forecast.memory_refusal = first_line(error);
    }
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    forecast.files.clear();
    forecast.refusal = first_line(error);
  }
  return forecast;
}

}  // namespace moerge
