#include "moerge/merge/stages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "moerge/base/error.h"
#include "moerge/model/yaml_values.h"

namespace moerge {
namespace {

// The models that a mixture's document names, whatever else is in it.
std::vector<std::string> models_of_mixture(const YamlNode& root) {
  std::vector<std::string> out;
  YamlProblems elsewhere("");  // its own reader reports them
  const auto add = [&](const YamlNode& map, const char* key) {
    if (std::optional<std::string> model = read_model_reference(map, key, elsewhere);
        model && !model->empty())
      out.push_back(std::move(*model));
  };
  add(root, "base_model");
  for (const char* list : {"experts", "shared_experts"})
    if (const YamlNode* node = root.find(list))
      for (const YamlNode& expert : node->items) add(expert, "source_model");
  return out;
}

// The tensor in the type in which it would have been written.
StoredTensor in_type(const StoredTensor& tensor, DType dtype) {
  if (tensor.spec.dtype == dtype) return tensor;
  StoredTensor out = tensor;
  out.spec.dtype = dtype;
  out.rotary_heads = 0;
  out.derivation = std::make_shared<Derivation>(
      Derivation{.source = tensor,
                 .how = fmt::format(" ({})", info(dtype).torch),
                 .compute = [tensor](int64_t first, int64_t count, std::span<float> values) {
                   read_row_values(tensor, first, count, values);
                 }});
  return out;
}

// A stage as a model, with what it is made of.
struct Stage {
  std::unique_ptr<MergePlan> plan;
  TokenizerFolder tokenizer;
  Model model;

  Stage(const std::string& name, std::unique_ptr<MergePlan> merge)
      : plan(std::move(merge)),
        tokenizer(*plan),
        model(name, tokenizer.path(), plan->model_config, tensors(*plan), Families::any) {}

  static std::vector<StoredTensor> tensors(const MergePlan& plan) {
    std::vector<StoredTensor> out;
    for (const Step& step : plan.plan.steps)
      out.push_back(in_type(*std::get<Concat>(step.how).parts.front().source, step.out.dtype));
    return out;
  }
};

}  // namespace

MergeStages::MergeStages(std::string_view yaml, const std::string& file) {
  YamlProblems problems(file);
  for (YamlNode& root : parse_yaml_documents(yaml, file)) {
    Document document = {.root = std::move(root), .merge = {}};
    if (document.root.kind == YamlNode::Kind::null) continue;  // "---" at the end
    if (is_merge_config(document.root) || !document.root.find("experts")) {
      document.merge = read_merge_config(document.root, file, problems);
      document.merge->yaml = yaml;
      document.name = document.merge->name;
      document.uses = document.merge->all_models();
    } else {
      document.uses = models_of_mixture(document.root);
    }
    documents_.push_back(std::move(document));
  }
  if (documents_.empty()) fail(ErrorKind::config, "{}: there is nothing in this file", file);
  check_names(problems);
  find_result(problems);
  problems.throw_if_any();
  if (documents_[result_].merge) documents_[result_].merge->warnings = problems.warnings();
}

const MergeStages::Document* MergeStages::find(const std::string& name) const {
  const auto found = std::ranges::find(documents_, name, &Document::name);
  return name.empty() || found == documents_.end() ? nullptr : &*found;
}

void MergeStages::check_names(YamlProblems& problems) const {
  std::set<std::string> seen;
  for (const Document& document : documents_)
    if (!document.name.empty() && !seen.insert(document.name).second)
      problems.error(*document.root.find("name"),
                     fmt::format("a second document is called \"{}\"", document.name));
  // Depth first: what is reached again before it is left is part of a circle.
  std::map<const Document*, int> state;  // 1: entered, 2: left
  std::vector<std::string> path;
  const std::function<void(const Document&)> visit = [&](const Document& document) {
    state[&document] = 1;
    path.push_back(document.name);
    for (const std::string& model : document.uses) {
      const Document* used = find(model);
      if (!used || state[used] == 2) continue;
      if (state[used] == 1) {
        const auto begin = std::ranges::find(path, used->name);
        problems.error(document.root, fmt::format("these documents need each other: {}, {}",
                                                  fmt::join(begin, path.end(), ", "), used->name));
        continue;
      }
      visit(*used);
    }
    path.pop_back();
    state[&document] = 2;
  };
  for (const Document& document : documents_)
    if (state[&document] == 0) visit(document);
}

void MergeStages::find_result(YamlProblems& problems) {
  std::vector<size_t> nameless, unused;
  for (size_t d = 0; d < documents_.size(); d++) {
    const std::string& name = documents_[d].name;
    if (name.empty()) nameless.push_back(d);
    const bool used = !name.empty() && std::ranges::any_of(documents_, [&](const Document& other) {
      return std::ranges::find(other.uses, name) != other.uses.end();
    });
    if (!used) unused.push_back(d);
  }
  const std::vector<size_t>& candidates = nameless.empty() ? unused : nameless;
  if (candidates.empty()) return;  // a circle, which is a problem already
  if (candidates.size() > 1)
    problems.error(documents_[candidates[1]].root,
                   nameless.empty()
                       ? "no other document uses this one, nor the one before it: which is the result? "
                         "(the one without a \"name\" is)"
                       : "a second document without a \"name\": one of them is the result, the others "
                         "need names by which it can use them");
  result_ = candidates.front();
}

std::vector<std::string> MergeStages::models() const {
  std::vector<std::string> out;
  for (const Document& document : documents_)
    for (const std::string& model : document.uses)
      if (!find(model) && std::ranges::find(out, model) == out.end()) out.push_back(model);
  return out;
}

OpenModel MergeStages::with_stages(OpenModel open, const MergeOptions& options,
                                   std::vector<std::string>& warnings) const {
  struct Opener {
    const MergeStages& stages;
    OpenModel elsewhere;
    MergeOptions options;
    std::vector<std::string>& warnings;
    std::map<const Document*, std::shared_ptr<const Stage>> planned = {};

    OpenedModel operator()(const std::string& reference) {
      const Document* document = stages.find(reference);
      if (!document) return elsewhere(reference);
      std::shared_ptr<const Stage>& stage = planned[document];
      if (!stage) {
        stage = std::make_shared<const Stage>(
            reference,
            plan_merge(
                *document->merge, [this](const std::string& name) { return (*this)(name); }, options));
        warnings.insert(warnings.end(), stage->plan->warnings.begin(), stage->plan->warnings.end());
      }
      return {{stage, &stage->model}, stage->plan->sources};
    }
  };
  const auto opener = std::make_shared<Opener>(Opener{*this, std::move(open), options, warnings});
  return [opener](const std::string& reference) { return (*opener)(reference); };
}

}  // namespace moerge
