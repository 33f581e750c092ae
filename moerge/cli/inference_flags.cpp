#include "moerge/cli/inference_flags.h"

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/cli/source_flags.h"

namespace moerge {
namespace {

constexpr const char* kModelGroup = "The model";
constexpr int64_t kMaxTemplate = 4 << 20;

// An option whose value goes to llama.cpp as it is, once it is of the right kind.
void pass_on(CLI::App& app, InferenceFlags& flags, const std::string& names, const std::string& llama_name,
             const std::string& help, const CLI::Validator& check, const std::string& group) {
  app.add_option_function<std::string>(
         names,
         [&flags, llama_name](const std::string& value) {
           flags.llama_flags.push_back(llama_name);
           flags.llama_flags.push_back(value);
         },
         help)
      ->check(check)
      ->group(group);
}

const CLI::Validator kAnyText = CLI::Validator([](std::string&) { return std::string(); }, "");

}  // namespace

void add_inference_flags(CLI::App& app, InferenceFlags& flags) {
  const std::string sampling = "Sampling, as in llama.cpp";
  const CLI::Range share(0.0, 1.0);
  pass_on(app, flags, "-n,--predict", "-n", "longest answer in tokens; -1: as long as there is context (-1)",
          CLI::Range(-1, INT32_MAX), sampling);
  pass_on(app, flags, "--temp", "--temp", "temperature; 0: always the likeliest token (0.8)",
          CLI::Range(0.0, 100.0), sampling);
  pass_on(app, flags, "--top-k", "--top-k", "only the K likeliest tokens; 0: all (40)",
          CLI::Range(0, INT32_MAX), sampling);
  pass_on(app, flags, "--top-p", "--top-p",
          "only the likeliest tokens that make up this share; 1: all (0.95)", share, sampling);
  pass_on(app, flags, "--min-p", "--min-p",
          "only tokens with this share of the likeliest one's probability (0.05)", share, sampling);
  pass_on(app, flags, "--repeat-penalty", "--repeat-penalty",
          "makes tokens of late less likely; 1: does not (1)", CLI::Range(0.01, 100.0), sampling);
  pass_on(app, flags, "--repeat-last-n", "--repeat-last-n", "how many tokens that looks back (64)",
          CLI::Range(0, 100000), sampling);
  pass_on(app, flags, "--presence-penalty", "--presence-penalty",
          "makes tokens that were there less likely (0)", CLI::Range(-100.0, 100.0), sampling);
  pass_on(app, flags, "--frequency-penalty", "--frequency-penalty", "the same, the more often the more (0)",
          CLI::Range(-100.0, 100.0), sampling);
  pass_on(app, flags, "-s,--seed", "--seed", "seed of the sampling; -1: another each time (-1)",
          CLI::Range(int64_t{-1}, int64_t{UINT32_MAX}), sampling);
  app.add_option("--chat-template-file", flags.template_file, "Jinja template to use instead of the model's")
      ->group(kModelGroup);
  app.add_flag("--plain", flags.plain, "no chat template: the model goes on where the text ends")
      ->group(kModelGroup);
  add_model_flags(app, flags,
                  "tokens of context, all requests together (what the model was trained with, 8192 at most; "
                  "serve: for up to four of them)");
}

void add_model_flags(CLI::App& app, InferenceFlags& flags, const std::string& context_help) {
  app.add_option("-c,--ctx-size", flags.context, context_help)
      ->check(CLI::Range(int64_t{16}, int64_t{INT32_MAX}))
      ->group(kModelGroup);
  app.add_flag("--ignore-memory", flags.ignore_memory, "load it even where the memory does not suffice")
      ->group(kModelGroup);
  const std::string made = "When MODEL is no GGUF file";
  app.add_option("--type", flags.type,
                 fmt::format("type of the GGUF that is made of it: q8_0, q4_k_m, ..., as of `moerge gguf` "
                             "(auto: the first of "
                             "{} that fits into memory)",
                             flags.auto_types))
      ->group(made);
  app.add_flag("--rebuild", flags.rebuild, "make the GGUF again")->group(made);
  app.add_option("--transformers-cache", flags.source.cache,
                 "look for models here instead of the Hugging Face cache")
      ->group(made);
  add_build_flags(app, flags.source, made);
  const std::string where = "Where it runs";
  pass_on(app, flags, "-t,--threads", "-t", "threads (as many as there are cores)", CLI::Range(1, 1024),
          where);
  pass_on(app, flags, "--gpu-layers,--n-gpu-layers", "-ngl",
          "layers on the graphics card: a number, auto or all (auto)", kAnyText, where);
  pass_on(app, flags, "--device", "--device", "devices to use, as a list; none: the processor alone",
          kAnyText, where);
  pass_on(app, flags, "--rpc", "--rpc", "hosts that take layers: HOST:PORT,... (each runs `moerge worker`)",
          kAnyText, where);
  pass_on(app, flags, "--override-tensor", "--override-tensor",
          "PATTERN=DEVICE,...: where the tensors go whose name matches a regular expression: "
          "'ffn_.*_exps=RPC0[HOST:PORT]'",
          kAnyText, where);
  app.add_flag("--verbose", flags.verbose, "show llama.cpp's own messages")->group(where);
}

std::vector<std::string> split_llama_flags(const std::vector<std::string>& arguments, InferenceFlags& flags) {
  const auto border = std::find(arguments.begin(), arguments.end(), "--");
  if (border != arguments.end()) flags.further_flags.assign(border + 1, arguments.end());
  // Of the parts of llama.cpp's server that are not here, or what would end the program.
  constexpr std::string_view kRefused[] = {"--api-key",
                                           "--api-key-file",
                                           "--host",
                                           "--port",
                                           "--path",
                                           "--api-prefix",
                                           "--ssl-key-file",
                                           "--ssl-cert-file",
                                           "--timeout",
                                           "--help",
                                           "-h",
                                           "--usage",
                                           "--version",
                                           "--list-devices",
                                           "--completion-bash",
                                           "-m",
                                           "--model",
                                           "--model-url",
                                           "-hf",
                                           "--hf-repo",
                                           "--models-dir",
                                           "--tools"};
  for (const std::string& flag : flags.further_flags)
    if (std::ranges::find(kRefused, flag) != std::end(kRefused))
      fail(ErrorKind::usage,
           "{} is none of the flags that go to llama.cpp (after \"--\"); moerge's own stand before it", flag);
  return {arguments.begin(), border};
}

std::vector<std::string> all_llama_flags(const InferenceFlags& flags) {
  std::vector<std::string> all = flags.llama_flags;
  all.insert(all.end(), flags.further_flags.begin(), flags.further_flags.end());
  return all;
}

InferenceOptions inference_options(const InferenceFlags& flags) {
  InferenceOptions options;
  options.context = flags.context;
  options.llama_flags = all_llama_flags(flags);
  options.verbose = flags.verbose;
  if (flags.plain && !flags.template_file.empty())
    fail(ErrorKind::usage, "--plain and --chat-template-file exclude each other");
  if (flags.plain) options.chat_template = "";
  if (!flags.template_file.empty()) options.chat_template = read_file(flags.template_file, kMaxTemplate);
  return options;
}

}  // namespace moerge
