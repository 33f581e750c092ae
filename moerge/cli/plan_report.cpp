#include "moerge/cli/plan_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/file.h"
#include "moerge/merge/summary.h"
#include "moerge/moe/summary.h"

namespace moerge {
namespace {

std::string count_tokens(int64_t tokens) { return fmt::format("{}k", tokens / 1024); }

std::string memory_text(const BuildMemory& memory) {
  std::string out =
      fmt::format("{} and page cache{}: {} program and plan, {} buffers", human_bytes(memory.total()),
                  memory.planning > memory.build()
                      ? fmt::format(" while tokenizers are read, then {}", human_bytes(memory.build()))
                      : "",
                  human_bytes(memory.program), human_bytes(memory.buffers));
  const auto add = [&](int64_t bytes, const char* what) {
    if (bytes > 0) out += fmt::format(", {} {}", human_bytes(bytes), what);
  };
  add(memory.routers, "routers");
  add(memory.decoder.states, "hidden states");
  add(memory.decoder.activations, "activations");
  add(memory.decoder.weights, "converted weights");
  return out;
}

std::string disk_text(const DiskForecast& disk) {
  if (!disk.problem.empty()) return disk.problem;
  return fmt::format("{} fits: {} needed, {} free", disk.out, human_bytes(disk.needed),
                     human_bytes(disk.free));
}

// A row a type: the file, then the memory at each context.
std::string gguf_text(const GgufForecast& gguf, int64_t max_positions) {
  if (!gguf.refusal.empty()) return fmt::format("\nas GGUF   no: {}\n", gguf.refusal);
  std::string out = fmt::format("\n{:<10}{:>10}", "as GGUF", "file");
  for (const auto& context : gguf.contexts)
    out +=
        fmt::format("{:>16}", "run at " + count_tokens(context.tokens) + (context.beyond_model ? "*" : ""));
  out += '\n';
  for (const auto& file : gguf.files) {
    out += fmt::format("  {:<8}{:>10}", file.type->name, human_bytes(file.bytes));
    for (const auto& context : gguf.contexts)
      out += fmt::format("{:>16}", human_bytes(file.weights + context.memory.cache + context.memory.compute));
    out += '\n';
  }
  if (!gguf.memory_refusal.empty()) return out + "  memory    unknown: " + gguf.memory_refusal + "\n";
  for (const auto& context : gguf.contexts)
    out += fmt::format(
        "  at {:<7}beside the weights {} of keys and values (f16) and {} of compute buffers{}\n",
        count_tokens(context.tokens), human_bytes(context.memory.cache), human_bytes(context.memory.compute),
        context.beyond_model ? fmt::format("; * beyond the {} positions of the model", max_positions) : "");
  return out;
}

std::string why_chosen(const MoeConfig& config) {
  return config.architecture.empty() ? "chosen: the first that fits"
                                     : fmt::format("chosen: architecture \"{}\"", config.architecture);
}

Json memory_json(const BuildMemory& memory) {
  return {{"total", memory.total()},
          {"planning", memory.planning},
          {"program", memory.program},
          {"buffers", memory.buffers},
          {"routers", memory.routers},
          {"states", memory.decoder.states},
          {"activations", memory.decoder.activations},
          {"weights", memory.decoder.weights}};
}

Json null_if_empty(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json gguf_json(const GgufForecast& gguf) {
  Json files = Json::array();
  for (const auto& file : gguf.files) {
    Json run = Json::array();
    for (const auto& context : gguf.contexts)
      run.push_back({{"context", context.tokens},
                     {"total", file.weights + context.memory.cache + context.memory.compute},
                     {"weights", file.weights},
                     {"cache", context.memory.cache},
                     {"compute", context.memory.compute},
                     {"beyond_model", context.beyond_model}});
    files.push_back({{"type", std::string(file.type->name)}, {"bytes", file.bytes}, {"run", std::move(run)}});
  }
  return {{"refusal", null_if_empty(gguf.refusal)},
          {"files", std::move(files)},
          {"run_refusal", null_if_empty(gguf.memory_refusal)}};
}

}  // namespace

std::vector<std::string> PlanForecast::warnings(const std::vector<std::string>& of_plan) const {
  std::vector<std::string> out = of_plan;
  for (const std::string& warning : gguf.warnings)
    if (std::ranges::find(out, warning) == out.end()) out.push_back(warning);
  return out;
}

const FamilyFit* find_chosen(const std::vector<FamilyFit>& families, const MoeConfig& config) {
  for (const FamilyFit& family : families)
    if (family.why_not.empty() && is_wanted(*family.output, config)) return &family;
  return nullptr;
}

std::string families_text(const std::vector<FamilyFit>& families, const MoeConfig& config,
                          const FamilyFit* chosen) {
  size_t width = 0;
  for (const FamilyFit& family : families) width = std::max(width, family.output->name.size());
  std::string out = "families\n";
  for (const FamilyFit& family : families)
    out += fmt::format("  {:<{}}  {}\n", family.output->name, width,
                       &family == chosen         ? why_chosen(config)
                       : !family.why_not.empty() ? "no: " + family.why_not
                       : family.output->by_request_only
                           ? fmt::format("fits, by request: architecture: {}", family.output->name)
                           : "fits");
  return out;
}

Json families_json(const std::vector<FamilyFit>& families, const FamilyFit* chosen) {
  Json out = Json::array();
  for (const FamilyFit& family : families)
    out.push_back({{"architecture", std::string(family.output->name)},
                   {"fits", family.why_not.empty()},
                   {"chosen", &family == chosen},
                   {"why_not", null_if_empty(family.why_not)}});
  return out;
}

namespace {

// The positions that config.json names; 0: none.
int64_t max_positions(const Json& config) {
  const auto found = config.find("max_position_embeddings");
  return found != config.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

std::string forecast_text(const PlanForecast& forecast, int64_t positions) {
  std::string out = fmt::format("\n  read      {} of {} file{}\n", human_bytes(forecast.read.bytes()),
                                forecast.read.files(), forecast.read.files() == 1 ? "" : "s");
  out += fmt::format("  memory    {}\n", memory_text(forecast.memory));
  if (forecast.disk) out += fmt::format("  disk      {}\n", disk_text(*forecast.disk));
  return out + gguf_text(forecast.gguf, positions);
}

void add_forecast(const PlanForecast& forecast, const Plan& plan, const std::vector<std::string>& warnings,
                  Json& out) {
  out.erase("tensors");
  out["read"] = {{"bytes", forecast.read.bytes()}, {"files", forecast.read.files()}};
  out["written"] = {{"bytes", forecast.layout.file_bytes(plan)}, {"files", forecast.layout.shards.size()}};
  out["memory"] = memory_json(forecast.memory);
  out["disk"] = forecast.disk ? Json{{"out", forecast.disk->out},
                                     {"needed", forecast.disk->needed},
                                     {"free", forecast.disk->free},
                                     {"problem", null_if_empty(forecast.disk->problem)}}
                              : Json(nullptr);
  out["gguf"] = gguf_json(forecast.gguf);
  out["warnings"] = forecast.warnings(warnings);
}

}  // namespace

std::string report_text(const PlanReport& report) {
  return plan_text(report.moe, report.forecast.layout) +
         forecast_text(report.forecast, report.moe.models.base->config.max_positions) + "\n" +
         families_text(report.families, report.moe.config, find_chosen(report.families, report.moe.config));
}

Json report_json(const PlanReport& report) {
  const MoePlan& moe = report.moe;
  Json out = plan_json(moe, report.forecast.layout);
  add_forecast(report.forecast, moe.plan, moe.warnings, out);
  out["family"] = std::string(moe.output->name);
  out["families"] = families_json(report.families, find_chosen(report.families, moe.config));
  return out;
}

std::string report_text(const MergePlan& merge, const PlanForecast& forecast) {
  return merge_text(merge, forecast.layout) + forecast_text(forecast, max_positions(merge.model_config));
}

Json report_json(const MergePlan& merge, const PlanForecast& forecast) {
  Json out = merge_json(merge, forecast.layout);
  add_forecast(forecast, merge.plan, merge.warnings, out);
  return out;
}

}  // namespace moerge
