#include "moerge/eval/answers_log.h"

#include <fmt/format.h>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr size_t kMostPending = 256;
constexpr std::chrono::seconds kLongestPending(5);
constexpr size_t kHashDigits = 16;
constexpr int kFormat = 1;

Json answer_json(const ItemAnswer& answer) {
  Json choices = Json::array();
  for (const Loglikelihood& choice : answer.choices)
    choices.push_back({choice.value, choice.greedy, choice.tokens});
  Json out = {{"choices", std::move(choices)}};
  if (!answer.text.empty()) out["text"] = answer.text;
  return out;
}

// Nothing for what this program did not write.
std::optional<ItemAnswer> parse_answer(const Json& json) {
  ItemAnswer answer;
  try {
    for (const Json& choice : json.at("choices"))
      answer.choices.push_back({.value = choice.at(0).get<double>(),
                                .greedy = choice.at(1).get<bool>(),
                                .tokens = choice.at(2).get<int64_t>()});
    if (const auto text = json.find("text"); text != json.end()) answer.text = text->get<std::string>();
  } catch (const Json::exception&) {
    return {};
  }
  return answer;
}

}  // namespace

std::string question_hash(const Task& task, const EvalItem& item) {
  Json question = {task.task, item.contexts, item.continuations};
  if (task.output_type == OutputType::generate_until) {
    question.push_back(task.until);
    question.push_back(task.max_gen_toks);
  }
  return sha256_hex(question.dump(-1, ' ', false, Json::error_handler_t::replace)).substr(0, kHashDigits);
}

AnswersLog::AnswersLog(const std::filesystem::path& file, const Json& model, Reporter& reporter)
    : journal_(file) {
  const Json head = {{"moerge_answers", kFormat}, {"model", model}};
  if (journal_.head() != head) {
    if (!journal_.head().is_null())
      reporter.warning(
          fmt::format("{} has answers of another model or of other settings: begins anew", file.string()));
    journal_.start(head);
    return;
  }
  for (const Json& entry : journal_.entries()) {
    if (const auto run = entry.find("run");
        run != entry.end() && run->is_string() && entry.contains("routing"))
      if (std::optional<TaskRouting> routing = parse_routing(entry["routing"]))
        routing_.insert_or_assign(run->get<std::string>(), std::move(*routing));
    const auto items = entry.find("items");
    if (items == entry.end() || !items->is_array()) continue;
    for (const Json& item : *items)
      if (item.is_object() && item.contains("question") && item["question"].is_string())
        if (std::optional<ItemAnswer> answer = parse_answer(item))
          answers_.insert_or_assign(item["question"].get<std::string>(), std::move(*answer));
  }
  found_ = std::ssize(answers_);
}

AnswersLog::~AnswersLog() {
  try {
    flush();
  } catch (const Error&) {
  }
}

std::optional<ItemAnswer> AnswersLog::find(const Task& task, const EvalItem& item) const {
  const auto found = answers_.find(question_hash(task, item));
  if (found == answers_.end()) return {};
  return found->second;
}

void AnswersLog::add(const Task& task, const EvalItem& item, const ItemAnswer& answer) {
  const std::string question = question_hash(task, item);
  Json line = {{"task", task.task}, {"index", item.index}, {"question", question}};
  line.update(answer_json(answer));
  if (!item.gold.empty()) line["gold"] = item.gold;
  pending_.push_back(std::move(line));
  answers_.insert_or_assign(question, answer);
  if (pending_.size() >= kMostPending || std::chrono::steady_clock::now() - flushed_ > kLongestPending)
    flush();
}

void AnswersLog::set_routing(const std::string& run, TaskRouting routing) {
  if (routed_run_ != run) flush();
  routing_.insert_or_assign(run, std::move(routing));
  routed_run_ = run;
}

std::optional<TaskRouting> AnswersLog::find_routing(const std::string& run) const {
  const auto found = routing_.find(run);
  if (found == routing_.end()) return {};
  return found->second;
}

void AnswersLog::flush() {
  flushed_ = std::chrono::steady_clock::now();
  if (pending_.empty()) return;
  Json entry = {{"items", std::exchange(pending_, Json::array())}};
  if (const std::string run = std::exchange(routed_run_, ""); !run.empty()) {
    entry["run"] = run;
    entry["routing"] = routing_json(routing_.at(run));
  }
  journal_.add(entry);
}

}  // namespace moerge
