#include <fmt/format.h>
#include <server-chat.h>
#include <server-common.h>
#include <server-context.h>
#include <server-schema.h>
#include <server-task.h>

#include <algorithm>
#include <cmath>

#include "moerge/serve/inference.h"
#include "moerge/serve/inference_state.h"

namespace moerge {
namespace {

Json to_json(const json& value) { return Json::parse(safe_json_to_str(value)); }

}  // namespace

struct Answer::Task {
  server_response_reader reader;
  std::function<bool()> stop;
  std::unique_ptr<RoutingTap::Follower> follower;
  std::optional<Json> error;
  int64_t prompt = 0, experts_per_token = 0;
  int64_t answered = 0;
  bool streams = false;

  void start(Inference::State& state, RequestKind kind, json request);
  AnswerPiece piece(server_task_result& result);
};

void Answer::Task::start(Inference::State& state, RequestKind kind, json request) {
  const bool routing = json_value(request, "routing", false);
  streams = json_value(request, "stream", false);
  std::vector<raw_buffer> files;
  if (kind == RequestKind::chat)
    request = oaicompat_chat_params_parse(request, state.meta->chat_params, files);
  std::vector<server_tokens> prompts =
      tokenize_input_prompts(state.vocab, nullptr, request.at("prompt"), true, true, {});
  if (prompts.size() != 1) throw std::invalid_argument("\"routing\": one prompt at a time");

  server_task task(SERVER_TASK_TYPE_COMPLETION);
  task.id = reader.get_new_id();
  task.tokens = std::move(prompts.front());
  task.params =
      server_schema::eval_llama_cmpl_schema(state.vocab, state.params, state.meta->logit_bias_eog, request);
  if (task.params.n_cmpl > 1) throw std::invalid_argument("\"routing\": one answer at a time (\"n\": 1)");
  task.params.res_type =
      kind == RequestKind::chat ? TASK_RESPONSE_TYPE_OAI_CHAT : TASK_RESPONSE_TYPE_OAI_CMPL;
  task.params.oaicompat_cmpl_id = gen_chatcmplid();
  task.params.oaicompat_model = state.info.name;
  prompt = static_cast<int64_t>(task.tokens.size());
  experts_per_token = state.info.experts_per_token;
  task.params.return_tokens = routing;
  if (routing) follower = std::make_unique<RoutingTap::Follower>(state.tap, task.tokens.get_text_tokens());
  std::vector<server_task> tasks;
  tasks.push_back(std::move(task));
  reader.post_tasks(std::move(tasks));
}

AnswerPiece Answer::Task::piece(server_task_result& result) {
  AnswerPiece out;
  std::optional<int32_t> slot;
  if (const auto* part = dynamic_cast<const server_task_result_cmpl_partial*>(&result)) {
    answered = part->n_decoded;
    if (follower && !part->tokens.empty()) follower->generated(answered - 1, part->tokens.back());
  } else if (const auto* end = dynamic_cast<const server_task_result_cmpl_final*>(&result)) {
    answered = end->n_decoded;
    slot = end->id_slot;
    if (follower && !streams)
      for (size_t i = 0; i < end->tokens.size(); i++)
        follower->generated(static_cast<int64_t>(i), end->tokens[i]);
  }
  out.tokens = answered;
  if (follower) out.routing = follower->poll(slot);
  const json body = result.to_json();
  out.body = to_json(body);
  // A chunk that closes a stream can come with one of usage and times: a list then.
  Json& first = out.body.is_array() && !out.body.empty() ? out.body.front() : out.body;
  if (follower && first.is_object())
    first["moerge"] = {{"tokens", out.tokens},
                       {"routing", routing_json(out.routing, prompt, experts_per_token)}};
  for (const Json& chunk : out.body.is_array() ? out.body : Json::array({out.body})) {
    if (!chunk.is_object() || !chunk.contains("choices")) continue;
    for (const Json& choice : chunk["choices"]) {
      if (choice.contains("text") && choice["text"].is_string())
        out.text += choice["text"].get<std::string>();
      for (const char* key : {"delta", "message"}) {
        if (!choice.contains(key)) continue;
        if (const auto text = choice[key].find("content"); text != choice[key].end() && text->is_string())
          out.text += text->get<std::string>();
        if (const auto text = choice[key].find("reasoning_content");
            text != choice[key].end() && text->is_string())
          out.reasoning += text->get<std::string>();
      }
    }
  }
  return out;
}

Answer::Answer(Inference& inference, RequestKind kind, const Json& request, std::function<bool()> stop)
    : task_(std::make_unique<Task>(Task{.reader = inference.state().server.get_response_reader(),
                                        .stop = std::move(stop),
                                        .follower = nullptr,
                                        .error = std::nullopt})) {
  try {
    task_->start(inference.state(), kind, json::parse(request.dump()));
  } catch (const std::exception& error) {
    task_->error = to_json(format_error_response(error.what(), ERROR_TYPE_INVALID_REQUEST));
  }
}

Answer::~Answer() = default;

std::optional<AnswerPiece> Answer::next() {
  if (task_->error || !task_->reader.has_next()) return std::nullopt;
  if (task_->stop()) return std::nullopt;  // the reader asks only when nothing has come for a second
  try {
    const server_task_result_ptr result = task_->reader.next(task_->stop);
    if (!result) return std::nullopt;
    if (!result->is_error()) return task_->piece(*result);
    task_->error = to_json(result->to_json());
  } catch (const std::exception& error) {  // an answer that the template's parser does not understand
    task_->error = to_json(format_error_response(error.what(), ERROR_TYPE_SERVER));
  }
  return std::nullopt;
}

const std::optional<Json>& Answer::error() const { return task_->error; }

Json routing_json(const std::vector<TokenRouting>& routing, int64_t prompt, int64_t experts_per_token) {
  Json out = Json::array();
  for (const TokenRouting& token : routing) {
    Json experts = Json::array(), weights = Json::array();
    const size_t used = static_cast<size_t>(std::max<int64_t>(experts_per_token, 1));
    for (size_t at = 0; at + used <= token.experts.size(); at += used) {
      Json chosen = Json::array(), shares = Json::array();
      for (size_t k = at; k < at + used; k++) {
        chosen.push_back(token.experts[k]);
        shares.push_back(std::round(static_cast<double>(token.weights[k]) * 1000) / 1000);
      }
      experts.push_back(std::move(chosen));
      weights.push_back(std::move(shares));
    }
    out.push_back({{"index", token.position - prompt},
                   {"token", token.token},
                   {"experts", std::move(experts)},
                   {"weights", std::move(weights)}});
  }
  return out;
}

}  // namespace moerge
