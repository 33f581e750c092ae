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
#include "moerge/base/interrupt.h"
#include "moerge/base/parallel.h"
#include "moerge/engine/graph.h"
#include "moerge/engine/mixture.h"
#include "moerge/engine/rope.h"
#include "moerge/engine/weight_stream.h"
#include "moerge/tensor/convert.h"

namespace moerge {
namespace {

constexpr std::array kAttentionRoles = {
    Role::attention_norm, Role::q,      Role::k,      Role::v,      Role::o,     Role::q_bias,
    Role::k_bias,         Role::v_bias, Role::o_bias, Role::q_norm, Role::k_norm};
constexpr std::array kFfnRoles = {Role::ffn_norm, Role::ffn_gate, Role::ffn_up, Role::ffn_down};

bool is_mixture(const ModelConfig& config) { return config.experts > 0; }

// Those of a layer as a whole.
std::span<const Role> ffn_roles(const ModelConfig& config) {
  return is_mixture(config) ? mixture_layer_roles() : std::span<const Role>(kFfnRoles);
}

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

  rope_frequencies(config, 1);  // throws for what it does not know
  check_weight(model, model.tensor(Role::embedding), Role::embedding);
  const auto check = [&](std::span<const Role> roles, int64_t layer, int64_t expert = -1) {
    for (const Role role : roles)
      if (const StoredTensor* stored = find_weight(model, role, layer, expert))
        check_weight(model, *stored, role);
  };
  for (int64_t layer = 0; layer < config.layers; layer++) {
    check(kAttentionRoles, layer);
    check(ffn_roles(config), layer);
    for (int64_t expert = 0; expert < config.experts; expert++) check(expert_roles(), layer, expert);
  }
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
  RopeFrequencies rope;  // of all of them
  std::vector<size_t> sequences = {};
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

std::vector<Chunk> plan_chunks(std::span<const TokenSequence> sequences, int64_t max_tokens,
                               const ModelConfig& config) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return sequences[i].size(); });
  std::vector<Chunk> chunks;
  int64_t last_length = 0;
  RopeFrequencies rope;
  for (const size_t i : order) {
    const int64_t length = std::ssize(sequences[i]);
    if (length != std::exchange(last_length, length)) rope = rope_frequencies(config, length);
    if (chunks.empty() || chunks.back().tokens + length > max_tokens || chunks.back().rope != rope)
      chunks.push_back({.rope = rope});
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
  ggml_backend_ptr backend;
  ggml_gallocr_ptr allocator;
  WeightStream weights;
  Workbench bench;

  Impl(const Model& model_, DecoderOptions options_);

  void check_sequences(std::span<const TokenSequence> sequences) const;
  std::vector<float> embed(std::span<const TokenSequence> sequences) const;
  void check_finite(std::span<const float> states, int64_t layer) const;
  [[noreturn]] void refuse_layer(int64_t layer) const;

  void attend(const Chunk& chunk, int64_t window, std::span<const TokenSequence> sequences,
              std::span<float> states);
  void feed_forward(int64_t layer, bool only_router, const PassTaps& taps, std::span<float> states);
  void in_batches(std::span<float> rows, const std::function<ggml_tensor*(Graph&, ggml_tensor*)>& build);
  Role head() const;
  std::vector<float> read_head(std::span<const TokenSequence> sequences, std::span<const float> states);
};

StreamingDecoder::Impl::Impl(const Model& model_, DecoderOptions options_)
    : model(model_),
      config(model_.config),
      options(std::move(options_)),
      backend(open_device(options.device, options.threads)),
      allocator(ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend.get()))),
      weights(model, backend.get(), options.weights, options.threads),
      bench{model, backend.get(), allocator.get(), weights} {}

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
  stored.release();
  return states;
}

void StreamingDecoder::Impl::check_finite(std::span<const float> states, int64_t layer) const {
  if (std::ranges::all_of(states, [](float value) { return std::isfinite(value); })) return;
  if (layer == 0)
    fail(ErrorKind::input, "{}: embeddings of these prompts hold infinite values or NaN",
         model.path.string());
  refuse_layer(layer - 1);
}

void StreamingDecoder::Impl::refuse_layer(int64_t layer) const {
  fail(ErrorKind::input, "{}: what layer {} computes holds infinite values or NaN: its weights are damaged{}",
       model.path.string(), layer, config.dtype == DType::f16 ? ", or its numbers grow beyond float16" : "");
}

