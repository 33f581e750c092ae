#include "moerge/engine/imatrix.h"

#include <ggml-backend.h>
#include <llama-cpp.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <exception>
#include <functional>
#include <numeric>
#include <stdexcept>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/engine/decoder.h"
#include "moerge/engine/llama_log.h"
#include "moerge/engine/model_file_check.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// Tokens that pass through the model together; as in llama.cpp's tool.
constexpr int64_t kBatchTokens = 512;

// -------- collecting

// "CUDA0#blk.0.attn_k.weight#0", a copy on a device, is blk.0.attn_k.weight.
std::string weight_name(const ggml_tensor& tensor) {
  std::string name = ggml_get_name(&tensor);
  const size_t begin = name.find('#');
  if (begin == std::string::npos) return name;
  name.erase(0, begin + 1);
  return name.substr(0, name.find('#'));
}

// The values of a node's source, brought to the host where they are not.
const char* on_host(const ggml_tensor& tensor, std::vector<char>& storage) {
  if (ggml_backend_buffer_is_host(tensor.buffer)) return static_cast<const char*>(tensor.data);
  storage.resize(ggml_nbytes(&tensor));
  ggml_backend_tensor_get(&tensor, storage.data(), 0, storage.size());
  return storage.data();
}

void add_squares(const char* row, float* sums, int64_t columns) {
  const auto* values = reinterpret_cast<const float*>(row);
  for (int64_t i = 0; i < columns; i++) sums[i] += values[i] * values[i];
}

// What the scheduler of a graph calls for every node, before and after it is computed.
class Collector {
 public:
  Collector(std::string where, bool process_output)
      : where_(std::move(where)), process_output_(process_output) {}

  /// A ggml_backend_sched_eval_callback. No exception may pass through llama.cpp: it waits for rethrow().
  static bool on_node(ggml_tensor* node, bool ask, void* data) noexcept {
    auto& self = *static_cast<Collector*>(data);
    if (self.error_) return false;
    if (ask) return self.is_end(*node) || self.wants(*node);
    if (self.is_end(*node)) return false;  // ends the graph here
    try {
      check_interrupted();
      self.add(*node);
    } catch (...) {
      self.error_ = std::current_exception();
    }
    return !self.error_;
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

  std::map<std::string, SquareSums> take() { return std::move(tensors_); }

 private:
  // Every llama.cpp graph calls the states after the last norm so. What follows is the product with the
  // vocabulary's matrix, which nobody needs here.
  bool is_end(const ggml_tensor& node) const {
    return !process_output_ && std::string_view(ggml_get_name(&node)) == "result_norm";
  }

  bool wants(const ggml_tensor& node) const {
    if (node.op == GGML_OP_MUL_MAT_ID) return true;
    if (node.op != GGML_OP_MUL_MAT) return false;
    const ggml_tensor& input = *node.src[1];
    if (input.ne[1] < kMinChunkSize || input.type != GGML_TYPE_F32) return false;
    const std::string name = weight_name(*node.src[0]);
    return name.starts_with("blk.") || (process_output_ && name == "output.weight");
  }

  void add(const ggml_tensor& node) {
    const std::string name = weight_name(*node.src[0]);
    const ggml_tensor& input = *node.src[1];
    if (input.type != GGML_TYPE_F32 || input.nb[0] != sizeof(float))
      fail(ErrorKind::unsupported, "{}: the inputs of \"{}\" are {}, expected float32 in rows", where_, name,
           ggml_type_name(input.type));
    if (node.op == GGML_OP_MUL_MAT_ID)
      add_routed(name, node);
    else
      add_rows(name, *node.src[0], input);
  }

  // Zeros at the first call for a tensor.
  SquareSums& sums_of(const std::string& name, int64_t columns, int64_t matrices, int64_t counts) {
    SquareSums& found = tensors_[name];
    if (found.sums.empty()) {
      found.sums.resize(static_cast<size_t>(columns * matrices));
      found.counts.resize(static_cast<size_t>(counts));
    }
    if (std::ssize(found.sums) != columns * matrices || std::ssize(found.counts) != counts)
      fail(ErrorKind::unsupported, "{}: \"{}\" is used in two ways that need different sums", where_, name);
    return found;
  }

  // src1 is [columns, rows, ...]; a weight of more than two dimensions serves them in turn.
  void add_rows(const std::string& name, const ggml_tensor& weight, const ggml_tensor& input) {
    const int64_t matrices = weight.ne[2] * weight.ne[3];
    SquareSums& total = sums_of(name, input.ne[0], matrices, 1);
    const char* data = on_host(input, input_storage_);
    for (int64_t i3 = 0; i3 < input.ne[3]; i3++)
      for (int64_t i2 = 0; i2 < input.ne[2]; i2++) {
        const int64_t matrix = i3 % weight.ne[3] * weight.ne[2] + i2 % weight.ne[2];
        const char* rows = data + i2 * input.nb[2] + i3 * input.nb[3];
        for (int64_t row = 0; row < input.ne[1]; row++)
          add_squares(rows + row * input.nb[1], total.sums.data() + matrix * input.ne[0], input.ne[0]);
      }
    total.counts[0] += ggml_nrows(&input) / matrices;
    check_finite(name, total.sums);
  }

  // src1 is [columns, 1 or experts per token, tokens]; src2, the experts chosen, [experts per token, tokens].
  void add_routed(const std::string& name, const ggml_tensor& node) {
    const ggml_tensor &input = *node.src[1], &chosen = *node.src[2];
    const int64_t experts = node.src[0]->ne[2];
    if (input.ne[3] != 1 || chosen.ne[1] != input.ne[2] || chosen.type != GGML_TYPE_I32)
      fail(ErrorKind::unsupported, "{}: the experts of \"{}\" are chosen in a way not known here", where_,
           name);
    SquareSums& total = sums_of(name, input.ne[0], experts, experts);
    const char* data = on_host(input, input_storage_);
    const char* ids = on_host(chosen, chosen_storage_);
    for (int64_t slot = 0; slot < chosen.ne[0]; slot++)
      for (int64_t token = 0; token < input.ne[2]; token++) {
        const int32_t expert =
            *reinterpret_cast<const int32_t*>(ids + slot * chosen.nb[0] + token * chosen.nb[1]);
        if (expert < 0 || expert >= experts)
          fail(ErrorKind::input, "{}: the router chose expert {} of {} for \"{}\"", where_, expert, experts,
               name);
        total.counts[static_cast<size_t>(expert)]++;
        add_squares(data + slot % input.ne[1] * input.nb[1] + token * input.nb[2],
                    total.sums.data() + expert * input.ne[0], input.ne[0]);
      }
    check_finite(name, total.sums);
  }

  void check_finite(const std::string& name, const std::vector<float>& sums) const {
    if (!std::ranges::all_of(sums, [](float sum) { return std::isfinite(sum); }))
      fail(ErrorKind::input,
           "{}: what \"{}\" is multiplied with is not finite: the model's weights are damaged, or its "
           "activations do not fit their type",
           where_, name);
  }

  std::string where_;
  bool process_output_;
  std::map<std::string, SquareSums> tensors_;
  std::vector<char> input_storage_, chosen_storage_;
  std::exception_ptr error_;
};

// -------- the model and its text

struct Batch {
  explicit Batch(int64_t tokens) : llama(llama_batch_init(static_cast<int32_t>(tokens), 0, 1)) {}
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;
  ~Batch() { llama_batch_free(llama); }

