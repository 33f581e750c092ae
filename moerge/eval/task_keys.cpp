#include "moerge/eval/task_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"
#include "moerge/eval/metrics.h"
#include "moerge/eval/regex.h"

namespace moerge {
namespace {

constexpr size_t kMaxName = 120;

enum class Use { read, ignored, refused };

// Keys of lm-evaluation-harness 0.4, and three of ours: data_files, dataset_revision, as_published.
struct KeyRow {
  std::string_view key;
  Use use = Use::read;
  std::string_view instead = "";  // of a refused one
};

constexpr std::string_view kPython = "it is Python code there; name metrics in \"metric_list\" instead";
constexpr std::string_view kTextOnly = "only texts can be asked about";
constexpr KeyRow kKeys[] = {
    {"task"},
    {"group"},
    {"include"},
    {"as_published"},
    {"dataset_path"},
    {"dataset_name"},
    {"dataset_revision"},
    {"dataset_kwargs"},
    {"data_files"},
    {"training_split"},
    {"validation_split"},
    {"test_split"},
    {"fewshot_split"},
    {"fewshot_config"},
    {"num_fewshot"},
    {"output_type"},
    {"process_docs"},
    {"doc_to_text"},
    {"doc_to_target"},
    {"doc_to_choice"},
    {"description"},
    {"target_delimiter"},
    {"fewshot_delimiter"},
    {"generation_kwargs"},
    {"filter_list"},
    {"metric_list"},
    {"metadata"},
    {"repeats"},
    {"tag", Use::ignored},
    {"task_alias", Use::ignored},
    {"group_alias", Use::ignored},
    {"aggregate_metric_list", Use::ignored},
    {"should_decontaminate", Use::ignored},
    {"doc_to_decontamination_query", Use::ignored},
    {"unsafe_code", Use::ignored},
    {"process_results", Use::refused, kPython},
    {"custom_dataset", Use::refused, "name the files in \"data_files\" instead"},
    {"doc_to_image", Use::refused, kTextOnly},
    {"doc_to_audio", Use::refused, kTextOnly},
    {"use_prompt", Use::refused, "write the template into \"doc_to_text\" instead"},
    {"gen_prefix", Use::refused, "end \"doc_to_text\" with it instead"},
    {"multiple_inputs", Use::refused, "\"doc_to_text\" may give a list, with a context for each choice"},
};

constexpr std::array<std::string_view, 3> kSamplers = {"default", "random", "first_n"};
constexpr std::array<std::string_view, 2> kOutputTypes = {"multiple_choice", "generate_until"};

std::string suggestion(std::string_view word, std::span<const std::string_view> candidates) {
  const std::string close = nearest(word, candidates);
  return close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close);
}

// A value and who is told about it.
struct Value {
  const YamlNode* node = nullptr;  // none: the key is absent or null
  YamlProblems* problems = nullptr;

  explicit operator bool() const { return node != nullptr; }
  void error(std::string_view message) const { problems->error(*node, message); }
};

std::optional<bool> truth(const YamlNode& map, std::string_view key, YamlProblems& problems) {
  const std::optional<std::string> value = problems.text(map, key);
  if (!value) return {};
  for (const std::string_view yes : {"true", "True", "TRUE"})
    if (*value == yes) return true;
  for (const std::string_view no : {"false", "False", "FALSE"})
    if (*value == no) return false;
  problems.error(*map.find(key), fmt::format("\"{}\" should be true or false, found \"{}\"", key, *value));
  return {};
}

// Keys of a map inside of the file that are not known: always errors, as what they say would be lost.
void check_inner_keys(const YamlNode& map, std::span<const std::string_view> known, std::string_view what,
                      YamlProblems& problems) {
  for (const auto& [key, value] : map.entries)
    if (std::ranges::count(known, key.scalar) == 0)
      problems.error(key, fmt::format("\"{}\" of {} is not supported here{}; {} are", key.scalar, what,
                                      suggestion(key.scalar, known), fmt::join(known, ", ")));
}

void check_pattern(const YamlNode& node, const std::string& pattern, YamlProblems& problems) {
  try {
    Regex(pattern, "the pattern");
  } catch (const Error& error) {
    problems.error(node, error.message());
  }
}

class TaskReader {
 public:
  explicit TaskReader(std::vector<TaskLayer> layers) : layers_(std::move(layers)) {}

