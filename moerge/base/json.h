#pragma once
// JSON with the limits that hostile files need. Key order is kept, so that an edited config.json stays
// readable.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace moerge {

using Json = nlohmann::ordered_json;

/// Deeper documents are refused while parsing (the library's recursive copy would overflow the stack).
inline constexpr int kMaxJsonDepth = 64;

/// Parses a whole document; `where` (a path) starts every error message. Throws ErrorKind::input.
Json parse_json(std::string_view text, const std::string& where);

/// The same without the members called `skip`, wherever they are, and what is in them.
Json parse_json_without(std::string_view skip, std::string_view text, const std::string& where);

/// The same with the members of these names alone, wherever they are: a hostile object of many members costs
/// no more than reading it.
Json parse_json_only(std::span<const std::string_view> keep, std::string_view text, const std::string& where);

/// A document for people and scripts, indented. Texts that are not UTF-8 (names of folders need not be) get
/// replacement characters; JSON must be.
std::string json_text(const Json& json);

/// Reads and parses a file of at most `max_bytes`.
Json read_json(const std::filesystem::path& file, int64_t max_bytes = 4 << 20);

/// The text of an object with one member set, everything else byte for byte: numbers that this program cannot
/// hold, spaces, other members. A member that is there keeps its place (of several, the last), a new one
/// comes last. Throws input for what is no object.
std::string set_json_member(std::string_view text, std::string_view key, const Json& value,
                            const std::string& where);

/// Members of an object by name; empty when the member is absent or null. A member of another type is an
/// error that names `where` and the key.
std::optional<int64_t> json_int(const Json& object, const char* key, const std::string& where);
std::optional<double> json_number(const Json& object, const char* key, const std::string& where);
std::optional<bool> json_bool(const Json& object, const char* key, const std::string& where);
std::optional<std::string> json_string(const Json& object, const char* key, const std::string& where);

}  // namespace moerge
