#include "moerge/engine/token_model.h"

#include <arg.h>
#include <common.h>
#include <ggml-backend.h>
#include <llama-cpp.h>
#include <llama-ext.h>
#include <log.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/base/progress.h"
#include "moerge/engine/expert_names.h"
#include "moerge/engine/float32_compute.h"
#include "moerge/engine/llama_log.h"
#include "moerge/engine/log_softmax.h"
#include "moerge/engine/model_file_check.h"

namespace moerge {
namespace {

constexpr int kSequences = 32;         // of a group
constexpr int kWriters = 8;            // texts that are written at once
constexpr int64_t kMinLogitRows = 64;  // as many as there are sequences in memory: two groups
constexpr int64_t kParallelLogits = 1 << 20;
constexpr size_t kLongestText = 1 << 20;

// -------- loading

bool interrupted(void* = nullptr) {
  try {
    check_interrupted();
    return false;
  } catch (const Error&) {
    return true;
  }
}

common_params parse_flags(const TokenModelOptions& options) {
  std::vector<std::string> words = {"moerge", "-m", options.model.string()};
  words.insert(words.end(), options.llama_flags.begin(), options.llama_flags.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  common_params params;
  params.cpuparams.n_threads = default_threads();
  params.cache_type_k = params.cache_type_v = GGML_TYPE_F32;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO;
  params.n_ubatch = 0;  // settled when the model is loaded
  common_log_set_verbosity_thold(-1);
  if (!common_params_parse(static_cast<int>(words.size()), argv.data(), params, LLAMA_EXAMPLE_SERVER))
    fail(ErrorKind::usage, "llama.cpp does not take these flags, see the line above");
  if (!params.lora_adapters.empty() || !params.control_vectors.empty())
    fail(ErrorKind::usage,
         "adapters and control vectors are not applied here: put a LoRA adapter into the "
         "model first (\"model+adapter\" in an MoE YAML)");
  return params;
}

// What the flags leave open. Flash attention is exact only where Float32Compute gives it float32 keys and
// values: elsewhere llama.cpp's graphs round them to float16.
void settle(common_params& params, const llama_model* model) {
  constexpr int kCpuBatch = 256,
                kDeviceBatch = 512;  // on a CPU the activations of 512 tokens leave its caches
  const bool on_cpu = llama_model_n_devices(model) == 0;
  const bool float32 = params.cache_type_k == GGML_TYPE_F32 && params.cache_type_v == GGML_TYPE_F32;
  if (params.flash_attn_type == LLAMA_FLASH_ATTN_TYPE_AUTO && !(on_cpu && float32))
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
  if (params.n_ubatch <= 0) params.n_ubatch = on_cpu ? kCpuBatch : kDeviceBatch;
}

struct Loading {
  std::function<void(double)> told;

  static bool go_on(float share, void* self) noexcept {
    if (interrupted()) return false;
    try {
      if (const auto& told = static_cast<Loading*>(self)->told) told(share);
      return true;
    } catch (...) {
      return false;
    }
  }
};

// -------- batches

class Batch {
 public:
  Batch(size_t tokens, int sequences)
      : llama_(llama_batch_init(static_cast<int32_t>(tokens), 0, sequences)), room_(tokens) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() { llama_batch_free(llama_); }

  size_t size() const { return static_cast<size_t>(llama_.n_tokens); }
  size_t room() const { return room_ - size(); }
  void clear() { llama_.n_tokens = 0; }
  void add(int32_t token, int32_t position, int32_t first_sequence, int32_t last_sequence, bool output) {
    const int32_t i = llama_.n_tokens++;
    llama_.token[i] = token;
    llama_.pos[i] = position;
    llama_.n_seq_id[i] = 0;
    for (int32_t sequence = first_sequence; sequence <= last_sequence; sequence++)
      llama_.seq_id[i][llama_.n_seq_id[i]++] = sequence;
    llama_.logits[i] = output;
  }
  const llama_batch& llama() const { return llama_; }

 private:
  llama_batch llama_;
  size_t room_;
};

// The layer of "ffn_moe_topk-LAYER", the choices of a router: [experts per token, tokens].
std::optional<int64_t> layer_of_choices(const ggml_tensor& tensor) {
  constexpr std::string_view kName = "ffn_moe_topk-";
  std::string_view name = tensor.name;
  if (!name.starts_with(kName)) return std::nullopt;
  name.remove_prefix(kName.size());
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return layer;
}

struct ExpertCounter {
  size_t experts = 0;
  std::map<int64_t, std::vector<int64_t>> by_layer;
  std::vector<char> bytes;

  // A ggml_backend_sched_eval_callback.
  static bool on_node(ggml_tensor* tensor, bool ask, void* self) noexcept {
    const std::optional<int64_t> layer = layer_of_choices(*tensor);
    if (ask) return layer.has_value();
    try {
      if (layer) static_cast<ExpertCounter*>(self)->add(*layer, *tensor);
      return true;
    } catch (...) {  // no memory
      return false;
    }
  }

  void add(int64_t layer, const ggml_tensor& chosen) {
    std::vector<int64_t>& counts = by_layer[layer];
    counts.resize(experts);
    bytes.resize(ggml_nbytes(&chosen));
    ggml_backend_tensor_get(&chosen, bytes.data(), 0, bytes.size());
    for (int64_t token = 0; token < chosen.ne[1]; token++)
      for (int64_t slot = 0; slot < chosen.ne[0]; slot++) {
        int32_t expert = 0;
        std::memcpy(&expert, bytes.data() + token * chosen.nb[1] + slot * chosen.nb[0], sizeof expert);
        if (expert >= 0 && static_cast<size_t>(expert) < experts) counts[static_cast<size_t>(expert)]++;
      }
  }
};

}  // namespace

// -------- the model in memory

struct TokenModel::State {
  Float32Compute float32;
  std::string where;
  TokenModelOptions options;
  common_params params;
  llama_model_ptr model;
  const llama_vocab* vocab = nullptr;
  size_t words = 0;    // of the vocabulary
  bool shares = true;  // sequences can be copied and cut anywhere
  int64_t longest = 0;
  ExpertCounter counter;
  llama_context_ptr context;  // made for what is asked
  int64_t cells = 0;          // of it
  int64_t computed = 0;