  Task read(const std::string& file) {
    task_.file = file;
    read_name();
    read_data();
    read_output_type();
    read_prompt();
    read_shots();
    read_generation();
    read_filters();
    read_metrics();
    read_version();
    return std::move(task_);
  }

 private:
  // The last layer that has the key decides, also when it says null.
  Value find(std::string_view key) const {
    for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer)
      if (const YamlNode* node = layer->map->find(key))
        return {node->kind == YamlNode::Kind::null ? nullptr : node, layer->problems};
    return {};
  }
  const YamlNode& map_of(std::string_view key) const {
    for (auto layer = layers_.rbegin(); layer != layers_.rend(); ++layer)
      if (layer->map->find(key)) return *layer->map;
    return *layers_.front().map;
  }
  std::optional<std::string> text(std::string_view key) const {
    const Value value = find(key);
    return value ? value.problems->text(map_of(key), key) : std::nullopt;
  }
  void missing(std::string_view key, std::string_view why) const {
    const TaskLayer& layer = layers_[name_layer_];
    const YamlNode* at = layer.map->find("task");
    layer.problems->error(at ? *at : *layer.map,
                          fmt::format("task \"{}\" has no \"{}\": {}", task_.task, key, why));
  }

  void read_name() {
    for (size_t i = 0; i < layers_.size(); i++)
      if (layers_[i].map->find("task")) name_layer_ = i;
    task_.task = text("task").value_or("");
    const Value at = find("task");
    const bool plain = std::ranges::all_of(task_.task, [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
             c == '-' || c == '.' || c == '+';
    });
    if (task_.task.empty() && (!at || at.node->kind == YamlNode::Kind::scalar))
      layers_.back().problems->error(*layers_.back().map, "this task has no name: \"task: NAME\"");
    else if (!plain || task_.task.starts_with('.') || task_.task.size() > kMaxName)
      at.error(fmt::format(
          "\"task\" should be a name of letters, digits, \"_\", \"-\", \"+\" and \".\", at most {}, "
          "found \"{}\"",
          kMaxName, task_.task.substr(0, kMaxName)));
  }

  void read_files(const YamlNode& map, YamlProblems& problems) {
    const YamlNode* node = map.find("data_files");
    if (!node || node->kind == YamlNode::Kind::null) return;
    if (node->kind == YamlNode::Kind::map)
      return problems.error(*node,
                            "\"data_files\" should be a list of files: each belongs to the split that is in "
                            "its name, \"test.jsonl\" say");
    task_.data.files = problems.texts(map, "data_files");
  }

  void read_data() {
    TaskData& data = task_.data;
    data.path = text("dataset_path").value_or("");
    data.name = text("dataset_name").value_or("");
    data.revision = text("dataset_revision").value_or("main");
    const std::optional<std::string> test = text("test_split"), validation = text("validation_split"),
                                     training = text("training_split"), shots = text("fewshot_split");
    // As there: what is asked is the test split or else the validation split; examples come from the training
    // split, or else from the validation split.
    data.test_split = test ? *test : validation.value_or("");
    data.fewshot_split = shots ? *shots : training ? *training : validation.value_or("");
    task_.fewshot_spare = shots == test;
    if (const Value files = find("data_files"))
      read_files(map_of("data_files"), *files.problems);
    else if (const Value more = find("dataset_kwargs");
             more && more.problems->expect_map(*more.node, "\"dataset_kwargs\""))
      read_files(*more.node, *more.problems);
    // "json" and "parquet" are no data sets there but readers of files.
    if (!data.files.empty() && (data.path == "json" || data.path == "parquet")) data.path.clear();
    if (data.files.empty() && data.path.empty())
      missing("dataset_path", "name a data set of the Hub, or files in \"data_files\"");
    else if (data.test_split.empty() && !data.files.empty())
      data.test_split = "test";
    else if (data.test_split.empty())
      missing("test_split", "name the part of the data set whose items are asked");
  }

