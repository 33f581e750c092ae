#include "moerge/eval/items.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/eval/doc_steps.h"
#include "moerge/eval/doc_template.h"
#include "moerge/eval/python_random.h"

namespace moerge {
namespace {

constexpr uint64_t kFewshotSeed = 1234;  // lm-eval's default
constexpr size_t kMaxChoices = 1000;
constexpr size_t kMaxContext = 16 << 20;  // far beyond what a model reads
constexpr int64_t kMaxAll = int64_t{4} << 30;
constexpr size_t kMaxShown = 60;

std::string shown(const std::string& text) {
  return text.size() > kMaxShown ? text.substr(0, kMaxShown) + "..." : text;
}

// What an item asks, before there are examples in front of it.
struct Question {
  std::vector<std::string> texts;  // one, or one for each choice
  std::vector<std::string> choices;
  std::vector<int64_t> gold;
  std::string target;
};

class ItemMaker {
 public:
  ItemMaker(const Task& task, const TaskDocuments& documents, int64_t shots)
      : task_(task), documents_(documents), shots_(shots), random_(kFewshotSeed), steps_(task, templates_) {
    text_ = templates_.add("doc_to_text", task.doc_to_text);
    target_ = templates_.add("doc_to_target", task.doc_to_target);
    if (!task.doc_to_choice.empty()) choice_ = templates_.add("doc_to_choice", task.doc_to_choice);
    if (!task.description.empty()) description_ = templates_.add("description", task.description);
    templates_.start(task.task);
  }

  std::vector<EvalItem> make(int64_t limit, int64_t* all) {
    prepare_shots();
    std::vector<EvalItem> out;
    int64_t bytes = 0;
    const auto full = [&] { return limit >= 0 && std::ssize(out) >= limit; };
    for (size_t i = 0; i < documents_.test.size() && !full(); i++) {
      check_interrupted();
      const Document& document = documents_.test[i];
      Json doc = steps_.apply(document);
      if (doc.is_null()) continue;
      EvalItem item = make_item(document, std::move(doc));
      item.index = static_cast<int64_t>(i);
      for (const auto* texts : {&item.contexts, &item.continuations})
        for (const std::string& text : *texts) bytes += std::ssize(text);
      if (bytes > kMaxAll)
        fail(ErrorKind::input, "{}: the prompts so far take more than {}; ask fewer items with --limit",
             document.where, human_bytes(kMaxAll));
      out.push_back(std::move(item));
    }
    if (out.empty() && limit != 0) fail(ErrorKind::input, "{}: the data set has no items", task_.task);
    if (all) *all = full() ? count_all() : std::ssize(out);
    return out;
  }

 private:
  // Without those that the task leaves out, as lm-eval counts them.
  int64_t count_all() {
    if (!steps_.selects()) return std::ssize(documents_.test);
    return std::ranges::count_if(documents_.test, [&](const Document& document) {
      check_interrupted();
      return !steps_.apply(document).is_null();
    });
  }

  // ------------------------------------------------------------------------------------------ one item

  EvalItem make_item(const Document& document, Json doc) {
    EvalItem item;
    item.where = document.where;
    Question question = ask(doc, item.where);
    std::string before;
    if (description_) before = templates_.text(*description_, doc, item.where);
    before += examples(document, doc);
    for (const std::string& text : question.texts) {
      item.contexts.push_back(before + text);
      if (item.contexts.back().size() > kMaxContext)
        fail(ErrorKind::input, "{}: the prompt takes {}, more than the limit of {}", item.where,
             human_bytes(std::ssize(item.contexts.back())), human_bytes(kMaxContext));
    }
    for (const std::string& choice : question.choices)
      item.continuations.push_back(task_.target_delimiter + choice);
    item.choices = std::move(question.choices);
    item.gold = std::move(question.gold);
    item.target = std::move(question.target);
    item.doc = std::move(doc);
    return item;
  }

  Question ask(const Json& doc, const std::string& where) {
    Question out;
    const bool has_choices = task_.output_type == OutputType::multiple_choice;
    if (has_choices) out.choices = choices_of(doc, where);
    const Json text = templates_.value(text_, doc, where);
    if (text.is_array()) {
      for (const Json& item : text) {
        if (!item.is_string())
          fail(ErrorKind::input, "{}: doc_to_text gives a list with {} in it, where texts are expected",
               where, item.type_name());
        out.texts.push_back(item.get<std::string>());
      }
      if (!has_choices || out.texts.size() != out.choices.size())
        fail(ErrorKind::input, "{}: doc_to_text gives a list of {}, and there are {} choices", where,
             out.texts.size(), out.choices.size());
    } else {
      out.texts.push_back(templates_.text(text_, doc, where));
    }
    const Json target = templates_.value(target_, doc, where);
    if (has_choices)
      add_gold(target, out, where);
    else if (target.is_null())
      fail(ErrorKind::input, "{}: the item has no answer (doc_to_target: {})", where, task_.doc_to_target);
    else
      out.target = templates_.text(target_, doc, where);
    return out;
  }

