#include "moerge/model/adapter.h"

#include <algorithm>
#include <map>
#include <memory>
#include <unordered_map>

#include "moerge/base/error.h"
#include "moerge/model/adapter_config.h"
#include "moerge/tensor/convert.h"
#include "moerge/tensor/low_rank.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "base_model.model.";  // of every name in an adapter
constexpr int64_t kFactors = 1 << 20;                      // numbers of B in float32 at a time
constexpr std::string_view kLora = ".lora_", kTokens = ".token_adapter.trainable_tokens_delta";

// Of the two that PEFT writes, the one that is there.
fs::path find_weights(const fs::path& folder) {
  for (const char* name : {"adapter_model.safetensors", "adapter_model.bin"})
    if (fs::exists(folder / name)) return folder / name;
  fail(ErrorKind::input, "{}: neither adapter_model.safetensors nor adapter_model.bin in this folder",
       folder.string());
}

// What an adapter does to one tensor of the model. All of it, where set: replaced, then rows replaced or a
// product added.
struct Change {
  const StoredTensor* whole = nullptr;
  const StoredTensor* tokens = nullptr;  // some rows
  const StoredTensor *a = nullptr, *b = nullptr;
  bool embedding = false;  // the product is (B A) transposed
};

// A name in the adapter, taken apart: "PREFIX MODULE .lora_A .NAME .weight".
struct Target {
  std::string tensor;  // of the model
  const StoredTensor* Change::*part;
  bool embedding = false;
};

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> words;
  for (size_t end = text.find('.'); end != std::string_view::npos; end = text.find('.')) {
    words.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  words.push_back(text);
  return words;
}

// The part of a name from ".lora_" on. The adapter's own name stands in it only in files that PEFT did not
// write.
std::optional<Target> read_lora_name(std::string_view module, std::string_view rest) {
  const std::vector<std::string_view> words = split(rest);
  const std::string tensor = std::string(module) + ".weight";
  if (words[0] == "lora_embedding_A" && words.size() <= 2) return Target{tensor, &Change::a, true};
  if (words[0] == "lora_embedding_B" && words.size() <= 2) return Target{tensor, &Change::b, true};
  if (words.size() < 2 || words.size() > 3 || words.back() != "weight") return {};
  if (words[0] == "lora_A") return Target{tensor, &Change::a};
  if (words[0] == "lora_B") return Target{tensor, &Change::b};
  return {};
}

std::optional<Target> read_name(std::string_view name) {
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  if (const size_t at = name.find(kLora); at != std::string_view::npos)
    return read_lora_name(name.substr(0, at), name.substr(at + 1));
  if (const size_t at = name.find(kTokens); at != std::string_view::npos)
    return Target{std::string(name.substr(0, at)) + ".weight", &Change::tokens};
  std::string tensor(name);
  // Wrappers of the module, which older files name, one of them with the adapter's name.
  if (const size_t at = tensor.find(".base_layer."); at != std::string::npos)
    tensor.erase(at, std::string_view(".base_layer").size());
  if (const size_t at = tensor.find(".modules_to_save."); at != std::string::npos)
    tensor.erase(at, tensor.rfind('.') - at);
  return Target{std::move(tensor), &Change::whole};
}

std::string shape_of(const StoredTensor& tensor) {
  return fmt::format("\"{}\" {}", tensor.spec.name, to_string(tensor.spec.shape));
}

class Adapter {
 public:
  Adapter(const fs::path& folder, const Checkpoint& base)
      : config_(read_adapter_config(folder)),
        weights_(std::make_shared<const Checkpoint>(Checkpoint::open_file(find_weights(folder)))),
        where_(weights_->path().string()) {
    how_ = " + LoRA " + folder.string();
    for (const StoredTensor& tensor : weights_->tensors()) collect(tensor);
    if (changes_.empty()) fail(ErrorKind::input, "{}: no tensors in it", where_);
    for (const StoredTensor& tensor : base.tensors()) base_.emplace(tensor.spec.name, &tensor.spec.shape);
  }

  bool changes(const std::string& tensor) const { return changes_.contains(tensor); }
  /// The tensor was trained whole, in a copy of its own. (What else is there whole is the base's, saved
  /// along.)
  bool trains(const std::string& tensor) const;
  bool ties() const { return config_.ensure_weight_tying; }
  /// Forgets a whole tensor.
  void drop_whole(const std::string& tensor);

