#pragma once
// Items of a task as a model is asked them: documents become contexts and continuations.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "moerge/eval/task.h"

namespace moerge {

/// A row of a data set.
struct Document {
  Json members;
  std::string where;  // for messages: "arc_challenge, item 17 (test.jsonl:18)"
};

/// The splits of a task that it needs, in the data set's order.
struct TaskDocuments {
  std::vector<Document> test, fewshot;
  std::string revision = {};  // the commit that they came from; empty: from files
};

/// What is asked for one document. multiple_choice: the loglikelihood of each continuation after its context;
/// generate_until: the text that follows contexts[0].
struct EvalItem {
  int64_t index = 0;  // of the document in its split, from 0
  std::string where;
  std::vector<std::string> contexts;       // one for all choices, or one for each
  std::vector<std::string> continuations;  // by choice; they begin with the target delimiter
  std::vector<std::string> choices;        // without it: their lengths normalise
  std::vector<int64_t> gold;               // choices that are right; may be several
  std::string target;                      // generate_until: the right answer
  Json doc;                                // the document after process_docs, for the log of answers
};

/// The first `limit` documents (all: -1) with `shots` examples in front of each, chosen as lm-eval 0.4.13
/// chooses them: Python's random.Random(1234).sample for one document after the other, an example that is the
/// document itself left out; or the first of the split. Templates run in a process of their own. Throws input
/// naming task and item: a template that fails or finds nothing, an item without an answer, an answer that is
/// no choice, more shots than there are examples. `all`: how many there are without the limit.
std::vector<EvalItem> make_items(const Task& task, const TaskDocuments& documents, int64_t shots,
                                 int64_t limit, int64_t* all = nullptr);

}  // namespace moerge
