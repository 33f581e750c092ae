#include "moerge/model/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/base/json.h"
#include "moerge/model/gguf_pre_tokenizer.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/testing/tiny_gguf.h"

namespace moerge {
namespace {

using testing::TempDir;
using Ids = std::vector<int32_t>;

std::string key(const std::string& name) { return "tokenizer.ggml." + name; }

// Letters of GPT-2's byte alphabet, some merges, three tokens of other types.
GgufMetadata byte_level(const std::string& pre = "gpt-2") {
  GgufMetadata m = testing::tiny_gguf_metadata();
  m.set(key("pre"), pre);
  const std::vector<std::string> tokens = {"<s>",           "</s>", "a",  "b",        "c",  "1",   "\u0120",
                                           "\u010a",        ".",    "ab", "\u0120ab", "11", "abc", "[PAD13]",
                                           "<|tool call|>", "B"};
  std::vector<int32_t> types(tokens.size(), 1);
  types[0] = types[1] = 3;
  types[13] = 5;
  types[14] = 4;
  m.set(key("tokens"), tokens);
  m.set(key("token_type"), types);
  m.set(key("merges"), std::vector<std::string>{"a b", "\u0120 ab", "1 1"});
  m.set(key("eos_token_id"), uint32_t{1});
  return m;
}

// SentencePiece: bytes are tokens, pieces have scores.
GgufMetadata pieces() {
  GgufMetadata m = testing::tiny_gguf_metadata();
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  std::vector<float> scores = {0, 0, 0};
  for (int byte = 0; byte < 256; byte++) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
    scores.push_back(0);
  }
  // "ab" before "bc", whatever their order in the list.
  const std::vector<std::pair<std::string, float>> words = {{"bc", -2},     {"ab", -1},    {"\u2581ab", -3},
                                                            {"\u2581", -9}, {"a", -9},     {"b", -9},
                                                            {"c", -9},      {"\u00e9", -9}};
  for (const auto& [word, score] : words) {
    tokens.push_back(word);
    types.push_back(1);
    scores.push_back(score);
  }
  m.set(key("model"), std::string("llama"));
  m.set(key("pre"), std::string("default"));
  m.set(key("tokens"), tokens);
  m.set(key("token_type"), types);
  m.set(key("scores"), scores);
  m.erase(key("bos_token_id"));
  return m;
}
constexpr int kFirst = 259;  // id of "bc"

Tokenizer open(const GgufMetadata& metadata) {
  const GgufTokenizer made = make_gguf_tokenizer(metadata, "m.gguf");
  return Tokenizer(made.tokenizer_json, made.bos_token, "m.gguf");
}
Json json_of(const GgufMetadata& metadata) {
  return Json::parse(make_gguf_tokenizer(metadata, "m.gguf").tokenizer_json);
}
Json config_of(const GgufMetadata& metadata) {
  return Json::parse(make_gguf_tokenizer(metadata, "m.gguf").tokenizer_config_json);
}
std::string message_of(const GgufMetadata& metadata) {
  try {
    open(metadata);
  } catch (const Error& error) {
    EXPECT_TRUE(error.message().starts_with("m.gguf: ")) << error.message();
    return error.message();
  }
  return "";
}
template <typename T>
std::string message_with(GgufMetadata metadata, const std::string& name, T value) {
  metadata.set(name, std::move(value));
  return message_of(metadata);
}

#define EXPECT_SAYS(message, sentence) EXPECT_NE((message).find(sentence), std::string::npos) << (message)

TEST(GgufTokenizer, ByteLevel) {
  const Tokenizer tokenizer = open(byte_level());
  EXPECT_EQ(tokenizer.encode("ab abc\n"), (Ids{9, 10, 4, 7}));
  EXPECT_EQ(tokenizer.encode("</s>ab"), (Ids{1, 9}));
  EXPECT_EQ(tokenizer.encode("ab<|tool call|>a"), (Ids{9, 14, 2}));
  EXPECT_EQ(tokenizer.encode("11"), (Ids{11}));
  EXPECT_EQ(tokenizer.bos_token(), "<s>");
  EXPECT_EQ(tokenizer.vocab_size(), 15);  // without the padding
  EXPECT_EQ(tokenizer.encode("ab", true), (Ids{9}));
}

TEST(GgufTokenizer, PreTokenizersDiffer) {
  EXPECT_EQ(open(byte_level("smollm")).encode("11"), (Ids{5, 5}));    // digit by digit
  EXPECT_EQ(open(byte_level("llama-bpe")).encode("abc"), (Ids{12}));  // a whole token needs no merges
  EXPECT_EQ(open(byte_level("gpt-2")).encode("abc"), (Ids{9, 4}));
  EXPECT_EQ(open(byte_level("llama-bpe")).encode("ab", true), (Ids{0, 9}));  // and has a beginning
}

// Every row is read by the tokenizers library, and no name is in two rows.
TEST(GgufTokenizer, EveryPreTokenizerWorks) {
  std::set<std::string_view> names;
  for (const GgufPreTokenizer& row : pre_tokenizers())
    for (const std::string_view name : row.names) {
      EXPECT_TRUE(names.insert(name).second) << name;
      EXPECT_EQ(find_pre_tokenizer(name), &row);
      const Tokenizer tokenizer = open(byte_level(std::string(name)));
      EXPECT_EQ(tokenizer.encode("ab ab\n1."), (Ids{9, 10, 7, 5, 8})) << name;
    }
  EXPECT_EQ(find_pre_tokenizer("default"), nullptr);
}

TEST(GgufTokenizer, SentencePiece) {
  const Tokenizer tokenizer = open(pieces());
  EXPECT_EQ(tokenizer.encode("abc"), (Ids{kFirst + 2, kFirst + 6}));  // _ab c, not _ a bc
  EXPECT_EQ(tokenizer.encode("cbc"), (Ids{kFirst + 3, kFirst + 6, kFirst}));
  EXPECT_EQ(tokenizer.encode("\u00e9\n"), (Ids{kFirst + 3, kFirst + 7, 3 + 10}));  // a line end as its byte
  EXPECT_EQ(tokenizer.encode("</s>c"), (Ids{2, kFirst + 3, kFirst + 6}));
  EXPECT_EQ(tokenizer.encode("c", true), (Ids{1, kFirst + 3, kFirst + 6}));  // llama.cpp's default: token 1
  EXPECT_EQ(tokenizer.bos_token(), "<s>");
  GgufMetadata bare = pieces();
  bare.set(key("add_space_prefix"), false);
  EXPECT_EQ(open(bare).encode("abc"), (Ids{kFirst + 1, kFirst + 6}));
}

// The converter of a vocabulary without SentencePiece's scores writes the same number for all: then the order
// of the tokens is that of the merges.
TEST(GgufTokenizer, PiecesWithoutScores) {
  GgufMetadata m = pieces();
  m.set(key("scores"), std::vector<float>(kFirst + 8, -1000.0f));
  EXPECT_EQ(open(m).encode("abc"), (Ids{kFirst + 3, kFirst + 4, kFirst}));  // bc comes first now
  m.erase(key("scores"));
  EXPECT_EQ(open(m).encode("abc"), (Ids{kFirst + 3, kFirst + 4, kFirst}));
}

TEST(GgufTokenizer, MergesAreInTransformersOrder) {
  GgufMetadata m = pieces();
  std::vector<std::string> tokens = *m.array<std::string>(key("tokens"));
  std::vector<int32_t> types = *m.array<int32_t>(key("token_type"));
  std::vector<float> scores = *m.array<float>(key("scores"));
  for (const char* word : {"abc", "<user>"}) {
    tokens.emplace_back(word);
    types.push_back(word[0] == '<' ? 4 : 1);
    scores.push_back(-2.5f);
  }
  m.set(key("tokens"), tokens);
  m.set(key("token_type"), types);
  m.set(key("scores"), scores);
  EXPECT_EQ(json_of(m)["model"]["merges"],
            Json({"a b", "b c", "ab c", "a bc", "\u2581 ab"}));  // by score, then the longer left half
}

TEST(GgufTokenizer, BeginningAndEndAsTheFileSays) {
  GgufMetadata m = byte_level();
  m.set(key("add_bos_token"), true);
  m.set(key("add_eos_token"), true);
  EXPECT_EQ(open(m).encode("ab", true), (Ids{0, 9, 1}));
  EXPECT_EQ(open(m).encode("ab"), (Ids{9}));
  m.set(key("add_bos_token"), false);
  EXPECT_EQ(open(m).encode("ab", true), (Ids{9, 1}));
  m.erase(key("eos_token_id"));
  EXPECT_EQ(open(m).encode("ab", true), (Ids{9}));  // no such token
  m = pieces();
  m.set(key("add_bos_token"), false);
  EXPECT_EQ(open(m).encode("c", true), (Ids{kFirst + 3, kFirst + 6}));
}

TEST(GgufTokenizer, ConfigForTransformers) {
  GgufMetadata m = byte_level();
  m.set(key("padding_token_id"), uint32_t{1});
  m.set(key("unknown_token_id"), uint32_t{99});
  Json config = config_of(m);
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["bos_token"], "<s>");
  EXPECT_EQ(config["eos_token"], "</s>");
  EXPECT_EQ(config["pad_token"], "</s>");
  EXPECT_FALSE(config.contains("unk_token"));  // no token has that number
  EXPECT_EQ(config["model_max_length"], 64);
  EXPECT_EQ(config["add_bos_token"], false);
  EXPECT_FALSE(config.contains("chat_template"));
  m.set("tokenizer.chat_template", std::string("{{ x }}"));
  EXPECT_EQ(config_of(m)["chat_template"], "{{ x }}");
  m.set("tokenizer.chat_templates", std::vector<std::string>{"rag", "nowhere"});
  m.set("tokenizer.chat_template.rag", std::string("{{ y }}"));
  EXPECT_EQ(config_of(m)["chat_template"], Json::parse(R"([{"name": "default", "template": "{{ x }}"},
                                                          {"name": "rag", "template": "{{ y }}"}])"));
}

