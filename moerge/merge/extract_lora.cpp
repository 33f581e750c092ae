#include "moerge/merge/extract_lora.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/merge/lora_selection.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

constexpr const char* kPrefix = "base_model.model.";  // of every name in an adapter
constexpr int64_t kCompared = 1 << 20;                // numbers or bytes at a time

bool is_bias(Role role) {
  return role == Role::q_bias || role == Role::k_bias || role == Role::v_bias || role == Role::o_bias;
}

bool is_norm(Role role) {
  switch (role) {
    case Role::output_norm:
    case Role::attention_norm:
    case Role::ffn_norm:
    case Role::q_norm:
    case Role::k_norm:
      return true;
    default:
      return false;
  }
}

bool is_vocabulary(Role role) { return role == Role::embedding || role == Role::output; }

std::string module_of(std::string_view tensor) { return std::string(tensor.substr(0, tensor.rfind('.'))); }

bool equal_bytes(const StoredTensor& a, const StoredTensor& b) {
  const auto left = a.stored_bytes(), right = b.stored_bytes();
  const auto step = static_cast<size_t>(kCompared);
  for (size_t at = 0; at < left.size(); at += step) {
    check_interrupted();
    const size_t count = std::min(step, left.size() - at);
    if (!std::ranges::equal(left.subspan(at, count), right.subspan(at, count))) return false;
  }
  return true;
}

bool equal_values(const StoredTensor& a, const StoredTensor& b) {
  const int64_t row = a.row_elements(), step = std::max<int64_t>(1, kCompared / std::max<int64_t>(1, row));
  std::vector<float> left, right;
  for (int64_t first = 0; first < a.rows(); first += step) {
    check_interrupted();
    const int64_t count = std::min(step, a.rows() - first);
    left.resize(static_cast<size_t>(count * row));
    right.resize(left.size());
    read_row_values(a, first, count, left);
    read_row_values(b, first, count, right);
    if (left != right) return false;
  }
  return true;
}

bool is_equal(const StoredTensor& a, const StoredTensor& b) {
  const bool plain = a.is_plain() && b.is_plain() && a.spec.dtype == b.spec.dtype;
  const bool equal = plain ? equal_bytes(a, b) : equal_values(a, b);
  a.release();
  b.release();
  return equal;
}

// A tensor of the base and what the fine-tune has in its place.
struct Pair {
  std::string tensor;
  Role role;
  const StoredTensor *model, *base;  // null: it has none
  bool unties = false;               // the fine-tune alone has an output of its own
};

const StoredTensor* embedding_of(const Model& model) {
  return model.checkpoint.find(weight_for(*model.architecture, Role::embedding).name);
}

std::vector<Pair> list_pairs(const Model& model, const Model& base) {
  std::vector<Pair> out;
  for (const Model* one : {&base, &model})
    for (const Weight& weight : list_weights(*one->architecture, one->config, one->checkpoint)) {
      if (weight.role == Role::output) continue;
      const StoredTensor* in_base = base.checkpoint.find(weight.name);
      if (one == &model && in_base) continue;
      out.push_back({weight.name, weight.role, model.checkpoint.find(weight.name), in_base});
    }
  // Of tied embeddings the matrix that a file may hold for the output is never read.
  const std::string output(weight_for(*base.architecture, Role::output).name);
  const auto output_of = [&](const Model& one) {
    return one.config.tied_embeddings ? embedding_of(one) : one.checkpoint.find(output);
  };
  if (!(base.config.tied_embeddings && model.config.tied_embeddings))
    out.push_back({output, Role::output, output_of(model), output_of(base), base.config.tied_embeddings});
  return out;
}

void check_sound(const Model& model, LoraPlan& out) {
  WeightReport report = check_weights(*model.architecture, model.config, model.checkpoint);
  if (!report.errors.empty())
    throw Error(ErrorKind::input, fmt::format("{}", fmt::join(report.errors, "\n")));
  std::ranges::move(report.warnings, std::back_inserter(out.warnings));
}

template <typename T>
void warn_if_other(LoraPlan& out, const char* key, const T& model, const T& base) {
  if (model == base) return;
  out.warnings.push_back(
      fmt::format("{} is {} in \"{}\" and {} in \"{}\": an adapter changes weights, not config.json", key,
                  model, out.model->name, base, out.base->name));
}