  void read_output_type() {
    const std::string type = text("output_type").value_or("generate_until");
    if (type == "multiple_choice")
      task_.output_type = OutputType::multiple_choice;
    else if (type == "generate_until")
      task_.output_type = OutputType::generate_until;
    else {
      knows_type_ = false;
      find("output_type")
          .error(fmt::format("output_type \"{}\" is not supported{}; {} are", type,
                             suggestion(type, kOutputTypes), fmt::join(kOutputTypes, " and ")));
    }
  }

  void read_prompt() {
    if (const Value steps = find("process_docs")) read_steps(steps);
    task_.doc_to_text = text("doc_to_text").value_or("");
    task_.doc_to_target = text("doc_to_target").value_or("");
    if (!find("doc_to_text")) missing("doc_to_text", "a template that makes an item's prompt");
    if (!find("doc_to_target")) missing("doc_to_target", "a template that gives an item's right answer");
    task_.description = text("description").value_or("");
    task_.target_delimiter = text("target_delimiter").value_or(task_.target_delimiter);
    task_.fewshot_delimiter = text("fewshot_delimiter").value_or(task_.fewshot_delimiter);
    if (!knows_type_) return;
    const bool choices = task_.output_type == OutputType::multiple_choice;
    const Value choice = find("doc_to_choice");
    if (choices && !choice) missing("doc_to_choice", "a list, or a template that gives one");
    if (!choices && choice) choice.error("\"doc_to_choice\" needs \"output_type: multiple_choice\"");
    if (choices && choice) read_choices(choice);
  }

  void read_choices(const Value& value) {
    if (value.node->kind == YamlNode::Kind::scalar) {
      task_.doc_to_choice = value.node->scalar;
    } else if (value.node->kind == YamlNode::Kind::map) {  // as there, the values are the choices
      for (const auto& entry : value.node->entries)
        task_.choices.push_back(value.problems->text(*value.node, entry.key.scalar).value_or(""));
    } else {
      task_.choices = value.problems->texts(map_of("doc_to_choice"), "doc_to_choice");
    }
    if (task_.choices.empty() && task_.doc_to_choice.empty()) value.error("\"doc_to_choice\" is empty");
  }

  void read_steps(const Value& value) {
    if (value.node->kind != YamlNode::Kind::sequence)
      return value.error(
          fmt::format("\"process_docs\" should be a list of steps, found {}", value.node->kind_name()));
    for (const YamlNode& step : value.node->items)
      if (value.problems->expect_map(step, "a step of \"process_docs\"")) read_step(step, *value.problems);
  }

