#include "moerge/cli/chat_answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "moerge/base/error.h"
#include "moerge/base/progress.h"

namespace moerge {
namespace {

constexpr std::string_view kDim = "\033[2m", kNotDim = "\033[22m";

void put_error(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

// 12 as small digits below the line.
std::string subscript(int64_t number) {
  std::string out;
  for (const char digit : std::to_string(number))
    out += {'\xe2', '\x82', static_cast<char>(0x80 + digit - '0')};
  return out;
}

const Json* find_member(const Json& body, const char* key) {
  const auto in = [&](const Json& chunk) -> const Json* {
    const auto found = chunk.is_object() ? chunk.find(key) : chunk.end();
    return chunk.is_object() && found != chunk.end() && !found->is_null() ? &*found : nullptr;
  };
  if (!body.is_array()) return in(body);
  for (const Json& chunk : body)
    if (const Json* found = in(chunk)) return found;
  return nullptr;
}

void read_ending(const Json& body, Answered& out) {
  const Json chunks = body.is_array() ? body : Json::array({body});
  for (const Json& chunk : chunks) {
    if (!chunk.is_object() || !chunk.contains("choices")) continue;
    for (const Json& choice : chunk["choices"])
      if (choice.contains("finish_reason") && choice["finish_reason"].is_string())
        out.finish_reason = choice["finish_reason"].get<std::string>();
  }
  const Json* timings = find_member(body, "timings");
  if (!timings || !timings->is_object()) return;
  const auto number = [&](const char* key) { return timings->value(key, 0.0); };
  out.cached_tokens = static_cast<int64_t>(number("cache_n"));
  out.prompt_tokens = out.cached_tokens + static_cast<int64_t>(number("prompt_n"));
  out.prompt_rate = number("prompt_per_second");
  out.rate = number("predicted_per_second");
}

std::string rate_text(std::optional<double> rate) {
  if (!rate || !(*rate > 0)) return "";
  return fmt::format(", {:.{}f}/s", *rate, *rate < 100 ? 1 : 0);
}

std::string tokens_text(int64_t count) {
  return fmt::format("{} {}", count, count == 1 ? "token" : "tokens");
}

}  // namespace

AnswerView::AnswerView(const ChatLook& look, int64_t experts) : look_(look), experts_(experts) {}

void AnswerView::show(std::string_view text) {
  if (text.empty() || look_.silent) return;
  if (reasons_ && !answers_ && line_open_) put_error("\n");
  answers_ = true;
  print_result(text);
  line_open_ = !text.ends_with('\n');
}

int64_t AnswerView::leader(const Part& part) const {
  TokenRouting all;
  for (size_t token = part.first; token < std::min(part.end, routing_.size()); token++) {
    all.experts.insert(all.experts.end(), routing_[token].experts.begin(), routing_[token].experts.end());
    all.weights.insert(all.weights.end(), routing_[token].weights.begin(), routing_[token].weights.end());
  }
  return all.experts.empty() ? -1 : leading_expert(all, experts_);
}

void AnswerView::show_routed(bool all) {
  for (; shown_ < parts_.size() && (all || parts_[shown_].end <= routing_.size()); shown_++) {
    const Part& part = parts_[shown_];
    const int64_t expert = leader(part);
    const std::string text = answer_.add(part.text);
    if (text.empty()) continue;
    const std::string number =
        experts_ > kExpertColours && expert != colour_ && expert >= 0 ? subscript(expert) : "";
    colour_ = expert;
    show(expert < 0 ? text : in_colour(expert, number + text));
    line_open_ = !text.ends_with('\n');
  }
}

void AnswerView::add(const AnswerPiece& piece) {
  if (!piece.reasoning.empty() && !look_.silent && !look_.quiet) {
    const std::string text = thought_.add(piece.reasoning);
    put_error(look_.note_colour ? fmt::format("{}{}{}", kDim, text, kNotDim) : text);
    reasons_ = true;
    line_open_ = !text.ends_with('\n');
  }
  if (experts_ == 0) {
    show(look_.safe_answer ? answer_.add(piece.text) : piece.text);
    return;
  }
  routing_.insert(routing_.end(), piece.routing.begin(), piece.routing.end());
  const size_t first = parts_.empty() ? 0 : parts_.back().end;
  const auto tokens = std::max(static_cast<size_t>(piece.tokens), first);
  if (!piece.text.empty()) parts_.push_back({piece.text, first, tokens});
  // Tokens without text (of a thought, or half a character) belong to what comes after them, but a thought is
  // not the answer's.
  else if (!piece.reasoning.empty())
    parts_.push_back({"", first, tokens});
  if (look_.answer_colour)
    show_routed(false);
  else if (!piece.text.empty())
    show(look_.safe_answer ? answer_.add(piece.text) : piece.text);
}

void AnswerView::finish() {
  if (experts_ > 0 && look_.answer_colour) show_routed(true);
  show(answer_.finish());
  if (!line_open_ || look_.silent) return;
  if (answers_)
    print_result("\n");
  else
    put_error("\n");
}

std::string AnswerView::numbered() const {
  std::string out;
  int64_t before = -2;
  for (const Part& part : parts_) {
    if (part.text.empty()) continue;
    const int64_t expert = leader(part);
    if (expert != before) out += expert < 0 ? "[?]" : fmt::format("[{}]", expert);
    before = expert;
    out += part.text;
  }
  return out;
}

void print_note(const ChatLook& look, std::string_view text) {
  if (look.note_colour)
    put_error(fmt::format("{}{}{}\n", kDim, text, kNotDim));
  else
    put_error(fmt::format("{}\n", text));
}

Answered ask(Inference& inference, const Json& messages, bool routing, const ChatLook& look,
             ChatSignals& signals) {
  using Clock = std::chrono::steady_clock;
  Answered out;
  AnswerView view(look, routing ? inference.info().experts : 0);
  Answer answer(inference, RequestKind::chat,
                {{"messages", messages}, {"stream", true}, {"routing", routing}},
                [&signals] { return signals.stop(); });
  std::optional<Clock::time_point> first;
  while (!signals.stop()) {
    const std::optional<AnswerPiece> piece = answer.next();
    if (!piece) break;
    if (!first && piece->tokens > 0) first = Clock::now();
    out.text += piece->text;
    out.reasoning += piece->reasoning;
    out.tokens = piece->tokens;
    out.routing.insert(out.routing.end(), piece->routing.begin(), piece->routing.end());
    read_ending(piece->body, out);
    view.add(*piece);
  }
  view.finish();
  out.error = answer.error();
  if (signals.stop() && out.finish_reason.empty()) {
    out.finish_reason = "interrupted";
    if (first && out.tokens > 1)
      out.rate =
          static_cast<double>(out.tokens - 1) / std::chrono::duration<double>(Clock::now() - *first).count();
  }
  if (routing && !look.answer_colour && !look.silent && !out.text.empty())
    print_note(look, "by expert: " + terminal_text(view.numbered()));
  return out;
}

ExpertShares shares_of(const Answered& answered, const InferenceInfo& info) {
  ExpertShares shares(info.experts, info.experts_per_token, info.expert_names);
  for (const TokenRouting& token : answered.routing) shares.add(token);
  return shares;
}

std::string answer_note(const Answered& answered, const InferenceInfo& info, int64_t longest) {
  const std::string answer = tokens_text(answered.tokens) + rate_text(answered.rate);
  if (answered.finish_reason == "interrupted") return "stopped after " + answer;
  std::string out = "prompt: " + tokens_text(answered.prompt_tokens.value_or(0));
  if (answered.cached_tokens > 0) out += fmt::format(" ({} known)", answered.cached_tokens);
  out += rate_text(answered.prompt_rate) + "; answer: " + answer;
  if (answered.finish_reason != "length") return out;
  if (longest >= 0 && answered.tokens >= longest)
    return out + fmt::format("; cut off at {}, as -n says", tokens_text(longest));
  return out + fmt::format("; cut off: the context of {} is full (/reset begins anew, -c N makes it larger)",
                           tokens_text(info.context));
}

bool is_too_long(const Json& error) { return error.value("type", "") == "exceed_context_size_error"; }

std::string error_text(const Json& error) {
  if (is_too_long(error))
    return fmt::format("the talk with this message has {}, the context {}",
                       tokens_text(error.value("n_prompt_tokens", int64_t{0})),
                       error.value("n_ctx", int64_t{0}));
  return "no answer: " + error.value("message", error.dump());
}

}  // namespace moerge
