#include "moerge/engine/float32_compute.h"

#include <ggml-alloc.h>
#include <ggml-cpp.h>
#include <ggml-cpu.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <vector>

namespace moerge {
namespace {

// In [-1, 1); few of them are held by float16 or bfloat16.
std::vector<float> values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = static_cast<float>(static_cast<double>(random()) / (1u << 31) - 1);
  return out;
}

// A graph on the CPU backend, by two threads. Its inputs are in memory before it is laid out, as weights and
// keys are.
class Graph {
 public:
  Graph() : inputs_(context()), nodes_(context()), backend_(ggml_backend_cpu_init()) {
    ggml_backend_cpu_set_n_threads(backend_.get(), 2);
  }

  ggml_tensor* input(ggml_type type, std::vector<int64_t> shape) {
    return ggml_new_tensor(inputs_.get(), type, static_cast<int>(shape.size()), shape.data());
  }
  void place_inputs() { memory_.reset(ggml_backend_alloc_ctx_tensors(inputs_.get(), backend_.get())); }
  ggml_context* nodes() { return nodes_.get(); }

  // Rounded to the tensor's type.
  static void fill(ggml_tensor* tensor, const std::vector<float>& from) {
    std::vector<char> bytes(ggml_nbytes(tensor));
    if (tensor->type == GGML_TYPE_F16)
      ggml_fp32_to_fp16_row(from.data(), reinterpret_cast<ggml_fp16_t*>(bytes.data()), std::ssize(from));
    else if (tensor->type == GGML_TYPE_BF16)
      ggml_fp32_to_bf16_row(from.data(), reinterpret_cast<ggml_bf16_t*>(bytes.data()), std::ssize(from));
    else
      std::memcpy(bytes.data(), from.data(), bytes.size());
    ggml_backend_tensor_set(tensor, bytes.data(), 0, bytes.size());
  }
  static std::vector<float> widened(const ggml_tensor* tensor) {
    std::vector<char> bytes(ggml_nbytes(tensor));
    ggml_backend_tensor_get(tensor, bytes.data(), 0, bytes.size());
    std::vector<float> out(static_cast<size_t>(ggml_nelements(tensor)));
    if (const ggml_to_float_t to_float = ggml_get_type_traits(tensor->type)->to_float)
      to_float(bytes.data(), out.data(), std::ssize(out));
    else
      std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }

  std::vector<float> compute(ggml_tensor* result) {
    ggml_cgraph* const graph = ggml_new_graph(nodes_.get());
    ggml_build_forward_expand(graph, result);
    const ggml_gallocr_ptr layout(ggml_gallocr_new(ggml_backend_cpu_buffer_type()));
    EXPECT_TRUE(ggml_gallocr_alloc_graph(layout.get(), graph));
    EXPECT_EQ(ggml_backend_graph_compute(backend_.get(), graph), GGML_STATUS_SUCCESS);
    return widened(result);
  }

 private:
  static ggml_context_ptr context() {
    return ggml_context_ptr(ggml_init({.mem_size = ggml_tensor_overhead() * 64 + ggml_graph_overhead(),
                                       .mem_buffer = nullptr,
                                       .no_alloc = true}));
  }

