#include "moerge/hub/settings.h"

#include <gtest/gtest.h>

#include <map>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

using testing::TempDir;
using Variables = std::map<std::string, std::string>;

Environment with(Variables values) {
  return [values = std::move(values)](const char* name) -> std::optional<std::string> {
    const auto found = values.find(name);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  };
}

HubSettings settings_of(Variables values) { return hub_settings(with(std::move(values))); }

std::string refusal(Variables values) {
  try {
    settings_of(std::move(values));
  } catch (const Error& error) {
    return error.kind() == ErrorKind::config ? error.message() : "another kind";
  }
  return "";
}

TEST(HubSettings, WithoutVariables) {
  const HubSettings settings = settings_of({{"HOME", "/nobody"}});
  EXPECT_EQ(settings.endpoint, "https://huggingface.co");
  EXPECT_EQ(settings.token, "");
  EXPECT_EQ(settings.cache, "/nobody/.cache/huggingface/hub");
  EXPECT_FALSE(settings.offline);
  EXPECT_TRUE(settings.symlinks);
  EXPECT_EQ(settings.connect_seconds, 10);
  EXPECT_EQ(settings.silence_seconds, 10);
}

TEST(HubSettings, EndpointLosesSlashesAndMustBeAUrl) {
  EXPECT_EQ(settings_of({{"HF_ENDPOINT", " http://127.0.0.1:8000// "}}).endpoint, "http://127.0.0.1:8000");
  EXPECT_EQ(refusal({{"HF_ENDPOINT", "huggingface.co"}}),
            "HF_ENDPOINT is \"huggingface.co\"; expected a URL such as https://huggingface.co");
  EXPECT_NE(refusal({{"HF_ENDPOINT", "file:///etc"}}), "");
}

TEST(HubSettings, FirstTokenWins) {
  const TempDir dir;
  dir.write("token", "hf_file\n");
  dir.write("other", " hf_other ");
  const std::string home = dir.path().string();
  const Variables all = {{"HF_TOKEN", "hf_a\n"}, {"HUGGING_FACE_HUB_TOKEN", "hf_b"}, {"HF_HOME", home}};
  EXPECT_EQ(settings_of(all).token, "hf_a");
  EXPECT_EQ(settings_of(all).token_source, "HF_TOKEN");
  EXPECT_EQ(settings_of({{"HF_TOKEN", "  "}, {"HUGGING_FACE_HUB_TOKEN", "hf_b"}}).token, "hf_b");
  EXPECT_EQ(settings_of({{"HF_HOME", home}}).token, "hf_file");
  EXPECT_EQ(settings_of({{"HF_HOME", home}}).token_source, "the file " + home + "/token");
  EXPECT_EQ(settings_of({{"HF_HOME", home}, {"HF_TOKEN_PATH", home + "/other"}}).token, "hf_other");
  EXPECT_EQ(settings_of({{"HF_HOME", home}, {"HF_TOKEN_PATH", home + "/none"}}).token, "");
  Variables none = all;
  none["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1";
  EXPECT_EQ(settings_of(none).token, "");
}

TEST(HubSettings, ATokenThatNoHeaderHoldsIsRefused) {
  EXPECT_EQ(refusal({{"HF_TOKEN", "hf_a\r\nHost: other"}}),
            "the token in HF_TOKEN holds spaces or other characters that no token has");
  EXPECT_NE(refusal({{"HF_TOKEN", "hf_\xc3\xa4"}}), "");
}

TEST(HubSettings, Switches) {
  for (const char* on : {"1", "ON", "Yes", "true"}) {
    EXPECT_TRUE(settings_of({{"HF_HUB_OFFLINE", on}}).offline) << on;
    EXPECT_TRUE(settings_of({{"TRANSFORMERS_OFFLINE", on}}).offline) << on;
    EXPECT_FALSE(settings_of({{"HF_HUB_DISABLE_SYMLINKS", on}}).symlinks) << on;
  }
  for (const char* off : {"0", "", "no", "2"}) EXPECT_FALSE(settings_of({{"HF_HUB_OFFLINE", off}}).offline);
}

TEST(HubSettings, SecondsThatMakeNoSenseAreNotUsed) {
  EXPECT_EQ(settings_of({{"HF_HUB_DOWNLOAD_TIMEOUT", "30"}}).silence_seconds, 30);
  EXPECT_EQ(settings_of({{"HF_HUB_ETAG_TIMEOUT", "3"}}).connect_seconds, 3);
  for (const char* text : {"", "0", "-5", "soon", "5s", "99999999999999"})
    EXPECT_EQ(settings_of({{"HF_HUB_DOWNLOAD_TIMEOUT", text}}).silence_seconds, 10) << text;
  EXPECT_EQ(settings_of({{"HF_HUB_DOWNLOAD_TIMEOUT", "1000000"}}).silence_seconds, 86400);
}

TEST(HubCache, ATildeIsTheHome) {
  EXPECT_EQ(hub_cache(with({{"HOME", "/h"}, {"HF_HOME", "~/hf"}})), "/h/hf/hub");
  EXPECT_EQ(hub_cache(with({{"HOME", "/h"}, {"HF_HUB_CACHE", "~"}})), "/h");
  EXPECT_EQ(hub_cache(with({{"HOME", "/h"}, {"HF_HUB_CACHE", "/x/~/y"}})), "/x/~/y");
}

}  // namespace
}  // namespace moerge
