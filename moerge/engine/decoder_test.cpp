// Compares with hidden states that transformers computed in float32: tests/engine/make_reference.py.
#include "moerge/engine/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/engine/rope.h"
#include "moerge/tensor/convert.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;

const fs::path kRepository = MOERGE_SOURCE_DIR;
const fs::path kData = kRepository / "tests/engine";

using States = std::vector<std::vector<float>>;  // [layers][tokens * hidden]

struct Case {
  Json config;
  fs::path weights;
  std::vector<TokenSequence> sequences;
  std::vector<size_t> rows;

  explicit Case(const std::string& name) {
    const Json json = read_json(kData / (name + ".json"));
    config = json["config"];
    weights = config.is_null() ? kRepository / json["weights"].get<std::string>() : kData / json["weights"];
    sequences = json["sequences"].get<std::vector<TokenSequence>>();
    rows = json["rows"].get<std::vector<size_t>>();
  }

  /// A model folder in `dir` (or the one in the repository).
  fs::path folder(const testing::TempDir& dir) const {
    if (config.is_null()) return weights;
    dir.write("config.json", config.dump());
    fs::copy_file(weights, dir / "model.safetensors", fs::copy_options::overwrite_existing);
    return dir.path();
  }
};

// One thread: the models are so small that handing work over would take longer than doing it.
constexpr int kThreads = 1;

States encode(const Model& model, std::span<const TokenSequence> sequences,
              const DecoderOptions& options = {.threads = kThreads}) {
  States out;
  StreamingDecoder(model, options).encode(sequences, [&](int64_t layer, std::span<const float> states) {
    EXPECT_EQ(layer, std::ssize(out));
    out.emplace_back(states.begin(), states.end());
  });
  EXPECT_EQ(std::ssize(out), model.config.layers);
  return out;
}

double cosine(std::span<const float> a, std::span<const float> b) {
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); i++)
    ab += double{a[i]} * b[i], aa += double{a[i]} * a[i], bb += double{b[i]} * b[i];
  return ab / std::sqrt(aa * bb);
}

// |a - b| / |b| over all values.
double distance(std::span<const float> a, std::span<const float> b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); i++) difference += std::pow(a[i] - b[i], 2), norm += std::pow(b[i], 2);
  return std::sqrt(difference / norm);
}

struct Worst {
  double cosine = 1, distance = 0;
};

// The least similar token of all layers.
Worst compare(const std::string& name, WeightType weights = WeightType::as_stored) {
  const testing::TempDir dir;
  const Case reference(name);
  const Model model(name, {reference.folder(dir)});
  const States states = encode(model, reference.sequences, {.threads = kThreads, .weights = weights});
  const auto hidden = static_cast<size_t>(model.config.hidden);
  const std::string bytes = read_file(kData / (name + ".states"), 1 << 24);
  std::vector<float> expected(bytes.size() / sizeof(float));
  std::memcpy(expected.data(), bytes.data(), bytes.size());
  EXPECT_EQ(expected.size(), states.size() * reference.rows.size() * hidden);

  Worst worst;
  std::span<const float> next = expected;
  for (const std::vector<float>& layer : states)
    for (const size_t row : reference.rows) {
      const std::span<const float> token = std::span(layer).subspan(row * hidden, hidden);
      worst.cosine = std::min(worst.cosine, cosine(token, next.first(hidden)));
      worst.distance = std::max(worst.distance, distance(token, next.first(hidden)));
      next = next.subspan(hidden);
    }
  ::testing::Test::RecordProperty(
      fmt::format("{}_{}", name, static_cast<int>(weights)),
      fmt::format("cosine 1-{:.1e}, distance {:.1e}", 1 - worst.cosine, worst.distance));
  return worst;
}

// -------- reference

class Reference : public ::testing::TestWithParam<std::string> {};

TEST_P(Reference, SameStatesAsTransformers) {
  const Worst worst = compare(GetParam());
  EXPECT_GE(worst.cosine, 0.999999);
  EXPECT_LE(worst.distance, 2e-4);
}

INSTANTIATE_TEST_SUITE_P(Float32, Reference,
                         ::testing::Values("f32", "sliding_window", "sliding_window_wide", "rope_linear",
                                           "rope_dynamic", "rope_llama3", "rope_yarn", "rope_yarn_options"));

// ggml rounds the activations to the type of the weights.
TEST(Decoder, Float16Weights) {
  EXPECT_GE(compare("f16").cosine, 0.9999);
  EXPECT_GE(compare("attention_bias").cosine, 0.9999);
}

TEST(Decoder, Bfloat16Weights) {
  EXPECT_GE(compare("bf16").cosine, 0.999);
  EXPECT_GE(compare("family_base").cosine, 0.999);
}

TEST(Decoder, QuantizedWeights) {
  EXPECT_GE(compare("family_base", WeightType::q8_0).cosine, 0.99);
  EXPECT_GE(compare("family_base", WeightType::q4_1).cosine, 0.95);
  // Rows of 48 are no multiple of 32: ffn_down stays float32. (A random model whose attention is easily
  // swayed.)
  EXPECT_GE(compare("f32", WeightType::q8_0).cosine, 0.98);
}

