#include "moerge/serve/inference.h"

#include <arg.h>
#include <chat.h>
#include <common.h>
#include <fmt/format.h>
#include <ggml-backend.h>
#include <llama-ext.h>
#include <llama.h>
#include <log.h>
#include <server-common.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <exception>
#include <future>

#include "moerge/base/error.h"
#include "moerge/base/progress.h"
#include "moerge/engine/chat_format.h"
#include "moerge/engine/expert_names.h"
#include "moerge/engine/llama_log.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/serve/inference_state.h"

namespace moerge {
namespace {

constexpr std::chrono::seconds kTemplateTime(3);  // for three short messages

// Plain completion: what was said, one below the other, goes on.
constexpr const char* kPlainTemplate =
    "{%- for message in messages -%}{{- message['content'] -}}{%- if not loop.last -%}{{- '\\n' -}}{%- endif "
    "-%}{%- endfor -%}";

struct ChosenTemplate {
  std::string text, note;
  bool plain = false, refused = false;
};

// Templates are programs by whoever made the model: tried in a process of their own before llama.cpp runs
// them in this one.
std::string why_not(const std::string& text, const std::string& where) {
  try {
    const std::vector<ChatMessage> conversation = {
        {"user", "Hello"}, {"assistant", "Hi"}, {"user", "How are you?"}};
    ChatFormat(text, "", "", where, kTemplateTime).render(conversation);
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
  if (reason.empty()) return {text, ""};
  return {kPlainTemplate, reason + "; so this is plain completion: it goes on where your text ends", true,
          true};
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
    const bool loaded = state.server.load_model(state.params);
    if (options.verbose) print_error_line(log.text());
    if (loaded) return;
  } catch (const std::exception& error) {
    fail(ErrorKind::input, "{}: llama.cpp does not accept this model: {}", options.model.string(),
         error.what());
  }
  const std::string reason = log.first_error();
  fail(ErrorKind::input, "{}: llama.cpp does not accept this model: {}", options.model.string(),
       reason.empty() ? "no reason given" : reason);
}

void add_memory(InferenceInfo& info, const llama_context* context) {
  for (const auto& [kind, bytes] : llama_get_memory_breakdown(context)) {
    info.cache_bytes += static_cast<int64_t>(bytes.context);
    info.compute_bytes += static_cast<int64_t>(bytes.compute);
  }
}

// What there is to know, while nothing is computed yet.
void describe(Inference::State& state, const InferenceOptions& options, const ChosenTemplate& chosen) {
  if (!options.verbose) llama_log_set(ignore_log, nullptr);
  state.routes->update_meta(state.server);
  state.meta = std::make_unique<server_context_meta>(state.server.get_meta());
  const llama_context* context = state.server.get_llama_context();
  const llama_model* model = llama_get_model(context);
  state.vocab = llama_model_get_vocab(model);
  state.info = {.name = options.name,
                .context = state.meta->slot_n_ctx,
                .trained_context = state.meta->model_n_ctx_train,
                .layers = llama_model_n_layer(model),
                .experts = model_number(model, ".expert_count"),
                .experts_per_token = model_number(model, ".expert_used_count"),
                .has_template = !chosen.plain,
                .template_note = chosen.note,
                .template_refused = chosen.refused,
                .pool_context = llama_n_ctx(context),
                .expert_names = {}};
  state.info.expert_names = expert_names(model, state.info.experts);
  add_memory(state.info, context);
}

}  // namespace

common_params parse_params(const InferenceOptions& options) {
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
  const bool parsed =
      common_params_parse(static_cast<int>(words.size()), argv.data(), params, LLAMA_EXAMPLE_SERVER);
  if (!parsed) fail(ErrorKind::usage, "llama.cpp does not take these flags, see the line above");
  if (options.request_context > 0) params.kv_unified_per_slot = static_cast<int32_t>(options.request_context);
  params.kv_unified = true;  // one pool of context for all requests, and batches in our order
  params.n_batch = std::max(params.n_batch, params.n_parallel);
  common_log_set_verbosity_thold(options.verbose ? LOG_LEVEL_TRACE : -1);
  return params;
}

Inference::Inference(const InferenceOptions& options, std::function<void(double)> progress)
    : state_(std::make_unique<State>()) {
  const ChosenTemplate chosen = choose_template(options);
  state_->params = parse_params(options);
  state_->params.chat_template = chosen.text;
  state_->params.cb_eval = &RoutingTap::on_tensor;
  state_->params.cb_eval_user_data = &state_->tap;
  state_->server.set_state_callback([progress = std::move(progress)](server_state state, const json& told) {
    if (state == SERVER_STATE_LOADING) progress(json_value(told, "value", 0.0));
  });
  std::promise<void> loaded;
  // Loaded by the thread that will compute: OpenMP's threads belong to the one that called them, and those of
  // a second one would all sleep instead of spin (libgomp counts them), at a fraction of the speed.
  state_->loop = std::thread([this, &options, &chosen, &loaded] {
    try {
      load(*state_, options);
      describe(*state_, options, chosen);
      loaded.set_value();
    } catch (...) {
      state_->loop_ended = true;
      loaded.set_exception(std::current_exception());
      return;
    }
    state_->server.start_loop();
    state_->loop_ended = true;
  });
  try {
    loaded.get_future().get();
  } catch (...) {
    state_->loop.join();
    throw;
  }
}

Inference::~Inference() {
  // A loop that was about to begin forgets that it was to end.
  while (state_->loop.joinable() && !state_->loop_ended) {
    state_->server.terminate();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (state_->loop.joinable()) state_->loop.join();
}

const InferenceInfo& Inference::info() const { return state_->info; }

}  // namespace moerge
