#include "moerge/hub/cache.h"

#include <gtest/gtest.h>

#include <map>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

Environment with(std::map<std::string, std::string> values) {
  return [values](const char* name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

std::string message_of(const std::string& reference, const fs::path& folder, const Environment& environment) {
  try {
    resolve_model(reference, folder, environment);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(HubCache, FirstVariableWins) {
  EXPECT_EQ(hub_cache(with({{"HF_HUB_CACHE", "/a"}, {"HF_HOME", "/b"}})), "/a");
  EXPECT_EQ(hub_cache(with({{"HF_HOME", "/b"}, {"XDG_CACHE_HOME", "/c"}})), "/b/hub");
  EXPECT_EQ(hub_cache(with({{"XDG_CACHE_HOME", "/c"}})), "/c/huggingface/hub");
  EXPECT_EQ(hub_cache(with({{"HOME", "/h"}})), "/h/.cache/huggingface/hub");
}

TEST(ResolveModel, FoldersComeFirst) {
  const TempDir dir;
  fs::create_directories(dir / "yaml/org/name");
  EXPECT_EQ(resolve_model("org/name", dir / "yaml", with({})).path, dir / "yaml/org/name");
  EXPECT_EQ(resolve_model((dir / "yaml").string(), "", with({})).path, dir / "yaml");
  EXPECT_EQ(resolve_model("~/yaml", "", with({{"HOME", dir.path().string()}})).path, dir / "yaml");
  EXPECT_NE(message_of((dir / "none").string(), "", with({})).find("no such folder"), std::string::npos);
}

TEST(ResolveModel, SnapshotsByRevision) {
  const TempDir dir;
  dir.write("models--org--name/refs/main", "abc123\n");
  dir.write("models--org--name/refs/refs/pr/3", "def456");
  fs::create_directories(dir / "models--org--name/snapshots/abc123");
  fs::create_directories(dir / "models--org--name/snapshots/def456");
  const Environment environment = with({{"HF_HUB_CACHE", dir.path().string()}});
  EXPECT_EQ(resolve_model("org/name", "", environment).path, dir / "models--org--name/snapshots/abc123");
  EXPECT_EQ(resolve_model("org/name@main", "", environment).path, dir / "models--org--name/snapshots/abc123");
  EXPECT_EQ(resolve_model("org/name@def456", "", environment).path,
            dir / "models--org--name/snapshots/def456");
  EXPECT_EQ(resolve_model("org/name@refs/pr/3", "", environment).path,
            dir / "models--org--name/snapshots/def456");
  EXPECT_NE(message_of("org/name@v2", "", environment).find("moerge pull org/name@v2"), std::string::npos);
}

TEST(ResolveModel, TellsFoldersFromTheHub) {
  const TempDir dir;
  dir.write("cache/models--org--name/refs/main", "abc123");
  std::filesystem::create_directories(dir / "cache/models--org--name/snapshots/abc123");
  std::filesystem::create_directories(dir / "org/other");
  dir.write("org/file", "x");
  const Environment environment = with({{"HF_HUB_CACHE", (dir / "cache").string()}});
  EXPECT_EQ(resolve_model("org/name@main", dir.path(), environment).hub_name, "org/name");
  EXPECT_EQ(resolve_model("org/other", dir.path(), environment).hub_name, "");
  EXPECT_NE(message_of("org/file", dir.path(), environment).find("is a file"), std::string::npos);
  EXPECT_NE(message_of(std::string(300, 'x'), dir.path(), environment).find("no such folder"),
            std::string::npos);
}

TEST(ResolveModel, GgufFilesByTheirPaths) {
  const TempDir dir;
  dir.write("yaml/models/m.Q4_K_M.gguf", "x");
  dir.write("yaml/m.bin", "x");
  const Environment environment =
      with({{"HOME", dir.path().string()}, {"HF_HUB_CACHE", dir.path().string()}});
  const fs::path file = dir / "yaml/models/m.Q4_K_M.gguf";
  EXPECT_EQ(resolve_model("models/m.Q4_K_M.gguf", dir / "yaml", environment).path, file);
  EXPECT_EQ(resolve_model(file.string(), "", environment).path, file);
  EXPECT_EQ(resolve_model("~/yaml/models/m.Q4_K_M.gguf", "", environment).path, file);
  EXPECT_EQ(resolve_model("models/m.Q4_K_M.gguf", dir / "yaml", environment).hub_name, "");
  EXPECT_NE(message_of("m.bin", dir / "yaml", environment)
                .find("m.bin is a file, not a model's folder or a .gguf file"),
            std::string::npos);
  EXPECT_NE(message_of("org/m.gguf", dir / "yaml", environment)
                .find("no such file (looked in " + (dir / "yaml").string() +
                      " and the working folder); a GGUF file is named by its path, not by a repository"),
            std::string::npos);
  EXPECT_NE(message_of((dir / "m.GGUF").string(), "", environment).find("there is no such file"),
            std::string::npos);
}

TEST(ResolveModel, AdaptersAfterAPlus) {
  const TempDir dir;
  dir.write("hub/models--org--name/refs/main", "abc");
  dir.write("hub/models--who--lora/refs/v2", "def");
  const fs::path model = dir / "hub/models--org--name/snapshots/abc",
                 lora = dir / "hub/models--who--lora/snapshots/def";
  for (const fs::path& folder : {model, lora, dir / "base", dir / "a+b", dir / "tune", dir / "t+1"})
    fs::create_directories(folder);
  dir.write("m.gguf", "x");
  const Environment environment = with({{"HF_HUB_CACHE", (dir / "hub").string()}});
  const auto resolve = [&](const std::string& reference) {
    const ModelLocation found = resolve_model(reference, dir.path(), environment);
    return std::pair(found.path, found.adapter);
  };
  EXPECT_EQ(resolve("base+tune"), std::pair(dir / "base", dir / "tune"));
  EXPECT_EQ(resolve("a+b"), std::pair(dir / "a+b", fs::path()));
  EXPECT_EQ(resolve("a+b+tune"), std::pair(dir / "a+b", dir / "tune"));
  EXPECT_EQ(resolve("base+t+1"), std::pair(dir / "base", dir / "t+1"));
  EXPECT_EQ(resolve("m.gguf+tune"), std::pair(dir / "m.gguf", dir / "tune"));
  EXPECT_EQ(resolve("org/name+tune"), std::pair(model, dir / "tune"));
  EXPECT_EQ(resolve("org/name@abc+who/lora@v2"), std::pair(model, lora));
  const ModelLocation names = resolve_model("org/name+who/lora@v2", dir.path(), environment);
  EXPECT_EQ(names.hub_name, "org/name");
  EXPECT_EQ(names.adapter_hub_name, "who/lora");
  const auto message = [&](const std::string& reference) {
    return message_of(reference, dir.path(), environment);
  };
  EXPECT_NE(message("base+tune+tune").find("one LoRA adapter a model"), std::string::npos);
  EXPECT_NE(message("base+").find("an empty adapter reference"), std::string::npos);
  EXPECT_NE(message("+tune").find("an empty model reference"), std::string::npos);
  EXPECT_NE(message("base+who/lora").find("adapter \"who/lora\": no such folder"), std::string::npos);
  EXPECT_NE(message("base+m.gguf").find("adapters are folders"), std::string::npos);
}

TEST(ResolveModel, RefusesToLeaveTheCache) {
  const TempDir dir;
  dir.write("models--org--name/refs/main", "../../../etc");
  const Environment environment = with({{"HF_HUB_CACHE", dir.path().string()}});
  EXPECT_NE(message_of("org/name", "", environment), "");
  EXPECT_NE(message_of("org/name@../../x", "", environment), "");
  EXPECT_NE(message_of("../name", "", environment), "");
  EXPECT_NE(message_of("", "", environment), "");
}

std::string split_message(const std::string& reference) {
  try {
    split_reference(reference);
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

TEST(SplitReference, TakesTheExpertOff) {
  const auto parts = [](const std::string& reference) {
    const ReferenceParts split = split_reference(reference);
    return std::pair(split.model, split.expert);
  };
  using Parts = std::pair<std::string, std::optional<int64_t>>;
  EXPECT_EQ(parts("a/b"), (Parts{"a/b", {}}));
  EXPECT_EQ(parts("a/b@v1#expert=3"), (Parts{"a/b@v1", 3}));
  EXPECT_EQ(parts("m.gguf#expert=0"), (Parts{"m.gguf", 0}));
  EXPECT_EQ(parts("a#1/b"), (Parts{"a#1/b", {}}));  // a folder's name
  EXPECT_EQ(parts("a#1/b#expert=12"), (Parts{"a#1/b", 12}));
  EXPECT_EQ(parts("m#shared_expert"), (Parts{"m", kSharedExpert}));
  for (const auto& [wrong, meant] :
       {std::pair("m#expert", "m#expert=0"), std::pair("m#expert=", "m#expert=0"),
        std::pair("m#expert=x", "m#expert=0"), std::pair("m#expert=-1", "m#expert=0"),
        std::pair("m#expert= 1", "m#expert=0"), std::pair("m#Expert=3", "m#expert=3"),
        std::pair("m#experts=3", "m#expert=3"), std::pair("m#expert=3x", "m#expert=0"),
        std::pair("m#9", "m#expert=0"), std::pair("m#", "m#expert=0"),
        std::pair("m#expert=9223372036854775808", "m#expert=0"),
        std::pair("m#shared_exprt", "m#shared_expert")})
    EXPECT_NE(split_message(wrong).find(fmt::format("did you mean \"{}\"?", meant)), std::string::npos)
        << wrong << ": " << split_message(wrong);
}

TEST(ResolveModel, OneExpert) {
  const TempDir dir;
  dir.write("mix/config.json", "{}");
  dir.write("odd#expert=1/config.json", "{}");
  dir.write("cache/models--org--mix/refs/main", "abc");
  dir.write("cache/models--org--mix/snapshots/abc/config.json", "{}");
  const Environment environment = with({{"HF_HUB_CACHE", (dir / "cache").string()}});
  const ModelLocation local = resolve_model("mix#expert=2", dir.path(), environment);
  EXPECT_EQ(local.path, dir / "mix");
  EXPECT_EQ(local.expert, 2);
  EXPECT_EQ(resolve_model("org/mix#expert=0", dir.path(), environment).hub_name, "org/mix");
  EXPECT_EQ(resolve_model("org/mix@main#expert=0", dir.path(), environment).expert, 0);
  EXPECT_EQ(resolve_model("odd#expert=1", dir.path(), environment).expert, std::nullopt);
  EXPECT_EQ(resolve_model("odd#expert=1#expert=4", dir.path(), environment).path, dir / "odd#expert=1");
  EXPECT_NE(message_of("#expert=1", dir.path(), environment).find("an empty model reference"),
            std::string::npos);
  std::string many = "mix";
  for (int i = 0; i < 100'000; i++) many += "#expert=1";
  EXPECT_NE(message_of(many, dir.path(), environment), "");
}

TEST(NameRepositories, ByTheLettersAlone) {
  EXPECT_EQ(name_repositories("org/a").hub_name, "org/a");
  EXPECT_EQ(name_repositories("org/a@refs/pr/3#expert=2").hub_name, "org/a");
  const ModelLocation both = name_repositories("org/a@v1+who/lora@v2");
  EXPECT_EQ(both.hub_name, "org/a");
  EXPECT_EQ(both.adapter_hub_name, "who/lora");
  EXPECT_TRUE(both.path.empty() && both.adapter.empty());
  EXPECT_EQ(name_repositories("org/a+./lora").adapter_hub_name, "");
  for (const char* none : {"", "a", "./a", "/org/a", "a/b/c", "org/a.gguf", "~/a", "org/", "a b/c", "../a"})
    EXPECT_EQ(name_repositories(none).hub_name, "") << none;
}

}  // namespace
}  // namespace moerge
