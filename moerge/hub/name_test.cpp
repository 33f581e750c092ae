#include "moerge/hub/name.h"

#include <gtest/gtest.h>

namespace moerge {
namespace {

TEST(HubName, Parsed) {
  const struct {
    const char *text, *repository, *revision;
  } cases[] = {
      {"org/name", "org/name", "main"},
      {"org/name@v1.0", "org/name", "v1.0"},
      {"org/name@refs/pr/3", "org/name", "refs/pr/3"},
      {"org/name@a@b", "org/name", "a@b"},
      {"Org_1/a.b-c_d", "Org_1/a.b-c_d", "main"},
  };
  for (const auto& it : cases) {
    const auto name = parse_hub_name(it.text);
    ASSERT_TRUE(name) << it.text;
    EXPECT_EQ(name->repository, it.repository);
    EXPECT_EQ(name->revision, it.revision);
  }
}

TEST(HubName, Refused) {
  const std::string long_word(97, 'a');
  const std::string cases[] = {
      "",
      "name",
      "/name",
      "org/",
      "org/name/more",
      "../name",
      "org/..",
      "org/.name",
      "org/na me",
      "org/name@",
      "org/name@../x",
      "org/name@a/../b",
      "org/name@/x",
      "org/name@a//b",
      "org/name@a/./b",
      "org/name@a\nb",
      "org/name@a\\b",
      "org/name@.git",
      "org/na--me",
      "org/n\xc3\xa4me",
      "org/name?x",
      "org/" + long_word,
      "org/name@" + std::string(300, 'a'),
  };
  for (const std::string& text : cases) EXPECT_FALSE(parse_hub_name(text)) << text;
}

TEST(HubName, CacheFolder) {
  EXPECT_EQ(cache_folder_name({.repository = "org/name"}), "models--org--name");
  EXPECT_EQ(cache_folder_name({.repository = "gpt2"}), "models--gpt2");
  EXPECT_EQ(cache_folder_name({.repository = "org/name", .kind = RepositoryKind::dataset}),
            "datasets--org--name");
}

TEST(HubName, Commit) {
  EXPECT_TRUE(is_commit("0123456789abcdef0123456789abcdef01234567"));
  EXPECT_FALSE(is_commit("0123456789ABCDEF0123456789abcdef01234567"));
  EXPECT_FALSE(is_commit("0123456789abcdef0123456789abcdef0123456"));
  EXPECT_FALSE(is_commit("main"));
}

TEST(HubPath, StaysInItsFolder) {
  for (const char* path : {"config.json", "a/b/c.bin", ".gitattributes", "a..b", "...", "x/.gitignore",
                           "\xc3\xa4 b+c#1.txt", "-x"})
    EXPECT_TRUE(is_safe_path(path)) << path;
  const std::string cases[] = {"",
                               "/etc/passwd",
                               "..",
                               "../x",
                               "a/../b",
                               "a/..",
                               "./a",
                               "a//b",
                               "a/",
                               "a\\..\\b",
                               ".git",
                               "a/.GIT/config",
                               "a\nb",
                               "a\x1b[2J",
                               "a\x7f",
                               "\xff",
                               std::string("a\0b", 3),
                               std::string(241, 'a'),
                               std::string(2001, 'a')};
  for (const std::string& path : cases) EXPECT_FALSE(is_safe_path(path)) << path;
}

TEST(HubPath, EncodedForUrls) {
  EXPECT_EQ(url_encoded("a b/c#d?e%f+g", true), "a%20b/c%23d%3Fe%25f%2Bg");
  EXPECT_EQ(url_encoded("refs/pr/1", false), "refs%2Fpr%2F1");
  EXPECT_EQ(url_encoded("A-z_0.9~", false), "A-z_0.9~");
  EXPECT_EQ(url_encoded("\xc3\xa4", true), "%C3%A4");
}

TEST(HubPath, Patterns) {
  EXPECT_TRUE(matches_pattern("model.safetensors", "*.safetensors"));
  EXPECT_TRUE(matches_pattern("a/b.json", "*.json"));
  EXPECT_TRUE(matches_pattern("a/b.json", "a/"));
  EXPECT_TRUE(matches_pattern(".gitattributes", "*"));
  EXPECT_TRUE(matches_pattern("model-00001.bin", "model-0000[12].bin"));
  EXPECT_TRUE(matches_pattern("ab", "a[!c]"));
  EXPECT_FALSE(matches_pattern("model.safetensors.index.json", "*.safetensors"));
  EXPECT_FALSE(matches_pattern("ab/c", "a/"));
  EXPECT_FALSE(matches_pattern("Config.json", "config.json"));
  EXPECT_FALSE(matches_pattern("config.json", ""));
}

}  // namespace
}  // namespace moerge