void StreamingDecoder::encode(std::span<const TokenSequence> sequences, const PassTaps& taps) {
  Impl& m = *impl_;
  m.check_sequences(sequences);
  std::vector<float> states = m.embed(sequences);
  const std::vector<Chunk> chunks = plan_chunks(sequences, m.options.max_batch_tokens, m.config);

  for (int64_t layer = 0; layer < m.config.layers; layer++) {
    check_interrupted();
    if (taps.entering) taps.entering(layer, states);
    m.check_finite(states, layer);
    const bool last = layer + 1 == m.config.layers;
    if ((last && !taps.router && !taps.leaving) || states.empty()) continue;

    m.weights.prefetch(layer, ffn_roles(m.config));
    m.weights.load(layer, kAttentionRoles);
    const int64_t window = has_window(m.config, layer) ? *m.config.sliding_window : INT64_MAX / 2;
    for (const Chunk& chunk : chunks) m.attend(chunk, window, sequences, states);
    m.weights.release();

    if (!last) m.weights.prefetch(layer + 1, kAttentionRoles);
    m.feed_forward(layer, last && !taps.leaving, taps, states);
  }
  m.check_finite(states, m.config.layers);
  if (taps.leaving) taps.leaving(states);
}

// states += attention(norm(states)) for the tokens of a chunk.
void StreamingDecoder::Impl::attend(const Chunk& chunk, int64_t window,
                                    std::span<const TokenSequence> sequences, std::span<float> states) {
  check_interrupted();
  const std::vector<Run> runs = plan_runs(chunk, sequences, window);
  const Mask mask = make_mask(runs, window);
  Graph graph(bench, 64 + 16 * runs.size());
  ggml_context* c = graph.context();

  ggml_tensor* x = graph.input(GGML_TYPE_F32, config.hidden, chunk.tokens);
  ggml_tensor* positions = graph.input(GGML_TYPE_I32, chunk.tokens, 1);
  ggml_tensor* divisors = graph.input(GGML_TYPE_F32, std::ssize(chunk.rope.inverse), 1);
  ggml_tensor* seen = graph.input(GGML_TYPE_F16, mask.columns, mask.rows);

  const auto split = [&](ggml_tensor* y, int64_t heads) {
    return ggml_reshape_3d(c, y, config.head_dim, heads, chunk.tokens);
  };
  // ggml's angle is position * base^(-2i/head_dim) / divisor: with base 1 the divisors say everything.
  const auto rotate = [&](ggml_tensor* heads, Role head_norm) {
    if (weights.at(head_norm)) heads = graph.norm(heads, head_norm);
    return ggml_rope_ext(c, heads, positions, divisors, static_cast<int>(config.head_dim),
                         GGML_ROPE_TYPE_NEOX, 0, 1.0f, 1.0f, 0.0f, chunk.rope.attention_factor, 0.0f, 0.0f);
  };
  ggml_tensor* normed = graph.norm(x, Role::attention_norm);
  ggml_tensor* q = rotate(split(graph.project(normed, Role::q, Role::q_bias), config.heads), Role::q_norm);
  ggml_tensor* k = rotate(split(graph.project(normed, Role::k, Role::k_bias), config.kv_heads), Role::k_norm);
  ggml_tensor* v = split(graph.project(normed, Role::v, Role::v_bias), config.kv_heads);

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
  ggml_tensor* out = ggml_add(c, x, graph.project(attended, Role::o, Role::o_bias));
  graph.output(out);
  graph.allocate();

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
  std::vector<float> inverted;
  for (const float frequency : chunk.rope.inverse) inverted.push_back(1 / frequency);
  set<float>(divisors, inverted);
  set<ggml_fp16_t>(seen, mask.values);
  graph.run();
  each_sequence([&](std::span<float> part, size_t offset) {
    ggml_backend_tensor_get(out, part.data(), offset, part.size_bytes());
  });
}

