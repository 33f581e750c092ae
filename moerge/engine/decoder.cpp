#include "moerge/engine/decoder.h"

#include <ggml-cpp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <numeric>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/engine/rope.h"
#include "moerge/engine/weight_stream.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

constexpr std::array kAttentionRoles = {
    Role::attention_norm, Role::q,      Role::k,      Role::v,     Role::o,
    Role::q_bias,         Role::k_bias, Role::v_bias, Role::o_bias};
constexpr std::array kFfnRoles = {Role::ffn_norm, Role::ffn_gate, Role::ffn_up, Role::ffn_down};

// Long sequences attend in blocks of queries, so that masks grow with the length and not with its square.
constexpr int64_t kQueryBlock = 512;

// -------- what it can do

// ggml ends the process on a shape or type that it does not expect: everything is checked before.
void check_weight(const Model& model, const StoredTensor& stored, Role role) {
  const Shape expected = expected_shape(role, model.config);
  const TensorSpec& spec = stored.spec;
  if (spec.shape != expected)
    fail(ErrorKind::input, "{}: tensor \"{}\" is {}, {} says {}", model.path.string(), spec.name,
         to_string(spec.shape), model.config.source, to_string(expected));
  if (!is_weight_type(spec.dtype) && !(is_quantized(spec.dtype) && spec.shape.size() == 2))
    fail(ErrorKind::unsupported,
         "{}: tensor \"{}\" is {}; the forward pass takes float32, float16 and bfloat16", model.path.string(),
         spec.name, info(spec.dtype).name());
}

void check_model(const Model& model) {
  const ModelConfig& config = model.config;
  const auto unsupported = [&](std::string_view what) {
    fail(ErrorKind::unsupported,
         "{}: {} not supported by the forward pass; gate_mode cheap_embed or random need no forward pass",
         config.where, what);
  };
  if (config.activation != "silu" && config.activation != "swish")
    unsupported(fmt::format("activation \"{}\" is", config.activation));
  if (config.mlp_bias) unsupported("\"mlp_bias\" is");
  if (config.head_dim % 2 != 0) unsupported(fmt::format("an odd head_dim ({}) is", config.head_dim));
  if (config.sliding_window && *config.sliding_window < 1)
    fail(ErrorKind::input, "{}: \"sliding_window\" is {}", config.where, *config.sliding_window);
  if (!std::isfinite(config.norm_epsilon) || config.norm_epsilon < 0)
    fail(ErrorKind::input, "{}: \"rms_norm_eps\" is {}", config.where, config.norm_epsilon);

  check_weight(model, model.tensor(Role::embedding), Role::embedding);
  for (int64_t layer = 0; layer + 1 < config.layers; layer++)
    for (const std::span<const Role> roles :
         {std::span<const Role>(kAttentionRoles), std::span<const Role>(kFfnRoles)})
      for (const Role role : roles)
        if (const StoredTensor* stored = find_weight(model, role, layer)) check_weight(model, *stored, role);
}

// -------- device

void keep_errors_only(ggml_log_level level, const char* text, void*) {
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

ggml_backend_dev_t find_device(const std::string& name) {
  static std::once_flag once;
  std::call_once(once, [] { ggml_log_set(keep_errors_only, nullptr); });

  ggml_backend_dev_t device = name == "cpu"   ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU)
                              : name == "gpu" ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU)
                                              : ggml_backend_dev_by_name(name.c_str());
  if (!device) {
    std::vector<std::string> known;
    for (size_t i = 0; i < ggml_backend_dev_count(); i++)
      known.push_back(fmt::format("\"{}\"", ggml_backend_dev_name(ggml_backend_dev_get(i))));
    fail(ErrorKind::usage, "this build has no device \"{}\" (it has {})", name, fmt::join(known, ", "));
  }
  return device;
}

ggml_backend_ptr open_device(const std::string& name, int threads) {
  ggml_backend_dev_t device = find_device(name);
  ggml_backend_ptr backend(ggml_backend_dev_init(device, nullptr));
  if (!backend) fail(ErrorKind::io, "device \"{}\" does not start", name);
  ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(device);
  const auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
      ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_n_threads"));
  if (set_threads) set_threads(backend.get(), threads);
  return backend;
}

// -------- batching

// Sequences that pass through attention together, packed without padding, shorter ones first.
struct Chunk {
  std::vector<size_t> sequences;
  int64_t tokens = 0;
};

