#include "moerge/export/metadata.h"

#include <gtest/gtest.h>

#include <map>

#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

using testing::TempDir;

struct Result {
  GgufMetadata metadata;
  std::vector<std::string> warnings;

  std::string text(const char* key) const {
    const std::string* value = metadata.string(key);
    return value ? *value : "(none)";
  }
  std::vector<std::string> list(const char* key) const {
    const auto* value = metadata.array<std::string>(key);
    return value ? *value : std::vector<std::string>();
  }
};

Result read(const std::string& card, const std::string& name = "out", const Json& config = Json::object(),
            const ParameterCounts& counts = {}, const std::filesystem::path& folder = "/nonexistent") {
  Result result;
  result.warnings = add_general_metadata(result.metadata, {folder, config, card, name}, counts);
  return result;
}

TEST(Metadata, ACardOfOurOwn) {
  const Result result = read(
      "---\nbase_model:\n- \"mistralai/Mistral-7B-v0.1\"\n- https://huggingface.co/openchat/openchat-3.5\n"
      "- https://example.org/x\n- {name: Q, author: me, other: 1}\n"
      "library_name: transformers\ntags:\n- moe\n- merge\npipeline_tag: text-generation\n"
      "language: [en, de]\nlicense: [mit, apache-2.0]\nlicense_name: x\nlicense_link: y\ndatasets: "
      "a/b-v2\n---\n# T\n",
      "my-4x7B-merge");
  EXPECT_TRUE(result.warnings.empty());
  EXPECT_EQ(result.text("general.type"), "model");
  EXPECT_EQ(result.text("general.name"), "My 4x7B Merge");
  EXPECT_EQ(result.text("general.basename"), "my");
  EXPECT_EQ(result.text("general.finetune"), "merge");
  EXPECT_EQ(result.text("general.size_label"), "4x7B");
  ASSERT_TRUE(std::holds_alternative<uint32_t>(*result.metadata.find("general.base_model.count")));
  EXPECT_EQ(result.metadata.integer("general.base_model.count"), 4);
  EXPECT_EQ(result.text("general.base_model.0.name"), "Mistral 7B v0.1");
  EXPECT_EQ(result.text("general.base_model.0.version"), "v0.1");
  EXPECT_EQ(result.text("general.base_model.0.organization"), "Mistralai");
  EXPECT_EQ(result.text("general.base_model.0.repo_url"), "https://huggingface.co/mistralai/Mistral-7B-v0.1");
  EXPECT_EQ(result.text("general.base_model.1.name"), "Openchat 3.5");
  EXPECT_EQ(result.text("general.base_model.1.repo_url"), "https://huggingface.co/openchat/openchat-3.5");
  EXPECT_EQ(result.text("general.base_model.2.name"), "(none)");
  EXPECT_EQ(result.text("general.base_model.2.repo_url"), "https://example.org/x");
  EXPECT_EQ(result.text("general.base_model.3.author"), "me");
  EXPECT_EQ(result.text("general.dataset.0.repo_url"), "https://huggingface.co/a/b-v2");
  EXPECT_EQ(result.list("general.tags"), (std::vector<std::string>{"moe", "merge", "text-generation"}));
  EXPECT_EQ(result.list("general.languages"), (std::vector<std::string>{"en", "de"}));
  EXPECT_EQ(result.text("general.license"), "mit,apache-2.0");
  EXPECT_EQ(result.text("general.license.name"), "x");
  EXPECT_EQ(result.text("general.license.link"), "y");
}

TEST(Metadata, TheBestSourceOfANameWins) {
  EXPECT_EQ(read("---\nmodel_name: B\n---\n", "c-7B").text("general.name"), "B");
  EXPECT_EQ(read("---\nmodel_name: B\nname: A\n---\n").text("general.name"), "A");
  EXPECT_EQ(read("---\nname:\nmodel_name: B\n---\n").text("general.name"), "B");
  EXPECT_EQ(read("", "c-7B", {{"_name_or_path", "org/llama-2-chat"}}).text("general.name"), "Llama 2 Chat");
  EXPECT_EQ(read("", "c-7B", {{"_name_or_path", "org/llama-2-chat"}}).text("general.organization"), "Org");
  EXPECT_EQ(read("", "c-7B", {{"_name_or_path", "/home/x/y"}}).text("general.name"), "C 7B");
  EXPECT_EQ(read("", "c-7B", {{"_name_or_path", 7}}).text("general.name"), "C 7B");
}

