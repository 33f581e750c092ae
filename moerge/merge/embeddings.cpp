#include "moerge/merge/embeddings.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <mutex>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"
#include "moerge/merge/rounding.h"

namespace moerge {
namespace {

constexpr int64_t kBlockBytes = 1 << 20;  // of rows that are read at once for a mean
constexpr size_t kFewTokens = 5;

// The rows that stand in for tokens: for each id several whose mean it is, or none, which means zeros.
struct Substitutes {
  std::vector<uint32_t> first;  // by id, and the end
  std::vector<TokenRow> rows;
  std::vector<bool> forced;  // by id: for models that have the token too

  std::span<const TokenRow> of(size_t id) const {
    return std::span(rows).subspan(first[id], first[id + 1] - first[id]);
  }
};

// The sum of a column in float32, in the order in which PyTorch sums it on a CPU (ATen's cascade_sum):
// partial sums of 2^power values, then sums of as many of those, in four levels.
class ColumnSums {
 public:
  ColumnSums(int64_t rows, size_t columns) : columns_(columns) {
    const auto bits = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(rows, 1) - 1));
    power_ = std::max(4, static_cast<int>(bits) / kLevels);
    whole_ = rows >> power_ << power_;
    for (std::vector<float>& level : levels_) level.assign(columns, 0);
  }

  void add(std::span<const float> row) {
    for (size_t i = 0; i < columns_; i++) levels_[0][i] += row[i];
    count_++;
    if (count_ > whole_ || count_ % (int64_t{1} << power_) != 0) return;
    for (int level = 1; level < kLevels; level++) {
      carry(level);
      if (count_ >> (power_ * level) & ((int64_t{1} << power_) - 1)) break;
    }
  }

  std::vector<float> take() {
    for (int level = 1; level < kLevels; level++)
      for (size_t i = 0; i < columns_; i++) levels_[0][i] += levels_[static_cast<size_t>(level)][i];
    return std::move(levels_[0]);
  }

 private:
  static constexpr int kLevels = 4;

  void carry(int level) {
    std::vector<float>&below = levels_[static_cast<size_t>(level - 1)],
    &here = levels_[static_cast<size_t>(level)];
    for (size_t i = 0; i < columns_; i++) here[i] += below[i];
    std::ranges::fill(below, 0.0f);
  }

  size_t columns_;
  int power_;
  int64_t whole_, count_ = 0;
  std::array<std::vector<float>, kLevels> levels_;
};

// What the models' tensors have in common.
struct Common {
  std::vector<std::optional<StoredTensor>> stored;
  Substitutes substitutes;
  std::vector<bool> used;
  DType dtype;
  int64_t tokens, columns;
};

class TokenRows {
 public:
  TokenRows(std::shared_ptr<const Common> common, size_t model,
            std::shared_ptr<const std::vector<int32_t>> own)
      : common_(std::move(common)), model_(model), own_(std::move(own)) {}

  void compute(int64_t first, int64_t count, std::span<float> values) {
    read(first, count, values);
    for (int64_t row = first; row < first + count; row++)
      if (!is_token(row)) std::ranges::copy(mean(), part(values, row - first, 1).begin());
  }

 private:
  bool is_token(int64_t row) const {
    return row < common_->tokens && common_->used[static_cast<size_t>(row)];
  }

  std::span<float> part(std::span<float> values, int64_t first, int64_t count) const {
    const auto columns = static_cast<size_t>(common_->columns);
    return values.subspan(static_cast<size_t>(first) * columns, static_cast<size_t>(count) * columns);
  }

  // The model's row for a token, or -1: a substitute, or no token.
  int64_t own(int64_t row) const {
    const auto id = static_cast<size_t>(row);
    return is_token(row) && !common_->substitutes.forced[id] ? (*own_)[id] : -1;
  }

  // Rows of tokens; neighbours that are neighbours in the model as well are read together.
  void read(int64_t first, int64_t count, std::span<float> values) const {
    for (int64_t row = first; row < first + count;) {
      const int64_t from = own(row);
      int64_t run = 1;
      if (from < 0) {
        if (is_token(row)) substitute(row, part(values, row - first, 1));
      } else {
        while (row + run < first + count && own(row + run) == from + run) run++;
        read_row_values(*common_->stored[model_], from, run, part(values, row - first, run));
        round(part(values, row - first, run));
      }
      row += run;
    }
  }

  void round(std::span<float> values) const {
    with_rounding(common_->dtype, [&](auto rounding) {
      for (float& value : values) value = rounding(value);
    });
  }