TEST(GgufTokenizer, RefusesOtherKinds) {
  EXPECT_SAYS(message_with(byte_level(), key("pre"), std::string("new-one")),
              "its pre-tokenizer \"new-one\"");
  EXPECT_SAYS(message_with(byte_level(), key("pre"), std::string("default")),
              "its pre-tokenizer \"default\"");
  GgufMetadata m = byte_level();
  m.erase(key("pre"));
  EXPECT_SAYS(message_of(m), "its pre-tokenizer \"\" (tokenizer.ggml.pre) is not known");
  EXPECT_SAYS(message_with(byte_level(), key("model"), std::string("bert")),
              "its tokenizer is of kind \"bert\"");
  EXPECT_SAYS(message_with(byte_level(), key("model"), std::string("none")), "there is no vocabulary");
  m.erase(key("model"));
  EXPECT_FALSE(has_gguf_tokenizer(m));
  EXPECT_SAYS(message_of(m), "there is no vocabulary in this file");
}

TEST(GgufTokenizer, RefusesDamagedVocabularies) {
  GgufMetadata m = byte_level();
  std::vector<std::string> tokens = *m.array<std::string>(key("tokens"));
  const auto message_with_token = [&](size_t id, std::string token) {
    std::vector<std::string> changed = tokens;
    changed[id] = std::move(token);
    return message_with(byte_level(), key("tokens"), changed);
  };
  EXPECT_SAYS(message_with_token(3, "a"), "token 3 (\"a\") is there twice");
  EXPECT_SAYS(message_with_token(15, "\xff\xfe"), "is not UTF-8");
  EXPECT_EQ(message_with_token(15, ""), "");  // nobody can write it
  EXPECT_SAYS(message_with(byte_level(), key("tokens"), std::vector<std::string>{}),
              "\"tokenizer.ggml.tokens\" is missing");
  EXPECT_SAYS(message_with(byte_level(), key("tokens"), std::vector<int32_t>(16)),
              "\"tokenizer.ggml.tokens\" is missing");
  EXPECT_SAYS(message_with(byte_level(), key("token_type"), std::vector<int32_t>(15)),
              "should be a list of 16 numbers");
  EXPECT_SAYS(message_with(byte_level(), key("token_type"), std::vector<float>(16)),
              "should be a list of 16 numbers");
  EXPECT_SAYS(message_with(pieces(), key("scores"), std::vector<float>(9)),
              "should be a list of 267 numbers");
  EXPECT_SAYS(message_with(byte_level(), key("merges"), std::vector<std::string>{"a zz"}), "zz");
  EXPECT_NE(message_with(byte_level(), key("merges"), std::vector<std::string>{"nospace"}), "");
  EXPECT_SAYS(message_with(byte_level(), "tokenizer.chat_template", std::string("\xff")), "is not UTF-8");
  m.erase(key("merges"));
  EXPECT_SAYS(message_of(m), "has no \"tokenizer.ggml.merges\"");
  m = pieces();
  tokens = *m.array<std::string>(key("tokens"));
  tokens.back() = std::string(2000, 'a');
  EXPECT_SAYS(message_with(pieces(), key("tokens"), tokens), "token 266 has 2000 bytes");
}