// One call of attention inside a chunk: some queries of `count` neighbouring sequences of equal length.
struct Run {
  int64_t first;  // token of the chunk where the first sequence starts
  int64_t length, count;
  int64_t query, queries;  // positions [query, query + queries)
  int64_t key;             // and they see keys from this position on
  int64_t keys() const { return query + queries - key; }
};

std::vector<Chunk> plan_chunks(std::span<const TokenSequence> sequences, int64_t max_tokens) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return sequences[i].size(); });
  std::vector<Chunk> chunks;
  for (const size_t i : order) {
    const int64_t length = std::ssize(sequences[i]);
    if (chunks.empty() || chunks.back().tokens + length > max_tokens) chunks.emplace_back();
    chunks.back().sequences.push_back(i);
    chunks.back().tokens += length;
  }
  return chunks;
}

std::vector<Run> plan_runs(const Chunk& chunk, std::span<const TokenSequence> sequences, int64_t window) {
  std::vector<Run> runs;
  int64_t first = 0;
  for (size_t i = 0; i < chunk.sequences.size();) {
    const int64_t length = std::ssize(sequences[chunk.sequences[i]]);
    const size_t begin = i;
    while (i < chunk.sequences.size() && std::ssize(sequences[chunk.sequences[i]]) == length) i++;
    const auto count = static_cast<int64_t>(i - begin);
    for (int64_t query = 0; query < length; query += kQueryBlock)
      runs.push_back({.first = first,
                      .length = length,
                      .count = count,
                      .query = query,
                      .queries = std::min(kQueryBlock, length - query),
                      .key = std::max<int64_t>(0, query - window + 1)});
    first += length * count;
  }
  return runs;
}

// The masks of all runs of a chunk are parts of one: whether a query sees a key depends on how far apart they
// are. Row r, column x is 0 where a query sees a key r + lead - x tokens before it, else minus infinity.
struct Mask {
  int64_t rows = 0, lead = 0, columns = 0;
  std::vector<ggml_fp16_t> values;
};

Mask make_mask(std::span<const Run> runs, int64_t window) {
  Mask mask;
  for (const Run& run : runs) {
    mask.rows = std::max(mask.rows, run.queries);
    mask.lead = std::max(mask.lead, run.query - run.key);
  }
  mask.columns = mask.lead + mask.rows;
  const ggml_fp16_t hidden = ggml_fp32_to_fp16(-INFINITY), seen = ggml_fp32_to_fp16(0);
  mask.values.resize(static_cast<size_t>(mask.rows * mask.columns), hidden);
  for (int64_t row = 0; row < mask.rows; row++)
    for (int64_t x = std::max<int64_t>(0, row + mask.lead - window + 1); x <= row + mask.lead; x++)
      mask.values[static_cast<size_t>(row * mask.columns + x)] = seen;
  return mask;
}

// -------- graph

// A ggml graph under construction. Shapes in comments are ggml's: the dimension with stride one comes first.
class Graph {
 public:
  Graph(ggml_backend_t backend, ggml_gallocr_t allocator, size_t max_nodes)
      : backend_(backend),
        allocator_(allocator),
        context_(ggml_init({max_nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(max_nodes, false),
                            nullptr,
                            /*no_alloc=*/true})),
        graph_(ggml_new_graph_custom(context_.get(), max_nodes, false)) {}

  ggml_context* context() const { return context_.get(); }
  ggml_tensor* input(ggml_type type, int64_t columns, int64_t rows) {
    ggml_tensor* tensor = ggml_new_tensor_2d(context(), type, columns, rows);
    ggml_set_input(tensor);
    return tensor;
  }
  /// Computes `tensor` at this point, before everything that is added later.
  void add(ggml_tensor* tensor) { ggml_build_forward_expand(graph_, tensor); }