// -------- batching

TEST(Decoder, SequencesDoNotDependOnTheirCompany) {
  const testing::TempDir dir;
  for (const char* name : {"f32", "family_base"}) {
    const Case reference(name);
    const Model model(name, {reference.folder(dir)});
    const double tolerance = std::string_view(name) == "f32" ? 1e-6 : 1e-3;
    const States together = encode(model, reference.sequences);
    size_t first = 0;
    for (const TokenSequence& sequence : reference.sequences) {
      const States alone = encode(model, std::span(&sequence, 1));
      const size_t count = sequence.size() * static_cast<size_t>(model.config.hidden);
      for (size_t layer = 0; layer < alone.size(); layer++)
        EXPECT_LE(distance(alone[layer], std::span(together[layer]).subspan(first, count)), tolerance)
            << layer;
      first += count;
    }
    for (const auto& [batch, threads] : {std::pair(7, 1), std::pair(40, 2), std::pair(100'000, 3)}) {
      const States split =
          encode(model, reference.sequences, {.threads = threads, .max_batch_tokens = batch});
      for (size_t layer = 0; layer < split.size(); layer++)
        EXPECT_LE(distance(split[layer], together[layer]), tolerance) << layer << " in batches of " << batch;
    }
  }
}

TEST(Decoder, NoSequences) {
  const testing::TempDir dir;
  const Model model("f32", {Case("f32").folder(dir)});
  for (const std::vector<float>& states : encode(model, {})) EXPECT_TRUE(states.empty());
}

TEST(Decoder, IsUsedAgain) {
  const testing::TempDir dir;
  const Case reference("bf16");
  const Model model("bf16", {reference.folder(dir)});
  StreamingDecoder decoder(model, {.threads = kThreads});
  for (int i = 0; i < 2; i++)
    EXPECT_THROW(decoder.encode(reference.sequences, [](int64_t, auto) { throw std::string("enough"); }),
                 std::string);
  States states;
  decoder.encode(reference.sequences,
                 [&](int64_t, auto part) { states.emplace_back(part.begin(), part.end()); });
  EXPECT_EQ(states, encode(model, reference.sequences));
}

// -------- errors

// The message of the error of `action`, after checking its kind.
template <typename Action>
std::string message(ErrorKind kind, const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

#define EXPECT_MESSAGE(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

// Encodes with a config.json changed by `changes`.
void encode_with(const Json& changes, TokenSequence sequence = {1, 2, 3},
                 const DecoderOptions& options = {.threads = kThreads}) {
  const testing::TempDir dir;
  Case reference("f32");
  reference.config.merge_patch(changes);
  const Model model("model", {reference.folder(dir)});
  StreamingDecoder(model, options).encode(std::span(&sequence, 1), [](int64_t, auto) {});
}

TEST(DecoderErrors, WhatTheConfigurationAsks) {
  const auto refused = [](const Json& changes) {
    return message(ErrorKind::unsupported, [&] { encode_with(changes); });
  };
  const std::string rope = refused({{"rope_scaling", {{"rope_type", "longrope"}}}});
  EXPECT_MESSAGE(rope, "rope type \"longrope\"");
  EXPECT_MESSAGE(rope, "gate_mode cheap_embed or random need no forward pass");
  const std::string activation = refused({{"hidden_act", "gelu"}});
  EXPECT_MESSAGE(activation, "activation \"gelu\" is not supported");
  EXPECT_MESSAGE(activation, "gate_mode cheap_embed or random need no forward pass");
  EXPECT_MESSAGE(refused({{"mlp_bias", true}}), "\"mlp_bias\" is not supported");
}

TEST(DecoderErrors, RopeNumbers) {
  const auto refused = [](const Json& scaling) {
    return message(ErrorKind::input, [&] { encode_with({{"rope_scaling", scaling}}); });
  };
  EXPECT_MESSAGE(refused({{"rope_type", "linear"}}), "has no \"factor\"");
  EXPECT_MESSAGE(refused({{"rope_type", "linear"}, {"factor", 0}}), "\"factor\" in rope_scaling is 0");
  EXPECT_MESSAGE(refused({{"rope_type", "llama3"}, {"factor", 8}}), "has no \"low_freq_factor\"");
  EXPECT_MESSAGE(refused({{"rope_type", "yarn"}, {"factor", "8"}}), "factor");
}

TEST(DecoderErrors, DynamicRopeIsBoundedByTheMaximum) {
  const Json changes = {{"rope_scaling", {{"rope_type", "dynamic"}, {"factor", 2.0}}},
                        {"max_position_embeddings", 8}};
  encode_with(changes, TokenSequence(8, 1));
  EXPECT_MESSAGE(message(ErrorKind::unsupported, [&] { encode_with(changes, TokenSequence(9, 1)); }),
                 "a prompt of 9 tokens");
}

TEST(DecoderErrors, Prompts) {
  for (const int32_t token : {-1, 64})
    EXPECT_MESSAGE(message(ErrorKind::input,
                           [&] {
                             encode_with(Json::object(), {1, token});
                           }),
                   fmt::format("token {} is outside its vocabulary of 64", token));
  EXPECT_MESSAGE(message(ErrorKind::input, [] { encode_with(Json::object(), {}); }), "without tokens");
}

TEST(DecoderErrors, Device) {
  const std::string text =
      message(ErrorKind::usage, [] { encode_with(Json::object(), {1}, {.device = "abacus"}); });
  EXPECT_MESSAGE(text, "no device \"abacus\"");
  EXPECT_MESSAGE(text, "\"CPU\"");
}

// The weights of case "f32" with one tensor's header entry edited or its first value overwritten.
class Edited {
 public:
  explicit Edited(const std::string& name) {
    reference_.folder(dir_);
    bytes_ = read_file(dir_ / "model.safetensors", 1 << 24);
    uint64_t length = 0;
    std::memcpy(&length, bytes_.data(), sizeof length);
    header_ = parse_json(std::string_view(bytes_).substr(8, length), "header");
    data_ = bytes_.substr(8 + length);
    name_ = name;
  }
  Json& entry() { return header_[name_]; }
  void set_first(float value) {
    std::memcpy(data_.data() + entry()["data_offsets"][0].get<size_t>(), &value, sizeof value);
  }
  std::string run(ErrorKind kind) const {
    std::string header = header_.dump();
    const uint64_t length = header.size();
    dir_.write("model.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + header + data_);
    return message(kind, [&] {
      const Model model("model", {dir_.path()});
      const std::vector<TokenSequence> sequences = {{0, 1, 2}};
      StreamingDecoder(model, {.threads = kThreads}).encode(sequences, [](int64_t, auto) {});
    });
  }

 private:
  testing::TempDir dir_;
  Case reference_{"f32"};
  std::string bytes_, data_, name_;
  Json header_;
};

TEST(DecoderErrors, Weights) {
  const std::string name = "model.layers.1.self_attn.q_proj.weight";  // [64, 32]
  Edited shape(name);
  shape.entry()["shape"] = {32, 64};
  EXPECT_MESSAGE(shape.run(ErrorKind::input), "is [32, 64], config.json says [64, 32]");
  Edited type(name);
  type.entry()["dtype"] = "I32";
  EXPECT_MESSAGE(type.run(ErrorKind::unsupported),
                 "q_proj.weight\" is int32; the forward pass takes float32");
  Edited flat(name);
  flat.entry()["shape"] = {64 * 32};
  EXPECT_MESSAGE(flat.run(ErrorKind::input), "is [2048], config.json says [64, 32]");
}

TEST(DecoderErrors, StatesThatAreNotFinite) {
  Edited embedding("model.embed_tokens.weight");
  embedding.set_first(NAN);
  EXPECT_MESSAGE(embedding.run(ErrorKind::input), "embeddings of these prompts hold infinite values or NaN");
  for (const char* weight : {"mlp.up_proj.weight", "self_attn.k_proj.weight"})
    for (const float value : {NAN, INFINITY}) {
      Edited layer(std::string("model.layers.1.") + weight);
      layer.set_first(value);
      EXPECT_MESSAGE(layer.run(ErrorKind::input), "what layer 1 computes holds infinite values or NaN");
    }
}

// -------- rope

TEST(Rope, NeedsOnlyNumbers) {
  ModelConfig config;
  config.head_dim = 8;
  config.max_positions = 64;
  const RopeFrequencies plain = rope_frequencies(config);
  ASSERT_EQ(plain.inverse.size(), 4u);
  for (size_t i = 0; i < 4; i++) EXPECT_FLOAT_EQ(plain.inverse[i], std::pow(10.0f, -static_cast<float>(i)));
  EXPECT_EQ(plain.attention_factor, 1.0f);

  config.rope.type = "yarn";
  config.rope.scaling = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_FLOAT_EQ(rope_frequencies(config).attention_factor, 0.1f * std::log(4.0f) + 1);
  config.rope.scaling["attention_factor"] = 1.25;
  EXPECT_FLOAT_EQ(rope_frequencies(config).attention_factor, 1.25f);

  config.rope.type = "llama3";
  config.rope.scaling = {{"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
  // Wavelengths 6, 63, 628 and 6283 with a length of 64: kept, between, divided, divided.
  const std::vector<float> stretched = rope_frequencies(config).inverse;
  EXPECT_FLOAT_EQ(stretched[0], 1.0f);
  EXPECT_GT(stretched[1], 0.1f / 8);
  EXPECT_LT(stretched[1], 0.1f);
  EXPECT_FLOAT_EQ(stretched[2], 0.01f / 8);
}

}  // namespace
}  // namespace moerge
