#include "moerge/merge/model_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// A family's names. Lists are separated by spaces.
struct FamilyLayout {
  std::string_view model_type;
  std::string_view count_key;   // of config.json: the number of layers
  std::string_view prefix;      // of a layer's tensors, up to its number
  std::string_view embeddings;  // before the layers, a row for each token
  std::string_view after;       // what comes after the layers, beginnings of names
  std::string_view heads;       // of these, what has a row for each token
};

constexpr std::string_view kLayers = "num_hidden_layers", kNLayer = "n_layer";
constexpr std::string_view kLlama = "model.layers.", kGpt = "transformer.h.";
constexpr std::string_view kEmbed = "model.embed_tokens.weight", kHead = "lm_head.weight";
constexpr std::string_view kLlamaAfter = "model.norm. lm_head.";

// transformers: src/transformers/models/*/modeling_*.py.
constexpr FamilyLayout kFamilies[] = {
    {"llama", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"mistral", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"mixtral", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"qwen2", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"qwen2_moe", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"qwen3", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"qwen3_moe", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"deepseek", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"gemma", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"gemma2", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"gemma3_text", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"phi", kLayers, kLlama, kEmbed, "model.final_layernorm. lm_head.", "lm_head.weight lm_head.bias"},
    {"phi3", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"stablelm", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"cohere", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"cohere2", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"olmo2", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"granite", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"starcoder2", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"glm4", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"smollm3", kLayers, kLlama, kEmbed, kLlamaAfter, kHead},
    {"exaone", kLayers, kGpt, "transformer.wte.weight", "transformer.ln_f. lm_head.", kHead},
    {"falcon", kLayers, kGpt, "transformer.word_embeddings.weight", "transformer.ln_f. lm_head.", kHead},
    {"gpt2", kNLayer, kGpt, "transformer.wte.weight", "transformer.ln_f. lm_head.", kHead},
    {"gpt_neox", kLayers, "gpt_neox.layers.", "gpt_neox.embed_in.weight",
     "gpt_neox.final_layer_norm. embed_out.", "embed_out.weight"},
    {"internlm2", kLayers, kLlama, "model.tok_embeddings.weight", "model.norm. output.", "output.weight"},
};

const FamilyLayout* find_family(std::string_view model_type) {
  const auto found = std::ranges::find(kFamilies, model_type, &FamilyLayout::model_type);
  return found == std::end(kFamilies) ? nullptr : found;
}

std::vector<std::string> words(std::string_view list) {
  std::vector<std::string> out;
  while (!list.empty()) {
    const size_t end = std::min(list.find(' '), list.size());
    if (end > 0) out.emplace_back(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return out;
}

// A number that is a part of a name: "12" of "h.12.attn".
std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text.size() > 6 || error != std::errc() || end != text.data() + text.size() ||
      value < 0)
    return {};
  return value;
}

// Up to the first number in a name, and that number.
std::optional<std::pair<std::string, int64_t>> first_number(std::string_view name) {
  for (size_t begin = 0; begin < name.size();) {
    const size_t end = std::min(name.find('.', begin), name.size());
    if (const std::optional<int64_t> value = number(name.substr(begin, end - begin)))
      return std::pair(std::string(name.substr(0, begin)), *value);
    begin = end + 1;
  }
  return {};
}

}  // namespace

ModelLayout::ModelLayout(const Json& config, const std::vector<TensorSpec>& tensors, const std::string& where)
    : has_layers_(true) {
  const auto type = config.find("model_type");
  const FamilyLayout* family =
      type != config.end() && type->is_string() ? find_family(type->get<std::string>()) : nullptr;
  // A checkpoint without its head is stored without the first part of the names ("h.0." of GPT-2).
  if (family && std::ranges::none_of(tensors, [&](const TensorSpec& tensor) {
        return tensor.name.starts_with(family->prefix);
      }))
    family = nullptr;
  if (!family) {
    infer(config, tensors, where);
    return;
  }
  prefix_ = family->prefix, count_key_ = family->count_key;
  by_token_ = words(family->embeddings), after_ = words(family->after);
  for (std::string& head : words(family->heads)) by_token_.push_back(std::move(head));
  count(config, tensors, where);
}