  void substitute(int64_t row, std::span<float> out) const {
    const std::span<const TokenRow> rows = common_->substitutes.of(static_cast<size_t>(row));
    std::ranges::fill(out, 0.0f);
    std::vector<float> one(out.size());
    for (const TokenRow& from : rows) {
      read_row_values(*common_->stored[static_cast<size_t>(from.model)], from.row, 1, one);
      round(one);
      if (rows.size() == 1) {
        std::ranges::copy(one, out.begin());
        return;
      }
      for (size_t i = 0; i < out.size(); i++) out[i] += one[i];
      round(out);
    }
    if (rows.empty()) return;
    for (float& value : out) value /= static_cast<float>(rows.size());
    round(out);
  }

  // Of all tokens' rows, for rows of no token.
  const std::vector<float>& mean() {
    std::call_once(once_, [&] {
      const int64_t count = std::ranges::count(common_->used, true);
      const int64_t block = std::max<int64_t>(1, kBlockBytes / 4 / common_->columns);
      ColumnSums sums(count, static_cast<size_t>(common_->columns));
      std::vector<float> values(static_cast<size_t>(block * common_->columns));
      for (int64_t first = 0; first < common_->tokens; first += block) {
        check_interrupted();
        const int64_t rows = std::min(block, common_->tokens - first);
        read(first, rows, part(values, 0, rows));
        for (int64_t row = first; row < first + rows; row++)
          if (is_token(row)) sums.add(part(values, row - first, 1));
        const StoredTensor& source = *common_->stored[model_];
        if (first + rows <= source.rows()) release_rows(source, first, rows);
      }
      mean_ = sums.take();
      for (float& value : mean_) value /= static_cast<float>(count);
      round(mean_);
    });
    return mean_;
  }

  std::shared_ptr<const Common> common_;
  size_t model_;
  std::shared_ptr<const std::vector<int32_t>> own_;
  std::once_flag once_;
  std::vector<float> mean_;
};

class Aligner {
 public:
  Aligner(const MergedVocabulary& vocabulary, const ByTokenTensors& tensors, DType dtype)
      : vocabulary_(vocabulary), tensors_(tensors) {
    common_->dtype = dtype;
    common_->tokens = vocabulary.tokens;
    common_->used = vocabulary.used;
    for (size_t i = 0; i < vocabulary.models.size(); i++)
      if (is_merged(i)) merged_.push_back(i);
  }

  std::vector<std::optional<StoredTensor>> align() {
    std::vector<std::optional<StoredTensor>> out(vocabulary_.models.size());
    if (merged_.empty()) return out;
    check_shapes();
    find_substitutes();
    for (const size_t model : merged_) out[model] = aligned(model);
    return out;
  }

 private:
  bool is_merged(size_t i) const {
    return tensors_.stored[i] && (tensors_.merged.empty() || tensors_.merged[i]);
  }

  void check_shapes() {
    const StoredTensor& first = *tensors_.stored[merged_[0]];
    common_->columns = first.row_elements();
    for (size_t i = 0; i < tensors_.stored.size(); i++) {
      const StoredTensor* stored = tensors_.stored[i];
      common_->stored.push_back(stored ? std::optional(*stored) : std::nullopt);
      if (!stored) continue;
      const VocabularyModel& model = vocabulary_.models[i];
      const Shape &shape = stored->spec.shape, &other = first.spec.shape;
      if (shape.empty() || shape[0] != model.rows)
        fail(ErrorKind::input, "{}: \"{}\" {} should have {} rows, as many as the embeddings",
             model.reference, stored->spec.name, to_string(shape), model.rows);
      if (!std::equal(shape.begin() + 1, shape.end(), other.begin() + 1, other.end()) ||
          common_->columns == 0)
        fail(ErrorKind::input, "{}: \"{}\" {} does not fit {}'s {}", model.reference, stored->spec.name,
             to_string(shape), vocabulary_.models[merged_[0]].reference, to_string(other));
    }
  }

  int32_t own_row(size_t model, size_t id) const { return (*vocabulary_.own_rows[model])[id]; }

