// Compares with what llama.cpp's own tool measured: tests/engine/imatrix.
#include "moerge/engine/imatrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/formats/gguf.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;
using testing::TempDir;

const fs::path kData = fs::path(MOERGE_SOURCE_DIR) / "tests/engine/imatrix";
const fs::path kModel = kData / "model.gguf";
constexpr int64_t kSize = 64, kChunks = 4;

std::string text() {
  std::string text = read_file(kData / "text.txt", 1 << 20);
  text.pop_back();  // the tool drops the last line end
  return text;
}

Imatrix collect(const fs::path& model, std::string_view text, ImatrixOptions options = {}) {
  if (options.threads == 0) options.threads = 1;
  if (options.chunk_size == ImatrixOptions().chunk_size) options.chunk_size = kSize;
  Reporter reporter(Verbosity::quiet);
  return collect_imatrix(model, text, options, reporter);
}

std::vector<float> floats(std::string_view file, const GgufHeader& header, const std::string& name) {
  for (const GgufTensor& tensor : header.tensors)
    if (tensor.spec.name == name) {
      std::vector<float> values(static_cast<size_t>(tensor.spec.elements()));
      std::memcpy(values.data(), file.data() + tensor.offset, values.size() * sizeof(float));
      return values;
    }
  ADD_FAILURE() << "no tensor " << name;
  return {};
}

GgufHeader parse(const std::string& file) { return parse_gguf(std::as_bytes(std::span(file)), "test"); }

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.message();
  }
  return "no error";
}

void expect_error(const std::string& sentence, const std::function<void()>& run) {
  const std::string message = error_of(run);
  EXPECT_NE(message.find(sentence), std::string::npos) << message;
}

// The model with another header: same tensors, changed metadata.
std::string with_metadata(const std::function<void(GgufMetadata&)>& change) {
  const std::string file = read_file(kModel, 1 << 20);
  GgufHeader header = parse(file);
  change(header.metadata);
  std::vector<TensorSpec> specs;
  for (const GgufTensor& tensor : header.tensors) specs.push_back(tensor.spec);
  const GgufLayout layout = layout_gguf(header.metadata, specs);
  std::string out = layout.header;
  out.resize(static_cast<size_t>(layout.file_size));
  for (size_t i = 0; i < specs.size(); i++)
    std::memcpy(out.data() + layout.offsets[i], file.data() + header.tensors[i].offset,
                static_cast<size_t>(specs[i].bytes()));
  return out;
}

TEST(Imatrix, IsTheOneOfLlamaCpp) {
  const Imatrix found = collect(kModel, text(), {.process_output = true});
  EXPECT_EQ(found.chunks, kChunks);
  EXPECT_EQ(found.chunk_size, kSize);
  const std::string file = read_file(kData / "reference.gguf", 1 << 20);
  const GgufHeader header = parse(file);
  ASSERT_EQ(found.tensors.size() * 2, header.tensors.size());
  for (const auto& [name, squares] : found.tensors) {
    const std::vector<float> counts = floats(file, header, name + ".counts");
    EXPECT_EQ(std::vector<float>(squares.counts.begin(), squares.counts.end()), counts) << name;
    const std::vector<float> sums = floats(file, header, name + ".in_sum2");
    ASSERT_EQ(squares.sums.size(), sums.size()) << name;
    // Keys and values are kept in 16 bits; kernels of other processors round to the other side now and then.
    for (size_t i = 0; i < sums.size(); i++) ASSERT_NEAR(squares.sums[i], sums[i], 1e-3 * sums[i]) << name;
  }
}

TEST(Imatrix, LeavesTheOutputOutAndTheRestAsItIs) {
  const Imatrix all = collect(kModel, text(), {.process_output = true});
  const Imatrix found = collect(kModel, text());
  EXPECT_FALSE(found.tensors.contains("output.weight"));
  EXPECT_EQ(found.tensors.size() + 1, all.tensors.size());
  for (const auto& [name, squares] : found.tensors) {
    EXPECT_EQ(squares.sums, all.tensors.at(name).sums) << name;
    EXPECT_EQ(squares.counts, all.tensors.at(name).counts) << name;
  }
}

