#pragma once
// The command table. A command is one file and one line in commands.cpp.

#include <string>
#include <string_view>
#include <vector>

namespace moerge {

struct Command {
  std::string_view name;
  std::string_view summary;
  std::string_view also_called;  // the program name under which it runs alone ("mergekit-moe"), or empty
  /// Parses its arguments and runs; throws Error. The result is the exit code.
  int (*run)(std::string_view program, const std::vector<std::string>& arguments);
};

/// The whole program: picks the command (or help, or --version), turns errors into messages and exit codes.
int run_program(std::string_view program, const std::vector<std::string>& arguments);

int run_moe(std::string_view program, const std::vector<std::string>& arguments);
int run_merge(std::string_view program, const std::vector<std::string>& arguments);
int run_layershuffle(std::string_view program, const std::vector<std::string>& arguments);
int run_merge_pytorch(std::string_view program, const std::vector<std::string>& arguments);
int run_list(std::string_view program, const std::vector<std::string>& arguments);
int run_plan(std::string_view program, const std::vector<std::string>& arguments);
int run_extract(std::string_view program, const std::vector<std::string>& arguments);
int run_extract_lora(std::string_view program, const std::vector<std::string>& arguments);
int run_gguf(std::string_view program, const std::vector<std::string>& arguments);
int run_route(std::string_view program, const std::vector<std::string>& arguments);
int run_chat(std::string_view program, const std::vector<std::string>& arguments);
int run_worker_command(std::string_view program, const std::vector<std::string>& arguments);
int run_serve(std::string_view program, const std::vector<std::string>& arguments);
int run_pull(std::string_view program, const std::vector<std::string>& arguments);
int run_push(std::string_view program, const std::vector<std::string>& arguments);
int run_imatrix(std::string_view program, const std::vector<std::string>& arguments);
int run_verify(std::string_view program, const std::vector<std::string>& arguments);
int run_eval(std::string_view program, const std::vector<std::string>& arguments);
int run_card(std::string_view program, const std::vector<std::string>& arguments);

}  // namespace moerge