  std::vector<std::string> choices_of(const Json& doc, const std::string& where) {
    if (!choice_) return task_.choices;
    const Json value = templates_.value(*choice_, doc, where);
    if (!value.is_array())
      fail(ErrorKind::input, "{}: doc_to_choice should give a list of texts, found {}", where,
           value.type_name());
    if (value.empty() || value.size() > kMaxChoices)
      fail(ErrorKind::input, "{}: doc_to_choice gives {} choices, where 1 to {} are possible", where,
           value.size(), kMaxChoices);
    std::vector<std::string> out;
    for (const Json& choice : value) {
      if (!choice.is_string() && !choice.is_number())
        fail(ErrorKind::input, "{}: doc_to_choice gives a list with {} in it, where texts are expected",
             where, choice.type_name());
      out.push_back(choice.is_string() ? choice.get<std::string>() : choice.dump());
    }
    return out;
  }

  // ------------------------------------------------------------------------------------ the right choices

  // An index, the text of a choice, or a list of those.
  void add_gold(const Json& target, Question& out, const std::string& where) {
    if (target.is_array()) {
      for (const Json& item : target) {
        if (item.is_array()) fail_answer(target, out, where);
        add_gold(item, out, where);
      }
      if (out.gold.empty())
        fail(ErrorKind::input, "{}: the item has no answer: doc_to_target gives an empty list", where);
      return;
    }
    if (const std::optional<Json> list = written_list(target)) return add_gold(*list, out, where);
    const std::optional<int64_t> gold = choice_index(target, out.choices);
    if (!gold) fail_answer(target, out, where);
    out.gold.push_back(*gold);
  }

  // As there, a template that makes "[0, 2]" gives a list, and as in Python a last comma is fine.
  std::optional<Json> written_list(const Json& target) const {
    if (!target.is_string() || templates_.is_bare(target_)) return {};
    std::string text = target.get<std::string>();
    if (text.size() < 2 || !text.starts_with('[') || !text.ends_with(']')) return {};
    if (text.ends_with(",]")) text.replace(text.size() - 2, 2, "]");
    try {
      return parse_json(text, "doc_to_target");
    } catch (const Error&) {
      return {};  // the text of a choice
    }
  }

  std::optional<int64_t> choice_index(const Json& target, const std::vector<std::string>& choices) const {
    const auto in_range = [&](int64_t index) -> std::optional<int64_t> {
      if (index >= 0 && index < std::ssize(choices)) return index;
      return {};
    };
    const auto of_text = [&](const std::string& text) -> std::optional<int64_t> {
      const auto found = std::ranges::find(choices, text);
      if (found == choices.end()) return {};
      return found - choices.begin();
    };
    if (target.is_boolean()) {  // as Python prints it, or as a number
      const auto found = of_text(target.get<bool>() ? "True" : "False");
      return found ? found : in_range(target.get<bool>() ? 1 : 0);
    }
    if (target.is_number_integer() && (!target.is_number_unsigned() || target.get<uint64_t>() <= kMaxChoices))
      return in_range(target.get<int64_t>());
    if (!target.is_string()) return {};
    // As there: digits from a template are an index, of a member the text of a choice. Digits that are no
    // index may still be a choice.
    const std::string& text = target.get_ref<const std::string&>();
    const bool digits = !text.empty() && text.size() < 10 &&
                        std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
    if (digits && (!templates_.is_bare(target_) || text == task_.doc_to_target))
      if (const auto index = in_range(std::stoll(text))) return index;
    return of_text(text);
  }

  [[noreturn]] void fail_answer(const Json& target, const Question& question,
                                const std::string& where) const {
    if (target.is_null() || (target.is_string() && target.get_ref<const std::string&>().empty()))
      fail(ErrorKind::input, "{}: the item has no answer (doc_to_target: {})", where, task_.doc_to_target);
    if (templates_.is_bare(target_) && target == task_.doc_to_target)  // no member: the text itself
      fail(ErrorKind::input, "{}: the item has no member \"{}\", which doc_to_target names", where,
           task_.doc_to_target);
    const std::string found = shown(target.dump(-1, ' ', true, Json::error_handler_t::replace));
    if (target.is_number_integer())
      fail(ErrorKind::input, "{}: the answer is choice {}, counted from 0, and there are {}", where, found,
           question.choices.size());
    fail(ErrorKind::input, "{}: the answer {} is none of the {} choices (the first is \"{}\")", where, found,
         question.choices.size(), shown(question.choices.front()));
  }