  llama_batch llama;
};

bool keep_loading(float, void*) {
  try {
    check_interrupted();
    return true;
  } catch (const Error&) {
    return false;
  }
}

llama_model_ptr load_model(const fs::path& file, const std::string& device_name, LlamaLog& log) {
  check_model_file(file);
  // Checked before by check_device.
  ggml_backend_dev_t device = device_name == "gpu"   ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU)
                              : device_name == "cpu" ? nullptr
                                                     : ggml_backend_dev_by_name(device_name.c_str());
  if (device && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU) device = nullptr;
  std::array<ggml_backend_dev_t, 2> devices = {device, nullptr};
  llama_model_params params = llama_model_default_params();
  params.devices = devices.data();
  params.n_gpu_layers = device ? -1 : 0;
  params.progress_callback = keep_loading;
  llama_model_ptr model(llama_model_load_from_file(file.c_str(), params));
  check_interrupted();
  if (!model) fail(ErrorKind::input, "{}: cannot be loaded{}", file.string(), log.said());
  if (llama_model_has_encoder(model.get()) || !llama_model_has_decoder(model.get()))
    fail(ErrorKind::unsupported, "{}: not a model that reads text from left to right", file.string());
  return model;
}

llama_context_ptr make_context(llama_model& model, const ImatrixOptions& options, Collector& collector) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(options.chunk_size);
  params.n_batch = params.n_ubatch = static_cast<uint32_t>(std::min(options.chunk_size, kBatchTokens));
  params.n_outputs_max = params.n_outputs_max_per_seq = 0;  // every token: see fill()
  params.n_threads = params.n_threads_batch = options.threads > 0 ? options.threads : default_threads();
  params.cb_eval = Collector::on_node;
  params.cb_eval_user_data = &collector;
  return llama_context_ptr(llama_init_from_model(&model, params));
}