  /// After this, inputs can be set and run() called.
  void allocate(ggml_tensor* output) {
    ggml_set_output(output);
    add(output);
    if (!ggml_gallocr_alloc_graph(allocator_, graph_)) fail(ErrorKind::io, "no memory for activations");
    ggml_backend_dev_t device = ggml_backend_get_device(backend_);
    for (int i = 0; i < ggml_graph_n_nodes(graph_); i++)
      if (const ggml_tensor* node = ggml_graph_node(graph_, i); !ggml_backend_dev_supports_op(device, node))
        fail(ErrorKind::unsupported, "device \"{}\" cannot compute {} for this model",
             ggml_backend_dev_name(device), ggml_op_desc(node));
  }
  void run() {
    const ggml_status status = ggml_backend_graph_compute(backend_, graph_);
    if (status != GGML_STATUS_SUCCESS)
      fail(ErrorKind::io, "{} stopped: {}", ggml_backend_name(backend_), ggml_status_to_string(status));
  }

 private:
  ggml_backend_t backend_;
  ggml_gallocr_t allocator_;
  ggml_context_ptr context_;
  ggml_cgraph* graph_;
};

template <typename T>
void set(ggml_tensor* tensor, std::span<const T> values) {
  ggml_backend_tensor_set(tensor, values.data(), 0, values.size_bytes());
}

// Rows [first, first + count) of each of `sequences` neighbouring sequences of `length` tokens, in a tensor
// [head_dim, heads, tokens].
ggml_tensor* rows_of(ggml_context* context, ggml_tensor* heads, const Run& run, int64_t first,
                     int64_t count) {
  const size_t token = heads->nb[2], start = static_cast<size_t>(run.first + first) * token;
  return ggml_view_4d(context, heads, heads->ne[0], heads->ne[1], count, run.count, heads->nb[1], token,
                      static_cast<size_t>(run.length) * token, start);
}

}  // namespace

// -------- decoder

struct StreamingDecoder::Impl {
  const Model& model;
  const ModelConfig& config;
  DecoderOptions options;
  RopeFrequencies rope;
  ggml_backend_ptr backend;
  ggml_gallocr_ptr allocator;
  WeightStream weights;
  std::vector<float> rope_divisors;  // [head_dim / 2]

  Impl(const Model& model_, DecoderOptions options_);

  void check_sequences(std::span<const TokenSequence> sequences) const;
  std::vector<float> embed(std::span<const TokenSequence> sequences) const;
  void check_finite(std::span<const float> states, int64_t layer) const;
  int64_t window() const { return config.sliding_window.value_or(INT64_MAX / 2); }

  void attend(const Chunk& chunk, std::span<const TokenSequence> sequences, std::span<float> states);
  void feed_forward(std::span<float> states);
  ggml_tensor* norm(Graph& graph, ggml_tensor* x, Role role) const;
  ggml_tensor* project(Graph& graph, ggml_tensor* x, Role matrix, Role bias) const;
};

StreamingDecoder::Impl::Impl(const Model& model_, DecoderOptions options_)
    : model(model_),
      config(model_.config),
      options(std::move(options_)),
      rope(rope_frequencies(config)),
      backend(open_device(options.device, options.threads)),
      allocator(ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend.get()))),
      weights(model, backend.get(), options.weights, options.threads) {
  for (const float frequency : rope.inverse) rope_divisors.push_back(1 / frequency);
}

void check_device(const std::string& name) { find_device(name); }

StreamingDecoder::StreamingDecoder(const Model& model, DecoderOptions options) {
  check_model(model);
  if (options.threads <= 0) options.threads = default_threads();
  options.max_batch_tokens = std::max<int64_t>(1, options.max_batch_tokens);
  impl_ = std::make_unique<Impl>(model, std::move(options));
}
StreamingDecoder::~StreamingDecoder() = default;

void StreamingDecoder::Impl::check_sequences(std::span<const TokenSequence> sequences) const {
  for (const TokenSequence& sequence : sequences) {
    if (sequence.empty()) fail(ErrorKind::input, "{}: a prompt without tokens", model.path.string());
    for (const int32_t token : sequence)
      if (token < 0 || token >= config.vocab)
        fail(ErrorKind::input,
             "{}: token {} is outside its vocabulary of {} (does the tokenizer belong to it?)",
             model.path.string(), token, config.vocab);
    if (rope.max_length && std::ssize(sequence) > *rope.max_length)
      fail(ErrorKind::unsupported,
           "{}: a prompt of {} tokens; with rope type \"{}\" the forward pass takes at most "
           "max_position_embeddings ({})",
           model.path.string(), sequence.size(), config.rope.type, *rope.max_length);
  }
}

