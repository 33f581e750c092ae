#include "moerge/export/plan.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "moerge/base/error.h"
#include "moerge/export/expected_tensors.h"
#include "moerge/export/hyperparameters.h"

namespace moerge {
namespace {

// llama.cpp walks a model's tensors in this order, and some mixtures of types count on the way.
int layer_of(const std::string& name) {
  int layer = -1;
  if (std::sscanf(name.c_str(), "blk.%d.", &layer) != 1) return -1;
  return layer;
}
bool comes_before(const ExportTensor& a, const ExportTensor& b) {
  const int x = layer_of(a.spec.name), y = layer_of(b.spec.name);
  return x != y ? x < y : a.spec.name < b.spec.name;
}

struct Source {
  const Step* step;
  TensorMapping mapping;
};

std::string listing(const std::vector<std::string>& problems) {
  constexpr size_t shown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(problems.size(), shown); i++) text += (i ? "\n" : "") + problems[i];
  if (problems.size() > shown) text += fmt::format("\nand {} more", problems.size() - shown);
  return text;
}

// Checkpoint tensors by the GGUF tensor that they become (part of).
std::map<std::string, std::vector<Source>> group_sources(const ExportFamily& family, const Plan& plan,
                                                         int64_t layers, const std::string& where) {
  std::map<std::string, std::vector<Source>> groups;
  std::vector<std::string> problems;
  for (const Step& step : plan.steps) {
    const std::vector<TensorMapping> mappings = map_tensor(family, step.out.name, layers);
    if (mappings.empty())
      problems.push_back(fmt::format("{}: tensor \"{}\" has no place in a GGUF of the family {}", where,
                                     step.out.name, family.model_type));
    for (const TensorMapping& mapping : mappings)
      if (!mapping.name.empty()) groups[mapping.name].push_back({&step, mapping});
  }
  if (!problems.empty()) throw Error(ErrorKind::unsupported, listing(problems));
  return groups;
}

int64_t slice_rows(const Source& source, int64_t columns) {
  const Shape& shape = source.step->out.shape;
  const int64_t experts = source.mapping.stacked && !shape.empty() ? shape[0] : 1;
  const int64_t halves = source.mapping.part == TensorMapping::Part::whole ? 1 : 2;
  return experts * columns == 0 ? 0 : source.step->out.elements() / columns / experts / halves;
}

// One slice an expert; the experts of a stacked tensor, or the tensors of the experts, in their order.
std::vector<Slice> make_slices(const std::vector<Source>& sources, int64_t columns) {
  std::vector<Slice> slices;
  for (const Source& source : sources) {
    const int64_t rows = slice_rows(source, columns);
    const bool halved = source.mapping.part != TensorMapping::Part::whole;
    const int64_t stride = halved ? 2 * rows : rows;
    const int64_t begin = source.mapping.part == TensorMapping::Part::second_half ? rows : 0;
    const int64_t experts = source.mapping.stacked ? source.step->out.shape[0] : 1;
    for (int64_t e = 0; e < experts; e++) slices.push_back({source.step, e * stride + begin, rows});
  }
  return slices;
}

// What the checkpoint's tensors amount to, or a sentence why they amount to nothing.
std::string shape_problem(const std::vector<Source>& sources, const ExpectedTensor& rule) {
  const bool per_expert = sources.front().mapping.expert >= 0;
  if (!per_expert && sources.size() > 1) return "comes from several tensors";
  if (per_expert && std::ssize(sources) != rule.shape[0])
    return fmt::format("has {} experts, expected {}", sources.size(), rule.shape[0]);
  for (size_t i = 0; i < sources.size(); i++) {
    const Source& source = sources[i];
    Shape found = source.step->out.shape, expected = rule.shape;
    if (per_expert) {
      if (source.mapping.expert != static_cast<int64_t>(i)) return fmt::format("has no expert {}", i);
      expected.erase(expected.begin());
    } else if (source.mapping.part != TensorMapping::Part::whole) {
      expected[expected.size() - 2] *= 2;
    }
    if (found != expected)
      return fmt::format("has shape {}, expected {} (tensor \"{}\")", to_string(found), to_string(expected),
                         source.step->out.name);
  }
  return {};
}

ExportTensor make_tensor(const ExpectedTensor& rule, std::vector<Source> sources,
                         const ExportDimensions& dimensions) {
  const TensorMapping& mapping = sources.front().mapping;
  ExportTensor tensor;
  tensor.spec = {rule.name, mapping.keep_f32 ? DType::f32 : DType::bf16, rule.shape};
  tensor.columns = rule.shape.back();
  if (mapping.rotary_q || mapping.rotary_k) {
    tensor.rotary_heads = mapping.rotary_q ? dimensions.heads : dimensions.kv_heads;
    if (rule.shape.size() == 1) tensor.columns = 1;  // a bias: its elements are what changes places
  }
  tensor.slices = make_slices(sources, tensor.columns);
  return tensor;
}

std::vector<ExportTensor> make_tensors(const ExportFamily& family, const Plan& plan,
                                       const ExportDimensions& dimensions, const std::string& where) {
  auto groups = group_sources(family, plan, dimensions.layers, where);
  // Where llama.cpp does not take the embeddings for the output itself, they are written twice.
  const std::string output = "output.weight";
  if (dimensions.tied_embeddings && !groups.contains(output) && groups.contains("token_embd.weight"))
    for (const ExpectedTensor& rule : expected_tensors(family, dimensions))
      if (rule.name == output && !rule.optional) groups[output] = groups["token_embd.weight"];
  std::vector<std::string> problems;
  std::vector<ExportTensor> tensors;
  for (const ExpectedTensor& rule : expected_tensors(family, dimensions)) {
    const auto found = groups.find(rule.name);
    if (found == groups.end()) {
      if (!rule.optional)
        problems.push_back(
            fmt::format("{}: no tensor becomes \"{}\", which llama.cpp needs", where, rule.name));
      continue;
    }
    std::vector<Source> sources = std::move(found->second);
    groups.erase(found);
    std::ranges::stable_sort(sources, {}, [](const Source& source) { return source.mapping.expert; });
    if (const std::string problem = shape_problem(sources, rule); !problem.empty())
      problems.push_back(fmt::format("{}: \"{}\" {}", where, rule.name, problem));
    else
      tensors.push_back(make_tensor(rule, std::move(sources), dimensions));
  }
  for (const auto& [name, sources] : groups)
    problems.push_back(fmt::format("{}: tensor \"{}\" does not belong to a model of this configuration",
                                   where, sources.front().step->out.name));
  if (!problems.empty()) throw Error(ErrorKind::input, listing(problems));
  return tensors;
}

ParameterCounts count(const std::vector<ExportTensor>& tensors) {
  ParameterCounts counts = {};
  int64_t experts = 0, stacked = 0;
  for (const ExportTensor& tensor : tensors) {
    const int64_t size = tensor.spec.elements();
    counts.total += size;
    if (tensor.spec.name.find("_exps.") != std::string::npos) {
      counts.expert += size / tensor.spec.shape[0];
      experts += tensor.spec.shape[0];
      stacked++;
    } else {
      counts.shared += size;
    }
  }
  counts.experts = stacked ? experts / stacked : 0;
  return counts;
}

// What describes the file and not the model stays behind.
void copy_keys(const GgufMetadata& from, std::string_view prefix, GgufMetadata& to) {
  for (const auto& [key, value] : from.entries()) {
    const bool of_the_file = key == "general.architecture" || key == "general.file_type" ||
                             key == "general.quantization_version" || key == kGgufAlignmentKey;
    if (key.starts_with(prefix) && !of_the_file) to.set(key, value);
  }
}

void replace_chat_templates(GgufMetadata& metadata, const std::string& text) {
  std::vector<std::string> named = {"tokenizer.chat_templates"};
  for (const auto& [key, value] : metadata.entries())
    if (key.starts_with("tokenizer.chat_template.")) named.push_back(key);
  for (const std::string& key : named) metadata.erase(key);
  metadata.set("tokenizer.chat_template", text);
}

}  // namespace