  ggml_context_ptr inputs_, nodes_;
  ggml_backend_ptr backend_;
  ggml_backend_buffer_ptr memory_;
};

struct Shape {
  int64_t columns, rows, tokens, matrices = 1, repeats = 1;
};

// `type`: of the weights as they are multiplied; `rounded`: what they were rounded to before.
std::vector<float> product(const Shape& shape, ggml_type type, ggml_type rounded) {
  Graph graph;
  ggml_tensor* const source = graph.input(rounded, {shape.columns, shape.rows, shape.matrices});
  ggml_tensor* const weights = graph.input(type, {shape.columns, shape.rows, shape.matrices});
  ggml_tensor* const states =
      graph.input(GGML_TYPE_F32, {shape.columns, shape.tokens, shape.matrices * shape.repeats});
  graph.place_inputs();
  Graph::fill(source, values(ggml_nelements(source), 1));
  Graph::fill(weights, Graph::widened(source));
  Graph::fill(states, values(ggml_nelements(states), 2));
  return graph.compute(ggml_mul_mat(graph.nodes(), weights, states));
}

TEST(Float32Compute, ProductsAreThoseOfWidenedWeights) {
  const Shape shapes[] = {{48, 70, 37},
                          {48, 70, 1},
                          {8192, 300, 3},     // more than is widened at once
                          {64, 5, 9, 3, 2}};  // two of the states' matrices for each
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_BF16})
    for (const Shape& shape : shapes) {
      const std::vector<float> expected = product(shape, GGML_TYPE_F32, type);
      EXPECT_NE(product(shape, type, type), expected) << "ggml does not round here: the test shows nothing";
      const Float32Compute exact;
      EXPECT_EQ(product(shape, type, type), expected) << ggml_type_name(type) << " " << shape.columns;
    }
}

struct Experts {
  int64_t columns, rows, experts, slots, tokens, states_of_token;
};

std::vector<float> product(const Experts& shape, ggml_type type, ggml_type rounded) {
  Graph graph;
  ggml_tensor* const source = graph.input(rounded, {shape.columns, shape.rows, shape.experts});
  ggml_tensor* const weights = graph.input(type, {shape.columns, shape.rows, shape.experts});
  ggml_tensor* const states =
      graph.input(GGML_TYPE_F32, {shape.columns, shape.states_of_token, shape.tokens});
  ggml_tensor* const ids = graph.input(GGML_TYPE_I32, {shape.slots, shape.tokens});
  graph.place_inputs();
  Graph::fill(source, values(ggml_nelements(source), 1));
  Graph::fill(weights, Graph::widened(source));
  Graph::fill(states, values(ggml_nelements(states), 2));
  std::vector<int32_t> chosen;
  for (int64_t token = 0; token < shape.tokens; token++)
    for (int64_t slot = 0; slot < shape.slots; slot++)
      chosen.push_back(static_cast<int32_t>((token * token + slot) % shape.experts));
  ggml_backend_tensor_set(ids, chosen.data(), 0, chosen.size() * sizeof(int32_t));
  return graph.compute(ggml_mul_mat_id(graph.nodes(), weights, states, ids));
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double most = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); i++)
    most = std::max(most, std::abs(double{a[i]} - double{b[i]}));
  return most;
}

TEST(Float32Compute, ExpertsProductsAreThoseOfWidenedWeights) {
  const Experts shapes[] = {
      {48, 70, 5, 2, 11, 1},   // each expert gets the same states
      {48, 70, 5, 2, 11, 2},   // or its own
      {48, 3, 2, 2, 700, 2},   // more than an expert is given at once
      {8192, 300, 2, 1, 3, 1}  // more than is widened at once
  };
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_BF16})
    for (const Experts& shape : shapes) {
      const double rounding = 1e-6 * std::sqrt(static_cast<double>(shape.columns));
      const std::vector<float> expected = product(shape, GGML_TYPE_F32, type);
      EXPECT_GT(largest_difference(product(shape, type, type), expected), rounding);
      const Float32Compute exact;
      EXPECT_LT(largest_difference(product(shape, type, type), expected), rounding)
          << ggml_type_name(type) << " " << shape.columns << " " << shape.tokens;
    }
}

// -------- attention

constexpr int64_t kHead = 64, kHeads = 4, kKeyHeads = 2, kKeys = 80;

struct Attention {
  std::vector<float> q, k, v;  // [kHead, heads, tokens]
  int64_t tokens;

  // Token i sees keys 0 to kKeys - tokens + i.
  int64_t seen(int64_t token) const { return kKeys - tokens + token + 1; }