std::vector<float> StreamingDecoder::Impl::embed(std::span<const TokenSequence> sequences) const {
  size_t tokens = 0;
  for (const TokenSequence& sequence : sequences) tokens += sequence.size();
  const auto hidden = static_cast<size_t>(config.hidden);
  std::vector<float> states(tokens * hidden);
  const StoredTensor& stored = model.tensor(Role::embedding);
  std::vector<std::byte> row(static_cast<size_t>(stored.row_bytes()));
  float* next = states.data();
  for (const TokenSequence& sequence : sequences)
    for (const int32_t token : sequence) {
      read_rows(stored, token, 1, row);
      to_f32(stored.spec.dtype, row, {next, hidden});
      next += hidden;
    }
  stored.file->release(stored.stored_bytes());
  return states;
}

void StreamingDecoder::Impl::check_finite(std::span<const float> states, int64_t layer) const {
  if (std::ranges::all_of(states, [](float value) { return std::isfinite(value); })) return;
  const std::string where = model.path.string();
  if (layer == 0)
    fail(ErrorKind::input, "{}: embeddings of these prompts hold infinite values or NaN", where);
  fail(ErrorKind::input, "{}: what layer {} computes holds infinite values or NaN: its weights are damaged{}",
       where, layer - 1, config.dtype == DType::f16 ? ", or its numbers grow beyond float16" : "");
}

void StreamingDecoder::encode(std::span<const TokenSequence> sequences, const OnLayer& on_layer) {
  Impl& m = *impl_;
  m.check_sequences(sequences);
  std::vector<float> states = m.embed(sequences);
  const std::vector<Chunk> chunks = plan_chunks(sequences, m.options.max_batch_tokens);
  const auto step = static_cast<size_t>(m.options.max_batch_tokens * m.config.hidden);

  for (int64_t layer = 0; layer < m.config.layers; layer++) {
    check_interrupted();
    m.check_finite(states, layer);
    on_layer(layer, states);
    const bool last = layer + 1 == m.config.layers;
    if (last || states.empty()) continue;

    m.weights.prefetch(layer, kFfnRoles);
    m.weights.load(layer, kAttentionRoles);
    for (const Chunk& chunk : chunks) m.attend(chunk, sequences, states);
    m.weights.release();

    if (layer + 2 < m.config.layers) m.weights.prefetch(layer + 1, kAttentionRoles);
    m.weights.load(layer, kFfnRoles);
    for (size_t i = 0; i < states.size(); i += step)
      m.feed_forward(std::span(states).subspan(i, std::min(step, states.size() - i)));
    m.weights.release();
  }
}

ggml_tensor* StreamingDecoder::Impl::norm(Graph& graph, ggml_tensor* x, Role role) const {
  ggml_tensor* normed = ggml_rms_norm(graph.context(), x, static_cast<float>(config.norm_epsilon));
  return ggml_mul(graph.context(), normed, weights.at(role));
}

ggml_tensor* StreamingDecoder::Impl::project(Graph& graph, ggml_tensor* x, Role matrix, Role bias) const {
  ggml_tensor* y = ggml_mul_mat(graph.context(), weights.at(matrix), x);
  ggml_tensor* b = weights.at(bias);
  return b ? ggml_add(graph.context(), y, b) : y;
}

