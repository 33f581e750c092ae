// The forward pass against ggml's own matrix multiplication: matmul MODEL_FOLDER [THREADS]
//
// For the bf16 matrices of a model's layers and several numbers of tokens: the speed of ggml_mul_mat alone,
// on the backend and with the threads of the forward pass; then the speed of the whole pass, of which only
// the matrix products are counted as work. The last column is what remains of the speed that products alone
// have, each kind of matrix with its part of the work. Weights come from memory, not from a cache, in both:
// the products go through copies of a matrix that are larger together. Best of several runs. On the models
// that make_models.py wrote; every layer costs the same, so --layers 4 are enough.
#include <fmt/format.h>
#include <ggml-cpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/engine/decoder.h"

namespace {

using namespace moerge;

constexpr int kRuns = 7;
constexpr size_t kBytesAtLeast = size_t{256} << 20;  // more than a cache holds
constexpr int64_t kPromptTokens = 16;
constexpr Role kMatrices[] = {Role::q,        Role::k,      Role::v,       Role::o,
                              Role::ffn_gate, Role::ffn_up, Role::ffn_down};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// [rows, columns] * [columns, tokens] alone, on a backend as the decoder's.
class Product {
 public:
  Product(int64_t rows, int64_t columns, int64_t tokens, int threads)
      : backend_(ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_CPU, nullptr)) {
    ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(ggml_backend_get_device(backend_.get()));
    const auto set_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
        ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_n_threads"));
    set_threads(backend_.get(), threads);

    const auto elements = static_cast<size_t>(rows * columns), bytes = elements * sizeof(ggml_bf16_t);
    const size_t count = (kBytesAtLeast + bytes - 1) / bytes;
    operations_ = 2.0 * static_cast<double>(rows * columns * tokens) * static_cast<double>(count);
    context_.reset(ggml_init({(2 * count + 2) * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr,
                              /*no_alloc=*/true}));
    ggml_tensor* x = ggml_new_tensor_2d(context_.get(), GGML_TYPE_F32, columns, tokens);
    graph_ = ggml_new_graph(context_.get());
    std::vector<ggml_tensor*> matrices;
    for (size_t i = 0; i < count; i++) {
      matrices.push_back(ggml_new_tensor_2d(context_.get(), GGML_TYPE_BF16, columns, rows));
      ggml_build_forward_expand(graph_, ggml_mul_mat(context_.get(), matrices.back(), x));
    }
    buffer_.reset(ggml_backend_alloc_ctx_tensors(context_.get(), backend_.get()));
    if (!buffer_) fail(ErrorKind::io, "no memory for matrices of {} bytes", count * bytes);

    std::minstd_rand dice(1);
    const auto value = [&] { return std::uniform_real_distribution<float>(-1, 1)(dice); };
    std::vector<float> states(static_cast<size_t>(columns * tokens));
    std::ranges::generate(states, value);
    ggml_backend_tensor_set(x, states.data(), 0, states.size() * sizeof(float));
    std::vector<ggml_bf16_t> weights(elements);
    std::ranges::generate(weights, [&] { return ggml_fp32_to_bf16(value()); });
    for (ggml_tensor* matrix : matrices) ggml_backend_tensor_set(matrix, weights.data(), 0, bytes);
  }

  // Keeps the fastest run.
  void run() {
    const double seconds = seconds_of([&] { ggml_backend_graph_compute(backend_.get(), graph_); });
    speed_ = std::max(speed_, operations_ / seconds);
  }
  double speed() const { return speed_; }  // operations a second

 private:
  ggml_backend_ptr backend_;
  ggml_context_ptr context_;
  ggml_backend_buffer_ptr buffer_;
  ggml_cgraph* graph_;
  double operations_, speed_ = 0;
};

std::vector<TokenSequence> prompts_of(int64_t tokens, int64_t vocab) {
  std::minstd_rand dice(1);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocab) - 1);
  std::vector<TokenSequence> prompts(static_cast<size_t>(tokens / kPromptTokens));
  for (TokenSequence& prompt : prompts)
    for (int64_t i = 0; i < kPromptTokens; i++) prompt.push_back(token(dice));
  return prompts;
}

void measure(const Model& model, int threads) {
  std::map<std::pair<int64_t, int64_t>, int64_t> matrices;  // rows and columns -> how many a layer has
  for (const Role role : kMatrices) {
    const Shape& shape = model.tensor(role, 0).spec.shape;
    matrices[{shape[0], shape[1]}]++;
  }
  std::string head = "| tokens |", rule = "|---|";
  for (const auto& [shape, count] : matrices) {
    head += fmt::format(" {} of {} x {} |", count, shape.first, shape.second);
    rule += "---|";
  }
  fmt::print("{} together | forward pass | of the products |\n{}---|---|---|\n", head, rule);

  for (const int64_t tokens : {64, 128, 512}) {
    std::vector<Product> products;
    for (const auto& [shape, count] : matrices)
      products.emplace_back(shape.first, shape.second, tokens, threads);
    const std::vector<TokenSequence> prompts = prompts_of(tokens, model.config.vocab);
    PassTaps taps;
    taps.leaving = [](std::span<const float>) {};  // so that the last layer is computed
    StreamingDecoder decoder(model, {.threads = threads});
    double pass = std::numeric_limits<double>::max();
    for (int run = 0; run < kRuns; run++) {  // in turn, so that a slow moment hits all
      for (Product& product : products) product.run();
      pass = std::min(pass, seconds_of([&] { decoder.encode(prompts, taps); }));
    }
    double work = 0, seconds = 0;  // of one layer
    std::string row = fmt::format("| {} |", tokens);
    size_t next = 0;
    for (const auto& [shape, count] : matrices) {
      const double speed = products[next++].speed();
      const double operations = 2.0 * static_cast<double>(shape.first * shape.second * tokens * count);
      work += operations, seconds += operations / speed;
      row += fmt::format(" {:.0f} |", speed / 1e9);
    }
    const double together = work / seconds, whole = work * static_cast<double>(model.config.layers) / pass;
    fmt::print("{} {:.0f} | {:.0f} | {:.0f} % |\n", row, together / 1e9, whole / 1e9, 100 * whole / together);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) return std::fputs("usage: matmul MODEL_FOLDER [THREADS]\n", stderr), 2;
  try {
    const Model model(argv[1], {.path = argv[1]});
    const int threads = argc > 2 ? std::atoi(argv[2]) : default_threads();
    if (model.is_mixture()) fail(ErrorKind::unsupported, "{}: a model without experts is expected", argv[1]);
    fmt::print("GFLOP/s with {} threads; prompts of {} tokens\n\n", threads, kPromptTokens);
    measure(model, threads);
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
}