  void find_substitutes() {
    Substitutes& out = common_->substitutes;
    const auto size = static_cast<size_t>(vocabulary_.tokens);
    out.first.reserve(size + 1);
    out.forced.assign(size, false);
    std::vector<std::string> missing;
    auto assigned = vocabulary_.assigned.begin();
    for (size_t id = 0; id < size; id++) {
      out.first.push_back(static_cast<uint32_t>(out.rows.size()));
      if (!vocabulary_.used[id]) continue;
      const bool is_assigned =
          assigned != vocabulary_.assigned.end() && assigned->first == static_cast<int64_t>(id);
      if (is_assigned) out.forced[id] = assigned->second.force;
      const bool needed = out.forced[id] ||
                          std::ranges::any_of(merged_, [&](size_t model) { return own_row(model, id) < 0; });
      if (needed && !is_assigned) add_holders(id);
      if (needed && is_assigned && assigned->second.row) {
        const TokenRow row = *assigned->second.row;
        out.rows.push_back(row);
        const auto model = static_cast<size_t>(row.model);
        if (!tensors_.stored[model])
          missing.push_back(
              fmt::format("the row of token \"{}\" in \"{}\" is to come from {}, which has no "
                          "such tensor",
                          vocabulary_.text_of(static_cast<int64_t>(id)),
                          tensors_.stored[merged_[0]]->spec.name, vocabulary_.models[model].reference));
      }
      if (is_assigned) ++assigned;
    }
    out.first.push_back(static_cast<uint32_t>(out.rows.size()));
    if (!missing.empty()) fail(ErrorKind::config, "{}", fmt::join(missing, "\n"));
  }

  void add_holders(size_t id) {
    const auto add = [&](size_t model) {
      common_->substitutes.rows.push_back({static_cast<int32_t>(model), own_row(model, id)});
    };
    if (tensors_.base && is_merged(*tensors_.base) && own_row(*tensors_.base, id) >= 0)
      return add(*tensors_.base);
    for (const size_t model : merged_)
      if (own_row(model, id) >= 0) add(model);
  }

  bool is_unchanged(size_t model) const {
    if (vocabulary_.rows != vocabulary_.models[model].rows || vocabulary_.rows != vocabulary_.tokens)
      return false;
    for (size_t id = 0; id < common_->used.size(); id++)
      if (own_row(model, id) != static_cast<int32_t>(id) || common_->substitutes.forced[id]) return false;
    return true;
  }

  // In a plan, and in the hash that says whether an unfinished build goes on: other rows, another text.
  std::string describe(size_t model) const {
    const std::vector<int32_t>& own = *vocabulary_.own_rows[model];
    const Substitutes& others = common_->substitutes;
    Digest digest(Hash::sha256);
    digest.add(std::as_bytes(std::span(own)));
    digest.add(std::as_bytes(std::span(others.first)));
    digest.add(std::as_bytes(std::span(others.rows)));
    for (const TokenRow& row : others.rows)
      digest.add(tensors_.stored[static_cast<size_t>(row.model)]->spec.name);
    std::string flags(2 * own.size(), '0');
    for (size_t id = 0; id < own.size(); id++) {
      if (others.forced[id]) flags[2 * id] = '1';
      if (common_->used[id]) flags[2 * id + 1] = '1';
    }
    digest.add(flags);
    return fmt::format(" in the merged vocabulary ({})", digest.hex().substr(0, 8));
  }

  StoredTensor aligned(size_t model) {
    const StoredTensor& source = *tensors_.stored[model];
    if (is_unchanged(model)) return source;
    StoredTensor out = source;
    out.spec.dtype = common_->dtype;
    out.spec.shape[0] = vocabulary_.rows;
    out.rotary_heads = 0;
    std::vector<bool> used(tensors_.stored.size());
    for (const TokenRow& row : common_->substitutes.rows) used[static_cast<size_t>(row.model)] = true;
    std::vector<StoredTensor> beside;
    for (size_t i = 0; i < used.size(); i++)
      if (used[i] && i != model) beside.push_back(*tensors_.stored[i]);
    const auto rows = std::make_shared<TokenRows>(common_, model, vocabulary_.own_rows[model]);
    const std::string how = (source.derivation ? source.derivation->how : "") + describe(model);
    out.derivation = std::make_shared<Derivation>(
        Derivation{source, how,
                   [rows](int64_t first, int64_t count, std::span<float> values) {
                     rows->compute(first, count, values);
                   },
                   std::move(beside)});
    return out;
  }

  const MergedVocabulary& vocabulary_;
  const ByTokenTensors& tensors_;
  std::shared_ptr<Common> common_ = std::make_shared<Common>();
  std::vector<size_t> merged_;
};

}  // namespace

std::vector<std::optional<StoredTensor>> in_vocabulary(const MergedVocabulary& vocabulary,
                                                       const ByTokenTensors& tensors, DType dtype) {
  return Aligner(vocabulary, tensors, dtype).align();
}

}  // namespace moerge