// states += attention(norm(states)) for the tokens of a chunk.
void StreamingDecoder::Impl::attend(const Chunk& chunk, std::span<const TokenSequence> sequences,
                                    std::span<float> states) {
  check_interrupted();
  const std::vector<Run> runs = plan_runs(chunk, sequences, window());
  const Mask mask = make_mask(runs, window());
  Graph graph(backend.get(), allocator.get(), 64 + 16 * runs.size());
  ggml_context* c = graph.context();

  ggml_tensor* x = graph.input(GGML_TYPE_F32, config.hidden, chunk.tokens);
  ggml_tensor* positions = graph.input(GGML_TYPE_I32, chunk.tokens, 1);
  ggml_tensor* divisors = graph.input(GGML_TYPE_F32, std::ssize(rope_divisors), 1);
  ggml_tensor* seen = graph.input(GGML_TYPE_F16, mask.columns, mask.rows);

  // ggml's angle is position * base^(-2i/head_dim) / divisor: with base 1 the divisors say everything.
  const auto rotate = [&](ggml_tensor* heads) {
    return ggml_rope_ext(c, heads, positions, divisors, static_cast<int>(config.head_dim),
                         GGML_ROPE_TYPE_NEOX, 0, 1.0f, 1.0f, 0.0f, rope.attention_factor, 0.0f, 0.0f);
  };
  const auto split = [&](ggml_tensor* y, int64_t heads) {
    return ggml_reshape_3d(c, y, config.head_dim, heads, chunk.tokens);
  };
  ggml_tensor* normed = norm(graph, x, Role::attention_norm);
  ggml_tensor* q = rotate(split(project(graph, normed, Role::q, Role::q_bias), config.heads));
  ggml_tensor* k = rotate(split(project(graph, normed, Role::k, Role::k_bias), config.kv_heads));
  ggml_tensor* v = split(project(graph, normed, Role::v, Role::v_bias), config.kv_heads);

  const float scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  for (const Run& run : runs) {
    const auto tokens_first = [&](ggml_tensor* heads) { return ggml_permute(c, heads, 0, 2, 1, 3); };
    ggml_tensor* queries = rows_of(c, q, run, run.query, run.queries);
    ggml_tensor* keys = rows_of(c, k, run, run.key, run.keys());
    ggml_tensor* values = rows_of(c, v, run, run.key, run.keys());
    const auto skipped = static_cast<size_t>(mask.lead - (run.query - run.key)) * sizeof(ggml_fp16_t);
    ggml_tensor* part = ggml_cont(c, ggml_view_2d(c, seen, run.keys(), run.queries, seen->nb[1], skipped));
    ggml_tensor* mixed = ggml_flash_attn_ext(c, tokens_first(queries), tokens_first(keys),
                                             tokens_first(values), part, scale, 0.0f, 0.0f);
    // What these queries found takes their place in q: nobody else reads them.
    graph.add(ggml_cpy(c, mixed, queries));
  }
  ggml_tensor* attended = ggml_reshape_2d(c, q, config.heads * config.head_dim, chunk.tokens);
  ggml_tensor* out = ggml_add(c, x, project(graph, attended, Role::o, Role::o_bias));
  graph.allocate(out);

  // Copies sequence after sequence between the states, in the order given, and the chunk's packed tokens.
  std::vector<size_t> starts(sequences.size());
  for (size_t i = 1; i < sequences.size(); i++) starts[i] = starts[i - 1] + sequences[i - 1].size();
  const auto hidden = static_cast<size_t>(config.hidden);
  const auto each_sequence = [&](const auto& copy) {
    size_t offset = 0;
    for (const size_t i : chunk.sequences) {
      const std::span<float> part = states.subspan(starts[i] * hidden, sequences[i].size() * hidden);
      copy(part, offset);
      offset += part.size_bytes();
    }
  };
  std::vector<int32_t> places;
  for (const size_t i : chunk.sequences)
    for (int32_t place = 0; place < std::ssize(sequences[i]); place++) places.push_back(place);

  each_sequence([&](std::span<float> part, size_t offset) {
    ggml_backend_tensor_set(x, part.data(), offset, part.size_bytes());
  });
  set<int32_t>(positions, places);
  set<float>(divisors, rope_divisors);
  set<ggml_fp16_t>(seen, mask.values);
  graph.run();
  each_sequence([&](std::span<float> part, size_t offset) {
    ggml_backend_tensor_get(out, part.data(), offset, part.size_bytes());
  });
}

// states += ffn(norm(states)) for any tokens.
void StreamingDecoder::Impl::feed_forward(std::span<float> states) {
  check_interrupted();
  Graph graph(backend.get(), allocator.get(), 32);
  ggml_context* c = graph.context();
  ggml_tensor* x = graph.input(GGML_TYPE_F32, config.hidden, std::ssize(states) / config.hidden);
  ggml_tensor* normed = norm(graph, x, Role::ffn_norm);
  ggml_tensor* gate = ggml_mul_mat(c, weights.at(Role::ffn_gate), normed);
  ggml_tensor* up = ggml_mul_mat(c, weights.at(Role::ffn_up), normed);
  ggml_tensor* down = ggml_mul_mat(c, weights.at(Role::ffn_down), ggml_swiglu_split(c, gate, up));
  ggml_tensor* out = ggml_add(c, x, down);
  graph.allocate(out);
  set<float>(x, states);
  graph.run();
  ggml_backend_tensor_get(out, states.data(), 0, states.size_bytes());
}

}  // namespace moerge
