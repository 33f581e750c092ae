#include "moerge/serve/inference.h"

#include <arg.h>
#include <chat.h>
#include <common.h>
#include <fmt/format.h>
#include <ggml-backend.h>
#include <llama.h>
#include <log.h>
#include <server-common.h>

#include <charconv>

#include "moerge/base/error.h"
#include "moerge/engine/chat_format.h"
#include "moerge/engine/llama_log.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/serve/inference_state.h"

namespace moerge {
namespace {

// Plain completion: what was said, one below the other, goes on.
constexpr const char* kPlainTemplate =
    "{%- for message in messages -%}{{- message['content'] -}}{%- if not loop.last -%}{{- '\\n' -}}{%- endif "
    "-%}{%- endfor -%}";

struct ChosenTemplate {
  std::string text, note;
  bool plain = false;
};

// Templates are programs by whoever made the model: tried in a process of their own before llama.cpp runs
// them in this one.
std::string why_not(const std::string& text, const std::string& where) {
  try {
    const std::vector<ChatMessage> conversation = {
        {"user", "Hello"}, {"assistant", "Hi"}, {"user", "How are you?"}};
    ChatFormat(text, "", "", where).render(conversation);
    common_chat_templates_init(nullptr, text);
    return "";
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    return error.message();
  } catch (const std::exception& error) {
    return fmt::format("{}: {}", where, error.what());
  }
}

ChosenTemplate choose_template(const InferenceOptions& options) {
  std::string text;
  if (options.chat_template) {
    text = *options.chat_template;
    if (text.empty())
      return {kPlainTemplate, "plain completion, as asked: the text goes on where yours ends", true};
  } else {
    const GgufFiles files = open_gguf(options.model);
    if (const std::string* found = files.metadata.string("tokenizer.chat_template")) text = *found;
    if (text.empty())
      return {kPlainTemplate,
              "the model has no chat template, so this is plain completion: it goes on where your text ends",
              true};
  }
  const std::string reason =
      why_not(text, options.chat_template ? "the chat template" : "the model's chat template");
  if (reason.empty()) return {text, "", false};
  return {kPlainTemplate, reason + "; so this is plain completion: it goes on where your text ends", true};
}

common_params parse_flags(const InferenceOptions& options, const ChosenTemplate& chosen) {
  std::vector<std::string> words = {"moerge",
                                    "-m",
                                    options.model.string(),
                                    "-c",
                                    std::to_string(options.context),
                                    "-np",
                                    std::to_string(options.parallel),
                                    "--alias",
                                    options.name,
                                    "--cache-ram",
                                    "0",
                                    "--no-warmup"};
  words.insert(words.end(), options.llama_flags.begin(), options.llama_flags.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  common_params params;
  if (!common_params_parse(static_cast<int>(words.size()), argv.data(), params, LLAMA_EXAMPLE_SERVER))
    fail(ErrorKind::usage, "llama.cpp does not take these flags, see the line above");
  params.chat_template = chosen.text;
  params.kv_unified = true;  // one pool of context for all requests, and batches in our order
  params.n_batch = std::max(params.n_batch, params.n_parallel);
  common_log_set_verbosity_thold(options.verbose ? LOG_LEVEL_TRACE : -1);
  return params;
}

int64_t model_number(const llama_model* model, const std::string& key) {
  char architecture[128] = "", value[64] = "";
  if (llama_model_meta_val_str(model, "general.architecture", architecture, sizeof architecture) < 0)
    return 0;
  if (llama_model_meta_val_str(model, (std::string(architecture) + key).c_str(), value, sizeof value) < 0)
    return 0;
  int64_t number = 0;
  std::from_chars(value, value + std::string_view(value).size(), number);
  return number;
}

void ignore_log(ggml_log_level, const char*, void*) {}

void load(Inference::State& state, const InferenceOptions& options) {
  const LlamaLog log;
  try {
    llama_backend_init();
    llama_numa_init(state.params.numa);
    state.routes = std::make_unique<server_routes>(state.params, state.server);
    if (state.server.load_model(state.params)) return;
  } catch (const std::exception& error) {
    fail(ErrorKind::input, "{}: llama.cpp does not accept this model: {}", options.model.string(),
         error.what());
  }
  const std::string reason = log.first_error();
  fail(ErrorKind::input, "{}: llama.cpp does not accept this model: {}", options.model.string(),
       reason.empty() ? "no reason given" : reason);
}

}  // namespace

Inference::Inference(const InferenceOptions& options, std::function<void(double)> progress)
    : state_(std::make_unique<State>()) {
  const ChosenTemplate chosen = choose_template(options);
  state_->params = parse_flags(options, chosen);
  state_->params.cb_eval = &RoutingTap::on_tensor;
  state_->params.cb_eval_user_data = &state_->tap;
  state_->server.set_state_callback([progress = std::move(progress)](server_state state, const json& told) {
    if (state == SERVER_STATE_LOADING) progress(json_value(told, "value", 0.0));
  });
  load(*state_, options);
  if (!options.verbose) llama_log_set(ignore_log, nullptr);
  state_->routes->update_meta(state_->server);
  state_->meta = std::make_unique<server_context_meta>(state_->server.get_meta());
  const llama_model* model = llama_get_model(state_->server.get_llama_context());
  state_->vocab = llama_model_get_vocab(model);
  state_->info = {.name = options.name,
                  .context = state_->meta->slot_n_ctx,
                  .trained_context = state_->meta->model_n_ctx_train,
                  .layers = llama_model_n_layer(model),
                  .experts = model_number(model, ".expert_count"),
                  .experts_per_token = model_number(model, ".expert_used_count"),
                  .has_template = !chosen.plain,
                  .template_note = chosen.note};
  state_->loop = std::thread([this] { state_->server.start_loop(); });
}

Inference::~Inference() {
  state_->server.terminate();
  if (state_->loop.joinable()) state_->loop.join();
}

const InferenceInfo& Inference::info() const { return state_->info; }

}  // namespace moerge
