#include "moerge/hub/card_source.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/temp_dir.h"

namespace moerge {
namespace {

TEST(FrontMatter, IsTheYamlBetweenTheFirstTwoLines) {
  EXPECT_EQ(read_front_matter("---\nlicense: mit\n---\n# x\n")->find("license")->scalar, "mit");
  EXPECT_EQ(read_front_matter("---\r\nlicense: mit\r\n---\r\n")->find("license")->scalar, "mit");
  EXPECT_EQ(read_front_matter("---\nlicense: mit\n---")->find("license")->scalar, "mit");
  for (const char* none : {"", "# x\n---\nlicense: mit\n---\n", "---\nlicense: mit\n", "---\n- a\n---\n",
                           "---\nlicense: [\n---\n", "---\nlicense: \xff\n---\n", "---"})
    EXPECT_FALSE(read_front_matter(none)) << none;
}

TEST(FrontMatter, LicenseIsOneThatTheHubKnows) {
  const auto license = [](const std::string& yaml) {
    return front_matter_license(*read_front_matter("---\n" + yaml + "\n---\n"));
  };
  EXPECT_EQ(license("license: Apache-2.0").id, "apache-2.0");
  EXPECT_EQ(license("license: [mit]").id, "mit");
  EXPECT_EQ(license("license: [mit, gpl]").id, "");
  EXPECT_EQ(license("license: mine").id, "");
  EXPECT_EQ(license("license: unknown").id, "");
  EXPECT_EQ(license("license: {a: b}").id, "");
  EXPECT_EQ(license("license: other\nlicense_name: mine\nlicense_link: LICENSE"),
            (CardLicense{"other", "mine", "LICENSE"}));
  EXPECT_EQ(license("license: mit\nlicense_name: mine"), (CardLicense{"mit", "", ""}));
}

TEST(License, IsCheckedWithASuggestion) {
  EXPECT_EQ(check_license("CC-BY-NC-4.0"), "cc-by-nc-4.0");
  const auto message = [](const std::string& id) -> std::string {
    try {
      check_license(id);
    } catch (const Error& error) {
      return error.message();
    }
    return "";
  };
  EXPECT_NE(message("apache-2").find("did you mean \"apache-2.0\"?"), std::string::npos)
      << message("apache-2");
  EXPECT_NE(message("apache2").find("did you mean \"apache-2.0\"?"), std::string::npos) << message("apache2");
  EXPECT_NE(message("cc-by-nc").find("did you mean \"cc-by-nc"), std::string::npos) << message("cc-by-nc");
  EXPECT_EQ(message("frobnicate").find("did you mean"), std::string::npos);
}

class Agreement : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto add = [&](const std::string& name, const std::string& front) {
      dir_.write(name + "/README.md", "---\n" + front + "\n---\n");
    };
    add("a", "license: mit");
    add("b", "license: mit");
    add("c", "license: gpl-3.0");
    add("d", "tags: [x]");
    add("e", "license: other\nlicense_name: mine\nlicense_link: LICENSE");
  }
  AgreedLicense of(const std::vector<std::string>& names) {
    std::vector<LicenseSource> sources;
    for (const std::string& name : names)
      sources.push_back({name, "org/" + name, name == "gone" ? std::filesystem::path() : dir_ / name});
    return agree_on_license(sources);
  }
  testing::TempDir dir_;
};

TEST_F(Agreement, TakesWhatAllState) {
  EXPECT_EQ(of({"a", "b"}).license.id, "mit");
  EXPECT_EQ(of({"a", "b"}).why_not, "");
  EXPECT_EQ(of({"e"}).license,
            (CardLicense{"other", "mine", "https://huggingface.co/org/e/blob/main/LICENSE"}));
  EXPECT_EQ(of({}).why_not, "");
}

TEST_F(Agreement, ElseSaysWhoStatesWhat) {
  EXPECT_EQ(of({"a", "c"}).license.id, "");
  EXPECT_EQ(of({"a", "c"}).why_not, "\"a\" has mit, \"c\" has gpl-3.0");
  EXPECT_EQ(of({"a", "d", "gone"}).why_not,
            "\"a\" has mit, \"d\" states none in its README.md, \"gone\" has no README.md here");
  EXPECT_EQ(of({"d", "gone"}).why_not, "none of its models states one in its README.md");
}

}  // namespace
}  // namespace moerge