int64_t ExportTensor::source_row(int64_t row) const {
  if (rotary_heads == 0) return row;
  const int64_t size = rows() / rotary_heads, head = row / size, pair = row % size / 2, second = row % 2;
  return head * size + second * (size / 2) + pair;
}

ExportPlan plan_export(const ExportSource& source, const Plan& plan, const VocabularyOptions& vocabulary) {
  ExportPlan out;
  out.plan = &plan;
  const std::string model_type = json_string(source.config, "model_type", source.where).value_or("");
  out.family = choose_export_family(source.config, source.where);
  if (model_type == "granitemoeshared")
    fail(ErrorKind::unsupported,
         "{}: a Granite MoE Shared model cannot be written as GGUF; from a YAML it can with \"architecture: "
         "DeepSeek MoE\", which computes the same for two or more experts per token",
         source.where);
  if (!out.family) {
    std::vector<std::string_view> known;
    for (const ExportFamily* family : export_families()) known.push_back(family->model_type);
    fail(ErrorKind::unsupported, "{}: model_type \"{}\" cannot be written as GGUF (these can: {})",
         source.where, model_type, fmt::join(known, ", "));
  }
  const ExportDimensions dimensions = export_dimensions(*out.family, source.config, source.where);
  out.warnings = export_warnings(*out.family, source.config, source.where);
  out.tensors = make_tensors(*out.family, plan, dimensions, source.where);
  if (std::vector<float> factors = rope_frequency_factors(*out.family, source.config, source.where);
      !factors.empty()) {
    ExportTensor& tensor = out.tensors.emplace_back();
    tensor.spec = {"rope_freqs.weight", DType::f32, {std::ssize(factors)}};
    tensor.columns = std::ssize(factors);
    tensor.values = std::move(factors);
  }
  std::ranges::sort(out.tensors, comes_before);
  out.parameters = count(out.tensors);
  out.metadata.set("general.architecture", std::string(out.family->arch));
  const auto add = [&](std::vector<std::string> warnings) {
    std::ranges::move(warnings, std::back_inserter(out.warnings));
  };
  add(add_general_metadata(out.metadata, source, out.parameters));
  if (source.general) copy_keys(*source.general, "general.", out.metadata);
  for (size_t i = 0; i < source.expert_names.size(); i++)  // llama.cpp passes over keys that it does not know
    out.metadata.set(fmt::format("moerge.expert.{}.name", i), source.expert_names[i]);
  add_hyperparameters(out.metadata, *out.family, source.config, source.where);
  out.metadata.set("general.quantization_version", uint32_t{2});
  if (source.tokenizer) {
    copy_keys(*source.tokenizer, "tokenizer.", out.metadata);
    if (source.chat_template) replace_chat_templates(out.metadata, *source.chat_template);
  } else {
    VocabularyOptions options = vocabulary;
    options.chat_template = source.chat_template;
    add(add_vocabulary(out.metadata, source.folder, source.config, options));
  }
  return out;
}

}  // namespace moerge