  // {KIND: MEMBER, ARGUMENT: ...}
  void read_step(const YamlNode& step, YamlProblems& problems) {
    if (step.find("keep")) {
      check_inner_keys(step, std::array<std::string_view, 1>{"keep"}, "the step \"keep\"", problems);
      const std::string keep = problems.text(step, "keep").value_or("");
      if (keep.empty())
        problems.error(step, "\"keep\" should be a template that is true for items of the task");
      task_.process_docs.push_back({.kind = DocStep::Kind::keep, .member = "", .text = keep});
      return;
    }
    struct Row {
      DocStep::Kind kind;
      std::string_view name, text, by;
    };
    using enum DocStep::Kind;
    static constexpr Row kSteps[] = {{set, "set", "to", ""},
                                     {strip, "strip", "", ""},
                                     {capitalize, "capitalize", "", ""},
                                     {replace, "replace", "text", "by"},
                                     {remove, "remove", "pattern", ""},
                                     {permute, "permute", "seed", ""},
                                     {pair, "pair", "keys", "values"}};
    std::vector<std::string_view> names = {"keep"};
    for (const Row& row : kSteps) {
      names.push_back(row.name);
      const YamlNode* member = step.find(row.name);
      if (!member) continue;
      std::vector<std::string_view> known = {row.name};
      for (const std::string_view more : {row.text, row.by})
        if (!more.empty()) known.push_back(more);
      check_inner_keys(step, known, fmt::format("the step \"{}\"", row.name), problems);
      DocStep out = {.kind = row.kind, .member = problems.text(step, row.name).value_or("")};
      if (out.member.empty() && member->kind != YamlNode::Kind::sequence &&
          member->kind != YamlNode::Kind::map)
        problems.error(*member, fmt::format("\"{}\" should name a member of the items", row.name));
      for (size_t i = 1; i < known.size(); i++)
        if (const YamlNode* argument = step.find(known[i]);
            !argument || argument->kind == YamlNode::Kind::null)
          problems.error(step, fmt::format("the step \"{}\" needs \"{}\"", row.name, known[i]));
      if (row.kind == permute) {
        const int64_t seed = problems.integer(step, "seed").value_or(0);
        if (seed < 0 || seed > std::numeric_limits<uint32_t>::max())
          problems.error(*step.find("seed"),
                         fmt::format("\"seed\" should be from 0 to 2^32 - 1, found {}", seed));
        out.seed = static_cast<uint32_t>(seed);
      } else {
        if (!row.text.empty()) out.text = problems.text(step, row.text).value_or("");
        if (!row.by.empty()) out.by = problems.text(step, row.by).value_or("");
      }
      if (row.kind == replace && out.text.empty())
        if (const YamlNode* what = step.find(row.text))
          problems.error(*what, "\"text\" is empty: what is to be replaced?");
      if (row.kind == remove && step.find(row.text)) check_pattern(*step.find(row.text), out.text, problems);
      task_.process_docs.push_back(std::move(out));
      return;
    }
    const std::string first = step.entries.empty() ? "" : step.entries.front().key.scalar;
    problems.error(step, fmt::format("unknown step \"{}\" of \"process_docs\"{}; the steps are {}", first,
                                     suggestion(first, names), fmt::join(names, ", ")));
  }

  void read_shots() {
    if (const Value count = find("num_fewshot")) {
      task_.num_fewshot = count.problems->integer(map_of("num_fewshot"), "num_fewshot").value_or(0);
      if (task_.num_fewshot < 0) count.error(fmt::format("\"num_fewshot\" cannot be {}", task_.num_fewshot));
    }
    if (const Value config = find("fewshot_config");
        config && config.problems->expect_map(*config.node, "\"fewshot_config\"")) {
      static constexpr std::array<std::string_view, 2> kKnown = {"sampler", "split"};
      check_inner_keys(*config.node, kKnown, "\"fewshot_config\"", *config.problems);
      const std::string sampler = config.problems->text(*config.node, "sampler").value_or("default");
      if (sampler == "first_n")
        task_.sampler = Task::Sampler::first_n;
      else if (std::ranges::count(kSamplers, sampler) == 0)
        config.problems->error(*config.node->find("sampler"),
                               fmt::format("unknown sampler \"{}\"{}; {} are possible", sampler,
                                           suggestion(sampler, kSamplers), fmt::join(kSamplers, ", ")));
      if (const auto split = config.problems->text(*config.node, "split")) {
        task_.data.fewshot_split = *split;
        task_.fewshot_spare = text("test_split") == split;
      }
    }
    if (task_.num_fewshot > 0 && task_.data.fewshot_split.empty())
      missing("fewshot_split", "\"num_fewshot\" asks for examples, and nothing says where they come from");
  }