// states += ffn(norm(states)) for all tokens; `only_router`: nobody looks at the states any more.
void StreamingDecoder::Impl::feed_forward(int64_t layer, bool only_router, const PassTaps& taps,
                                          std::span<float> states) {
  if (is_mixture(config)) {
    const MixturePass pass = {layer, options.max_batch_tokens, taps, only_router};
    if (!add_mixture(bench, pass, states)) refuse_layer(layer);
    return;
  }
  weights.load(layer, kFfnRoles);
  if (taps.router) {
    std::vector<float> inputs(states.begin(), states.end());
    in_batches(inputs, [&](Graph& graph, ggml_tensor* x) { return graph.norm(x, Role::ffn_norm); });
    if (!std::ranges::all_of(inputs, [](float value) { return std::isfinite(value); })) refuse_layer(layer);
    taps.router({layer, inputs, {}, {}});
  }
  if (!only_router)
    in_batches(states, [&](Graph& graph, ggml_tensor* x) {
      ggml_tensor* normed = graph.norm(x, Role::ffn_norm);
      ggml_tensor* out = graph.feed_forward(normed, Role::ffn_gate, Role::ffn_up, Role::ffn_down);
      return ggml_add(graph.context(), x, out);
    });
  weights.release();
}

// Replaces rows [tokens, hidden] by what `build` makes of them, max_batch_tokens at a time.
void StreamingDecoder::Impl::in_batches(std::span<float> rows,
                                        const std::function<ggml_tensor*(Graph&, ggml_tensor*)>& build) {
  const auto step = static_cast<size_t>(options.max_batch_tokens * config.hidden);
  for (size_t first = 0; first < rows.size(); first += step) {
    check_interrupted();
    const std::span<float> part = rows.subspan(first, std::min(step, rows.size() - first));
    Graph graph(bench, 32);
    ggml_tensor* x = graph.input(GGML_TYPE_F32, config.hidden, std::ssize(part) / config.hidden);
    ggml_tensor* out = build(graph, x);
    graph.output(out);
    graph.allocate();
    set<float>(x, part);
    graph.run();
    get(out, part);
  }
}

// -------- probabilities

std::vector<float> StreamingDecoder::log_probabilities(std::span<const TokenSequence> sequences,
                                                       PassTaps taps) {
  std::vector<float> out;
  const auto others = std::move(taps.leaving);
  taps.leaving = [&](std::span<const float> states) {
    if (others) others(states);
    out = impl_->read_head(sequences, states);
  };
  encode(sequences, taps);
  return out;
}

// Whose product with the normed states is the logits.
Role StreamingDecoder::Impl::head() const {
  return find_weight(model, Role::output, -1) ? Role::output : Role::embedding;
}

std::vector<float> StreamingDecoder::Impl::read_head(std::span<const TokenSequence> sequences,
                                                     std::span<const float> states) {
  constexpr size_t kTokens = 64;  // whose logits are there at a time
  const auto hidden = static_cast<size_t>(config.hidden), vocab = static_cast<size_t>(config.vocab);
  std::vector<int32_t> next;  // of each token, -1: the last of its sequence
  for (const TokenSequence& sequence : sequences) {
    next.insert(next.end(), sequence.begin() + 1, sequence.end());
    next.push_back(-1);
  }
  std::vector<float> logits(kTokens * vocab), out;
  weights.load(-1, std::array{Role::output_norm, head()});
  for (size_t first = 0; first < next.size(); first += kTokens) {
    check_interrupted();
    const size_t count = std::min(kTokens, next.size() - first);
    Graph graph(bench, 16);
    ggml_tensor* x = graph.input(GGML_TYPE_F32, config.hidden, static_cast<int64_t>(count));
    ggml_tensor* product = graph.project(graph.norm(x, Role::output_norm), head());
    graph.output(product);
    graph.allocate();
    set<float>(x, states.subspan(first * hidden, count * hidden));
    graph.run();
    get(product, std::span(logits).first(count * vocab));
    for (size_t i = 0; i < count; i++) {
      if (next[first + i] < 0) continue;
      const std::span<const float> row = std::span(logits).subspan(i * vocab, vocab);
      const double largest = std::ranges::max(row);
      double sum = 0;
      for (const float logit : row) sum += std::exp(logit - largest);
      out.push_back(static_cast<float>(row[static_cast<size_t>(next[first + i])] - largest - std::log(sum)));
    }
  }
  weights.release();
  if (!std::ranges::all_of(out, [](float value) { return std::isfinite(value); }))
    fail(ErrorKind::input, "{}: the logits hold infinite values or NaN", model.path.string());
  return out;
}

}  // namespace moerge