  /// Throws when something in the adapter has no counterpart of the right shape. `added`: the shape of a
  /// tensor that the model gets from the adapter.
  void check(const std::string& added, const Shape& shape) const;
  /// The tensor with this adapter's change, or itself.
  StoredTensor changed(const StoredTensor& tensor, DType model_dtype) const;

 private:
  void collect(const StoredTensor& tensor);
  void check_product(const std::string& name, const Change& change, const Shape& shape) const;
  void check_tokens(const std::string& name, const Change& change, const Shape& shape) const;
  /// MODULE of "MODULE.weight".
  static std::string_view module_of(std::string_view tensor) { return tensor.substr(0, tensor.rfind('.')); }
  const std::vector<int64_t>* token_rows(std::string_view tensor) const;

  AdapterConfig config_;
  std::shared_ptr<const Checkpoint> weights_;  // every derived tensor keeps them open
  std::string where_, how_;
  std::map<std::string, Change> changes_;  // by the model's tensor
  std::unordered_map<std::string_view, const Shape*> base_;
};

void Adapter::collect(const StoredTensor& tensor) {
  const std::string& name = tensor.spec.name;
  if (name.find("lora_magnitude_vector") != std::string::npos)
    fail(ErrorKind::unsupported, "{}: \"{}\": DoRA is not read: merge the adapter with PEFT first", where_,
         name);
  std::optional<Target> target = read_name(name);
  if (!target) fail(ErrorKind::unsupported, "{}: \"{}\" is no tensor of a plain LoRA adapter", where_, name);
  if (!is_float(tensor.spec.dtype))
    fail(ErrorKind::unsupported, "{}: \"{}\" is {}; f32, f16 and bf16 adapters are read", where_, name,
         info(tensor.spec.dtype).name());
  Change& change = changes_[target->tensor];
  const StoredTensor*& part = change.*target->part;
  if (part)
    fail(ErrorKind::unsupported, "{}: \"{}\" and \"{}\" are for the same weight: one adapter a file is read",
         where_, part->spec.name, name);
  part = &tensor;
  if (target->part == &Change::a || target->part == &Change::b) {
    if ((change.a && change.b) && change.embedding != target->embedding)
      fail(ErrorKind::input, "{}: \"{}\" and \"{}\" do not belong together", where_, change.a->spec.name,
           change.b->spec.name);
    change.embedding = target->embedding;
  }
}

bool Adapter::trains(const std::string& tensor) const {
  const auto found = changes_.find(tensor);
  if (found == changes_.end() || !found->second.whole) return false;
  return std::ranges::any_of(config_.modules_to_save,
                             [&](const std::string& name) { return module_of(tensor).ends_with(name); });
}

void Adapter::drop_whole(const std::string& tensor) {
  const auto found = changes_.find(tensor);
  if (found == changes_.end()) return;
  found->second.whole = nullptr;
  if (!found->second.a && !found->second.b && !found->second.tokens) changes_.erase(found);
}

// Products have shape [out, in] = B [out, r] times A [r, in]; of embeddings, [vocab, hidden] is its
// transposed.
void Adapter::check_product(const std::string& name, const Change& change, const Shape& shape) const {
  if (!change.a || !change.b) {
    const StoredTensor& one = change.a ? *change.a : *change.b;
    fail(ErrorKind::input, "{}: \"{}\" has no lora_{} beside it", where_, one.spec.name,
         change.a ? "B" : "A");
  }
  if (shape.size() != 2)
    fail(ErrorKind::unsupported, "{}: {} is for \"{}\" {}, which is no matrix", where_, shape_of(*change.a),
         name, to_string(shape));
  const int64_t rank = rank_of(config_, module_of(name));
  const int64_t out = shape[change.embedding ? 1 : 0], in = shape[change.embedding ? 0 : 1];
  if (change.a->spec.shape == Shape{rank, in} && change.b->spec.shape == Shape{out, rank}) return;
  fail(ErrorKind::input,
       "{}: {} and {} do not fit \"{}\" {} of the model: expected {} and {} (rank {} by adapter_config.json)",
       where_, shape_of(*change.a), shape_of(*change.b), name, to_string(shape), to_string({rank, in}),
       to_string({out, rank}), rank);
}

const std::vector<int64_t>* Adapter::token_rows(std::string_view tensor) const {
  const std::string_view module = module_of(tensor);
  for (const auto& [name, rows] : config_.token_rows)
    if (module == name || module.ends_with("." + name)) return &rows;
  return nullptr;
}

