#include "moerge/moe/expert_texts.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/model/chat_templates.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/moe/gates/ridge_fit.h"
#include "moerge/moe/texts.h"

namespace moerge {
namespace {

constexpr int64_t kUneven = 100;  // times the text of another

std::string plain_lines(const std::vector<ChatMessage>& messages) {
  std::string out;
  for (const ChatMessage& message : messages)
    out += fmt::format("{}{}: {}", out.empty() ? "" : "\n", message.role, message.content);
  return out;
}

// Conversations as the output's chat template writes them. It is looked for when the first one comes.
ChatFormatter make_chat(MoePlan& moe, const Tokenizer& tokenizer, const PlanOptions& options) {
  return [&moe, &tokenizer, &options,
          format = ChatFormatter()](const std::vector<ChatMessage>& messages) mutable {
    if (format) return format(messages);
    const Model& base = *moe.models.base;
    const std::optional<std::string> text =
        moe.chat_template ? std::optional(moe.chat_template->text) : find_chat_template(base);
    if (text && !text->empty() && options.make_chat_formatter) {
      format = options.make_chat_formatter(*text, tokenizer.bos_token().value_or(""),
                                           find_eos_token(base).value_or(""));
    } else {
      format = plain_lines;
      moe.warnings.push_back(
          fmt::format("the base \"{}\" has no chat template, so conversations in \"data\" are read as plain "
                      "\"role: content\" lines; \"chat_template\" names one",
                      base.name));
    }
    return format(messages);
  };
}

int64_t count_tokens(const std::vector<TokenSequence>& sequences) {
  int64_t tokens = 0;
  for (const TokenSequence& sequence : sequences) tokens += std::ssize(sequence);
  return tokens;
}

void check_vocabulary(const std::vector<TokenSequence>& sequences, int64_t vocab, const std::string& whose) {
  for (const TokenSequence& sequence : sequences)
    for (const int32_t id : sequence)
      if (id >= vocab)
        fail(ErrorKind::config, "{}: its data has token {}, and the base's embeddings end at {}", whose, id,
             vocab - 1);
}

// Of the experts that tokens are sent to.
void check_between(MoePlan& moe) {
  const std::vector<ExpertTokens>& experts = moe.gate_input.experts;
  const size_t count = moe.config.experts.size();
  std::vector<int64_t> tokens;
  for (size_t e = 0; e < count; e++) tokens.push_back(count_tokens(experts[e].positive));
  for (size_t a = 0; a < count; a++)
    for (size_t b = a + 1; b < count; b++)
      if (!moe.config.experts[a].data.empty() && tokens[a] == tokens[b] &&
          experts[a].positive == experts[b].positive && experts[a].negative == experts[b].negative)
        fail(ErrorKind::config,
             "experts {} and {} have the same text, so the router could not tell them apart: give each its "
             "own",
             a, b);
  for (size_t e = 0; e < count; e++)
    if (moe.gate_mode->name == "ridge" && tokens[e] < kFewestRidgeTokens)
      fail(ErrorKind::config,
           "expert {} (\"{}\") has {} tokens of text, too few to fit a router to (gate_mode \"ridge\"): give "
           "it \"data\" of {} tokens at least (some thousands are better), or use gate_mode \"router_input\"",
           e, moe.config.experts[e].source_model, tokens[e], kFewestRidgeTokens);
  const auto few = std::ranges::min_element(tokens);
  if (moe.gate_mode->name == "ridge" && few != tokens.end() && *few < moe.gate_input.hidden)
    moe.warnings.push_back(fmt::format(
        "expert {} has {} tokens of text for router rows of {} numbers: the fit is held back that "
        "much more, and more text would make it surer",
        few - tokens.begin(), *few, moe.gate_input.hidden));
  const auto [least, most] = std::ranges::minmax_element(tokens);
  if (least != tokens.end() && *most / kUneven >= std::max<int64_t>(1, *least) && *most > kUneven * *least)
    moe.warnings.push_back(fmt::format(
        "expert {} has {} tokens of text and expert {} only {}; both count the same, but so few say little "
        "about when that expert is wanted",
        most - tokens.begin(), *most, least - tokens.begin(), *least));
}

void warn_of_mode(MoePlan& moe) {
  if (moe.data_sequences == 0 || moe.gate_mode->name == "ridge" || moe.gate_mode->name == "router_input")
    return;
  const bool last = moe.gate_mode->name == "hidden" || moe.gate_mode->name == "hidden_last";
  moe.warnings.push_back(fmt::format(
      "gate_mode {} {}; gate_mode ridge or router_input makes more of such text", moe.gate_mode->name,
      last ? fmt::format("looks at the last token alone of each of the {} sequences of data",
                         moe.data_sequences)
           : "takes the data as further prompts"));
}

}  // namespace

void add_texts(MoePlan& moe, const Tokenizer& tokenizer, const PlanOptions& options) {
  ChatFormatter chat = make_chat(moe, tokenizer, options);
  moe.expert_data_tokens.assign(moe.gate_input.experts.size(), 0);
  for (size_t e = 0; e < moe.gate_input.experts.size(); e++) {
    const size_t routed = moe.config.experts.size();
    const ExpertConfig& expert = e < routed ? moe.config.experts[e] : moe.config.shared_experts[e - routed];
    if (expert.data.empty()) continue;
    const std::string whose = fmt::format(
        "{} (\"{}\")", e < routed ? fmt::format("expert {}", e) : "the shared expert", expert.source_model);
    std::vector<TokenSequence> sequences =
        read_texts(expert.data,
                   {.max_tokens = expert.max_tokens,
                    .seed = options.seed,
                    .whose = whose,
                    .chat = [&chat](const std::vector<ChatMessage>& messages) { return chat(messages); }},
                   tokenizer);
    check_vocabulary(sequences, moe.models.base->config.vocab, whose);
    moe.data_sequences += std::ssize(sequences);
    moe.expert_data_tokens[e] = count_tokens(sequences);
    moe.data_tokens += moe.expert_data_tokens[e];
    std::ranges::move(sequences, std::back_inserter(moe.gate_input.experts[e].positive));
  }
  check_between(moe);
  warn_of_mode(moe);
}

}  // namespace moerge
