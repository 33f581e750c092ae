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
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;

const fs::path kRepository = MOERGE_SOURCE_DIR;
const fs::path kData = kRepository / "tests/engine";

using States = std::vector<std::vector<float>>;  // [layers][tokens * hidden]

// The same safetensors file with `parts` of its tensors' names replaced, one after the other.
std::string with_other_names(const std::string& file, const Json& parts) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  const std::string data = file.substr(8 + length);
  Json header = Json::object();
  const Json before = parse_json(std::string_view(file).substr(8, length), "header");
  for (const auto& [key, entry] : before.items()) {
    std::string name = key;
    for (const auto& [old, now] : parts.items())
      for (size_t at = name.find(old); at != std::string::npos; at = name.find(old))
        name.replace(at, old.size(), now.get<std::string>());
    header[name] = entry;
  }
  const std::string text = header.dump();
  length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), 8) + text + data;
}

struct Case {
  Json config, rename;
  fs::path weights;
  std::vector<TokenSequence> sequences;
  std::vector<size_t> rows;
  Json outputs;

  explicit Case(const std::string& name) {
    const Json json = read_json(kData / (name + ".json"));
    config = json["config"];
    rename = json.value("rename", Json::object());
    weights = config.is_null() ? kRepository / json["weights"].get<std::string>() : kData / json["weights"];
    sequences = json["sequences"].get<std::vector<TokenSequence>>();
    rows = json["rows"].get<std::vector<size_t>>();
    outputs = json["outputs"];
  }

  /// A model folder in `dir` (or the one in the repository).
  fs::path folder(const testing::TempDir& dir) const {
    if (config.is_null()) return weights;
    dir.write("config.json", config.dump());
    dir.write("model.safetensors", with_other_names(read_file(weights, 1 << 24), rename));
    return dir.path();
  }
};

// One thread: the models are so small that handing work over would take longer than doing it.
constexpr int kThreads = 1;

const PassTaps kToTheEnd = {.leaving = [](auto) {}};

States encode(const Model& model, std::span<const TokenSequence> sequences,
              const DecoderOptions& options = {.threads = kThreads}) {
  States out;
  const auto keep = [&](int64_t layer, std::span<const float> states) {
    EXPECT_EQ(layer, std::ssize(out));
    out.emplace_back(states.begin(), states.end());
  };
  StreamingDecoder(model, options).encode(sequences, {.entering = keep});
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

TEST_P(Reference, SameOutputsAsTransformers) {
  const testing::TempDir dir;
  const Case reference(GetParam());
  const Model model(GetParam(), {reference.folder(dir)});
  const TokenSequence& sequence = reference.sequences[reference.outputs["sequence"].get<size_t>()];
  const auto hidden = static_cast<size_t>(model.config.hidden);
  std::vector<float> inputs;  // of the last token
  const auto keep = [&](const RouterView& view) {
    EXPECT_EQ(view.inputs.size(), sequence.size() * hidden);
    EXPECT_EQ(view.logits.size(), sequence.size() * static_cast<size_t>(model.config.experts));
    inputs.insert(inputs.end(), view.inputs.end() - model.config.hidden, view.inputs.end());
  };
  StreamingDecoder decoder(model, {.threads = kThreads, .max_batch_tokens = 17});
  const std::vector<float> found = decoder.log_probabilities(std::span(&sequence, 1), {.router = keep});
  const auto expected = reference.outputs["log_probabilities"].get<std::vector<float>>();
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); i++) EXPECT_NEAR(found[i], expected[i], 2e-4) << i;
  const auto rows = reference.outputs["router_inputs"].get<std::vector<std::vector<float>>>();
  ASSERT_EQ(inputs.size(), rows.size() * hidden);
  for (size_t layer = 0; layer < rows.size(); layer++)
    EXPECT_LE(distance(std::span(inputs).subspan(layer * hidden, hidden), rows[layer]), 2e-4) << layer;
}

INSTANTIATE_TEST_SUITE_P(Float32, Reference,
                         ::testing::Values("f32", "sliding_window", "sliding_window_wide", "rope_linear",
                                           "rope_dynamic", "rope_dynamic_beyond", "rope_llama3", "rope_yarn",
                                           "rope_yarn_options", "rope_long"));
INSTANTIATE_TEST_SUITE_P(Families, Reference,
                         ::testing::Values("qwen2", "qwen3", "qwen3_bias", "mixtral", "qwen2_moe",
                                           "qwen2_moe_options", "qwen3_moe", "deepseek"));

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
  for (const char* name : {"f32", "family_base", "rope_dynamic_beyond", "qwen2_moe"}) {
    const Case reference(name);
    const Model model(name, {reference.folder(dir)});
    const double tolerance = std::string_view(name) == "family_base" ? 1e-3 : 1e-6;
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
    EXPECT_THROW(
        decoder.encode(reference.sequences, {.entering = [](int64_t, auto) { throw std::string("enough"); }}),
        std::string);
  States states;
  decoder.encode(reference.sequences,
                 {.entering = [&](int64_t, auto part) { states.emplace_back(part.begin(), part.end()); }});
  EXPECT_EQ(states, encode(model, reference.sequences));
}