void check_alike(LoraPlan& out) {
  const Model &model = *out.model, &base = *out.base;
  if (model.architecture != base.architecture)
    fail(ErrorKind::input,
         "\"{}\" is a {} model and the base \"{}\" a {} model: an adapter fits one architecture", model.name,
         model.architecture->model_type, base.name, base.architecture->model_type);
  if (model.config.layers != base.config.layers)
    fail(ErrorKind::input, "\"{}\" has {} layers and the base \"{}\" {}: an adapter adds and removes none",
         model.name, model.config.layers, base.name, base.config.layers);
  warn_if_other(out, "rope_theta", model.config.rope.theta, base.config.rope.theta);
  warn_if_other(out, "rope_scaling", model.config.rope.scaling.dump(), base.config.rope.scaling.dump());
  warn_if_other(out, "rms_norm_eps", model.config.norm_epsilon, base.config.norm_epsilon);
  warn_if_other(out, "hidden_act", model.config.activation, base.config.activation);
  warn_if_other(out, "sliding_window", model.config.sliding_window.value_or(0),
                base.config.sliding_window.value_or(0));
  warn_if_other(out, "num_experts_per_tok", model.config.experts_per_token, base.config.experts_per_token);
  if (base.is_mixture())
    out.notes.push_back(
        "the adapter names each expert's matrices: transformers 5 keeps them stacked, so PEFT finds them "
        "with "
        "transformers 4 only; moerge reads BASE+ADAPTER either way");
}

void check_pair(const LoraPlan& plan, const Pair& pair) {
  const std::string &model = plan.model->name, &base = plan.base->name;
  if (!pair.model || !pair.base)
    fail(ErrorKind::input,
         "\"{}\" is in \"{}\" and not in \"{}\": an adapter changes tensors that both have; "
         "--exclude-regex leaves a module out",
         pair.tensor, pair.model ? model : base, pair.model ? base : model);
  const Shape &ours = pair.model->spec.shape, &theirs = pair.base->spec.shape;
  if (ours == theirs) return;
  const bool vocabulary =
      is_vocabulary(pair.role) && ours.size() == 2 && theirs.size() == 2 && ours[1] == theirs[1];
  fail(ErrorKind::input, "\"{}\" is {} in \"{}\" and {} in the base \"{}\": {}", pair.tensor, to_string(ours),
       model, to_string(theirs), base,
       vocabulary ? "the vocabulary has another size, which an adapter cannot change; resize the base's "
                    "embeddings first, or leave them out with --exclude-regex \"embed_tokens|lm_head\""
                  : "an adapter changes numbers, not shapes");
}

DType factor_type(const LoraPlan& plan, const StoredTensor& model, const StoredTensor& base) {
  if (plan.options.dtype) return *plan.options.dtype;
  if (base.spec.dtype == DType::f32) return DType::f32;
  if (is_weight_type(model.spec.dtype)) return model.spec.dtype;
  return plan.model->config.dtype.value_or(DType::bf16);
}

LoraForm form_of(const LoraPlan& plan, const Pair& pair, const LoraSelection& selection) {
  if (is_norm(pair.role) || is_bias(pair.role) || pair.unties || selection.saves(module_of(pair.tensor)))
    return LoraForm::whole;
  if (is_vocabulary(pair.role) && !plan.options.embed_lora) return LoraForm::whole;
  return pair.role == Role::embedding ? LoraForm::embedding : LoraForm::linear;
}

void add_pair(LoraPlan& plan, const Pair& pair, const LoraSelection& selection) {
  const std::string module = module_of(pair.tensor);
  if (!selection.takes(module)) {
    plan.unselected++;
    return;
  }
  check_pair(plan, pair);
  // An output that leaves the embeddings as they were needs a copy of its own when these change.
  const bool left_behind = pair.unties && !plan.modules.empty() && plan.modules[0].base == pair.base;
  if (!left_behind && is_equal(*pair.model, *pair.base)) {
    plan.equal++;
    return;
  }
  const LoraForm form = form_of(plan, pair, selection);
  if (plan.options.skip_undecomposable && (is_norm(pair.role) || is_bias(pair.role)) &&
      !selection.saves(module)) {
    plan.skipped.push_back(pair.tensor);
    return;
  }
  const Shape& shape = pair.model->spec.shape;
  const int64_t rank = form == LoraForm::whole ? 0 : std::min({plan.options.rank, shape[0], shape[1]});
  plan.modules.push_back({module, pair.tensor, form, pair.model, pair.base, rank});
}

