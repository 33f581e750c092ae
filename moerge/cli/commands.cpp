#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/base/suggest.h"
#include "moerge/cli/command.h"

namespace moerge {
namespace {

constexpr std::string_view kVersion = "0.1.0";

constexpr std::array<Command, 1> kCommands = {{
    {"moe", "make a mixture of experts from the models that a YAML file names", "mergekit-moe", run_moe},
}};

void print_help(std::FILE* to) {
  fmt::print(to,
             "moerge {}: mixtures of experts from ordinary language models\n\n"
             "usage: moerge COMMAND ... (moerge COMMAND --help teaches each one)\n\ncommands:\n",
             kVersion);
  for (const Command& command : kCommands) fmt::print(to, "  {:<10} {}\n", command.name, command.summary);
}

int dispatch(std::string_view program, const std::vector<std::string>& arguments) {
  const std::string called = std::filesystem::path(program).filename().string();
  for (const Command& command : kCommands)
    if (called == command.also_called) return command.run(called, arguments);
  if (arguments.empty()) {
    print_help(stderr);
    return exit_code(ErrorKind::usage);
  }
  const std::string& first = arguments[0];
  if (first == "--help" || first == "-h" || first == "help") return print_help(stdout), 0;
  if (first == "--version") return fmt::print("moerge {}\n", kVersion), 0;
  std::vector<std::string_view> names;
  for (const Command& command : kCommands) {
    if (command.name == first)
      return command.run("moerge " + first, {arguments.begin() + 1, arguments.end()});
    names.push_back(command.name);
  }
  const std::string close = nearest(first, names);
  fail(ErrorKind::usage, "unknown command \"{}\"{}; the commands are: {}", first,
       close.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", close), fmt::join(names, ", "));
}

}  // namespace

std::span<const Command> commands() { return kCommands; }

int run_program(std::string_view program, const std::vector<std::string>& arguments) {
  try {
    return dispatch(program, arguments);
  } catch (const Error& error) {
    fmt::print(stderr, "moerge: {}\n", error.what());
    return exit_code(error.kind());
  } catch (const std::filesystem::filesystem_error& error) {
    fmt::print(stderr, "moerge: {}: {}\n", error.path1().string(), error.code().message());
    return exit_code(ErrorKind::io);
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "moerge: out of memory\n");
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "moerge: internal error: {}\n", error.what());
    return 1;
  }
}

}  // namespace moerge