  std::vector<float> expected() const {
    std::vector<float> out;
    const auto row = [](const std::vector<float>& from, int64_t heads, int64_t head, int64_t i) {
      return from.data() + (i * heads + head) * kHead;
    };
    for (int64_t token = 0; token < tokens; token++)
      for (int64_t head = 0; head < kHeads; head++) {
        const int64_t of_keys = head / (kHeads / kKeyHeads);
        std::vector<double> sum(kHead);
        double all = 0;
        for (int64_t i = 0; i < seen(token); i++) {
          double weight = 0;
          for (int64_t d = 0; d < kHead; d++)
            weight += double{row(q, kHeads, head, token)[d]} * double{row(k, kKeyHeads, of_keys, i)[d]};
          weight = std::exp(weight / 8);
          all += weight;
          for (int64_t d = 0; d < kHead; d++)
            sum[static_cast<size_t>(d)] += weight * double{row(v, kKeyHeads, of_keys, i)[d]};
        }
        for (const double part : sum) out.push_back(static_cast<float>(part / all));
      }
    return out;
  }

  // As llama.cpp's graphs have it. `lasting`: keys and values are in memory, not computed in the graph.
  std::vector<float> computed(bool lasting) const {
    Graph graph;
    ggml_tensor* const queries = graph.input(GGML_TYPE_F32, {kHead, kHeads, tokens});
    ggml_tensor* const keys = graph.input(GGML_TYPE_F32, {kHead, kKeyHeads, kKeys});
    ggml_tensor* const contents = graph.input(GGML_TYPE_F32, {kHead, kKeyHeads, kKeys});
    ggml_tensor* const mask = graph.input(GGML_TYPE_F16, {kKeys, tokens});
    graph.place_inputs();
    Graph::fill(queries, q);
    Graph::fill(keys, k);
    Graph::fill(contents, v);
    std::vector<float> hidden;
    for (int64_t token = 0; token < tokens; token++)
      for (int64_t i = 0; i < kKeys; i++) hidden.push_back(i < seen(token) ? 0 : -INFINITY);
    Graph::fill(mask, hidden);
    ggml_context* const nodes = graph.nodes();
    const auto by_head = [&](ggml_tensor* tensor) { return ggml_permute(nodes, tensor, 0, 2, 1, 3); };
    const auto rounded = [&](ggml_tensor* tensor) {
      ggml_tensor* const read = lasting ? tensor : ggml_scale(nodes, tensor, 1);
      return ggml_cast(nodes, by_head(read), GGML_TYPE_F16);
    };
    ggml_tensor* const result =
        ggml_flash_attn_ext(nodes, by_head(queries), rounded(keys), rounded(contents), mask, 0.125f, 0, 0);
    ggml_prec_set_acc(result, GGML_PREC_F32);
    return graph.compute(result);
  }
};

TEST(Float32Compute, FlashAttentionReadsKeysAndValuesUnrounded) {
  constexpr double kExact = 2e-6, kRounded = 5e-5;
  for (const int64_t tokens : {1, 5, 70}) {  // ggml has kernels for few tokens and for many
    const Attention attention = {.q = values(kHead * kHeads * tokens, 1),
                                 .k = values(kHead * kKeyHeads * kKeys, 2),
                                 .v = values(kHead * kKeyHeads * kKeys, 3),
                                 .tokens = tokens};
    const std::vector<float> expected = attention.expected();
    EXPECT_GT(largest_difference(attention.computed(true), expected), kRounded) << tokens;
    const Float32Compute exact;
    EXPECT_LT(largest_difference(attention.computed(true), expected), kExact) << tokens;
    // What may be overwritten already is not read.
    EXPECT_GT(largest_difference(attention.computed(false), expected), kRounded) << tokens;
  }
}

TEST(Float32Compute, EndsWithTheLastOne) {
  const Shape shape = {48, 70, 3};
  const std::vector<float> rounded = product(shape, GGML_TYPE_F16, GGML_TYPE_F16);
  std::optional<Float32Compute> first(std::in_place), second(std::in_place);
  first.reset();
  EXPECT_NE(product(shape, GGML_TYPE_F16, GGML_TYPE_F16), rounded);
  second.reset();
  EXPECT_EQ(product(shape, GGML_TYPE_F16, GGML_TYPE_F16), rounded);
}

}  // namespace
}  // namespace moerge
