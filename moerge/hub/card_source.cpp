#include "moerge/hub/card_source.h"

#include <algorithm>
#include <array>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/suggest.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// What the Hub's own check of a card names as possible.
constexpr std::string_view kLicenses[] = {
    "apache-2.0",
    "mit",
    "openrail",
    "bigscience-openrail-m",
    "creativeml-openrail-m",
    "bigscience-bloom-rail-1.0",
    "bigcode-openrail-m",
    "afl-3.0",
    "artistic-2.0",
    "bsl-1.0",
    "bsd",
    "bsd-2-clause",
    "bsd-3-clause",
    "bsd-3-clause-clear",
    "c-uda",
    "cc",
    "cc0-1.0",
    "cc-by-2.0",
    "cc-by-2.5",
    "cc-by-3.0",
    "cc-by-4.0",
    "cc-by-sa-3.0",
    "cc-by-sa-4.0",
    "cc-by-nc-2.0",
    "cc-by-nc-3.0",
    "cc-by-nc-4.0",
    "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0",
    "cdla-permissive-1.0",
    "cdla-permissive-2.0",
    "wtfpl",
    "ecl-2.0",
    "epl-1.0",
    "epl-2.0",
    "etalab-2.0",
    "eupl-1.1",
    "eupl-1.2",
    "agpl-3.0",
    "gfdl",
    "gpl",
    "gpl-2.0",
    "gpl-3.0",
    "lgpl",
    "lgpl-2.1",
    "lgpl-3.0",
    "isc",
    "h-research",
    "intel-research",
    "lppl-1.3c",
    "ms-pl",
    "apple-ascl",
    "apple-amlr",
    "mpl-2.0",
    "odc-by",
    "odbl",
    "openmdw-1.0",
    "openmdw-1.1",
    "openrail++",
    "osl-3.0",
    "postgresql",
    "ofl-1.1",
    "ncsa",
    "unlicense",
    "zlib",
    "pddl",
    "lgpl-lr",
    "deepfloyd-if-license",
    "fair-noncommercial-research-license",
    "llama2",
    "llama3",
    "llama3.1",
    "llama3.2",
    "llama3.3",
    "llama4",
    "grok2-community",
    "gemma",
    "unknown",
    "other",
};

std::string scalar(const YamlNode& front, std::string_view key) {
  const YamlNode* node = front.find(key);
  return node && node->kind == YamlNode::Kind::scalar ? node->scalar : "";
}

// A link to a file of the model's own repository leads nowhere from another one.
std::string absolute_link(const std::string& link, const std::string& hub_name) {
  if (link.empty() || link.find("://") != std::string::npos) return link;
  return hub_name.empty() ? "" : fmt::format("https://huggingface.co/{}/blob/main/{}", hub_name, link);
}

CardLicense license_of(const LicenseSource& source) {
  if (source.folder.empty()) return {};
  const std::optional<YamlNode> front = read_front_matter(read_readme(source.folder));
  if (!front) return {};
  CardLicense license = front_matter_license(*front);
  license.link = absolute_link(license.link, source.hub_name);
  return license;
}

std::string describe(const LicenseSource& source, const CardLicense& license) {
  if (!license.id.empty())
    return fmt::format("\"{}\" has {}{}", source.name, license.id,
                       license.name.empty() ? "" : fmt::format(" ({})", license.name));
  return fmt::format("\"{}\" {}", source.name,
                     source.folder.empty() ? "has no README.md here" : "states none in its README.md");
}

}  // namespace

std::optional<YamlNode> read_front_matter(std::string_view readme) {
  if (!is_utf8(readme)) return {};
  const size_t begin = readme.find('\n');
  const auto is_line = [](std::string_view line) { return line == "---" || line == "---\r"; };
  if (begin == std::string_view::npos || !is_line(readme.substr(0, begin))) return {};
  for (size_t line = begin + 1; line < readme.size();) {
    const size_t end = std::min(readme.find('\n', line), readme.size());
    if (!is_line(readme.substr(line, end - line))) {
      line = end + 1;
      continue;
    }
    try {
      YamlNode node = parse_yaml(readme.substr(begin, line - begin), std::string(kCardName));
      if (node.kind == YamlNode::Kind::map) return node;
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
    }
    return {};
  }
  return {};
}

std::string read_readme(const fs::path& folder) {
  std::error_code ignored;
  const fs::path file = folder / kCardName;
  if (!fs::is_regular_file(file, ignored) || fs::file_size(file, ignored) > static_cast<uintmax_t>(kMaxCard))
    return "";
  return read_file(file, kMaxCard);
}

std::vector<std::string> front_matter_list(const YamlNode& front, std::string_view key) {
  const YamlNode* node = front.find(key);
  std::vector<std::string> out;
  if (!node) return out;
  if (node->kind == YamlNode::Kind::scalar) out.push_back(node->scalar);
  for (const YamlNode& item : node->items)
    if (item.kind == YamlNode::Kind::scalar) out.push_back(item.scalar);
  return out;
}

CardLicense front_matter_license(const YamlNode& front) {
  const std::vector<std::string> ids = front_matter_list(front, "license");
  if (ids.size() != 1) return {};
  const std::string id = lower_case(ids.front());
  if (id == "unknown" || std::ranges::find(kLicenses, id) == std::end(kLicenses)) return {};
  if (id != "other") return {.id = id, .name = {}, .link = {}};
  return {.id = id, .name = scalar(front, "license_name"), .link = scalar(front, "license_link")};
}

std::span<const std::string_view> hub_licenses() { return kLicenses; }

std::string check_license(const std::string& id) {
  const std::string wanted = lower_case(id);
  if (std::ranges::find(kLicenses, wanted) != std::end(kLicenses)) return wanted;
  std::string close(nearest(wanted, kLicenses));
  // "apache2", "cc-by-nc", "gpl3": the beginning without punctuation says enough.
  const auto letters = [](std::string_view text) {
    std::string out;
    for (const char c : text)
      if (std::isalnum(static_cast<unsigned char>(c))) out += c;
    return out;
  };
  for (const std::string_view known : kLicenses)
    if (close.empty() && !letters(wanted).empty() && letters(known).starts_with(letters(wanted)))
      close = known;
  fail(ErrorKind::usage,
       "--license {}: the Hub has no such license{}; https://huggingface.co/docs/hub/repositories-licenses "
       "lists them, and \"other\" takes any with --license-name and --license-link",
       id, close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close));
}

AgreedLicense agree_on_license(std::span<const LicenseSource> sources) {
  std::vector<CardLicense> stated;
  for (const LicenseSource& source : sources) stated.push_back(license_of(source));
  if (stated.empty()) return {};
  const bool same = std::ranges::all_of(stated, [&](const CardLicense& other) { return other == stated[0]; });
  if (same && !stated[0].id.empty()) return {.license = stated[0]};
  if (same) return {.license = {}, .why_not = "none of its models states one in its README.md"};
  std::string all;
  for (size_t i = 0; i < stated.size(); i++) all += (i == 0 ? "" : ", ") + describe(sources[i], stated[i]);
  return {.license = {}, .why_not = std::move(all)};
}

}  // namespace moerge
