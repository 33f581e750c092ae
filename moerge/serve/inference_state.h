#pragma once
// llama.cpp's side of Inference. Only for this folder.

#include <server-context.h>

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
};

}  // namespace moerge