std::vector<llama_token> tokenize(const llama_vocab& vocab, std::string_view text, const std::string& where) {
  if (llama_vocab_type(&vocab) == LLAMA_VOCAB_TYPE_NONE)
    fail(ErrorKind::input, "{}: the file holds no tokenizer", where);
  std::vector<llama_token> tokens(text.size() / 3 + 16);
  const auto attempt = [&] {
    return llama_tokenize(&vocab, text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                          static_cast<int32_t>(tokens.size()), /*add_special=*/true, /*parse_special=*/false);
  };
  try {
    int32_t count = attempt();
    if (count < 0 && count != INT32_MIN) {
      tokens.resize(static_cast<size_t>(-count));
      count = attempt();
    }
    if (count < 0) fail(ErrorKind::input, "the text is too long: {}", human_bytes(std::ssize(text)));
    tokens.resize(static_cast<size_t>(count));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {  // the vocabulary lacks a byte, or its unknown token
    fail(ErrorKind::input, "{}: its tokenizer does not take the text ({})", where, error.what());
  }
  if (llama_vocab_get_add_eos(&vocab) && !tokens.empty()) tokens.pop_back();
  return tokens;
}

// Every token is an output: else llama.cpp leaves rows out of the last layer.
void fill(llama_batch& batch, std::span<const llama_token> tokens, int64_t position) {
  batch.n_tokens = static_cast<int32_t>(tokens.size());
  for (size_t i = 0; i < tokens.size(); i++) {
    batch.token[i] = tokens[i];
    batch.pos[i] = static_cast<llama_pos>(position + static_cast<int64_t>(i));
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
}

void run_chunks(llama_context& context, std::span<llama_token> tokens, int64_t size,
                const std::function<void(int32_t code, int64_t tokens)>& on_batch) {
  const llama_vocab* vocab = llama_model_get_vocab(llama_get_model(&context));
  const int64_t step = std::min(size, kBatchTokens);
  Batch batch(step);
  for (int64_t chunk = 0; chunk < std::ssize(tokens) / size; chunk++) {
    llama_memory_clear(llama_get_memory(&context), true);
    const std::span<llama_token> part =
        tokens.subspan(static_cast<size_t>(chunk * size), static_cast<size_t>(size));
    if (llama_vocab_get_add_bos(vocab)) part[0] = llama_vocab_bos(vocab);
    for (int64_t begin = 0; begin < size; begin += step) {
      const int64_t count = std::min(step, size - begin);
      fill(batch.llama, part.subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), begin);
      on_batch(llama_decode(&context, batch.llama), count);
    }
  }
}

void check_options(const ImatrixOptions& options, std::string_view text) {
  if (options.chunk_size < kMinChunkSize || options.chunk_size > kMaxChunkSize)
    fail(ErrorKind::usage, "chunks of {} tokens: {} to {} are expected", options.chunk_size, kMinChunkSize,
         kMaxChunkSize);
  if (options.max_chunks.value_or(1) < 1)
    fail(ErrorKind::usage, "{} chunks: at least one is expected", *options.max_chunks);
  if (std::ssize(text) > INT32_MAX)
    fail(ErrorKind::input, "the text is too long: {}", human_bytes(std::ssize(text)));
  check_device(options.device);
}

Imatrix collect(const std::string& where, llama_model& model, std::vector<llama_token>& tokens,
                const ImatrixOptions& options, LlamaLog& log, Reporter& reporter) {
  const int64_t size = options.chunk_size;
  Imatrix out = {.tensors = {},
                 .chunks = std::min(std::ssize(tokens) / size, options.max_chunks.value_or(INT64_MAX)),
                 .chunk_size = size};
  reporter.info(fmt::format("the text has {} tokens: {} chunk{} of {}", tokens.size(), out.chunks,
                            out.chunks == 1 ? "" : "s", size));
  Collector collector(where, options.process_output);
  const llama_context_ptr context = make_context(model, options, collector);
  if (!context || !llama_get_memory(context.get()))
    fail(context ? ErrorKind::unsupported : ErrorKind::io, "{}: cannot be run over text{}", where,
         log.said());
  Progress progress(reporter, "importance", out.tokens(), Unit::tokens);
  run_chunks(*context, std::span(tokens).first(static_cast<size_t>(out.tokens())), size,
             [&](int32_t code, int64_t count) {
               collector.rethrow();
               if (code != 0) fail(ErrorKind::io, "{}: cannot be run over text{}", where, log.said());
               progress.add(count);
             });
  progress.finish();
  out.tensors = collector.take();
  if (out.tensors.empty())
    fail(ErrorKind::unsupported, "{}: none of its matrices is one of a layer (\"blk.N...\")", where);
  return out;
}

}  // namespace

