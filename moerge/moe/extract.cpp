#include "moerge/moe/extract.h"

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/plan/plan_text.h"

namespace moerge {
namespace {

DType output_dtype(const Model& model, const StoredTensor& tensor) {
  if (!model.gguf() && is_weight_type(tensor.spec.dtype)) return tensor.spec.dtype;
  return model.config.dtype.value_or(DType::f32);
}

}  // namespace

ExtractPlan plan_extract(const std::string& reference, const ModelLocation& location) {
  ExtractPlan out;
  out.model = std::make_unique<Model>(reference, location);
  const Model& model = *out.model;
  if (!model.origin) throw std::logic_error("plan_extract() without an expert");
  WeightReport report = check_weights(*model.architecture, model.config, model.checkpoint);
  if (!report.errors.empty())
    throw Error(ErrorKind::input, fmt::format("{}", fmt::join(report.errors, "\n")));
  out.warnings = std::move(report.warnings);
  for (const Weight& weight : list_weights(*model.architecture, model.config, model.checkpoint)) {
    const StoredTensor& source = model.checkpoint.at(weight.name);
    out.plan.steps.push_back({{weight.name, output_dtype(model, source), source.spec.shape},
                              Concat{{{.source = &source, .noise_stream = {}}}}});
    out.parameters += source.spec.elements();
    if (weight.role == Role::ffn_gate) out.dtype = out.plan.steps.back().out.dtype;
  }
  return out;
}

std::string describe_origin(const ExpertOrigin& origin) {
  if (origin.expert == kSharedExpert) return "the shared expert";
  return fmt::format("expert {} of {}", origin.expert, origin.mixture.experts);
}

std::string extract_text(const ExtractPlan& extract, const FolderLayout& layout) {
  const Model& model = *extract.model;
  return fmt::format("{}: {} layers, {} parameters, {}\n  from      {} ({}, {} tensors)\n  written   {}",
                     model.architecture->class_name, model.config.layers, human_count(extract.parameters),
                     info(extract.dtype).torch, model.name, describe_origin(*model.origin),
                     extract.plan.steps.size(), written_text(extract.plan, layout));
}

Json extract_json(const ExtractPlan& extract, const FolderLayout& layout) {
  const Model& model = *extract.model;
  const int64_t expert = model.origin->expert;
  return {{"architecture", std::string(model.architecture->class_name)},
          {"dtype", std::string(info(extract.dtype).torch)},
          {"source_model", model.name},
          {"folder", model.path.string()},
          {"expert", expert == kSharedExpert ? Json("shared") : Json(expert)},
          {"experts", model.origin->mixture.experts},
          {"parameters", extract.parameters},
          {"bytes", bytes_json(extract.plan.totals(), layout)},
          {"warnings", extract.warnings},
          {"config", model.config.raw},
          {"tensors", tensors_json(extract.plan, layout)}};
}

}  // namespace moerge
