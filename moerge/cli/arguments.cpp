#include "moerge/cli/arguments.h"

#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "moerge/base/error.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/progress.h"
#include "moerge/base/suggest.h"

namespace moerge {
namespace {

std::vector<std::string_view> flag_names(const CLI::App& app, std::vector<std::string>& storage) {
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) storage.push_back("--" + name);
  return {storage.begin(), storage.end()};
}

// CLI11's message, with the nearest flag when one was misspelt.
[[noreturn]] void usage_error(const CLI::App& app, const CLI::ParseError& error, std::string_view program) {
  std::string message = error.what();
  std::vector<std::string> storage;
  const std::vector<std::string_view> names = flag_names(app, storage);
  for (const std::string& extra : app.remaining()) {
    if (!extra.starts_with("-")) continue;
    const std::string close = nearest(extra, names);
    message = fmt::format("unknown flag {}{}", extra,
                          close.empty() ? "" : fmt::format(" (did you mean {}?)", close));
  }
  fail(ErrorKind::usage, "{}\n{} --help lists the flags", message, program);
}

}  // namespace

bool parse_arguments(CLI::App& app, const std::vector<std::string>& arguments, std::string_view program) {
  try {
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
    return true;
  } catch (const CLI::CallForHelp&) {
    print_result(app.help());
    return false;
  } catch (const CLI::ParseError& error) {
    usage_error(app, error, program);
  }
}

void check_config_exists(const std::string& config) {
  std::error_code error;
  if (!std::filesystem::exists(config, error))
    fail(ErrorKind::usage, "CONFIG \"{}\": there is no such file", config);
}

int64_t parse_size(const std::string& text, std::string_view flag) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit = lower_case(end);
  if (unit.size() == 2 && unit.ends_with('b')) unit.pop_back();
  const double factor = unit.empty()                 ? 1
                        : unit == "k"                ? 1e3
                        : unit == "m"                ? 1e6
                        : unit == "b" || unit == "g" ? 1e9
                                                     : 0;
  if (end == text.c_str() || factor == 0 || !(number * factor >= 1) || number * factor > 9e18)
    fail(ErrorKind::usage, "{} {}: a size like 5B, 500M or 200k is expected (bytes; B is 10^9)", flag, text);
  return static_cast<int64_t>(number * factor);
}

std::string whole_number(const std::string& text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= 0) return {};
  return fmt::format("a whole number from 0 to {} is expected, found {}", INT64_MAX, text);
}

}  // namespace moerge
