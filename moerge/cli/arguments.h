#pragma once
// What the commands' argument parsers share.

#include <cstdint>
#include <string>
#include <string_view>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace moerge {

/// "5B", "500M", "200k", "1GB", bytes without a unit: k, M and B (or G) are 10^3, 10^6, 10^9. Throws usage,
/// naming the flag.
int64_t parse_size(const std::string& text, std::string_view flag);

/// A validator for CLI11, which would clamp a number that does not fit: empty for a whole number, else the
/// message.
std::string whole_number(const std::string& text);

/// Throws CLI11's message as ours, with the nearest flag when one was misspelt.
[[noreturn]] void usage_error(const CLI::App& app, const CLI::ParseError& error, std::string_view program);

}  // namespace moerge