// -------- routers

TEST(DecoderRouters, TapDecidesInsteadOfTheModel) {
  const testing::TempDir dir;
  const Case reference("qwen2_moe");
  const Model model("qwen2_moe", {reference.folder(dir)});
  StreamingDecoder decoder(model, {.threads = kThreads});
  const auto run = [&](const PassTaps& taps) { return decoder.log_probabilities(reference.sequences, taps); };

  // The model's own logits and shares, given back.
  std::vector<std::vector<float>> logits, shares;
  const std::vector<float> own = run({.router = [&](const RouterView& view) {
    logits.emplace_back(view.logits.begin(), view.logits.end());
    shares.emplace_back(view.shared_shares.begin(), view.shared_shares.end());
  }});
  const auto replay = [&](const RouterView& view) {
    const auto layer = static_cast<size_t>(view.layer);
    for (const float logit : view.logits) EXPECT_EQ(logit, 0);
    std::ranges::copy(logits[layer], view.logits.begin());
    std::ranges::copy(shares[layer], view.shared_shares.begin());
  };
  EXPECT_EQ(run({.router = replay, .replaces_routers = true}), own);

  // Minus infinity keeps tokens away; an expert that nobody takes part in changes nothing.
  const auto force = [&](const RouterView& view, float other) {
    for (size_t i = 0; i < view.logits.size(); i++) view.logits[i] = i % 5 == 3 ? 1.0f : other;
  };
  const auto forced = [&](float other) {
    return run({.router = [&](const RouterView& view) { force(view, other); }, .replaces_routers = true});
  };
  EXPECT_EQ(forced(-INFINITY), forced(-1e30f));
  EXPECT_NE(forced(-INFINITY), forced(0.5f));
  EXPECT_THROW(forced(NAN), Error);
  EXPECT_THROW(run({.router = [&](const RouterView& view) { std::ranges::fill(view.logits, -INFINITY); },
                    .replaces_routers = true}),
               Error);
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
  StreamingDecoder(model, options).encode(std::span(&sequence, 1), kToTheEnd);
}

