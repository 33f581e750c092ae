#include "moerge/model/chat_templates.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/utf8.h"
#include "moerge/model/tokenizer_files.h"
#include "moerge/testing/tiny_gguf.h"
#include "moerge/testing/tiny_model.h"

namespace moerge {
namespace {

using testing::TempDir;

TEST(ChatTemplates, BuiltInOnesWriteTheirTokens) {
  for (const BuiltInTemplate& known : built_in_templates()) {
    EXPECT_TRUE(is_utf8(known.text)) << known.name;
    for (const std::string_view token : known.tokens)
      EXPECT_NE(known.text.find(token), std::string_view::npos) << known.name << " " << token;
    // Nothing but what the statements write comes out: every line is one that trims the spaces around it.
    for (const std::string_view mark : {"{% ", "{{ ", " %}", " }}"})
      EXPECT_EQ(known.text.find(mark), std::string_view::npos) << known.name << " " << mark;
  }
}

class FindChatTemplate : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_tiny_model(dir_, "m", 1); }
  std::optional<std::string> find() const { return find_chat_template(Model("m", {dir_ / "m"})); }
  std::string message() const {
    try {
      find();
    } catch (const Error& error) {
      return error.message();
    }
    return "";
  }
  std::string text_of(const char* name) const { return read_file(dir_ / name, 1 << 20); }
  TempDir dir_;
};

TEST_F(FindChatTemplate, InTheOrderOfTransformers) {
  dir_.write("m/tokenizer_config.json", "{}");
  EXPECT_FALSE(find());
  dir_.write("m/chat_template.json", R"({"chat_template": "processor's"})");
  EXPECT_EQ(find(), "processor's");
  dir_.write("m/tokenizer_config.json", R"({"chat_template": null})");
  EXPECT_EQ(find(), "processor's");
  dir_.write("m/tokenizer_config.json", R"({"chat_template": "config's"})");
  EXPECT_EQ(find(), "config's");
  dir_.write("m/chat_template.jinja", "file's\r\nlines\n");
  EXPECT_EQ(find(), "file's\nlines\n");
}

TEST_F(FindChatTemplate, OfAListTheDefaultOne) {
  dir_.write("m/tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"},
                                            {"name": "default", "template": "d"}]})");
  EXPECT_EQ(find(), "d");
  dir_.write("m/tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "r"}]})");
  EXPECT_EQ(find(), "r");
  for (const char* odd : {R"([{"name": "a", "template": "r"}, {"name": "b", "template": "s"}])", "5", "[]",
                          R"({"name": "default"})", R"([5, {"name": "default", "template": 5}])"}) {
    dir_.write("m/tokenizer_config.json", std::string(R"({"chat_template": )") + odd + "}");
    EXPECT_NE(message().find("should be a text, or a list of named templates"), std::string::npos) << odd;
  }
}

TEST_F(FindChatTemplate, DamagedFiles) {
  dir_.write("m/chat_template.jinja", "\xff");
  EXPECT_NE(message().find("is not UTF-8"), std::string::npos);
  dir_.write("m/chat_template.jinja", std::string(5 << 20, 'x'));
  EXPECT_NE(message().find("too large"), std::string::npos);
}

TEST_F(FindChatTemplate, WritesItWhereEveryReaderLooks) {
  dir_.write("m/tokenizer_config.json",
             R"({"model_max_length": 1000000000000000019884624838656, "chat_template": "old", "z": [1.50]})");
  dir_.write("m/chat_template.jinja", "stale");
  dir_.write("m/chat_template.json", R"({"chat_template": "stale"})");
  dir_.write("m/additional_chat_templates/rag.jinja", "stale");
  const Model model("m", {dir_ / "m"});
  std::filesystem::create_directory(dir_ / "out");
  const std::string text = "{{ 'é\n' }}";
  write_tokenizer_files(model, dir_ / "out", &text);
  EXPECT_EQ(
      text_of("out/tokenizer_config.json"),
      R"({"model_max_length": 1000000000000000019884624838656, "chat_template": "{{ 'é\n' }}", "z": [1.50]})");
  EXPECT_EQ(text_of("out/tokenizer.json"), testing::kTinyTokenizer);
  for (const char* stale : {"chat_template.jinja", "chat_template.json", "additional_chat_templates"})
    EXPECT_FALSE(std::filesystem::exists(dir_ / "out" / stale)) << stale;
  std::filesystem::create_directory(dir_ / "same");
  write_tokenizer_files(model, dir_ / "same");
  EXPECT_EQ(text_of("same/chat_template.jinja"), "stale");
}

TEST(ChatTemplates, OfAGguf) {
  const TempDir dir;
  const auto find = [&](const GgufMetadata& metadata) {
    dir.write("m.gguf", testing::gguf_bytes(metadata, testing::tiny_gguf_tensors(1)));
    return find_chat_template(Model("m", {dir / "m.gguf"}));
  };
  GgufMetadata metadata = testing::tiny_gguf_metadata();
  EXPECT_FALSE(find(metadata));
  metadata.set("tokenizer.chat_templates", std::vector<std::string>{"rag"});
  metadata.set("tokenizer.chat_template.rag", std::string("r"));
  EXPECT_EQ(find(metadata), "r");
  metadata.set("tokenizer.chat_templates", std::vector<std::string>{"rag", "tool"});
  EXPECT_THROW(find(metadata), Error);
  metadata.set("tokenizer.chat_template", std::string("d"));
  EXPECT_EQ(find(metadata), "d");
}

}  // namespace
}  // namespace moerge
