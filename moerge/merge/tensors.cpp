#include "moerge/merge/tensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <ranges>
#include <set>
#include <unordered_map>

#include "moerge/merge/merged_tensor.h"

namespace moerge {
namespace {

// What one output tensor is made of: a tensor of each source of its slice, null where it has none.
struct Inputs {
  std::string name;
  std::vector<const StoredTensor*> of_source;
  std::vector<std::string> name_in;  // what each source calls it
};

// Where a tensor lies: its slice, and its place along the slice's layers from 0 to 1.
struct Position {
  const MergeSlice& slice;
  double t;
};

// Not weights: every reader computes them anew.
bool is_left_out(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

class TensorMaker {
 public:
  explicit TensorMaker(const MergeInput& input) : in_(input) {}

  MergedTensors run() {
    const std::vector<MergeSlice>& slices = in_.config.slices;
    outside(slices.front(), false);
    for (const MergeSlice& slice : slices) {
      const MergeSource& first = slice.sources.front();
      const auto [begin, end] = layers_of(first, model_of(first));
      const int64_t count = end - begin;
      for (int64_t k = 0; k < count; k++)
        layer(slice, k, out_.layers++,
              count > 1 ? static_cast<double>(k) / static_cast<double>(count - 1) : 1);
    }
    outside(slices.back(), true);
    return std::move(out_);
  }

 private:
  const MergeModel& model_of(const MergeSource& source) const { return in_.models.at(source.model); }

  // The tensors before (after) the layers, at the beginning of every gradient.
  void outside(const MergeSlice& slice, bool after) {
    merge(collect(
              slice, [](const MergeSource&, const MergeModel&) { return kOutside; },
              [&](const MergeModel& model, const std::string& name) {
                return model.layout.comes_after(name) == after ? name : "";
              }),
          {slice, 0});
  }

  void layer(const MergeSlice& slice, int64_t k, int64_t number, double t) {
    const ModelLayout& names = model_of(slice.sources.front()).layout;
    merge(collect(
              slice,
              [&](const MergeSource& source, const MergeModel& model) {
                return layers_of(source, model).first + k;
              },
              [&](const MergeModel& model, const std::string& name) {
                // Families that are mixed may have other names for the layers' place.
                return names.in_layer(names.prefix() + name.substr(model.layout.prefix().size()), number);
              }),
          {slice, t});
  }

  // A model's tensors by layer.
  const std::vector<const StoredTensor*>& tensors_of(const MergeModel& model, int64_t layer) {
    auto& by_layer = by_layer_[&model];
    if (by_layer.empty())
      for (const StoredTensor& tensor : model.model->checkpoint.tensors())
        if (!is_left_out(tensor.spec.name))
          by_layer[model.layout.layer_of(tensor.spec.name).value_or(kOutside)].push_back(&tensor);
    return by_layer[layer];
  }

  // Tensors of the sources by the output's name, in the first source's order; `name_of` leaves out with "".
  template <typename LayerOf, typename NameOf>
  std::vector<Inputs> collect(const MergeSlice& slice, const LayerOf& layer_of, const NameOf& name_of) {
    std::vector<Inputs> out;
    std::unordered_map<std::string, size_t> places;
    for (size_t s = 0; s < slice.sources.size(); s++) {
      const MergeModel& model = model_of(slice.sources[s]);
      for (const StoredTensor* tensor : tensors_of(model, layer_of(slice.sources[s], model))) {
        const std::string name = name_of(model, tensor->spec.name);
        if (name.empty()) continue;
        const auto [place, is_new] = places.emplace(name, out.size());
        if (is_new)
          out.push_back({name, std::vector<const StoredTensor*>(slice.sources.size()),
                         std::vector<std::string>(slice.sources.size(), name)});
        out[place->second].name_in[s] = tensor->spec.name;
        out[place->second].of_source[s] = model.find(tensor->spec.name);
      }
    }
    return out;
  }

  void merge(std::vector<Inputs> all, const Position& position) {
    for (Inputs& inputs : all) {
      untie(inputs, position.slice);
      merge(inputs, position);
    }
  }

  // A model without a head of its own uses its embeddings as one.
  void untie(Inputs& inputs, const MergeSlice& slice) {
    for (size_t s = 0; s < inputs.of_source.size(); s++) {
      const MergeModel& model = model_of(slice.sources[s]);
      const std::string embedding = model.layout.embedding();
      if (inputs.of_source[s] || inputs.name == embedding || !is_by_token(inputs, slice)) continue;
      const StoredTensor* head = model.find(inputs.name);
      inputs.of_source[s] = head ? head : model.find(embedding);
    }
  }

  bool is_by_token(const Inputs& inputs, const MergeSlice& slice) const {
    return std::ranges::any_of(slice.sources, [&](const MergeSource& source) {
      return model_of(source).layout.is_by_token(inputs.name);
    });
  }

  void merge(const Inputs& inputs, const Position& position) {
    const MergeMethod& method = *in_.config.method;
    const std::vector<MergeSource>& sources = position.slice.sources;
    std::vector<size_t> present;
    for (size_t s = 0; s < sources.size(); s++)
      if (inputs.of_source[s]) present.push_back(s);
    const std::optional<size_t> base = base_of(position.slice);
    if (present.size() < sources.size() && !settle_missing(inputs, position.slice, base, present)) return;
    if (present.empty()) return;
    if (!is_weight_type(inputs.of_source[present[0]]->spec.dtype) &&
        !is_quantized(inputs.of_source[present[0]]->spec.dtype))
      return take(inputs.name, *inputs.of_source[base && inputs.of_source[*base] ? *base : present[0]]);
    if (present.size() == 1 && method.max_models != 1 && sources.size() > 1)
      return take(inputs.name, *inputs.of_source[present[0]]);
    MergeJob job = {.method = &method, .name = inputs.name, .seed = in_.seed};
    if (!settle_shape(inputs, position.slice, base, present, job)) return;
    std::vector<const StoredTensor*> tensors;
    for (const size_t s : present) {
      if (base == s) job.base = tensors.size();
      tensors.push_back(inputs.of_source[s]);
      job.input_names.push_back(sources[s].model);
    }
    job.inputs = tensors.size();
    job.dtype = in_.config.dtype.value_or(common_dtype(tensors));
    if (!settle_values(inputs, position, present, job)) return;
    if (const std::string wrong = method.check ? method.check(job) : ""; !wrong.empty())
      return problem("check", position.slice.place, fmt::format("tensor \"{}\": {}", job.name, wrong));
    // A frankenmerge is a copy.
    if (method.name == "passthrough" && job.value("scale") == 1) return take(inputs.name, *tensors[0]);
    add(std::move(job), tensors);
  }

  // True: `present` can be merged without the others (or, when it is empty then, there is no such tensor).
  bool settle_missing(const Inputs& inputs, const MergeSlice& slice, std::optional<size_t> base,
                      std::vector<size_t>& present) {
    const MergeMethod& method = *in_.config.method;
    if (in_.missing == MissingTensors::intersection) present.clear();
    const bool has_base = !base || method.base == BaseRole::ignored || inputs.of_source[*base];
    if (in_.missing == MissingTensors::union_ &&
        (present.size() == 1 || (has_base && std::ssize(present) >= method.min_models)))
      return true;
    if (present.empty()) return true;
    const bool only_base = present.size() == 1 && base == present[0];
    switch (method.missing) {
      case MissingInput::single_passes:
        if (present.size() == 1) return true;
        break;
      case MissingInput::single_base_passes:
        if (only_base) return true;
        break;
      case MissingInput::base_or_none:
        if (only_base) return true;
        if (base && inputs.of_source[*base] && std::ssize(present) >= method.min_models) return true;
        present.clear();
        warning("missing",
                fmt::format("tensor \"{}\" is left out: too few of the models have it", inputs.name));
        return true;
      case MissingInput::refused:
        break;
    }
    std::vector<std::string> without;
    for (size_t s = 0; s < slice.sources.size(); s++)
      if (!inputs.of_source[s]) without.push_back(fmt::format("\"{}\"", slice.sources[s].model));
    problem(fmt::format("missing {}", fmt::join(without, " ")), slice.place,
            fmt::format("tensor \"{}\": {} {} none, and {} needs it of every model", inputs.name,
                        fmt::join(without, ", "), without.size() == 1 ? "has" : "have", method.name));
    return false;
  }

  std::optional<size_t> base_of(const MergeSlice& slice) const {
    const std::string& base = slice.base_model.empty() ? in_.config.base_model : slice.base_model;
    const auto found = std::ranges::find(slice.sources, base, &MergeSource::model);
    if (base.empty() || found == slice.sources.end()) return {};
    return static_cast<size_t>(found - slice.sources.begin());
  }

  // The shape that all have.
  bool settle_shape(const Inputs& inputs, const MergeSlice& slice, std::optional<size_t> base,
                    const std::vector<size_t>& present, MergeJob& job) {
    const auto shape_of = [&](size_t s) -> const Shape& { return inputs.of_source[s]->spec.shape; };
    job.shape = shape_of(base && inputs.of_source[*base] ? *base : present[0]);
    if (std::ranges::all_of(present, [&](size_t s) { return shape_of(s) == job.shape; })) return true;
    const bool embeddings =
        is_by_token(inputs, slice) && std::ranges::all_of(present, [&](size_t s) {
          return !shape_of(s).empty() &&
                 std::ranges::equal(shape_of(s) | std::views::drop(1), job.shape | std::views::drop(1));
        });
    if (embeddings && in_.truncate_embeddings) {
      for (const size_t s : present) job.shape[0] = std::min(job.shape[0], shape_of(s)[0]);
      warning("truncated",
              fmt::format("tensor \"{}\" has different sizes: the first {} rows, which all models have, "
                          "are merged, whatever tokens they are of",
                          inputs.name, job.shape[0]));
      return true;
    }
    std::vector<std::string> shapes;
    for (const size_t s : present)
      shapes.push_back(fmt::format("{} in \"{}\"", to_string(shape_of(s)), slice.sources[s].model));
    problem("shape", slice.place,
            fmt::format("tensor \"{}\" has different shapes: {}{}", inputs.name, fmt::join(shapes, ", "),
                        embeddings ? " (tokenizer_source: union merges the vocabularies)" : ""));
    return false;
  }

  // A source's own value, else its slice's, else the document's, else the method's.
  bool settle_values(const Inputs& inputs, const Position& position, const std::vector<size_t>& present,
                     MergeJob& job) {
    bool good = true;
    for (const ParameterSpec& spec : in_.config.method->parameters) {
      const bool one = spec.scope == ParameterSpec::Scope::tensor;
      std::vector<double>& values = job.values.emplace_back();
      for (size_t i = 0; i < (one ? 1 : present.size()); i++) {
        const MergeSource& source = position.slice.sources[present[i]];
        std::optional<double> value;
        for (const ParameterSettings* settings :
             {one ? nullptr : &source.parameters, &position.slice.parameters, &in_.config.module_parameters,
              &in_.config.parameters})
          if (settings && !value)
            value = value_of(*settings, spec, one ? job.name : inputs.name_in[present[i]], position.t);
        if (!value) value = spec.fallback;
        if (!value && !one && job.base == i && spec.scope == ParameterSpec::Scope::model_but_base) value = 0;
        if (!value) {
          good = false;
          problem(fmt::format("{} {}", spec.name, one ? "" : source.place),
                  one ? position.slice.place : source.place,
                  fmt::format("{} needs \"{}\"{}: {} (no value for tensor \"{}\")", in_.config.method->name,
                              spec.name, one ? "" : fmt::format(" of \"{}\"", source.model), spec.summary,
                              job.name));
        }
        values.push_back(value.value_or(0));
      }
    }
    return good;
  }

  static std::optional<double> value_of(const ParameterSettings& settings, const ParameterSpec& spec,
                                        const std::string& tensor, double t) {
    for (const ParameterSetting& setting : settings)
      if (setting.spec->name == spec.name)
        if (const std::optional<double> value = evaluate(setting, tensor, t)) return value;
    return {};
  }

  // As it is, under its name in the result.
  void take(const std::string& name, const StoredTensor& source) {
    MergedTensor& out = out_.tensors.emplace_back(MergedTensor{source, source.spec.dtype});
    out.tensor.spec.name = name;
    if (is_quantized(source.spec.dtype)) out.dtype = DType::f16;
    if (!is_weight_type(source.spec.dtype) && !is_quantized(source.spec.dtype)) return;
    if (in_.config.dtype) out.dtype = *in_.config.dtype;
    if (in_.config.out_dtype) out.dtype = *in_.config.out_dtype;
  }

  void add(MergeJob job, const std::vector<const StoredTensor*>& tensors) {
    std::vector<StoredTensor> inputs;
    std::string how;
    for (size_t i = 0; i < tensors.size(); i++) {
      inputs.push_back(*tensors[i]);
      if (i > 0) how += fmt::format(" + {}: {}", job.input_names[i], tensors[i]->spec.name);
    }
    how += fmt::format(" ({}{})", job.method->name, describe_values(job));
    DType dtype = in_.config.out_dtype.value_or(job.dtype);
    if (!in_.config.out_dtype && !in_.config.dtype &&
        std::ranges::all_of(inputs, [](const StoredTensor& input) { return is_quantized(input.spec.dtype); }))
      dtype = DType::f16;
    out_.tensors.push_back({merged_tensor(std::move(job), std::move(inputs), std::move(how)), dtype});
  }

  // ", weight 0.3 0.7, density 0.5 0.5".
  static std::string describe_values(const MergeJob& job) {
    std::string out;
    for (size_t p = 0; p < job.values.size(); p++) {
      const ParameterSpec& spec = job.method->parameters[p];
      const std::vector<double>& values = job.values[p];
      if (std::ranges::all_of(values, [&](double value) { return value == spec.fallback; })) continue;
      out += fmt::format(", {}", spec.name);
      for (const double value : values) out += fmt::format(" {:.6g}", value);
    }
    return out;
  }

  void problem(const std::string& kind, const std::string& place, const std::string& text) {
    if (said_.insert(kind).second) out_.problems.push_back(fmt::format("{}: {}", place, text));
  }
  void warning(const std::string& kind, const std::string& text) {
    if (said_.insert("warning " + kind).second) out_.warnings.push_back(text);
  }

  static constexpr int64_t kOutside = -1;

  const MergeInput& in_;
  MergedTensors out_;
  std::map<const MergeModel*, std::map<int64_t, std::vector<const StoredTensor*>>> by_layer_;
  std::set<std::string> said_;
};

}  // namespace

const StoredTensor* MergeModel::find(const std::string& name) const {
  const auto other = replaced.find(name);
  return other != replaced.end() ? &other->second : model->checkpoint.find(name);
}

DType common_dtype(const std::vector<const StoredTensor*>& tensors) {
  DType out = tensors.front()->spec.dtype;
  for (const StoredTensor* tensor : tensors)
    if (tensor->spec.dtype != out) out = DType::f32;
  return out == DType::bf16 || out == DType::f16 ? out : DType::f32;
}

std::pair<int64_t, int64_t> layers_of(const MergeSource& source, const MergeModel& model) {
  return source.layers.value_or(std::pair<int64_t, int64_t>(0, model.layout.layers()));
}

MergedTensors make_merged_tensors(const MergeInput& input) { return TensorMaker(input).run(); }

}  // namespace moerge
