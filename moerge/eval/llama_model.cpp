#include "moerge/eval/llama_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <tuple>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

// What Python's str.rstrip() removes.
constexpr std::string_view kSpaces[] = {
    " ",      "\n",     "\t",     "\r",     "\v",     "\f",     "\x1c",   "\x1d",   "\x1e",   "\x1f",
    "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
    "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};

size_t length_without_spaces(std::string_view text) {
  for (bool found = true; found;) {
    found = false;
    for (const std::string_view space : kSpaces)
      if (text.ends_with(space)) {
        text.remove_suffix(space.size());
        found = true;
      }
  }
  return text.size();
}

// For messages: the end of a text, in one line.
std::string excerpt(std::string_view text) {
  constexpr size_t kLength = 60;
  size_t begin = text.size() > kLength ? text.size() - kLength : 0;
  while (begin > 0 && begin < text.size() && is_continuation(text[begin])) begin++;
  std::string out = begin > 0 ? "..." : "";
  for (const char letter : text.substr(begin))
    if (letter == '\n')
      out += "\\n";
    else
      out += letter;
  return out;
}

// As a decoder that replaces what it cannot read: one U+FFFD for each character that is none.
std::string as_utf8(std::string_view text) {
  std::string out;
  while (const std::optional<size_t> wrong = find_invalid_utf8(text)) {
    out += text.substr(0, *wrong);
    out += "\ufffd";
    text.remove_prefix(*wrong + 1);
    while (!text.empty() && is_continuation(text[0])) text.remove_prefix(1);
  }
  return out += text;
}

size_t find_first(std::string_view text, const std::vector<std::string>& wanted, size_t added) {
  size_t first = std::string_view::npos;
  for (const std::string& word : wanted) {
    if (word.empty()) continue;
    const size_t fresh = text.size() - added;  // it may begin before what was added
    const size_t from = fresh > word.size() - 1 ? fresh - (word.size() - 1) : 0;
    first = std::min(first, text.find(word, from));
  }
  return first;
}

// An answer while it is written.
class AnswerText {
 public:
  explicit AnswerText(const std::vector<std::string>& until) : until_(until) {}

  /// False when it is complete.
  bool add(std::string_view piece, bool control) {
    tokens_++;
    all_ += piece;
    if (!control) visible_.push_back({all_.size() - piece.size(), all_.size()});
    end_ = find_first(all_, until_, piece.size());
    return end_ == std::string::npos;
  }

  GeneratedText text() const {
    std::string out;
    for (const auto& [begin, end] : visible_)
      if (begin < end_) out += all_.substr(begin, std::min(end, end_) - begin);
    // What control tokens stood between may read as an end too.
    out.resize(std::min(out.size(), find_first(out, until_, out.size())));
    return {.text = as_utf8(out), .tokens = tokens_};
  }

 private:
  const std::vector<std::string>& until_;
  std::string all_;
  std::vector<std::pair<size_t, size_t>> visible_;  // parts of it
  size_t end_ = std::string::npos;
  int64_t tokens_ = 0;
};

}  // namespace

LlamaModel::LlamaModel(const TokenModelOptions& options, std::function<void(double)> progress)
    : model_(options, std::move(progress)) {}

std::vector<std::string> LlamaModel::expert_names() const {
  std::vector<std::string> names = model_.expert_names();
  for (std::string& name : names) name = as_utf8(name);
  return names;
}

std::vector<int32_t> LlamaModel::encode(std::string_view text) const {
  std::vector<int32_t> ids = model_.tokenize(text);
  const int32_t bos = model_.bos();
  if (model_.adds_bos() && bos >= 0 && (ids.empty() || ids[0] != bos)) ids.insert(ids.begin(), bos);
  return ids;
}

// Stands for an empty context.
int32_t LlamaModel::prefix_token() const {
  const int32_t token = model_.bos() >= 0 ? model_.bos() : model_.eos();
  if (token < 0)
    fail(ErrorKind::unsupported,
         "an empty context needs a beginning or an end of sequence token, and the tokenizer has neither");
  return token;
}

