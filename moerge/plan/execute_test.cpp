#include "moerge/plan/execute.h"

#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "moerge/base/error.h"
#include "moerge/base/random.h"
#include "moerge/tensor/convert.h"
#include "moerge/tensor/quantize.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {

using testing::TempDir;

// Keeps everything in memory; fails at the Nth piece when told to.
class MemorySink final : public TensorSink {
 public:
  explicit MemorySink(int fail_at = -1) : fail_at_(fail_at) {}

  void begin(std::span<const TensorSpec> specs) override {
    for (const TensorSpec& spec : specs) tensors.emplace_back(static_cast<size_t>(spec.bytes()), '?');
  }
  void put(size_t i, int64_t offset, std::span<const std::byte> bytes) override {
    const std::lock_guard lock(guard_);
    if (fail_at_ >= 0 && pieces_++ >= fail_at_) fail(ErrorKind::io, "disk full");
    std::memcpy(tensors[i].data() + offset, bytes.data(), bytes.size());
    written += std::ssize(bytes);
  }
  void copy(size_t i, int64_t offset, const MappedFile& source, int64_t source_offset,
            int64_t count) override {
    put(i, offset, source.bytes().subspan(static_cast<size_t>(source_offset), static_cast<size_t>(count)));
  }
  void finish() override { finished = true; }

  std::vector<std::string> tensors;
  int64_t written = 0;
  bool finished = false;

 private:
  std::mutex guard_;
  int fail_at_, pieces_ = 0;
};

class Execute : public ::testing::Test {
 protected:
  Execute() {
    dir_.write("model.safetensors",
               testing::safetensors_bytes({{"big", "F32", {300, 1000}, testing::f32_bytes(300000, 1)},
                                           {"small", "F32", {7}, testing::f32_bytes(7, 2)}}));
    checkpoint_ = std::make_unique<Checkpoint>(dir_.path());
  }

  Part part(const char* name, double noise = 0, double scale = 1) const {
    return {.source = &checkpoint_->at(name),
            .group = 0,
            .noise_stream = name,
            .noise_scale = noise,
            .residual_scale = scale};
  }

  // Copy, convert, stack, scale, noise and fill: one step of each kind.
  Plan everything() const {
    Plan plan;
    plan.seed = 5;
    plan.steps.push_back({{"copied", DType::f32, {7}}, Concat{{part("small")}}});
    plan.steps.push_back({{"converted", DType::bf16, {300, 1000}}, Concat{{part("big")}}});
    plan.steps.push_back({{"stacked", DType::f32, {2, 7}}, Concat{{part("small"), part("small", 0, 2)}}});
    plan.steps.push_back({{"noisy", DType::f16, {300, 1000}}, Concat{{part("big", 0.5)}}});
    plan.steps.push_back({{"filled", DType::f32, {2}}, Fill{"two", [] { return std::vector<float>{1, 2}; }}});
    return plan;
  }

  static std::vector<float> values(const std::string& bytes, DType dtype) {
    std::vector<float> out(bytes.size() / static_cast<size_t>(info(dtype).bytes));
    to_f32(dtype, std::as_bytes(std::span(bytes)), out);
    return out;
  }

  TempDir dir_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(Execute, EachKindOfStep) {
  const Plan plan = everything();
  MemorySink sink;
  execute(plan, sink, {.threads = 2});
  EXPECT_TRUE(sink.finished);
  const std::string small = testing::f32_bytes(7, 2);
  EXPECT_EQ(sink.tensors[0], small);
  const std::vector<float> source = values(testing::f32_bytes(300000, 1), DType::f32);
  const std::vector<float> converted = values(sink.tensors[1], DType::bf16),
                           noisy = values(sink.tensors[3], DType::f16);
  double squares = 0;
  for (size_t i = 0; i < source.size(); i++) {
    ASSERT_EQ(converted[i], bf16_to_f32(f32_to_bf16(source[i])));
    const float expected = source[i] + 0.5f * RandomStream(5, "big").normal(i);
    ASSERT_EQ(noisy[i], f16_to_f32(f32_to_f16(expected))) << i;
    squares += std::pow(noisy[i] - source[i], 2);
  }
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(source.size())), 0.5, 0.01);
  EXPECT_EQ(sink.tensors[2].substr(0, 28), small);
  const std::vector<float> doubled = values(sink.tensors[2].substr(28), DType::f32);
  for (size_t i = 0; i < 7; i++) EXPECT_EQ(doubled[i], 2 * values(small, DType::f32)[i]);
  EXPECT_EQ(values(sink.tensors[4], DType::f32), (std::vector<float>{1, 2}));
}