TEST(TokenizerFiles, OfAFolderAndOfAGguf) {
  const TempDir dir;
  const auto file = dir.write("m.gguf", testing::gguf_bytes(byte_level(), testing::tiny_gguf_tensors(1)));
  const Model gguf("gguf", {file}), folder("folder", {testing::write_tiny_model(dir, "folder", 1)});
  dir.write("folder/additional_chat_templates/rag.jinja", "{{ y }}");
  dir.write("folder/merges.txt", "");
  EXPECT_TRUE(has_tokenizer(gguf) && has_tokenizer(folder));
  EXPECT_TRUE(same_tokenizer_file(folder, folder));
  EXPECT_FALSE(same_tokenizer_file(folder, gguf));
  EXPECT_FALSE(same_tokenizer_file(gguf, gguf));
  for (const Model* model : {&gguf, &folder}) {
    const std::filesystem::path out = dir / ("out-" + model->name);
    std::filesystem::create_directory(out);
    write_tokenizer_files(*model, out);
    const Tokenizer written(out), read = read_tokenizer(*model);
    EXPECT_EQ(written.difference(read).count, 0);
    EXPECT_EQ(written.bos_token(), read.bos_token());
    EXPECT_EQ(written.encode("ab ab", true), read.encode("ab ab", true));
  }
  EXPECT_TRUE(std::filesystem::exists(dir / "out-folder/additional_chat_templates/rag.jinja"));
  EXPECT_TRUE(std::filesystem::exists(dir / "out-folder/merges.txt"));
}

TEST(TokenizerFiles, NoneInTheFile) {
  const TempDir dir;
  GgufMetadata metadata = testing::tiny_gguf_metadata();
  metadata.erase(key("model"));
  const Model model("m", {dir.write("m.gguf", testing::gguf_bytes(metadata, testing::tiny_gguf_tensors(1)))});
  EXPECT_FALSE(has_tokenizer(model));
  std::filesystem::create_directory(dir / "out");
  write_tokenizer_files(model, dir / "out");
  EXPECT_TRUE(std::filesystem::is_empty(dir / "out"));
  EXPECT_THROW(read_tokenizer(model), Error);
}

}  // namespace
}  // namespace moerge