void Adapter::check_tokens(const std::string& name, const Change& change, const Shape& shape) const {
  const std::vector<int64_t>* rows = token_rows(name);
  if (!rows || change.a || change.b || change.whole)
    fail(ErrorKind::unsupported,
         "{}: \"{}\" needs \"trainable_token_indices\" in adapter_config.json and nothing else for this "
         "module",
         where_, change.tokens->spec.name);
  if (shape.size() != 2 || change.tokens->spec.shape != Shape{std::ssize(*rows), shape[1]})
    fail(ErrorKind::input, "{}: {} does not fit {} rows of \"{}\" {}", where_, shape_of(*change.tokens),
         rows->size(), name, to_string(shape));
  for (const int64_t row : *rows)
    if (row >= shape[0])
      fail(ErrorKind::input, "{}: \"trainable_token_indices\" names token {}, and \"{}\" is {}",
           config_.where, row, name, to_string(shape));
}

void Adapter::check(const std::string& added, const Shape& shape) const {
  for (const auto& [name, change] : changes_) {
    const auto found = base_.find(name);
    const Shape* theirs = found != base_.end() ? found->second : name == added ? &shape : nullptr;
    const StoredTensor& any = change.whole    ? *change.whole
                              : change.tokens ? *change.tokens
                              : change.a      ? *change.a
                                              : *change.b;
    if (!theirs)
      fail(ErrorKind::input, "{}: \"{}\" changes \"{}\", which the model does not have", where_,
           any.spec.name, name);
    if (change.whole && change.whole->spec.shape != *theirs)
      fail(ErrorKind::input, "{}: {} replaces \"{}\", which is {} in the model{}", where_,
           shape_of(*change.whole), name, to_string(*theirs),
           change.whole->spec.shape.size() == theirs->size() && theirs->size() == 2 &&
                   change.whole->spec.shape[1] == (*theirs)[1]
               ? ": the adapter was trained with another vocabulary; resize the model's embeddings first"
               : "");
    if (change.tokens) check_tokens(name, change, *theirs);
    if (change.a || change.b) check_product(name, change, *theirs);
  }
}

// One stored matrix [rows, columns] as [columns, rows], float32. The B of embeddings: hidden x rank numbers.
std::vector<float> transposed(const StoredTensor& tensor) {
  const auto rows = static_cast<size_t>(tensor.rows()), columns = static_cast<size_t>(tensor.row_elements());
  std::vector<float> values(rows * columns), out(values.size());
  read_row_values(tensor, 0, tensor.rows(), values);
  for (size_t r = 0; r < rows; r++)
    for (size_t c = 0; c < columns; c++) out[c * rows + r] = values[r * columns + c];
  return out;
}

// The parts of a change that do not vary from chunk to chunk.
struct Product {
  StoredTensor a, b;
  bool embedding;
  float scale;
  DType rounded;  // embeddings' products are rounded to the weights' type before they are added, as in PEFT
  std::vector<float> turned_b = {};  // of embeddings

  void add_to(int64_t first, int64_t count, std::span<float> values) const;

 private:
  void add_some(int64_t first, int64_t count, std::span<float> values) const;
};

void Product::add_to(int64_t first, int64_t count, std::span<float> values) const {
  const int64_t step = std::max<int64_t>(1, kFactors / a.rows()),
                columns = count == 0 ? 0 : std::ssize(values) / count;
  for (int64_t done = 0; done < count; done += step) {
    const int64_t rows = std::min(step, count - done);
    add_some(first + done, rows,
             values.subspan(static_cast<size_t>(done * columns), static_cast<size_t>(rows * columns)));
  }
}

void Product::add_some(int64_t first, int64_t count, std::span<float> values) const {
  const int64_t rank = a.rows();
  std::vector<float> factors(static_cast<size_t>(count * rank));
  if (!embedding) {
    read_row_values(b, first, count, factors);
    add_low_rank(values, factors, a.view(), scale);
    return;
  }
  // Columns [first, first + count) of A are the factors of these tokens.
  const auto element = static_cast<size_t>(info(a.spec.dtype).bytes);
  const auto columns = static_cast<size_t>(a.row_elements()), n = static_cast<size_t>(count);
  std::vector<float> some(n);
  for (size_t k = 0; k < static_cast<size_t>(rank); k++) {
    to_f32(a.spec.dtype,
           a.stored_bytes().subspan((k * columns + static_cast<size_t>(first)) * element, n * element), some);
    for (size_t i = 0; i < n; i++) factors[i * static_cast<size_t>(rank) + k] = some[i];
  }
  std::vector<float> sums(values.size());
  const TensorView turned = {DType::f32, {rank, b.rows()}, std::as_bytes(std::span(turned_b))};
  add_low_rank(sums, factors, turned, scale);
  std::vector<std::byte> bytes(static_cast<size_t>(byte_size(rounded, std::ssize(sums))));
  from_f32(sums, rounded, bytes);
  to_f32(rounded, bytes, sums);
  for (size_t i = 0; i < sums.size(); i++) values[i] += sums[i];
}