TEST(DecoderErrors, WhatTheConfigurationAsks) {
  const auto refused = [](const Json& changes) {
    return message(ErrorKind::unsupported, [&] { encode_with(changes); });
  };
  const std::string rope = refused({{"rope_scaling", {{"rope_type", "proportional"}}}});
  EXPECT_MESSAGE(rope, "rope type \"proportional\"");
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
  EXPECT_MESSAGE(refused({{"rope_type", "dynamic"}}), "has no \"factor\"");
  Json lists = {{"rope_type", "longrope"}, {"short_factor", std::vector<double>(8, 1)}};
  EXPECT_MESSAGE(refused(lists), "\"long_factor\" in rope_scaling should be a list of 8 positive numbers");
  for (const Json& list : {Json(std::vector<double>(7, 1)), Json(std::vector<double>(8, 0)), Json("long")}) {
    lists["long_factor"] = list;
    EXPECT_MESSAGE(refused(lists), "should be a list of 8 positive numbers");
  }
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

// The weights of a float32 case with one tensor's header entry edited or its first value overwritten.
class Edited {
 public:
  explicit Edited(const std::string& name, const std::string& case_name = "f32") : reference_(case_name) {
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
  void encode(const TokenSequence& sequence) const {
    std::string header = header_.dump();
    const uint64_t length = header.size();
    dir_.write("model.safetensors", std::string(reinterpret_cast<const char*>(&length), 8) + header + data_);
    const Model model("model", {dir_.path()});
    StreamingDecoder(model, {.threads = kThreads}).encode(std::span(&sequence, 1), kToTheEnd);
  }
  std::string run(ErrorKind kind) const {
    return message(kind, [&] { encode({0, 1, 2}); });
  }

 private:
  testing::TempDir dir_;
  Case reference_;
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

TEST(DecoderErrors, WeightsOfAMixture) {
  Edited router("model.layers.1.block_sparse_moe.gate.weight", "mixtral");
  router.set_first(NAN);
  EXPECT_MESSAGE(router.run(ErrorKind::input), "what layer 1 computes holds infinite values or NaN");
  Edited expert("model.layers.1.block_sparse_moe.experts.3.w1.weight", "mixtral");
  expert.entry()["shape"] = {32, 8};
  EXPECT_MESSAGE(expert.run(ErrorKind::input), "experts.3.w1.weight\" is [32, 8], config.json says [8, 32]");
}

// A token passes through 2 of 5 experts; nothing of the others matters.
TEST(Decoder, ExpertsThatNobodyChoseAreLeftOut) {
  int damaged = 0;
  for (int i = 0; i < 5; i++) {
    Edited expert(fmt::format("model.layers.0.block_sparse_moe.experts.{}.w1.weight", i), "mixtral");
    expert.set_first(NAN);
    try {
      expert.encode({7});
    } catch (const Error&) {
      damaged++;
    }
  }
  EXPECT_EQ(damaged, 2);
}

// -------- derived weights

// Twice what the file holds, in float32.
StoredTensor doubled(const StoredTensor& tensor) {
  StoredTensor out = tensor;
  out.spec.dtype = DType::f32;
  out.derivation = std::make_shared<Derivation>(
      Derivation{tensor, " x 2", [tensor](int64_t first, int64_t count, std::span<float> values) {
                   std::vector<std::byte> bytes(static_cast<size_t>(count * tensor.row_bytes()));
                   read_rows(tensor, first, count, bytes);
                   to_f32(tensor.spec.dtype, bytes, values);
                   for (float& value : values) value *= 2;
                 }});
  return out;
}

// Matrices, norms, embeddings: computed on the way or stored, the states are the same.
TEST(Decoder, WeightsThatAreComputed) {
  const testing::TempDir dir;
  const Case reference("bf16");
  Model derived("derived", {reference.folder(dir)});
  std::vector<testing::TinyTensor> stored;
  derived.checkpoint.transform([&](const StoredTensor& tensor) {
    const StoredTensor twice = doubled(tensor);
    std::string bytes(static_cast<size_t>(twice.spec.bytes()), '\0');
    read_rows(twice, 0, twice.rows(), std::as_writable_bytes(std::span(bytes)));
    stored.push_back({tensor.spec.name, "F32", tensor.spec.shape, std::move(bytes)});
    return std::vector<StoredTensor>{twice};
  });
  dir.write("stored/config.json", reference.config.dump());
  dir.write("stored/model.safetensors", testing::safetensors_bytes(stored));
  const Model plain("stored", {dir / "stored"});
  for (const WeightType type : {WeightType::as_stored, WeightType::q8_0}) {
    const DecoderOptions options = {.threads = kThreads, .weights = type};
    EXPECT_EQ(encode(derived, reference.sequences, options), encode(plain, reference.sequences, options));
  }
}

// -------- rope

TEST(Rope, NeedsOnlyNumbers) {
  ModelConfig config;
  config.head_dim = 8;
  config.max_positions = 64;
  const RopeFrequencies plain = rope_frequencies(config, 64);
  ASSERT_EQ(plain.inverse.size(), 4u);
  for (size_t i = 0; i < 4; i++) EXPECT_FLOAT_EQ(plain.inverse[i], std::pow(10.0f, -static_cast<float>(i)));
  EXPECT_EQ(plain.attention_factor, 1.0f);

  config.rope.type = "yarn";
  config.rope.scaling = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_FLOAT_EQ(rope_frequencies(config, 64).attention_factor, 0.1f * std::log(4.0f) + 1);
  config.rope.scaling["attention_factor"] = 1.25;
  EXPECT_FLOAT_EQ(rope_frequencies(config, 64).attention_factor, 1.25f);

  // The base grows with the length beyond the limit of 64: by (2 * 4 - 1)^(8 / 6) here.
  config.rope.type = "dynamic";
  config.rope.scaling = {{"factor", 2.0}};
  EXPECT_EQ(rope_frequencies(config, 64), plain);
  EXPECT_FLOAT_EQ(rope_frequencies(config, 256).inverse[1],
                  std::pow(10000.0f * std::pow(7.0f, 8.0f / 6), -0.25f));

  config.rope.type = "longrope";
  config.rope.scaling = {{"short_factor", {1, 1, 1, 2}},
                         {"long_factor", {1, 2, 4, 8}},
                         {"original_max_position_embeddings", 16}};
  EXPECT_FLOAT_EQ(rope_frequencies(config, 16).inverse[3], 0.001f / 2);
  EXPECT_FLOAT_EQ(rope_frequencies(config, 17).inverse[3], 0.001f / 8);
  EXPECT_FLOAT_EQ(rope_frequencies(config, 1).attention_factor,
                  std::sqrt(1 + std::log(4.0f) / std::log(16.0f)));

  config.rope.type = "llama3";
  config.rope.scaling = {{"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}};
  // Wavelengths 6, 63, 628 and 6283 with a length of 64: kept, between, divided, divided.
  const std::vector<float> stretched = rope_frequencies(config, 64).inverse;
  EXPECT_FLOAT_EQ(stretched[0], 1.0f);
  EXPECT_GT(stretched[1], 0.1f / 8);
  EXPECT_LT(stretched[1], 0.1f);
  EXPECT_FLOAT_EQ(stretched[2], 0.01f / 8);
}

}  // namespace
}  // namespace moerge
