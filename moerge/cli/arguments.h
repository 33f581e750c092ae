#pragma once
// What the commands' argument parsing has in common.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

/// Fills what was added to `app`. False when help was asked for: it has been printed. Throws usage with the
/// nearest flag when one was misspelt.
bool parse_arguments(CLI::App& app, const std::vector<std::string>& arguments, std::string_view program);

/// Throws usage where no such file exists. Whether it can be read shows when it is.
void check_config_exists(const std::string& config);

/// "5B", "500M", "200k", "1GB", bytes without a unit: k, M and B (or G) are 10^3, 10^6, 10^9. Throws usage,
/// naming the flag.
int64_t parse_size(const std::string& text, std::string_view flag);

/// A CLI::Option::check: 0 to 2^63 - 1. CLI11 alone would clamp a number that does not fit.
std::string whole_number(const std::string& text);

}  // namespace moerge
