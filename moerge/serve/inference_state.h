#pragma once
// llama.cpp's side of Inference. Only for this folder.

#include <server-context.h>

#include <atomic>
#include <memory>
#include <thread>

#include "moerge/serve/inference.h"

namespace moerge {

struct Inference::State {
  InferenceInfo info;
  RoutingTap tap;
  common_params params;
  server_context server;
  std::unique_ptr<server_routes> routes;
  std::unique_ptr<server_context_meta> meta;
  const llama_vocab* vocab = nullptr;
  std::thread loop;
  std::atomic<bool> loop_ended{false};
};

/// What the engine is told. Throws usage for flags that llama.cpp does not take.
common_params parse_params(const InferenceOptions& options);

}  // namespace moerge