StoredTensor Adapter::changed(const StoredTensor& tensor, DType model_dtype) const {
  const auto found = changes_.find(tensor.spec.name);
  if (found == changes_.end()) return tensor;
  const Change& change = found->second;
  const StoredTensor source = change.whole ? *change.whole : tensor;
  StoredTensor out = source;
  out.spec = tensor.spec;
  if (!is_weight_type(tensor.spec.dtype)) out.spec.dtype = model_dtype;
  out.rotary_heads = 0;
  std::string how = source.derivation ? source.derivation->how : "";
  if (source.spec.dtype != out.spec.dtype) how += fmt::format(" ({})", info(source.spec.dtype).name());

  std::shared_ptr<Product> product;
  if (change.a) {
    const auto scale = static_cast<float>(scale_of(config_, module_of(tensor.spec.name)));
    product =
        std::make_shared<Product>(Product{*change.a, *change.b, change.embedding, scale, out.spec.dtype});
    if (change.embedding) product->turned_b = transposed(*change.b);
  }
  std::map<int64_t, int64_t> rows;  // of the model -> of the adapter
  if (change.tokens)
    for (int64_t i = 0; const int64_t row : *token_rows(tensor.spec.name)) rows[row] = i++;
  if (change.a || change.tokens) how += how_;
  const auto compute = [weights = weights_, source, product, rows = std::move(rows), tokens = change.tokens](
                           int64_t first, int64_t count, std::span<float> values) {
    read_row_values(source, first, count, values);
    if (product) product->add_to(first, count, values);
    const int64_t columns = source.row_elements();
    for (auto row = rows.lower_bound(first); row != rows.end() && row->first < first + count; ++row)
      read_row_values(
          *tokens, row->second, 1,
          values.subspan(static_cast<size_t>((row->first - first) * columns), static_cast<size_t>(columns)));
  };
  std::vector<StoredTensor> beside;
  for (const StoredTensor* part : {change.a, change.b, change.tokens})
    if (part) beside.push_back(*part);
  out.derivation =
      std::make_shared<Derivation>(Derivation{source, std::move(how), compute, std::move(beside)});
  return out;
}

}  // namespace

void apply_adapter(const fs::path& folder, const Architecture& architecture, ModelConfig& config,
                   Checkpoint& checkpoint) {
  Adapter adapter(folder, checkpoint);
  const std::string embedding(weight_for(architecture, Role::embedding).name),
      output(weight_for(architecture, Role::output).name);
  // Trained apart from the other, neither of two tied matrices can stand for both.
  const bool untie =
      config.tied_embeddings && !adapter.ties() && (adapter.trains(output) || adapter.trains(embedding));
  if (config.tied_embeddings && !untie) {
    if (adapter.changes(embedding)) adapter.drop_whole(output);  // the same matrix once more
    if (adapter.changes(output))
      fail(ErrorKind::unsupported,
           "{}: it changes \"{}\", and the model's embeddings are tied (tie_word_embeddings): the change "
           "would be one of the embeddings too",
           folder.string(), output);
  }
  const bool add_output = untie && !checkpoint.find(output);
  adapter.check(add_output ? output : "", checkpoint.at(embedding).spec.shape);
  const DType dtype = config.dtype.value_or(DType::bf16);
  checkpoint.transform([&](const StoredTensor& tensor) {
    std::vector<StoredTensor> out = {adapter.changed(tensor, dtype)};
    if (add_output && tensor.spec.name == embedding) {
      StoredTensor copy = tensor;
      copy.spec.name = output;
      out.push_back(adapter.changed(copy, dtype));
    }
    return out;
  });
  if (!untie) return;
  config.tied_embeddings = false;
  config.raw["tie_word_embeddings"] = false;
}

}  // namespace moerge
