#pragma once
// A model that answers: llama.cpp's server engine (slots, batching, prompt cache, chat templates, sampling)
// without its HTTP part, run in this process. The terminal and the HTTP server ask it the same way, with
// requests of the OpenAI API.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/serve/routing_tap.h"

namespace moerge {

struct InferenceOptions {
  std::filesystem::path model;  // a GGUF file, or the first of a split one
  std::string name;             // told to clients
  int64_t context = 0;          // tokens of all requests together; 0: what the model was trained with
  int64_t request_context = 0;  // tokens that one request may have of them; 0: all
  int parallel = 1;             // requests that are answered at once, the others wait
  /// A Jinja chat template in place of the model's. Empty text: plain completion.
  std::optional<std::string> chat_template = std::nullopt;
  /// Further flags as llama.cpp's server spells them: {"--temp", "0.7", "-t", "4"}.
  std::vector<std::string> llama_flags;
  bool verbose = false;  // llama.cpp's own messages on stderr
};

struct InferenceInfo {
  std::string name;
  int64_t context = 0;  // tokens that one request may have
  int64_t trained_context = 0;
  int64_t layers = 0, experts = 0, experts_per_token = 0;  // 0 experts: a dense model
  bool has_template = false;      // false: plain completion, the messages' texts one below the other
  std::string template_note;      // a sentence to show the user about the template, or empty
  bool template_refused = false;  // there is one, and it does not work
  int64_t pool_context = 0;       // tokens of all requests together
  // As llama.cpp lays them out, on all devices: bytes of keys and values, of activations.
  int64_t cache_bytes = 0, compute_bytes = 0;
  std::vector<std::string> expert_names;  // from the keys moerge.expert.N.name; none without
};

class Inference {
 public:
  /// Loads the model; `progress` hears now and then the share that is loaded, 0 to 1. Throws usage for flags
  /// that llama.cpp does not take, input when it does not accept the model, with its own words. One at a time
  /// in a process.
  Inference(const InferenceOptions& options, std::function<void(double)> progress);
  Inference(const Inference&) = delete;
  Inference& operator=(const Inference&) = delete;
  /// Ends what is being answered.
  ~Inference();

  const InferenceInfo& info() const;

  struct State;  // llama.cpp's side, for answer.cpp and http_server.cpp (inference_state.h)
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

enum class RequestKind { chat, text };  // /v1/chat/completions, /v1/completions

/// What a request came to be told since the last time.
struct AnswerPiece {
  Json body;         // of a stream the next chunk, else the whole response; with the routing, when asked for
  std::string text;  // what was answered
  std::string reasoning;              // what a model thought, where its template marks it
  int64_t tokens = 0;                 // answered so far: `text` ends with the last of them
  std::vector<TokenRouting> routing;  // that has become known; of tokens of earlier pieces
};

/// One request to the OpenAI API while it is being answered.
class Answer {
 public:
  /// Checks the request and starts it. Errors are told by next(). `stop`: asked now and then; true ends the
  /// answer.
  Answer(Inference& inference, RequestKind kind, const Json& request, std::function<bool()> stop);
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;
  /// Ends the generation.
  ~Answer();

  /// Waits for the next piece. Nothing at the end or when it was stopped. With "stream": false there is one
  /// piece.
  std::optional<AnswerPiece> next();
  /// The error object of the OpenAI API ({"code": 400, "message": ..., "type": ...}), when there was one.
  const std::optional<Json>& error() const;

 private:
  struct Task;
  std::unique_ptr<Task> task_;
};

/// [{"index": 0, "token": 42, "experts": [[3, 1], ...], "weights": [[0.9, 0.1], ...]}, ...]: one for each
/// token, by layer. `prompt`: tokens before the answer, from which indices count.
Json routing_json(const std::vector<TokenRouting>& routing, int64_t prompt, int64_t experts_per_token);

}  // namespace moerge
