// moerge layershuffle OUT -m MODEL -w WEIGHT ...: a model whose layers are drawn from others.

#include <fmt/format.h>

#include <random>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/foreign_flags.h"
#include "moerge/cli/merge_run.h"
#include "moerge/hub/card.h"
#include "moerge/merge/model_layout.h"

namespace moerge {
namespace {

struct Layer {
  size_t model;
  int64_t number;
};

struct Shuffle {
  std::vector<std::string> models;
  std::vector<double> weights;
  bool any_order = false;  // layers from anywhere in a model, else each in its place
  uint64_t seed = 0;
};

// The standard library's distributions differ from one library to the next; its generators do not.
double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

size_t draw(const std::vector<double>& weights, std::mt19937_64& random) {
  double sum = 0;
  for (const double weight : weights) sum += weight;
  double left = uniform(random) * sum;
  for (size_t i = 0; i + 1 < weights.size(); i++)
    if ((left -= weights[i]) < 0) return i;
  return weights.size() - 1;
}

std::vector<Layer> draw_layers(const Shuffle& shuffle, const std::vector<int64_t>& layers) {
  std::mt19937_64 random(shuffle.seed);
  std::vector<Layer> out;
  if (!shuffle.any_order) {
    for (int64_t layer = 0; layer < layers.front(); layer++)
      out.push_back({draw(shuffle.weights, random), layer});
    return out;
  }
  // Of each model the share of its layers that its weight is, each drawn by itself; then all in any order.
  for (size_t m = 0; m < layers.size(); m++)
    for (int64_t i = 0; i < static_cast<int64_t>(static_cast<double>(layers[m]) * shuffle.weights[m]); i++)
      out.push_back({m, static_cast<int64_t>(uniform(random) * static_cast<double>(layers[m]))});
  for (size_t i = out.size(); i > 1; i--)
    std::swap(out[i - 1], out[static_cast<size_t>(uniform(random) * static_cast<double>(i))]);
  return out;
}

// Neighbours that follow each other in their model are one slice.
std::string yaml_of(const Shuffle& shuffle, const std::vector<Layer>& layers, const std::string& dtype) {
  std::string out = "merge_method: passthrough\n";
  if (!dtype.empty()) out += "dtype: " + dtype + "\n";
  out += "slices:\n";
  for (size_t begin = 0; begin < layers.size();) {
    size_t end = begin + 1;
    while (end < layers.size() && layers[end].model == layers[begin].model &&
           layers[end].number == layers[end - 1].number + 1)
      end++;
    out += fmt::format("  - sources:\n      - model: {}\n        layer_range: [{}, {}]\n",
                       quoted_string(shuffle.models[layers[begin].model]), layers[begin].number,
                       layers[end - 1].number + 1);
    begin = end;
  }
  return out;
}

int64_t count_layers(const Model& model) {
  std::vector<TensorSpec> specs;
  for (const StoredTensor& tensor : model.checkpoint.tensors()) specs.push_back(tensor.spec);
  return ModelLayout(model.config.raw, specs, model.path.string()).layers();
}

void check(const Shuffle& shuffle) {
  if (shuffle.models.empty()) fail(ErrorKind::usage, "which models? -m MODEL -w WEIGHT, once for each");
  if (shuffle.weights.size() != shuffle.models.size())
    fail(ErrorKind::usage, "{} models and {} weights: each model needs one (-m MODEL -w WEIGHT)",
         shuffle.models.size(), shuffle.weights.size());
  double sum = 0;
  for (const double weight : shuffle.weights) {
    if (!(weight >= 0) || (shuffle.any_order && weight > 1000))
      fail(ErrorKind::usage, "-w {}: a number from 0 on is expected{}", weight,
           shuffle.any_order ? ", the share of the model's layers" : "");
    sum += weight;
  }
  if (sum == 0) fail(ErrorKind::usage, "all weights are 0: nothing can be drawn");
}

}  // namespace

int run_layershuffle(std::string_view program, const std::vector<std::string>& arguments) {
  MergeFlags a;
  Shuffle shuffle;
  std::string write_yaml;
  bool print_yaml = false, half = false;
  CLI::App app(
      "Makes a model whose layers are drawn at random from several: each in its place, or (--full-random) "
      "from "
      "anywhere.\nThe same seed draws the same layers.\n\n"
      "example:  moerge layershuffle out -m org/a -w 0.5 -m org/b -w 0.5 --random-seed 7 --write-yaml "
      "drawn.yaml\n",
      std::string(program));
  app.add_option("OUT", a.out, "folder to write the model to")->required();
  const std::string what = "What is drawn";
  app.add_option("-m,--model", shuffle.models, "a model, as often as needed")->group(what)->take_all();
  app.add_option("-w,--weight", shuffle.weights, "its weight, likewise")->group(what)->take_all();
  app.add_flag("--full-random,!--no-full-random", shuffle.any_order,
               "draw layers from anywhere in a model, as many as its weight's share of them")
      ->group(what);
  app.add_flag("--fp16,!--no-fp16", half, "write float16")->group(what);
  app.add_flag("--print-yaml,!--no-print-yaml", print_yaml, "print the YAML for \"moerge merge\"")
      ->group(what);
  app.add_option("--write-yaml", write_yaml, "file to write that YAML to")->group(what);
  add_merge_flags(app, a);
  const ForeignFlags foreign(app, "mergekit-layershuffle");
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(a.level());
  foreign.report(reporter);
  shuffle.seed = static_cast<uint64_t>(a.how.seed);
  check(shuffle);
  start_merge(a);
  ModelFetcher fetcher(a.how, reporter);
  std::vector<int64_t> layers;
  const OpenModel open = open_models_of({}, fetcher);
  for (const std::string& model : shuffle.models) {
    layers.push_back(count_layers(*open(model).model));
    if (!shuffle.any_order && layers.back() != layers.front())
      fail(ErrorKind::unsupported, "\"{}\" has {} layers and \"{}\" {}: only --full-random mixes them", model,
           layers.back(), shuffle.models.front(), layers.front());
  }
  const std::vector<Layer> drawn = draw_layers(shuffle, layers);
  if (drawn.empty()) fail(ErrorKind::usage, "the weights are too small: not a single layer is drawn");
  const std::string yaml = yaml_of(shuffle, drawn, half ? "float16" : "");
  if (print_yaml) print_result(yaml);
  if (!write_yaml.empty()) write_file(write_yaml, yaml);
  write_merge(*plan_merge_text(yaml, "the drawn layers", {}, a.options(), a.out, a.how.fetch, fetcher), a,
              fetcher, reporter);
  return 0;
}

}  // namespace moerge