  void read_generation() {
    task_.until = {task_.fewshot_delimiter};
    const Value value = find("generation_kwargs");
    if (!value || !value.problems->expect_map(*value.node, "\"generation_kwargs\"")) return;
    if (task_.output_type != OutputType::generate_until)
      return value.error("\"generation_kwargs\" needs \"output_type: generate_until\"");
    static constexpr std::array<std::string_view, 4> kKnown = {"until", "max_gen_toks", "do_sample",
                                                               "temperature"};
    const YamlNode& map = *value.node;
    YamlProblems& problems = *value.problems;
    check_inner_keys(map, kKnown, "\"generation_kwargs\"", problems);
    if (map.find("until")) task_.until = problems.texts(map, "until");
    std::erase(task_.until, "");
    task_.max_gen_toks = problems.integer(map, "max_gen_toks").value_or(task_.max_gen_toks);
    if (task_.max_gen_toks < 1)
      problems.error(*map.find("max_gen_toks"),
                     fmt::format("\"max_gen_toks\" should be at least 1, found {}", task_.max_gen_toks));
    if (truth(map, "do_sample", problems).value_or(false))
      problems.error(*map.find("do_sample"), "answers are not sampled here: the most likely token each time");
    // With do_sample false a temperature changes nothing there either.
    if (!map.find("do_sample") && problems.number(map, "temperature").value_or(0) != 0)
      problems.error(*map.find("temperature"), "answers are not sampled here: \"temperature\" can only be 0");
  }

  void read_filter(const YamlNode& node, YamlProblems& problems) {
    static constexpr std::array<std::string_view, 2> kKnown = {"name", "filter"};
    static constexpr std::array<std::string_view, 2> kFunctions = {"regex", "take_first"};
    static constexpr std::array<std::string_view, 4> kArguments = {"function", "regex_pattern",
                                                                   "group_select", "fallback"};
    check_inner_keys(node, kKnown, "\"filter_list\"", problems);
    AnswerFilter filter = {.name = problems.text(node, "name").value_or(""), .pattern = ""};
    if (filter.name.empty()) problems.error(node, "a filter needs a \"name\"");
    const YamlNode* chain = node.find("filter");
    if (!chain || chain->kind != YamlNode::Kind::sequence)
      return problems.error(node, "a filter needs \"filter\", a list of functions");
    for (const YamlNode& item : chain->items) {
      if (!problems.expect_map(item, "a function of a filter")) continue;
      check_inner_keys(item, kArguments, "a filter", problems);
      const std::string function = problems.text(item, "function").value_or("");
      if (std::ranges::count(kFunctions, function) == 0) {
        problems.error(item, fmt::format("the filter function \"{}\" is not supported{}; {} are", function,
                                         suggestion(function, kFunctions), fmt::join(kFunctions, " and ")));
      } else if (function == "regex") {
        if (!filter.pattern.empty()) problems.error(item, "one regular expression is possible in a filter");
        filter.pattern = problems.text(item, "regex_pattern").value_or("#### (\\-?[0-9\\.\\,]+)");
        filter.group_select = problems.integer(item, "group_select").value_or(0);
        check_pattern(item.find("regex_pattern") ? *item.find("regex_pattern") : item, filter.pattern,
                      problems);
        if (const auto fallback = problems.text(item, "fallback"); fallback && *fallback != "[invalid]")
          problems.error(*item.find("fallback"), "\"fallback\" can only be \"[invalid]\"");
      }
    }
    task_.filter_list.push_back(std::move(filter));
  }

  void read_filters() {
    const Value value = find("filter_list");
    if (!value) return;
    if (value.node->kind != YamlNode::Kind::sequence)
      return value.error(fmt::format("\"filter_list\" should be a list, found {}", value.node->kind_name()));
    if (task_.output_type != OutputType::generate_until)
      return value.error("\"filter_list\" needs \"output_type: generate_until\"");
    for (const YamlNode& item : value.node->items)
      if (value.problems->expect_map(item, "a filter")) read_filter(item, *value.problems);
  }

