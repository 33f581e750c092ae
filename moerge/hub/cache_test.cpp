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
  EXPECT_NE(message_of("org/name@v2", "", environment).find("hf download org/name --revision v2"),
            std::string::npos);
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

TEST(ResolveModel, RefusesToLeaveTheCache) {
  const TempDir dir;
  dir.write("models--org--name/refs/main", "../../../etc");
  const Environment environment = with({{"HF_HUB_CACHE", dir.path().string()}});
  EXPECT_NE(message_of("org/name", "", environment), "");
  EXPECT_NE(message_of("org/name@../../x", "", environment), "");
  EXPECT_NE(message_of("../name", "", environment), "");
  EXPECT_NE(message_of("", "", environment), "");
  EXPECT_NE(message_of("org/name+org/lora", "", environment).find("LoRA"), std::string::npos);
}

}  // namespace
}  // namespace moerge
