#pragma once
// Flags of the commands that run a model: chat and serve. Names are llama.cpp's.

#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "moerge/cli/moe_source.h"
#include "moerge/serve/inference.h"

namespace moerge {

inline constexpr const char* kModelHelp =
    "a GGUF file; or an MoE YAML, a model folder, a name in the Hugging Face cache or MODEL#expert=3, of "
    "which a GGUF "
    "is made in a cache";

struct InferenceFlags {
  int64_t context = 0;
  bool plain = false, verbose = false;
  std::string template_file;
  std::string alias;                                          // the model's name for clients
  std::vector<std::string> llama_flags;                       // of ours, in llama.cpp's spelling
  std::vector<std::string> further_flags;                     // what came after a lone "--"
  SourceOptions source;                                       // of a MODEL that is no GGUF
  std::string type = "auto";                                  // of the GGUF that is made of it
  std::string auto_types = "q8_0,q6_k,q5_k_m,q4_k_m,q3_k_m";  // what "auto" tries, best first
  bool rebuild = false, ignore_memory = false;
};

/// What comes after a lone "--" is for llama.cpp's own parser; the rest is returned.
std::vector<std::string> split_llama_flags(const std::vector<std::string>& arguments, InferenceFlags& flags);

/// Sampling, chat template, and add_model_flags().
void add_inference_flags(CLI::App& app, InferenceFlags& flags);
/// Context, the GGUF that is made, threads, devices, hosts.
void add_model_flags(CLI::App& app, InferenceFlags& flags, const std::string& context_help);

/// Those of ours, then those after "--".
std::vector<std::string> all_llama_flags(const InferenceFlags& flags);

/// Without a model, a name and a number of requests at once. Reads the template file.
InferenceOptions inference_options(const InferenceFlags& flags);

}  // namespace moerge