  size_t batch_tokens() const { return static_cast<size_t>(params.n_ubatch); }
  int threads() const { return std::max(1, params.cpuparams.n_threads); }
  int64_t logit_rows() const {
    const int64_t fit = options.logits_bytes / (static_cast<int64_t>(words * sizeof(float)));
    return std::clamp(fit, kMinLogitRows, std::max<int64_t>(kMinLogitRows, params.n_ubatch));
  }
  llama_memory_t memory() const { return llama_get_memory(context.get()); }

  void load(std::function<void(double)> progress);
  void make_room(int64_t wanted);
  void guard(const std::function<void(LlamaLog&)>& work) const;
  void decode(const Batch& batch);
  std::span<const float> logits(size_t token) const {
    const float* row = llama_get_logits_ith(context.get(), static_cast<int32_t>(token));
    if (!row) fail(ErrorKind::io, "{}: llama.cpp gave no logits", where);
    return {row, words};
  }
  [[noreturn]] void not_finite() const {
    fail(
        ErrorKind::input,
        "{}: the model's logits are not finite: its weights are damaged, or its activations do not fit their "
        "type",
        where);
  }
};

// llama.cpp's assertions come out as runtime_error, see LlamaLog.
void TokenModel::State::guard(const std::function<void(LlamaLog&)>& work) const {
  LlamaLog log;
  try {
    work(log);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(ErrorKind::input, "{}: llama.cpp gives up on this model: {}", where, error.what());
  }
}

void TokenModel::State::load(std::function<void(double)> progress) {
  check_model_file(options.model);
  params = parse_flags(options);
  guard([&](LlamaLog& log) {
    llama_backend_init();
    llama_numa_init(params.numa);
    Loading loading{std::move(progress)};
    params.load_progress_callback = Loading::go_on;
    params.load_progress_callback_user_data = &loading;
    model.reset(llama_model_load_from_file(where.c_str(), common_model_params_to_llama(params)));
    check_interrupted();
    if (!model) fail(ErrorKind::input, "{}: cannot be loaded{}", where, log.said());
  });
  settle(params, model.get());
  if (llama_model_has_encoder(model.get()) || !llama_model_has_decoder(model.get()) ||
      llama_model_is_diffusion(model.get()))
    fail(ErrorKind::unsupported, "{}: not a model that reads text from left to right", where);
  vocab = llama_model_get_vocab(model.get());
  if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE)
    fail(ErrorKind::input, "{}: the file holds no tokenizer", where);
  words = static_cast<size_t>(llama_vocab_n_tokens(vocab));
  shares = !llama_model_is_recurrent(model.get()) && !llama_model_is_hybrid(model.get());
  longest = options.context > 0 ? options.context
            : params.n_ctx > 0  ? params.n_ctx
                                : llama_model_n_ctx_train(model.get());
  if (longest < 1) fail(ErrorKind::input, "{}: the file does not say how long its context is", where);
  counter.experts = static_cast<size_t>(std::max(0, llama_model_n_expert(model.get())));
}

// For so many tokens. What was computed before is forgotten.
void TokenModel::State::make_room(int64_t wanted) {
  constexpr int64_t kStep = 256;  // llama.cpp's
  wanted = (wanted + kStep - 1) / kStep * kStep;
  guard([&](LlamaLog& log) {
    if (context && cells >= wanted) {
      llama_memory_clear(memory(), false);
      return;
    }
    context.reset();
    llama_context_params made = common_context_params_to_llama(params);
    made.n_ctx = static_cast<uint32_t>(wanted);
    made.n_batch = made.n_ubatch = static_cast<uint32_t>(params.n_ubatch);
    made.n_seq_max = 2 * kSequences;
    made.n_outputs_max = static_cast<uint32_t>(logit_rows());
    made.n_outputs_max_per_seq = 0;
    made.kv_unified = true;
    made.swa_full = true;  // else sequences cannot be cut
    made.embeddings = false;
    made.no_perf = true;
    made.abort_callback = interrupted;
    if (options.count_experts && counter.experts > 0) {
      made.cb_eval = ExpertCounter::on_node;
      made.cb_eval_user_data = &counter;
    }
    context.reset(llama_init_from_model(model.get(), made));
    if (!context)
      fail(ErrorKind::io,
           "{}: no context of {} tokens{}; a shorter one (--ctx-size) or keys and values of 16 bits "
           "(-ctk f16 -ctv f16) take less memory",
           where, wanted, log.said());
    if (!memory()) fail(ErrorKind::unsupported, "{}: not a model that reads text from left to right", where);
    cells = wanted;
  });
}

void TokenModel::State::decode(const Batch& batch) {
  check_interrupted();
  guard([&](LlamaLog& log) {
    const int32_t code = llama_decode(context.get(), batch.llama());
    llama_synchronize(context.get());
    check_interrupted();
    if (code != 0)
      fail(ErrorKind::io, "{}: llama.cpp cannot compute {} tokens (code {}){}", where, batch.size(), code,
           log.said());
  });
  computed += static_cast<int64_t>(batch.size());
}

TokenModel::TokenModel(const TokenModelOptions& options, std::function<void(double)> progress)
    : state_(std::make_unique<State>()) {
  state_->where = options.model.string();
  state_->options = options;
  state_->load(std::move(progress));
}

TokenModel::~TokenModel() {
  const LlamaLog silent;
  state_.reset();
}

int64_t TokenModel::context() const { return state_->longest; }
int TokenModel::threads() const { return state_->threads(); }
int64_t TokenModel::computed_tokens() const { return state_->computed; }

int64_t TokenModel::experts() const { return static_cast<int64_t>(state_->counter.experts); }
std::vector<std::string> TokenModel::expert_names() const {
  return moerge::expert_names(state_->model.get(), experts());
}

std::vector<ExpertLoad> TokenModel::expert_loads() const {
  std::vector<ExpertLoad> loads;
  for (const auto& [layer, tokens] : state_->counter.by_layer) loads.push_back({layer, tokens});
  return loads;
}

// -------- the vocabulary

std::vector<int32_t> TokenModel::tokenize(std::string_view text) const {
  if (text.size() > kLongestText)
    fail(ErrorKind::input, "a text of {} is too long, {} at most are expected", human_bytes(std::ssize(text)),
         human_bytes(kLongestText));
  std::vector<int32_t> ids(text.size() / 2 + 16);
  try {
    for (;;) {
      const int32_t count = llama_tokenize(state_->vocab, text.data(), static_cast<int32_t>(text.size()),
                                           ids.data(), static_cast<int32_t>(ids.size()),
                                           /*add_special=*/false, /*parse_special=*/true);
      ids.resize(static_cast<size_t>(std::abs(count)));
      if (count >= 0) return ids;
    }
  } catch (const std::exception& error) {  // the vocabulary lacks a byte, or its unknown token
    fail(ErrorKind::input, "{}: its tokenizer does not take the text \"{}\" ({})", state_->where,
         text.substr(0, 40), error.what());
  }
}

bool TokenModel::adds_bos() const { return llama_vocab_get_add_bos(state_->vocab); }
int32_t TokenModel::bos() const { return llama_vocab_bos(state_->vocab); }
int32_t TokenModel::eos() const { return llama_vocab_eos(state_->vocab); }
bool TokenModel::ends_text(int32_t token) const { return llama_vocab_is_eog(state_->vocab, token); }
bool TokenModel::is_control(int32_t token) const { return llama_vocab_is_control(state_->vocab, token); }

std::string TokenModel::piece(int32_t token) const {
  std::string text(32, '\0');
  for (;;) {
    const int32_t size = llama_token_to_piece(state_->vocab, token, text.data(),
                                              static_cast<int32_t>(text.size()), 0, /*special=*/true);
    text.resize(static_cast<size_t>(std::abs(size)));
    if (size >= 0) return text;
  }
}

// -------- scoring

namespace {

// What is known of a query so far: its tokens may be spread over several batches.
struct Sum {
  double value = 0;
  size_t left = 0;
  bool greedy = true;
};

// The next tokens of a group that fit into a batch, with their readings.
struct Slice {
  size_t begin = 0, end = 0;                               // of tokens
  std::vector<std::span<const TokenGroup::Reading>> rows;  // one for each output
};

Slice next_slice(const TokenGroup& group, size_t begin, std::span<const TokenGroup::Reading>& readings,
                 size_t max_tokens, size_t max_rows) {
  Slice slice{begin, begin, {}};
  while (slice.end < group.tokens.size() && slice.end - begin < max_tokens) {
    const auto of_token = std::ranges::find_if_not(
        readings, [&](const TokenGroup::Reading& reading) { return reading.token == slice.end; });
    const auto count = static_cast<size_t>(of_token - readings.begin());
    if (count > 0) {
      if (slice.rows.size() == max_rows) break;
      slice.rows.push_back(readings.first(count));
      readings = readings.subspan(count);
    }
    slice.end++;
  }
  return slice;
}

}  // namespace

void TokenModel::score(std::span<const TokenQuery> queries,
                       const std::function<void(size_t, const TokenScore&)>& told) {
  State& s = *state_;
  size_t longest = 0;
  std::vector<Sum> sums(queries.size());
  for (size_t i = 0; i < queries.size(); i++) {
    const TokenQuery& query = queries[i];
    if (query.first < 1 || query.first >= query.tokens.size())
      fail(ErrorKind::unsupported, "{}: a continuation needs a token before it, and one of its own", s.where);
    longest = std::max(longest, query.tokens.size() - 1);
    sums[i].left = query.tokens.size() - query.first;
  }
  if (static_cast<int64_t>(longest) > s.longest)
    fail(ErrorKind::unsupported, "{}: a text of {} tokens, the context has {}", s.where, longest, s.longest);
  if (queries.empty()) return;
  s.make_room(static_cast<int64_t>(longest + s.batch_tokens()));

  TokenPlan plan(queries, {.tokens = s.batch_tokens(), .sequences = kSequences, .share = s.shares});
  Batch batch(s.batch_tokens(), kSequences);
  TokenGroup group;
  int32_t base = 0, old_base = 0, old_sequences = 0;  // ids of this group's sequences, of the last one's
  while (plan.next(group)) {
    const auto sequences = static_cast<int32_t>(group.kept.size());
    s.guard([&](LlamaLog&) {
      for (int32_t i = 0; i < sequences; i++)
        if (const size_t kept = group.kept[static_cast<size_t>(i)]; kept > 0)
          llama_memory_seq_cp(s.memory(), old_base + old_sequences - 1, base + i, 0,
                              static_cast<llama_pos>(kept));
      for (int32_t i = 0; i < old_sequences; i++) llama_memory_seq_rm(s.memory(), old_base + i, -1, -1);
    });
    std::span<const TokenGroup::Reading> readings(group.readings);
    for (size_t begin = 0; begin < group.tokens.size();) {
      const Slice slice =
          next_slice(group, begin, readings, s.batch_tokens(), static_cast<size_t>(s.logit_rows()));
      batch.clear();
      std::vector<size_t> outputs;  // of slice.rows, in the batch
      for (size_t i = slice.begin; i < slice.end; i++) {
        const TokenGroup::Token& token = group.tokens[i];
        const bool output = outputs.size() < slice.rows.size() && slice.rows[outputs.size()][0].token == i;
        if (output) outputs.push_back(batch.size());
        batch.add(token.id, token.position, base + token.first, base + token.last, output);
      }
      s.decode(batch);
      std::vector<LogSoftmax> rows(outputs.size());
      std::vector<std::span<const float>> logits;
      for (const size_t output : outputs) logits.push_back(s.logits(output));
      const bool worth_threads = static_cast<int64_t>(rows.size() * s.words) >= kParallelLogits;
      parallel_for(rows.size(), worth_threads ? s.threads() : 1,
                   [&](size_t i) { rows[i] = log_softmax(logits[i]); });
      for (size_t i = 0; i < rows.size(); i++) {
        if (!std::isfinite(rows[i].log_sum)) s.not_finite();
        for (const TokenGroup::Reading& reading : slice.rows[i]) {
          if (reading.wanted < 0 || static_cast<size_t>(reading.wanted) >= s.words)
            fail(ErrorKind::input, "{}: token {} is not in the vocabulary", s.where, reading.wanted);
          Sum& sum = sums[reading.query];
          const double value = rows[i].of(logits[i][static_cast<size_t>(reading.wanted)]);
          if (!std::isfinite(value)) s.not_finite();
          sum.value += value;
          sum.greedy = sum.greedy && rows[i].argmax == static_cast<size_t>(reading.wanted);
          if (--sum.left == 0) told(reading.query, {.value = sum.value, .greedy = sum.greedy});
        }
      }
      begin = slice.end;
    }
    old_base = base;
    old_sequences = sequences;
    base = kSequences - base;
  }
}

// -------- writing

namespace {

// A text that is written, in one of the memory's sequences.
struct Writer {
  std::optional<size_t> prompt;  // none: it is free
  std::vector<int32_t> tokens;   // the prompt's, then those written
  size_t computed = 0;           // of them: in memory, also when it is free
  int64_t left = 0;              // to write
  std::optional<size_t> output;  // of the batch
};

}  // namespace

void TokenModel::generate(std::span<const TokenPrompt> prompts,
                          const std::function<bool(size_t, int32_t)>& told) {
  State& s = *state_;
  int64_t longest = 0;
  for (const TokenPrompt& prompt : prompts) {
    if (prompt.tokens.empty()) fail(ErrorKind::unsupported, "{}: a prompt without a token", s.where);
    longest = std::max(longest, std::ssize(prompt.tokens) + std::max<int64_t>(0, prompt.max_tokens));
  }
  if (longest > s.longest)
    fail(ErrorKind::unsupported, "{}: a prompt and answer of {} tokens, the context has {}", s.where, longest,
         s.longest);
  if (prompts.empty()) return;
  const auto count = std::min<int64_t>(
      std::clamp<int64_t>(s.options.generation_tokens / longest, 1, kWriters), std::ssize(prompts));
  s.make_room(count * longest);
  std::vector<Writer> writers(static_cast<size_t>(count));
  Batch batch(std::max(s.batch_tokens(), writers.size()), 1);
  size_t next = 0;
  const auto begin_text = [&](size_t id) {
    Writer& writer = writers[id];
    const std::vector<int32_t>& tokens = prompts[next].tokens;
    size_t source = id, common = 0;  // who has the most of it in memory
    for (size_t i = 0; i < writers.size() && s.shares; i++) {
      const auto in_memory = std::span(writers[i].tokens).first(writers[i].computed);
      const auto same = static_cast<size_t>(std::ranges::mismatch(in_memory, tokens).in1 - in_memory.begin());
      if (same > common || (same == common && i == id)) source = i, common = same;
    }
    common = std::min(common, tokens.size() - 1);  // the last one's logits are needed
    s.guard([&](LlamaLog&) {
      const auto sequence = static_cast<llama_seq_id>(id);
      const auto kept = static_cast<llama_pos>(common);
      if (source != id || common == 0)
        llama_memory_seq_rm(s.memory(), sequence, -1, -1);
      else
        llama_memory_seq_rm(s.memory(), sequence, kept, -1);
      if (source != id && common > 0)
        llama_memory_seq_cp(s.memory(), static_cast<llama_seq_id>(source), sequence, 0, kept);
    });
    writer = {
        .prompt = next, .tokens = tokens, .computed = common, .left = prompts[next].max_tokens, .output = {}};
    next++;
  };
  for (;;) {
    for (size_t id = 0; id < writers.size(); id++)
      while (!writers[id].prompt && next < prompts.size()) {
        if (prompts[next].max_tokens < 1)
          next++;
        else
          begin_text(id);
      }
    batch.clear();
    // Those that write go first: one token each. Then prompts, as far as there is room.
    for (const bool writing : {true, false})
      for (size_t id = 0; id < writers.size(); id++) {
        Writer& writer = writers[id];
        const size_t open = writer.prompt ? writer.tokens.size() - writer.computed : 0;
        if (open == 0 || (open == 1) != writing) continue;
        writer.output.reset();
        const size_t end = writer.computed + std::min(open, batch.room());
        for (; writer.computed < end; writer.computed++) {
          const bool last = writer.computed + 1 == writer.tokens.size();
          if (last) writer.output = batch.size();
          const auto sequence = static_cast<int32_t>(id);
          batch.add(writer.tokens[writer.computed], static_cast<int32_t>(writer.computed), sequence, sequence,
                    last);
        }
      }
    if (batch.size() == 0) return;
    s.decode(batch);
    for (Writer& writer : writers) {
      if (!writer.output) continue;
      const LogSoftmax row = log_softmax(s.logits(*writer.output));
      writer.output.reset();
      if (!std::isfinite(row.log_sum)) s.not_finite();
      const auto token = static_cast<int32_t>(row.argmax);
      writer.tokens.push_back(token);
      if (!told(*writer.prompt, token) || --writer.left == 0) writer.prompt.reset();
    }
  }
}

}  // namespace moerge
