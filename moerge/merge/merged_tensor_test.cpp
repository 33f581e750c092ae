#include "moerge/merge/merged_tensor.h"

#include <gtest/gtest.h>

#include <thread>

#include "moerge/tensor/convert.h"
#include "moerge/testing/temp_dir.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;
using testing::TinyTensor;

class MergedTensor : public ::testing::Test {
 protected:
  // A float32 tensor of values value(row, column) in a file of its own.
  template <typename Value>
  const StoredTensor& tensor(const std::string& name, int64_t rows, int64_t columns, const Value& value) {
    std::string bytes(static_cast<size_t>(4 * rows * columns), '\0');
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < columns; c++) {
        const auto number = static_cast<float>(value(r, c));
        std::memcpy(bytes.data() + 4 * (r * columns + c), &number, 4);
      }
    dir_.write(name + "/model.safetensors",
               testing::safetensors_bytes(
                   {{.name = "w", .dtype = "F32", .shape = {rows, columns}, .bytes = bytes}}));
    opened_.push_back(std::make_unique<Checkpoint>(dir_ / name));
    return opened_.back()->at("w");
  }

  static MergeJob linear(Shape shape, std::vector<double> weights, DType dtype = DType::f32) {
    MergeJob job = {
        .method = find_merge_method("linear"), .name = "out", .shape = std::move(shape), .dtype = dtype};
    job.inputs = weights.size();
    for (size_t i = 0; i < weights.size(); i++) job.input_names.push_back(std::to_string(i));
    for (const ParameterSpec& spec : job.method->parameters)
      job.values.push_back(spec.name == "weight" ? weights : std::vector<double>{1});
    return job;
  }

  static std::vector<float> values(const StoredTensor& tensor, int64_t first, int64_t count) {
    std::vector<float> out(static_cast<size_t>(count * tensor.row_elements()));
    read_row_values(tensor, first, count, out);
    return out;
  }

  TempDir dir_;
  std::vector<std::unique_ptr<Checkpoint>> opened_;
};

TEST_F(MergedTensor, RowsInAnyOrderAndSize) {
  // More elements than a block, so that rows come in several.
  const auto& a = tensor("a", 300, 1000, [](int64_t r, int64_t c) { return r + c; });
  const auto& b = tensor("b", 300, 1000, [](int64_t r, int64_t c) { return 3 * (r + c); });
  const StoredTensor out = merged_tensor(linear({300, 1000}, {1, 1}), {a, b}, " + b");
  EXPECT_EQ(out.spec.name, "out");
  EXPECT_FALSE(out.is_plain());
  EXPECT_EQ(stored_sources(out).size(), 2u);
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 300}, {299, 1}, {100, 150}}) {
    const std::vector<float> rows = values(out, first, count);
    for (int64_t i = 0; i < count * 1000; i++)
      ASSERT_EQ(rows[static_cast<size_t>(i)], static_cast<float>(2 * (first + i / 1000 + i % 1000)));
  }
}

TEST_F(MergedTensor, InputsThatAreLargerAreCut) {
  const auto& a = tensor("a", 4, 6, [](int64_t r, int64_t c) { return 10 * r + c; });
  const auto& b = tensor("b", 3, 4, [](int64_t, int64_t) { return 1; });
  const StoredTensor out = merged_tensor(linear({3, 4}, {1, 1}), {a, b}, "");
  EXPECT_EQ(values(out, 1, 1), (std::vector<float>{5.5, 6, 6.5, 7}));
}

TEST_F(MergedTensor, InputsAreRoundedToTheTypeInWhichIsComputed) {
  const auto& a = tensor("a", 1, 1, [](int64_t, int64_t) { return 1 + 1.0 / 512; });  // 1 in bfloat16
  const auto& b = tensor("b", 1, 1, [](int64_t, int64_t) { return 2; });
  EXPECT_EQ(values(merged_tensor(linear({1, 1}, {1, 1}, DType::bf16), {a, b}, ""), 0, 1),
            (std::vector<float>{1.5}));
}

// What has to be known of all values is found out once, whoever asks first.
TEST_F(MergedTensor, FromSeveralThreads) {
  const auto& a = tensor("a", 64, 64, [](int64_t r, int64_t c) { return r == c; });
  const auto& b = tensor("b", 64, 64, [](int64_t r, int64_t c) { return r + 1 == c; });
  MergeJob job = {.method = find_merge_method("slerp"), .name = "out", .shape = {64, 64}};
  job.inputs = 2, job.base = 0, job.values = {{0.5}}, job.input_names = {"a", "b"};
  const StoredTensor out = merged_tensor(job, {a, b}, "");
  std::vector<std::vector<float>> rows(8);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < rows.size(); t++)
    threads.emplace_back([&, t] { rows[t] = values(out, static_cast<int64_t>(8 * t), 8); });
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < rows.size(); t++) EXPECT_EQ(rows[t], values(out, static_cast<int64_t>(8 * t), 8));
  EXPECT_NEAR(rows[0][0], std::sqrt(0.5), 1e-2);
}

// A merge of merges reads through both.
TEST_F(MergedTensor, OfMergedTensors) {
  const auto& a = tensor("a", 200, 500, [](int64_t r, int64_t) { return r; });
  const auto& b = tensor("b", 200, 500, [](int64_t, int64_t c) { return c; });
  const StoredTensor inner = merged_tensor(linear({200, 500}, {1, 1}), {a, b}, "");
  const StoredTensor out = merged_tensor(linear({200, 500}, {1, 3}), {inner, b}, "");
  const std::vector<float> rows = values(out, 0, 200);
  for (int64_t i = 0; i < 100'000; i++) {
    const auto r = static_cast<float>(i / 500), c = static_cast<float>(i % 500);
    ASSERT_EQ(rows[static_cast<size_t>(i)], ((r + c) / 2 + 3 * c) / 4);
  }
}

}  // namespace
}  // namespace moerge