TEST(Imatrix, DoesNotDependOnTheThreads) {
  const Imatrix one = collect(kModel, text()), three = collect(kModel, text(), {.threads = 3});
  for (const auto& [name, squares] : one.tensors)
    EXPECT_EQ(squares.sums, three.tensors.at(name).sums) << name;
}

TEST(Imatrix, ReadsSoManyChunksAsAreAskedFor) {
  const Imatrix two = collect(kModel, text(), {.max_chunks = 2});
  EXPECT_EQ(two.chunks, 2);
  EXPECT_EQ(two.tensors.at("blk.0.attn_q.weight").counts, std::vector<int64_t>{2 * kSize});
  EXPECT_EQ(collect(kModel, text(), {.max_chunks = 99}).chunks, kChunks);
  // The first two chunks do not know what follows.
  const std::string half = text().substr(0, text().size() / 2);
  EXPECT_EQ(collect(kModel, half).tensors.at("blk.1.ffn_down_exps.weight").sums,
            two.tensors.at("blk.1.ffn_down_exps.weight").sums);
}

TEST(Imatrix, EveryTokenGoesToTwoExperts) {
  for (const ExpertLoad& load : expert_loads(collect(kModel, text()))) {
    ASSERT_EQ(load.tokens.size(), 3u);
    EXPECT_EQ(load.tokens[0] + load.tokens[1] + load.tokens[2], 2 * kChunks * kSize);
    EXPECT_EQ(load.even_share(), 2 * kChunks * kSize / 3);
  }
}

TEST(Imatrix, RefusesATextOfLessThanAChunk) {
  expect_error("the text has 6 tokens, one chunk needs 64", [] { collect(kModel, "hello"); });  // with BOS
  expect_error("the text has 1 tokens", [] { collect(kModel, ""); });
  EXPECT_EQ(collect(kModel, std::string(63, 'x')).chunks, 1);
}

TEST(Imatrix, RefusesOptionsThatAreNone) {
  expect_error("this build has no device \"nosuch\"", [] { collect(kModel, text(), {.device = "nosuch"}); });
  expect_error("chunks of 15 tokens", [] { collect(kModel, text(), {.chunk_size = 15}); });
  expect_error("0 chunks", [] { collect(kModel, text(), {.max_chunks = 0}); });
}

TEST(Imatrix, RefusesFilesThatAreNoModel) {
  const TempDir dir;
  expect_error("no GGUF file", [&] { collect(dir.write("text.gguf", "once upon a time"), text()); });
  expect_error("type \"imatrix\", expected a model", [] { collect(kData / "reference.gguf", text()); });
  const std::string model = read_file(kModel, 1 << 20);
  expect_error("truncated", [&] { collect(dir.write("cut.gguf", model.substr(0, 50000)), text()); });
  expect_error("cannot open", [&] { collect(dir / "absent.gguf", text()); });
}

TEST(Imatrix, SaysWhatLlamaCppSaysOfAModelThatItDoesNotLoad) {
  const TempDir dir;
  const std::string strange = with_metadata([](GgufMetadata& m) { m.set("general.architecture", "nosuch"); });
  expect_error("unknown model architecture: 'nosuch'",
               [&] { collect(dir.write("strange.gguf", strange), text()); });
  // An assertion in llama.cpp, which would end the process.
  const std::string greedy =
      with_metadata([](GgufMetadata& m) { m.set("llama.expert_used_count", uint32_t{9}); });
  expect_error("n_expert_used_max <= hparams.n_expert",
               [&] { collect(dir.write("greedy.gguf", greedy), text()); });
  EXPECT_EQ(collect(kModel, text()).chunks, kChunks);  // and the next run is as if nothing had happened
  const std::string mute =
      with_metadata([](GgufMetadata& m) { m.set("tokenizer.ggml.model", std::string("none")); });
  expect_error("holds no tokenizer", [&] { collect(dir.write("mute.gguf", mute), text()); });
}

