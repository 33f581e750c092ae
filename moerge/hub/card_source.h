#pragma once
// What README.md files say already: their front matter, licences above all.

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/yaml.h"
#include "moerge/hub/card.h"

namespace moerge {

/// What a command may read of a README.md.
inline constexpr const char* kCardName = "README.md";
inline constexpr int64_t kMaxCard = 4 << 20;

/// The YAML between the "---" that a card begins with and the next; empty where there is none, or where it is
/// damaged: cards are other people's texts.
std::optional<YamlNode> read_front_matter(std::string_view readme);
/// README.md of a folder; empty without one that can be read.
std::string read_readme(const std::filesystem::path& folder);

/// A value of the front matter as a list: one text alone is a list of one.
std::vector<std::string> front_matter_list(const YamlNode& front, std::string_view key);
/// Empty where none is stated, or several are.
CardLicense front_matter_license(const YamlNode& front);

/// The identifiers that the Hub takes as a licence.
std::span<const std::string_view> hub_licenses();
/// One of them, in lower case. Throws usage with the nearest.
std::string check_license(const std::string& id);

/// A model whose own card may state a licence.
struct LicenseSource {
  std::string name, hub_name;
  std::filesystem::path folder;  // empty: none here
};
/// The licence that all of them state. Else `why_not` says who states what.
struct AgreedLicense {
  CardLicense license;
  std::string why_not = {};
};
AgreedLicense agree_on_license(std::span<const LicenseSource> sources);

}  // namespace moerge