  void read_metric(const YamlNode& node, YamlProblems& problems) {
    static constexpr std::array<std::string_view, 6> kKnown = {"metric",           "aggregation",
                                                               "higher_is_better", "regexes_to_ignore",
                                                               "ignore_case",      "ignore_punctuation"};
    check_inner_keys(node, kKnown, "a metric", problems);
    TaskMetric metric = {.metric = problems.text(node, "metric").value_or("")};
    const std::span<const std::string_view> names = metric_names(task_.output_type);
    if (std::ranges::count(names, metric.metric) == 0)
      problems.error(node.find("metric") ? *node.find("metric") : node,
                     fmt::format("unknown metric \"{}\"{}; with this output_type {} are possible",
                                 metric.metric, suggestion(metric.metric, names), fmt::join(names, ", ")));
    metric.higher_is_better = truth(node, "higher_is_better", problems).value_or(true);
    metric.ignore_case = truth(node, "ignore_case", problems).value_or(false);
    metric.ignore_punctuation = truth(node, "ignore_punctuation", problems).value_or(false);
    metric.regexes_to_ignore = problems.texts(node, "regexes_to_ignore");
    for (const std::string& pattern : metric.regexes_to_ignore)
      check_pattern(*node.find("regexes_to_ignore"), pattern, problems);
    task_.metric_list.push_back(std::move(metric));
  }

  void read_metrics() {
    const Value value = find("metric_list");
    if (value && value.node->kind != YamlNode::Kind::sequence)
      return value.error(fmt::format("\"metric_list\" should be a list of \"- metric: NAME\", found {}",
                                     value.node->kind_name()));
    if (value)
      for (const YamlNode& item : value.node->items)
        if (value.problems->expect_map(item, "a metric")) read_metric(item, *value.problems);
    if (!task_.metric_list.empty() || (value && !value.node->items.empty())) return;
    if (task_.output_type == OutputType::multiple_choice)
      task_.metric_list = {{.metric = "acc"}, {.metric = "acc_norm"}};
    else
      task_.metric_list = {{.metric = "exact_match"}};
  }

  void read_version() {
    if (const Value repeats = find("repeats");
        repeats && repeats.problems->integer(map_of("repeats"), "repeats").value_or(1) != 1)
      repeats.error("\"repeats\" can only be 1: the same question gets the same answer");
    const Value metadata = find("metadata");
    if (!metadata) return;
    if (metadata.node->kind == YamlNode::Kind::map)
      task_.version = metadata.problems->number(*metadata.node, "version").value_or(0);
    for (const YamlNode& item : metadata.node->items)
      if (item.kind == YamlNode::Kind::map)
        task_.version = metadata.problems->number(item, "version").value_or(task_.version);
  }

  std::vector<TaskLayer> layers_;
  size_t name_layer_ = 0;
  bool knows_type_ = true;
  Task task_;
};

}  // namespace

void check_task_keys(const YamlNode& map, YamlProblems& problems) {
  std::vector<std::string_view> names;
  for (const KeyRow& row : kKeys)
    if (row.use == Use::read) names.push_back(row.key);
  for (const auto& [key, value] : map.entries) {
    const auto row = std::ranges::find(kKeys, std::string_view(key.scalar), &KeyRow::key);
    if (row == std::end(kKeys))
      problems.error(key, fmt::format("unknown key \"{}\"{}", key.scalar, suggestion(key.scalar, names)));
    else if (row->use == Use::refused)
      problems.error(key, fmt::format("\"{}\" is not supported: {}", key.scalar, row->instead));
  }
}

Task read_task_keys(const std::vector<TaskLayer>& layers, const std::string& file) {
  return TaskReader(layers).read(file);
}

}  // namespace moerge