TEST(Imatrix, ReplacesTheFirstTokenOfEachChunkByBos) {
  const TempDir dir;
  const std::string without =
      with_metadata([](GgufMetadata& m) { m.set("tokenizer.ggml.add_bos_token", false); });
  const Imatrix plain = collect(dir.write("model.gguf", without), text());
  EXPECT_NE(plain.tensors.at("blk.0.attn_q.weight").sums,
            collect(kModel, text()).tensors.at("blk.0.attn_q.weight").sums);
  EXPECT_EQ(plain.chunks, kChunks);
}

TEST(Imatrix, RefusesActivationsThatAreNotFinite) {
  const TempDir dir;
  std::string model = read_file(kModel, 1 << 20);
  const float nan = NAN;
  for (const GgufTensor& tensor : parse(model).tensors)
    if (tensor.spec.name == "blk.0.ffn_up_exps.weight")
      for (int64_t i = 0; i < tensor.spec.elements(); i++)
        std::memcpy(model.data() + tensor.offset + i * 4, &nan, sizeof nan);
  expect_error("what \"blk.0.ffn_down_exps.weight\" is multiplied with is not finite",
               [&] { collect(dir.write("nan.gguf", model), text()); });
}

// -------- experts

TEST(ExpertLoads, AreThoseOfStackedTensorsInTheOrderOfLayers) {
  Imatrix imatrix;
  imatrix.tensors["blk.10.ffn_down_exps.weight"] = {{}, {1, 2}};
  imatrix.tensors["blk.2.ffn_up_exps.weight"] = {{}, {3, 4}};
  imatrix.tensors["blk.2.ffn_down_exps.weight"] = {{}, {3, 4}};
  imatrix.tensors["blk.0.ffn_down.weight"] = {{}, {7}};
  imatrix.tensors["blk.x.ffn_down_exps.weight"] = {{}, {8, 8}};
  imatrix.tensors["blk.99999999999999999999.ffn_down_exps.weight"] = {{}, {8, 8}};
  const std::vector<ExpertLoad> loads = expert_loads(imatrix);
  ASSERT_EQ(loads.size(), 2u);
  EXPECT_EQ(loads[0].layer, 2);
  EXPECT_EQ(loads[0].tokens, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(loads[1].layer, 10);
}

TEST(LoadWarnings, NameExpertsThatSawTooLittle) {
  EXPECT_TRUE(load_warnings({}).empty());
  EXPECT_TRUE(load_warnings(std::vector<ExpertLoad>{{0, {kFewTokens, 5000}}}).empty());
  const std::vector<ExpertLoad> loads = {
      {0, {0, 5000, 5000}}, {3, {0, kFewTokens - 1, 5000}}, {4, {5000, 5000, 0}}, {5, {100000, 700, 100000}}};
  const std::vector<std::string> warnings = load_warnings(loads);
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_NE(warnings[0].find("no token of the text: expert 0 (layers 0, 3), expert 2 (layer 4): their"),
            std::string::npos)
      << warnings[0];
  // Expert 1 of layer 5 has more than a hundredth of an even share, 66900.
  EXPECT_NE(warnings[1].find("the fewest: 127 of an even 1709): expert 1 (layer 3): which"),
            std::string::npos)
      << warnings[1];
  const std::vector<ExpertLoad> idle = {{0, {1000000, 2000}}};
  EXPECT_EQ(load_warnings(idle).size(), 1u);
}

TEST(LoadWarnings, StayShort) {
  std::vector<ExpertLoad> loads;
  for (int64_t layer = 0; layer < 40; layer++) loads.push_back({layer, std::vector<int64_t>(64, 0)});
  const std::vector<std::string> warnings = load_warnings(loads);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("expert 7 (40 layers), 56 more experts:"), std::string::npos) << warnings[0];
}

}  // namespace
}  // namespace moerge
