#pragma once
// What Inference will take of memory, before it loads a model.

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/engine/llama_memory.h"
#include "moerge/serve/inference.h"

namespace moerge {

/// What llama.cpp makes of the options, further flags included.
struct InferenceUse {
  LlamaUse memory;
  int64_t context = 0;  // tokens of all requests together; 0: not said
};
/// Throws usage for flags that llama.cpp does not take.
InferenceUse inference_use(const InferenceOptions& options);

/// Whether layers may go elsewhere: to a graphics card that this build drives, or to hosts named with --rpc.
bool leaves_processor(const InferenceOptions& options);

/// What follows the last of these flags, or empty: {"-n", "8"} with {"-n", "--predict"} gives "8".
std::string flag_value(const std::vector<std::string>& flags, std::initializer_list<std::string_view> names);

}  // namespace moerge