Imatrix collect_imatrix(const fs::path& file, std::string_view text, const ImatrixOptions& options,
                        Reporter& reporter) {
  check_options(options, text);
  const std::string where = file.string();
  LlamaLog log;
  llama_backend_init();
  const llama_model_ptr model = load_model(file, options.device, log);
  std::vector<llama_token> tokens = tokenize(*llama_model_get_vocab(model.get()), text, where);
  if (std::ssize(tokens) < options.chunk_size)
    fail(ErrorKind::input, "the text has {} tokens, one chunk needs {}: more text, or shorter chunks",
         tokens.size(), options.chunk_size);
  if (const int64_t longest = llama_model_n_ctx_train(model.get()); options.chunk_size > longest)
    reporter.warning(fmt::format("chunks of {} tokens are longer than the {} that {} was trained for",
                                 options.chunk_size, longest, where));
  try {
    return collect(where, *model, tokens, options, log, reporter);
  } catch (const Error&) {
    throw;
  } catch (const std::runtime_error& error) {
    fail(ErrorKind::input, "{}: cannot be run over text; llama.cpp says: {}", where, error.what());
  }
}

// -------- experts

namespace {

// The layer of "blk.LAYER.ffn_..._exps.weight", or empty.
std::optional<int64_t> layer_of_experts(std::string_view name) {
  constexpr std::string_view kPrefix = "blk.", kSuffix = "_exps.weight";
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  name.remove_prefix(kPrefix.size());
  int64_t layer = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (error != std::errc() || !name.substr(static_cast<size_t>(end - name.data())).starts_with(".ffn_"))
    return std::nullopt;
  return layer;
}

// "expert 2 (layers 3, 4), expert 5 (17 layers)".
std::string expert_list(const std::map<size_t, std::vector<int64_t>>& layers_by_expert) {
  constexpr size_t kMaxExperts = 8, kMaxLayers = 8;
  std::vector<std::string> words;
  for (const auto& [expert, layers] : layers_by_expert) {
    if (words.size() == kMaxExperts) {
      words.push_back(fmt::format("{} more experts", layers_by_expert.size() - kMaxExperts));
      break;
    }
    words.push_back(layers.size() > kMaxLayers
                        ? fmt::format("expert {} ({} layers)", expert, layers.size())
                        : fmt::format("expert {} (layer{} {})", expert, layers.size() == 1 ? "" : "s",
                                      fmt::join(layers, ", ")));
  }
  return fmt::format("{}", fmt::join(words, ", "));
}

}  // namespace

int64_t ExpertLoad::even_share() const {
  return tokens.empty() ? 0 : std::reduce(tokens.begin(), tokens.end()) / std::ssize(tokens);
}

std::vector<ExpertLoad> expert_loads(const Imatrix& imatrix) {
  std::map<int64_t, const std::vector<int64_t>*> by_layer;  // the tensors of a layer have the same counts
  for (const auto& [name, squares] : imatrix.tensors)
    if (const std::optional<int64_t> layer = layer_of_experts(name); layer && squares.counts.size() > 1)
      by_layer[*layer] = &squares.counts;
  std::vector<ExpertLoad> loads;
  for (const auto& [layer, counts] : by_layer) loads.push_back({.layer = layer, .tokens = *counts});
  return loads;
}

std::vector<std::string> load_warnings(std::span<const ExpertLoad> loads) {
  std::map<size_t, std::vector<int64_t>> unseen, few;
  int64_t fewest = INT64_MAX, share = 0;
  for (const ExpertLoad& load : loads)
    for (size_t expert = 0; expert < load.tokens.size(); expert++) {
      const int64_t tokens = load.tokens[expert];
      if (tokens == 0) unseen[expert].push_back(load.layer);
      if (tokens == 0 || (tokens >= kFewTokens && tokens * 100 >= load.even_share())) continue;
      few[expert].push_back(load.layer);
      if (tokens < fewest) fewest = tokens, share = load.even_share();
    }
  std::vector<std::string> warnings;
  if (!unseen.empty())
    warnings.push_back(
        fmt::format("experts that saw no token of the text: {}: their weights will be quantised as if every "
                    "column mattered the same; add text of what they are for",
                    expert_list(unseen)));
  if (!few.empty())
    warnings.push_back(fmt::format(
        "experts that saw few tokens of the text (less than {} or a hundredth of an even share; the fewest: "
        "{} "
        "of an even {}): {}: which of their columns matter is mostly guessed; add text of what they are for",
        kFewTokens, fewest, share, expert_list(few)));
  return warnings;
}

}  // namespace moerge