void refuse_nothing(const LoraPlan& plan) {
  if (plan.has_factors()) return;
  const std::string &model = plan.model->name, &base = plan.base->name;
  if (!plan.modules.empty())
    fail(ErrorKind::config,
         "of \"{}\" only {} differ{} from \"{}\" and cannot be decomposed ({} first): PEFT loads no adapter "
         "without a matrix of low rank",
         model, plan.modules.size() == 1 ? "1 tensor" : fmt::format("{} tensors", plan.modules.size()),
         plan.modules.size() == 1 ? "s" : "", base, plan.modules[0].tensor);
  fail(ErrorKind::config, "\"{}\" and the base \"{}\" have no difference{}: there is nothing to extract",
       model, base, plan.unselected > 0 ? " in the modules that are selected" : "");
}

}  // namespace

double LoraModule::error() const { return difference > 0 ? std::sqrt(residual / difference) : 0; }

bool LoraPlan::has_factors() const {
  return std::ranges::any_of(modules, [](const LoraModule& module) { return module.rank > 0; });
}

LoraPlan plan_lora(const std::string& model, const ModelLocation& model_location, const std::string& base,
                   const ModelLocation& base_location, const LoraOptions& options) {
  LoraPlan out = {.model = std::make_unique<Model>(model, model_location),
                  .base = std::make_unique<Model>(base, base_location),
                  .options = options,
                  .dtype = DType::f32,
                  .modules = {},
                  .all = {},
                  .skipped = {},
                  .warnings = {},
                  .notes = {}};
  check_alike(out);
  check_sound(*out.model, out);
  check_sound(*out.base, out);
  const std::vector<Pair> pairs = list_pairs(*out.model, *out.base);
  for (const Pair& pair : pairs)
    if (!is_bias(pair.role)) out.all.push_back(module_of(pair.tensor));
  const LoraSelection selection(options, out.all);
  for (const Pair& pair : pairs) add_pair(out, pair, selection);
  refuse_nothing(out);
  const auto first = std::ranges::find_if(out.modules, [](const LoraModule& m) { return m.rank > 0; });
  out.dtype = factor_type(out, *first->model, *first->base);
  out.ties = out.base->config.tied_embeddings && out.model->config.tied_embeddings;
  return out;
}

namespace {

std::vector<float> as_floats(DType dtype, const std::vector<std::byte>& bytes) {
  std::vector<float> out(bytes.size() / static_cast<size_t>(info(dtype).bytes));
  to_f32(dtype, bytes, out);
  return out;
}

void add_factors(const LoraPlan& lora, const LoraModule& module, Plan& out) {
  const bool embedding = module.form == LoraForm::embedding;
  const int64_t rows = module.shape()[embedding ? 1 : 0], columns = module.shape()[embedding ? 0 : 1];
  const std::string start = kPrefix + module.name + (embedding ? ".lora_embedding_" : ".lora_"),
                    end = embedding ? "" : ".weight";
  const auto add = [&](const char* factor, Shape shape, const std::vector<std::byte>& bytes) {
    out.steps.push_back({{start + factor + end, lora.dtype, std::move(shape)},
                         Fill{fmt::format("difference of {}, rank {}", module.tensor, module.rank),
                              [&lora, &bytes] { return as_floats(lora.dtype, bytes); }}});
  };
  add("A", {module.rank, columns}, module.a);
  add("B", {rows, module.rank}, module.b);
}

// A bias of a module that has factors lies in the layer that PEFT wraps.
std::string whole_name(const LoraPlan& lora, const LoraModule& module) {
  const bool wrapped = module.is_bias() && std::ranges::any_of(lora.modules, [&](const LoraModule& other) {
                         return other.rank > 0 && other.name == module.name;
                       });
  return kPrefix + module.name + (wrapped ? ".base_layer" : "") + module.tensor.substr(module.name.size());
}

void add_whole(const LoraPlan& lora, const LoraModule& module, std::string name, Plan& out) {
  const DType own = module.model->spec.dtype;
  const DType dtype = lora.options.dtype.value_or(is_weight_type(own) ? own : lora.dtype);
  out.steps.push_back(
      {{std::move(name), dtype, module.shape()}, Concat{{{.source = module.model, .noise_stream = {}}}}});
}

}  // namespace

Plan adapter_tensors(const LoraPlan& lora) {
  Plan out = {.seed = lora.options.seed, .steps = {}};
  for (const LoraModule& module : lora.modules) {
    if (module.rank > 0) add_factors(lora, module, out);
    if (module.form != LoraForm::whole) continue;
    add_whole(lora, module, whole_name(lora, module), out);
    // PEFT wraps both names of one matrix, and looks for both in the file.
    const Architecture& family = *lora.base->architecture;
    if (lora.ties && module.tensor == weight_for(family, Role::embedding).name)
      add_whole(lora, module, kPrefix + std::string(weight_for(family, Role::output).name), out);
  }
  return out;
}

}  // namespace moerge