TEST(Metadata, SizeIsCountedWhenNoNameSaysIt) {
  const ParameterCounts counts{.total = 111'000, .shared = 60'000, .expert = 12'750, .experts = 4};
  EXPECT_EQ(read("", "out", {}, counts).text("general.size_label"), "4x73K");
  EXPECT_EQ(read("---\nsize_label: big\n---\n", "out", {}, counts).text("general.size_label"), "big");
  EXPECT_EQ(read("", "out").text("general.size_label"), "(none)");
}

TEST(Metadata, NorwayAndTabs) {
  EXPECT_EQ(read("---\nlanguage:\n\t- en\n\t- no\n---\n").list("general.languages"),
            (std::vector<std::string>{"en", "no"}));
  EXPECT_EQ(read("---\r\nlicense: mit\r\n---\r\n").text("general.license"), "mit");
  EXPECT_EQ(read("---\nversion: 1.0\n---\n").text("general.version"), "1.0");
}

TEST(Metadata, NoFrontMatter) {
  for (const char* card :
       {"", "---", "# Title\n---\nlicense: mit\n---\n", "--- \nlicense: mit\n---\n",
        "---\n---\nlicense: mit\n", "---\n", "\n---\nlicense: mit\n---\n", "----\nlicense: mit\n"}) {
    const Result result = read(card);
    EXPECT_EQ(result.text("general.license"), "(none)") << card;
    EXPECT_TRUE(result.warnings.empty()) << card;
  }
}

TEST(Metadata, ADamagedFrontMatterIsAWarning) {
  for (const char* card : {"---\nlicense: [mit\n---\n", "---\n- a\n---\n", "---\na: 1\na: 2\n---\n",
                           "---\n\xff: x\n---\n", "---\n\"a: \n---\n", "---\n[x]: y\n---\n"}) {
    const Result result = read(card, "c-7B");
    ASSERT_EQ(result.warnings.size(), 1) << card;
    EXPECT_NE(result.warnings[0].find("README.md"), std::string::npos) << result.warnings[0];
    EXPECT_EQ(result.text("general.name"), "C 7B");
  }
  EXPECT_NE(read("---\nlicense: mit\nname: [\n---\n").warnings.at(0).find("README.md:4:"), std::string::npos);
  const Result result = read("---\nname: [a, b]\nlicense: mit\n---\n", "c");
  EXPECT_NE(result.warnings.at(0).find("README.md:2:7: \"name\" should be a single value, found a list"),
            std::string::npos)
      << result.warnings[0];
  EXPECT_EQ(result.text("general.name"), "C");
  EXPECT_EQ(result.text("general.license"), "mit");
}

TEST(Metadata, ManyBaseModels) {
  std::string card = "---\nbase_model:\n";
  for (int i = 0; i < 1200; i++) card += "- a/b\n";
  const Result result = read(card + "---\n");
  EXPECT_EQ(result.metadata.integer("general.base_model.count"), 1000);
  EXPECT_EQ(result.warnings.size(), 1);
}

TEST(Metadata, SamplingSettings) {
  const TempDir folder;
  folder.write("generation_config.json",
               R"({"temperature": 1, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1, "min_p": null,
                   "mirostat": 1.5, "penalty_last_n": 3000000000, "mirostat_tau": 1e300, "sequence": "", "do_sample": 1})");
  folder.write("README.md", "---\nlicense: mit\n---\n");
  folder.write("config.json", R"({"_name_or_path": "x/other"})");
  const Result result = read("", "c", {}, {}, folder.path());
  EXPECT_EQ(std::get<float>(*result.metadata.find("general.sampling.temp")), 1.0f);
  EXPECT_EQ(std::get<int32_t>(*result.metadata.find("general.sampling.top_k")), 40);
  EXPECT_EQ(std::get<float>(*result.metadata.find("general.sampling.top_p")), 0.9f);
  EXPECT_EQ(std::get<float>(*result.metadata.find("general.sampling.penalty_repeat")), 1.1f);
  for (const char* key : {"min_p", "mirostat", "penalty_last_n", "mirostat_tau", "sequence"})
    EXPECT_FALSE(result.metadata.find(std::string("general.sampling.") + key)) << key;
  EXPECT_EQ(result.warnings.size(), 3);
  // The card and the configuration are those that were handed in, not the folder's.
  EXPECT_EQ(result.text("general.license"), "(none)");
  EXPECT_EQ(result.text("general.name"), "C");
  folder.write("generation_config.json", "{");
  EXPECT_EQ(read("", "c", {}, {}, folder.path()).warnings.size(), 1);
  folder.write("generation_config.json", "[]");
  EXPECT_EQ(read("", "c", {}, {}, folder.path()).warnings.size(), 1);
}

}  // namespace
}  // namespace moerge
