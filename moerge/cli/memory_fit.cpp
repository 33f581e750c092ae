#include "moerge/cli/memory_fit.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"

namespace moerge {
namespace {

constexpr int64_t kUsualContext = 8192;              // what is chosen where the model was trained with more
constexpr int64_t kMaxPool = 4;                      // requests that may be as long as that at the same time
constexpr int64_t kStep = 256, kLeastContext = 512;  // llama.cpp rounds contexts up to such steps

// Of "llama.block_count" and the like. Of a list (a number for each layer) the largest.
double largest(const GgufMetadata& metadata, std::string_view key) {
  const std::string* family = metadata.string("general.architecture");
  if (!family) return 0;
  const std::string full = fmt::format("{}.{}", *family, key);
  if (const std::optional<int64_t> number = metadata.integer(full)) return static_cast<double>(*number);
  double most = 0;
  const auto look = [&](const auto* list) {
    if (list && !list->empty()) most = static_cast<double>(*std::ranges::max_element(*list));
  };
  look(metadata.array<int32_t>(full));
  look(metadata.array<uint32_t>(full));
  return most;
}

// The largest dimension of any tensor: the vocabulary, as a rule.
int64_t widest(const ModelShape& shape) {
  int64_t most = 0;
  for (const TensorSpec& tensor : shape.tensors)
    for (const int64_t length : tensor.shape) most = std::max(most, length);
  return most;
}

}  // namespace

int64_t rounded_context(int64_t context) { return (context + kStep - 1) / kStep * kStep; }

ModelShape shape_of(const GgufFiles& files) {
  ModelShape shape = {.metadata = files.metadata, .tensors = {}};
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) shape.metadata.erase(key);
  for (const GgufFiles::Tensor& tensor : files.tensors) shape.tensors.push_back(tensor.tensor.spec);
  return shape;
}

MemoryFit::MemoryFit(ModelShape shape, ContextWish wish) : shape_(std::move(shape)), wish_(std::move(wish)) {
  trained_ =
      std::clamp<int64_t>(static_cast<int64_t>(largest(shape_.metadata, "context_length")), 0, INT32_MAX);
}

MemoryFit::~MemoryFit() = default;

// Longest first.
std::vector<int64_t> MemoryFit::choices() const {
  if (wish_.asked > 0) return {wish_.asked};
  const int64_t one = trained_ > 0 ? std::min(trained_, kUsualContext) : kUsualContext;
  std::vector<int64_t> out;
  for (int64_t requests = std::clamp<int64_t>(wish_.parallel, 1, kMaxPool); requests >= 1; requests--)
    out.push_back(requests * rounded_context(one));
  return out;
}

// Requests share the pool; none gets more of it than the model can use, see n_ctx_slot() of llama.cpp's
// server.
int64_t MemoryFit::request_context(int64_t context) const {
  const int64_t limit = wish_.asked > 0 ? trained_ : std::min(trained_, kUsualContext);
  return limit > 0 ? std::min(context, limit) : context;
}

LlamaMemory MemoryFit::measure(int64_t context) {
  const auto found = std::ranges::find(measured_, context, &std::pair<int64_t, LlamaMemory>::first);
  if (found != measured_.end()) return found->second;
  if (!meter_) meter_ = std::make_unique<LlamaMeter>(shape_.metadata, shape_.tensors);
  return measured_.emplace_back(context, meter_->at(context, wish_.use)).second;
}

bool MemoryFit::fits(int64_t weights, int64_t context) {
  const LlamaMemory memory = measure(context);
  return weights + memory.cache + memory.compute <= wish_.available->bytes;
}

// A bound that takes no time: less than half of what is available means that nobody need measure. Keys and
// values are at most the float32 of every head; activations some of the widest rows of a batch, and the
// attention of every head where it is kept whole.
bool MemoryFit::fits_easily(int64_t weights, int64_t context) const {
  const double layers = largest(shape_.metadata, "block_count");
  const double heads = largest(shape_.metadata, "attention.head_count");
  const double width = largest(shape_.metadata, "embedding_length");
  const double row = std::max({width, heads * largest(shape_.metadata, "attention.key_length"),
                               heads * largest(shape_.metadata, "attention.value_length")});
  const double tokens = static_cast<double>(std::max<int64_t>(wish_.use.micro_batch, 512));
  const double used = std::max(1.0, largest(shape_.metadata, "expert_used_count"));
  const auto length = static_cast<double>(context);
  const double cache = layers * length * 2 * row * 4;
  const double compute =
      tokens * 4 *
      (8 * used * (row + largest(shape_.metadata, "feed_forward_length")) + (heads + 2) * length);
  const double logits = static_cast<double>(widest(shape_)) * 4 * static_cast<double>(wish_.parallel + 8);
  if (layers <= 0 || heads <= 0 || width <= 0) return false;
  return static_cast<double>(weights) + cache + compute + logits <
         static_cast<double>(wish_.available->bytes) / 2;
}

MemoryNeed MemoryFit::need(int64_t weights) {
  MemoryNeed out = {.weights = weights};
  for (const int64_t context : choices()) {
    out.context = context;
    out.request_context = request_context(context);
    if (!wish_.available || fits_easily(weights, context)) return out;
    const LlamaMemory memory = measure(context);
    out.cache = memory.cache;
    out.compute = memory.compute;
    out.fits = fits(weights, context);
    if (out.fits) return out;
  }
  return out;
}

int64_t MemoryFit::largest_context(int64_t weights, int64_t context) {
  int64_t fitting = 0, too_long = rounded_context(context) / kStep;  // in steps
  while (too_long - fitting > 1) {
    const int64_t middle = (fitting + too_long) / 2;
    (fits(weights, middle * kStep) ? fitting : too_long) = middle;
  }
  return fitting * kStep >= kLeastContext ? fitting * kStep : 0;
}

std::string MemoryFit::shortage(const MemoryNeed& need) const {
  return fmt::format(
      "needs {} of memory ({} weights, {} keys and values for {} tokens, {} activations), and {} are "
      "available ({})",
      human_bytes(need.total()), human_bytes(need.weights), human_bytes(need.cache), need.context,
      human_bytes(need.compute), human_bytes(wish_.available->bytes), wish_.available->source);
}

}  // namespace moerge