// Of requests with one context.
void LlamaModel::add_queries(std::span<const LoglikelihoodRequest> requests,
                             std::span<TokenQuery> queries) const {
  const std::string_view whole_context = requests[0].context;
  const std::string_view context = whole_context.substr(0, length_without_spaces(whole_context));
  const std::string_view spaces = whole_context.substr(context.size());
  std::vector<int32_t> before;
  if (!context.empty()) before = encode(context);
  for (size_t i = 0; i < requests.size(); i++) {
    const std::string continuation = fmt::format("{}{}", spaces, requests[i].continuation);
    std::vector<int32_t>& tokens = queries[i].tokens;
    if (context.empty()) {
      tokens = model_.tokenize(continuation);
      if (tokens.empty() || tokens[0] != prefix_token()) tokens.insert(tokens.begin(), prefix_token());
      queries[i].first = 1;
    } else {
      const std::vector<int32_t> whole = encode(fmt::format("{}{}", context, continuation));
      tokens = before;
      if (whole.size() > before.size())
        tokens.insert(tokens.end(), whole.begin() + std::ssize(before), whole.end());
      queries[i].first = before.size();
    }
    const size_t own = tokens.size() - queries[i].first;
    if (own < 1)
      fail(ErrorKind::input,
           "a continuation has no token of its own: \"{}\" after \"{}\"; an answer needs a text",
           excerpt(continuation), excerpt(context));
    if (static_cast<int64_t>(own) > model_.context())
      fail(ErrorKind::unsupported,
           "a continuation of {} tokens, \"{}\", is longer than the model's context of {}", own,
           excerpt(continuation), model_.context());
  }
}

void LlamaModel::score(std::span<const LoglikelihoodRequest> requests, const LoglikelihoodTold& told) {
  std::vector<TokenQuery> queries(requests.size());
  std::vector<std::pair<size_t, size_t>> runs;  // of requests with one context
  for (size_t i = 0; i < requests.size(); i++) {
    if (runs.empty() || requests[i].context != requests[i - 1].context) runs.push_back({i, 0});
    runs.back().second++;
  }
  parallel_for(runs.size(), model_.threads(), [&](size_t i) {
    const auto [begin, count] = runs[i];
    add_queries(requests.subspan(begin, count), std::span(queries).subspan(begin, count));
  });
  const auto longest = static_cast<size_t>(model_.context()) + 1;  // the last one is never read
  std::vector<int64_t> counts(requests.size()), losses(requests.size());
  for (size_t i = 0; i < queries.size(); i++) {
    TokenQuery& query = queries[i];
    counts[i] = std::ssize(query.tokens) - static_cast<int64_t>(query.first);
    if (query.tokens.size() <= longest) continue;
    const size_t lost = query.tokens.size() - longest;
    query.tokens.erase(query.tokens.begin(), query.tokens.begin() + static_cast<ptrdiff_t>(lost));
    query.first -= lost;
    losses[i] = static_cast<int64_t>(lost);
  }
  model_.score(queries, [&](size_t i, const TokenScore& score) {
    told(i, {.value = score.value, .greedy = score.greedy, .tokens = counts[i], .lost = losses[i]});
  });
}

void LlamaModel::generate(std::span<const GenerationRequest> requests, const GenerationTold& told) {
  using Key = std::tuple<std::string_view, std::vector<std::string>, int64_t>;
  std::map<Key, std::vector<size_t>> equal;  // also brings together what begins alike
  for (size_t i = 0; i < requests.size(); i++)
    equal[{requests[i].context, requests[i].until, requests[i].max_tokens}].push_back(i);

  std::vector<TokenPrompt> prompts;
  std::vector<AnswerText> answers;
  std::vector<const std::vector<size_t>*> askers;
  std::vector<int64_t> losses;
  for (const auto& [key, indices] : equal) {
    const GenerationRequest& request = requests[indices[0]];
    const int64_t room = model_.context() - request.max_tokens;
    if (room < 1)
      fail(ErrorKind::unsupported,
           "answers of up to {} tokens leave no room for a question in the model's context of {}",
           request.max_tokens, model_.context());
    TokenPrompt prompt{encode(request.context), request.max_tokens};
    if (prompt.tokens.empty()) prompt.tokens.push_back(prefix_token());
    const int64_t lost = std::max<int64_t>(0, std::ssize(prompt.tokens) - room);
    prompt.tokens.erase(prompt.tokens.begin(), prompt.tokens.begin() + lost);
    losses.push_back(lost);
    prompts.push_back(std::move(prompt));
    answers.emplace_back(request.until);
    askers.push_back(&indices);
  }
  std::vector<int64_t> left;
  for (const TokenPrompt& prompt : prompts) left.push_back(prompt.max_tokens);
  const auto tell = [&](size_t i) {
    GeneratedText text = answers[i].text();
    text.lost = losses[i];
    for (const size_t index : *askers[i]) told(index, text);
  };
  for (size_t i = 0; i < prompts.size(); i++)
    if (left[i] < 1) tell(i);
  model_.generate(prompts, [&](size_t i, int32_t token) {
    const bool goes_on = !model_.ends_text(token) &&
                         answers[i].add(model_.piece(token), model_.is_control(token)) && --left[i] > 0;
    if (!goes_on) tell(i);
    return goes_on;
  });
}

}  // namespace moerge
