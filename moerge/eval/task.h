#pragma once
// Benchmark tasks as data: a YAML file says where the items are, how one becomes a prompt, and how the answer
// is scored. Keys and their meaning are those of EleutherAI's lm-evaluation-harness 0.4
// (https://github.com/EleutherAI/lm-evaluation-harness/blob/main/docs/task_guide.md); docs/eval.md lists
// which.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moerge/base/json.h"

namespace moerge {

/// Where a task's items are.
struct TaskData {
  std::string path;                // dataset_path: "allenai/ai2_arc", a data set of the Hub
  std::string name = {};           // dataset_name: its configuration, "ARC-Challenge"; empty: the default one
  std::string revision = "main";   // dataset_revision
  std::string test_split = {};     // whose items are asked
  std::string fewshot_split = {};  // whose items come before; empty: none are possible
  std::vector<std::string> files = {};  // data_files: .jsonl, .json, .parquet, relative to the task file
};

/// One change of a member of every item, in order, before a template sees it (process_docs).
struct DocStep {
  enum class Kind { set, strip, capitalize, replace, remove, permute, pair, keep };
  Kind kind = Kind::set;
  std::string member;     // a text, or a list of texts that are all changed
  std::string text = {};  // set: a template; replace: what is looked for; remove: a regular expression;
                          // pair: a list of keys; keep: a template that is true for items of the task
  std::string by = {};    // replace; pair: a list of their values
  uint32_t seed = 0;      // permute: the list sorted, then in the order that numpy's RandomState(seed) gives
};

enum class OutputType { multiple_choice, generate_until };

/// What reads an answer that was generated (filter_list): the first or last match of a regular expression.
struct AnswerFilter {
  std::string name;  // "strict-match"
  std::string pattern;
  int64_t group_select = 0;  // of all matches; -1: the last
};

struct TaskMetric {
  std::string metric;  // a name of eval/metrics.h
  bool higher_is_better = true;
  // exact_match
  std::vector<std::string> regexes_to_ignore = {};
  bool ignore_case = false, ignore_punctuation = false;
};

struct Task {
  std::string task;  // its name: "arc_challenge"
  std::string file;  // where it was read, for messages
  TaskData data;
  std::vector<DocStep> process_docs = {};
  OutputType output_type = OutputType::multiple_choice;
  // Templates over the members of an item, or the bare name of one.
  std::string doc_to_text, doc_to_target;
  std::string doc_to_choice = {};         // gives a list
  std::vector<std::string> choices = {};  // or these are the choices of every item
  std::string description = {};           // before everything, a template over the item as well
  std::string target_delimiter = " ", fewshot_delimiter = "\n\n";
  int64_t num_fewshot = 0;
  enum class Sampler { random, first_n };
  Sampler sampler = Sampler::random;  // fewshot_config
  // lm-eval draws one example more and leaves the item itself out where the keys fewshot_split and test_split
  // say the same, also when both say nothing.
  bool fewshot_spare = false;
  std::vector<std::string> until = {};  // generation_kwargs
  int64_t max_gen_toks = 256;
  std::vector<AnswerFilter> filter_list = {};
  std::vector<TaskMetric> metric_list;
  double version = 0;
};

}  // namespace moerge