  // ----------------------------------------------------------------------------------------- examples

  void prepare_shots() {
    if (shots_ <= 0) return;
    if (task_.data.fewshot_split.empty())
      fail(ErrorKind::config, "{}: {}: there are no examples for {} shots: the task has no \"fewshot_split\"",
           task_.file, task_.task, shots_);
    // The same split is read once.
    pool_ = documents_.fewshot.empty() && task_.data.fewshot_split == task_.data.test_split
                ? &documents_.test
                : &documents_.fewshot;
    processed_.resize(pool_->size());
    example_texts_.resize(pool_->size());
    for (size_t i = 0; i < pool_->size(); i++)
      if (!steps_.selects() || !processed(i).is_null()) candidates_.push_back(i);
    const int64_t needed = shots_ + (task_.fewshot_spare ? 1 : 0);
    if (needed > std::ssize(candidates_))
      fail(ErrorKind::config,
           "{}: {} shots need {} examples, and \"{}\" has {}; give --shots a smaller number", task_.task,
           shots_, needed, task_.data.fewshot_split, candidates_.size());
  }

  const Json& processed(size_t example) {
    std::optional<Json>& doc = processed_[example];
    if (!doc) doc = steps_.apply((*pool_)[example]);
    return *doc;
  }

  std::vector<size_t> sample(const std::vector<size_t>& from, size_t count) {
    std::vector<size_t> out = random_.sample(from.size(), count);
    for (size_t& i : out) i = from[i];
    return out;
  }

  std::vector<size_t> without(const std::vector<size_t>& examples, const Json& doc) {
    std::vector<size_t> out;
    for (const size_t i : examples)
      if (processed(i) != doc) out.push_back(i);
    return out;
  }

  // Those for one item: numbers are drawn for one item after the other.
  std::vector<size_t> choose(const Document& document, const Json& doc) {
    const size_t count = static_cast<size_t>(shots_);
    std::vector<size_t> out;
    if (task_.sampler == Task::Sampler::first_n) {
      for (const size_t i : candidates_) {
        if (out.size() == count) break;
        if (!task_.fewshot_spare || processed(i) != doc) out.push_back(i);
      }
    } else if (!task_.fewshot_spare) {
      out = sample(candidates_, count);
    } else {
      out = without(sample(candidates_, count + 1), doc);
      if (out.size() < count)  // the item is there several times
        if (const auto others = without(candidates_, doc); others.size() >= count)
          out = sample(others, count);
      out.resize(std::min(out.size(), count));
    }
    if (out.size() < count)
      fail(ErrorKind::config,
           "{}: \"{}\" has fewer than {} examples beside the item itself; give --shots a smaller number",
           document.where, task_.data.fewshot_split, count);
    return out;
  }

  const std::string& example_text(size_t example) {
    std::optional<std::string>& text = example_texts_[example];
    if (text) return *text;
    const Question question = ask(processed(example), (*pool_)[example].where);
    const bool has_choices = task_.output_type == OutputType::multiple_choice;
    const size_t right = has_choices ? static_cast<size_t>(question.gold.front()) : 0;
    const std::string& answer = has_choices ? question.choices[right] : question.target;
    text = question.texts.size() > 1 ? question.texts[right] : question.texts.front();
    if (!answer.empty()) *text += task_.target_delimiter + answer + task_.fewshot_delimiter;
    return *text;
  }

  std::string examples(const Document& document, const Json& doc) {
    std::string out;
    if (shots_ <= 0) return out;
    for (const size_t i : choose(document, doc)) {
      out += example_text(i);
      if (out.size() > kMaxContext)
        fail(ErrorKind::input, "{}: the examples take more than {}; give --shots a smaller number",
             document.where, human_bytes(kMaxContext));
    }
    return out;
  }

  const Task& task_;
  const TaskDocuments& documents_;
  int64_t shots_;
  PythonRandom random_;
  DocTemplates templates_;
  DocSteps steps_;
  size_t text_ = 0, target_ = 0;
  std::optional<size_t> choice_, description_;
  // Of the split that examples come from; what is made of them is kept.
  const std::vector<Document>* pool_ = nullptr;
  std::vector<std::optional<Json>> processed_;
  std::vector<std::optional<std::string>> example_texts_;
  std::vector<size_t> candidates_;
};

}  // namespace

std::vector<EvalItem> make_items(const Task& task, const TaskDocuments& documents, int64_t shots,
                                 int64_t limit, int64_t* all) {
  return ItemMaker(task, documents, shots).make(limit, all);
}

}  // namespace moerge