// The layers are the longest row of numbers that begins with 0; what has the vocabulary's size outside of
// them has a row for each token; what is called a head or a norm comes after them.
void ModelLayout::infer(const Json& config, const std::vector<TensorSpec>& tensors,
                        const std::string& where) {
  known_ = false;
  std::map<std::string, std::map<int64_t, int64_t>> found;  // prefix -> layer -> tensors
  for (const TensorSpec& tensor : tensors)
    if (const auto place = first_number(tensor.name)) found[place->first][place->second]++;
  int64_t most = 0;
  for (const auto& [prefix, layers] : found) {
    int64_t count = 0;
    for (const auto& [layer, own] : layers) count += own;
    if (count > most) most = count, prefix_ = prefix;
  }
  if (most == 0)
    fail(ErrorKind::unsupported,
         "{}: which tensors belong to which layer cannot be told: no name of a tensor has a number in it",
         where);
  for (const char* key : {"num_hidden_layers", "n_layer", "n_layers", "num_layers"})
    if (config.contains(key) && config[key].is_number_integer()) {
      count_key_ = key;
      break;
    }
  if (count_key_.empty())
    fail(ErrorKind::unsupported, "{}: config.json does not say how many layers there are (num_hidden_layers)",
         where);
  const auto vocabulary = config.find("vocab_size");
  for (const TensorSpec& tensor : tensors) {
    if (layer_of(tensor.name)) continue;
    if (vocabulary != config.end() && vocabulary->is_number_integer() && !tensor.shape.empty() &&
        tensor.shape[0] == vocabulary->get<int64_t>())
      by_token_.push_back(tensor.name);
    for (const std::string_view word : {"norm", "head", "ln_f", "output", "score", "classifier", "embed_out"})
      if (tensor.name.find(word) != std::string::npos &&
          tensor.name.find("embeddings.") == std::string::npos) {
        after_.push_back(tensor.name);
        break;
      }
  }
  count(config, tensors, where);
}

void ModelLayout::count(const Json& config, const std::vector<TensorSpec>& tensors,
                        const std::string& where) {
  std::set<int64_t> seen;
  for (const TensorSpec& tensor : tensors)
    if (const std::optional<int64_t> layer = layer_of(tensor.name)) seen.insert(*layer);
  layers_ = std::ssize(seen);
  for (int64_t layer = 0; layer < layers_; layer++)
    if (!seen.contains(layer))
      fail(ErrorKind::input, "{}: layer {} is missing, the tensors are of {} layers up to {}", where, layer,
           layers_, *seen.rbegin());
  const auto said = config.find(count_key_);
  if (said != config.end() && said->is_number_integer() && said->get<int64_t>() != layers_)
    fail(ErrorKind::input, "{}: \"{}\" of config.json is {}, but there are tensors of {} layers", where,
         count_key_, said->get<int64_t>(), layers_);
}

std::optional<int64_t> ModelLayout::layer_of(std::string_view name) const {
  if (!has_layers_ || !name.starts_with(prefix_)) return {};
  name.remove_prefix(prefix_.size());
  return number(name.substr(0, std::min(name.find('.'), name.size())));
}

std::string ModelLayout::in_layer(std::string_view name, int64_t layer) const {
  const size_t end = std::min(name.find('.', prefix_.size()), name.size());
  return fmt::format("{}{}{}", prefix_, layer, name.substr(end));
}

bool ModelLayout::comes_after(std::string_view name) const {
  return std::ranges::any_of(after_, [&](const std::string& start) { return name.starts_with(start); });
}

bool ModelLayout::is_by_token(std::string_view name) const {
  return std::ranges::find(by_token_, name) != by_token_.end();
}

}  // namespace moerge