TEST_F(Execute, TotalsAddUp) {
  const Plan plan = everything();
  const PlanTotals totals = plan.totals();
  MemorySink sink;
  execute(plan, sink, {.threads = 1});
  EXPECT_EQ(totals.bytes, sink.written);
  EXPECT_EQ(totals.copied + totals.converted + totals.computed, totals.bytes);
  EXPECT_EQ(totals.copied, 28 + 28);
  EXPECT_EQ(totals.computed, 8);
}

TEST_F(Execute, AnyNumberOfThreadsGivesTheSameBytes) {
  const Plan plan = everything();
  MemorySink one, many;
  execute(plan, one, {.threads = 1});
  execute(plan, many, {.threads = 7});
  EXPECT_EQ(one.tensors, many.tensors);
}

TEST_F(Execute, ASinkThatFailsAtAnyWriteEndsTheRun) {
  const Plan plan = everything();
  for (int at = 0; at < 14; at++) {
    MemorySink sink(at);
    EXPECT_THROW(execute(plan, sink, {.threads = 3}), Error) << at;
    EXPECT_FALSE(sink.finished);
  }
}

TEST_F(Execute, CheckStopsTheRun) {
  MemorySink sink;
  const auto check = [] { fail(ErrorKind::input, "the routers failed"); };
  EXPECT_THROW(execute(everything(), sink, {.threads = 2, .check = check}), Error);
  EXPECT_FALSE(sink.finished);
}

TEST_F(Execute, ScalesInTheSourceType) {
  dir_.write("bf/model.safetensors",
             testing::safetensors_bytes({{"w", "BF16", {1}, std::string("\x81\x3f", 2)}}));  // 1.0078125
  const Checkpoint checkpoint(dir_ / "bf");
  Plan plan;
  plan.steps.push_back(
      {{"w", DType::f32, {1}},
       Concat{{{.source = &checkpoint.at("w"), .noise_stream = "w", .residual_scale = 0.3}}}});
  MemorySink sink;
  execute(plan, sink, {.threads = 1});
  EXPECT_EQ(values(sink.tensors[0], DType::f32)[0], bf16_to_f32(f32_to_bf16(1.0078125f * 0.3f)));
}

// -------- GGUF sources: rows in another order, block types

// A matrix of 2 heads, 500 rows each and enough of them for several pieces of work, as q or as an ordinary
// one.
class FromGguf : public ::testing::Test {
 protected:
  static constexpr int64_t kRows = 1000, kColumns = 256;

  FromGguf() {
    std::vector<std::byte> blocks(static_cast<size_t>(byte_size(DType::q4_k, kRows * kColumns)));
    const std::vector<float> values = as_floats(matrix_);
    quantize_rows(DType::q4_k, values, kColumns, {}, blocks);
    blocks_.assign(reinterpret_cast<const char*>(blocks.data()), blocks.size());
    const Shape shape = {kRows, kColumns};
    dir_.write("m.gguf", testing::gguf_bytes(
                             {}, {{{"f32 q", DType::f32, shape}, testing::rotary_rows(matrix_, kRows, 2)},
                                  {{"f32", DType::f32, shape}, matrix_},
                                  {{"blocks q", DType::q4_k, shape}, testing::rotary_rows(blocks_, kRows, 2)},
                                  {{"blocks", DType::q4_k, shape}, blocks_}}));
    checkpoint_ =
        std::make_unique<Checkpoint>(open_gguf(dir_ / "m.gguf"), [](const TensorSpec& spec) -> GgufAlias {
          return {spec.name, spec.name.ends_with(" q") ? 2 : 0};
        });
  }

