#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>

#include "moerge/base/error.h"
#include "moerge/base/progress.h"
#include "moerge/base/suggest.h"
#include "moerge/base/version.h"
#include "moerge/cli/command.h"

namespace moerge {
namespace {

constexpr std::array<Command, 19> kCommands = {{
    {"moe", "make a mixture of experts from the models that a YAML file names", "mergekit-moe", run_moe},
    {"merge", "merge models into one: SLERP, TIES, DARE and the other methods of mergekit-yaml",
     "mergekit-yaml", run_merge},
    {"plan", "say what would be made of a YAML: sizes, memory, families; writes nothing", "", run_plan},
    {"extract", "write one expert of a mixture as a dense model", "", run_extract},
    {"extract-lora", "write a fine-tune as a LoRA adapter of its base", "", run_extract_lora},
    {"layershuffle", "make a model whose layers are drawn at random from others", "mergekit-layershuffle",
     run_layershuffle},
    {"merge-pytorch", "merge files of tensors that are no language models", "mergekit-pytorch",
     run_merge_pytorch},
    {"list", "print the merge methods with their parameters and papers", "", run_list},
    {"gguf", "write GGUF files, quantised or not, from a YAML or a model folder", "", run_gguf},
    {"route", "say where a mixture's routers send the tokens of a text, and what is wrong", "", run_route},
    {"chat", "talk with a model in the terminal, and watch which expert has each word", "", run_chat},
    {"worker", "compute layers of a model that is larger than one machine", "", run_worker_command},
    {"serve", "answer over HTTP as the OpenAI API does, with a page to talk to the model", "", run_serve},
    {"eval", "ask a model the items of benchmarks: the Nous suite, the Open LLM Leaderboard, EQ-Bench", "",
     run_eval},
    {"pull", "fetch models from the Hugging Face Hub", "", run_pull},
    {"imatrix", "measure on text which weights of a model matter most, for a quantiser", "", run_imatrix},
    {"card", "write the model card of a folder: README.md as the Hugging Face Hub reads it", "", run_card},
    {"verify", "say whether a model folder still holds what was built: checksums of all that is in it", "",
     run_verify},
    {"push", "upload a model folder and its GGUF files to the Hugging Face Hub", "", run_push},
}};

std::string help() {
  std::string out = fmt::format(
      "moerge {}: mixtures of experts from ordinary language models\n\n"
      "usage: moerge COMMAND ... (moerge COMMAND --help teaches each one)\n\ncommands:\n",
      kVersion);
  for (const Command& command : kCommands) out += fmt::format("  {:<13} {}\n", command.name, command.summary);
  return out;
}

int dispatch(std::string_view program, const std::vector<std::string>& arguments) {
  const std::string called = std::filesystem::path(program).filename().string();
  for (const Command& command : kCommands)
    if (called == command.also_called) return command.run(called, arguments);
  if (arguments.empty()) {
    print_error_line(help());
    return exit_code(ErrorKind::usage);
  }
  const std::string& first = arguments[0];
  if (first == "--help" || first == "-h" || first == "help") return print_result(help()), 0;
  if (first == "--version") return print_result(fmt::format("moerge {}\n", kVersion)), 0;
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

int run_program(std::string_view program, const std::vector<std::string>& arguments) {
  try {
    return dispatch(program, arguments);
  } catch (const Error& error) {
    print_error_line("moerge: " + error.message());
    return exit_code(error.kind());
  } catch (const std::filesystem::filesystem_error& error) {
    print_error_line(fmt::format("moerge: {}: {}", error.path1().string(), error.code().message()));
    return exit_code(ErrorKind::io);
  } catch (const std::bad_alloc&) {
    print_error_line("moerge: out of memory");
    return 1;
  } catch (const std::exception& error) {
    print_error_line(fmt::format("moerge: internal error: {}", error.what()));
    return 1;
  }
}

}  // namespace moerge