  static std::vector<float> as_floats(const std::string& bytes) {
    std::vector<float> values(bytes.size() / 4);
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  // One output tensor made of one stored one.
  std::string made(const char* name, DType dtype, double noise = 0, double scale = 1) const {
    Plan plan;
    plan.steps.push_back({{"out", dtype, {kRows, kColumns}},
                          Concat{{{.source = &checkpoint_->at(name),
                                   .noise_stream = "noise",
                                   .noise_scale = noise,
                                   .residual_scale = scale}}}});
    MemorySink sink;
    execute(plan, sink, {.threads = 2});
    EXPECT_EQ(sink.written, plan.totals().bytes);
    return sink.tensors[0];
  }

  // What to_f32() makes of the blocks, rounded to a type.
  std::string dequantized(DType dtype) const {
    std::vector<float> values(kRows * kColumns);
    to_f32(DType::q4_k, std::as_bytes(std::span(blocks_)), values);
    std::string out(static_cast<size_t>(byte_size(dtype, std::ssize(values))), '\0');
    from_f32(values, dtype, std::as_writable_bytes(std::span(out)));
    return out;
  }

  TempDir dir_;
  std::string matrix_ = testing::f32_bytes(kRows * kColumns, 3), blocks_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

TEST_F(FromGguf, CopiesComeInTheModelsOrder) {
  EXPECT_EQ(made("f32", DType::f32), matrix_);
  EXPECT_EQ(made("f32 q", DType::f32), matrix_);
  EXPECT_EQ(made("blocks", DType::q4_k), blocks_);
  EXPECT_EQ(made("blocks q", DType::q4_k), blocks_);
}

TEST_F(FromGguf, ConversionsComeInTheModelsOrder) {
  EXPECT_EQ(made("f32 q", DType::bf16), made("f32", DType::bf16));
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    EXPECT_EQ(made("blocks", dtype), dequantized(dtype));
    EXPECT_EQ(made("blocks q", dtype), dequantized(dtype));
  }
}

TEST_F(FromGguf, NoiseDoesNotDependOnTheStoredOrder) {
  EXPECT_EQ(made("f32 q", DType::f32, 0.5, 2), made("f32", DType::f32, 0.5, 2));
  EXPECT_EQ(made("blocks q", DType::f32, 0.5, 2), made("blocks", DType::f32, 0.5, 2));
  // Block types cannot hold the changed values: they are rounded once, at the end.
  const std::vector<float> values = as_floats(made("blocks", DType::f32, 0, 0.3)),
                           source = as_floats(dequantized(DType::f32));
  for (size_t i = 0; i < values.size(); i++) ASSERT_EQ(values[i], source[i] * 0.3f);
}

TEST_F(FromGguf, NamesTheFile) {
  Plan plan;
  plan.steps.push_back({{"out", DType::f16, {kRows, kColumns}},
                        Concat{{{.source = &checkpoint_->at("blocks"), .noise_stream = {}}}}});
  EXPECT_EQ(describe_sources(plan.steps[0]), (dir_ / "m.gguf").string() + ": blocks (Q4_K)");
}

TEST_F(Execute, DescribesItsSteps) {
  const Plan plan = everything();
  EXPECT_NE(describe(plan.steps[2]).find("small x 2"), std::string::npos);
  EXPECT_NE(describe(plan.steps[3]).find("big (float32) + noise 0.5"), std::string::npos);
  EXPECT_EQ(describe(plan.steps[4]), "filled  float32 [2]  <- two");
}

TEST_F(Execute, BuffersAreCounted) {
  const Plan all = everything();
  const auto only = [&](std::initializer_list<size_t> steps) {
    Plan plan;
    for (const size_t step : steps) plan.steps.push_back(all.steps[step]);
    return plan;
  };
  constexpr int64_t kChunk = 64 * 1024;
  EXPECT_EQ(buffer_bytes(only({}), 4), 0);
  EXPECT_EQ(buffer_bytes(only({0}), 4), 28);                       // no larger than what is copied
  EXPECT_EQ(buffer_bytes(only({1}), 4), kChunk * 2);               // bf16; one piece of work, one thread
  EXPECT_EQ(buffer_bytes(only({1, 3}), 1), kChunk * (4 + 2 + 4));  // the larger one: it is rounded to float32
  EXPECT_EQ(buffer_bytes(only({1, 3}), 2), kChunk * 2 + kChunk * (4 + 2 + 4));
  EXPECT_EQ(buffer_bytes(only({4}), 4), 2 * (4 + 4));
}

TEST_F(Execute, BuffersOfComputedValuesAreLarger) {
  StoredTensor derived = checkpoint_->at("big");
  derived.derivation = std::make_shared<Derivation>(Derivation{checkpoint_->at("big"), "", {}});
  Plan plan;
  plan.steps.push_back({{"x", DType::f32, {300, 1000}}, Concat{{{.source = &derived, .noise_stream = {}}}}});
  EXPECT_EQ(buffer_bytes(plan, 1), 300'000 * (4 + 12));
}

}  // namespace
}  // namespace moerge
