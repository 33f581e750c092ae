#pragma once
// Layers of a model on other machines, through llama.cpp's RPC backend: every machine runs a worker, and the
// one that has the model file sends each its layers when it starts. The protocol has no password and trusts
// who speaks it.

#include <functional>
#include <string>

namespace moerge {

/// Throws usage for "HOST:PORT,..." in which one is misspelt, does not answer within five seconds, or answers
/// in another protocol or version; llama.cpp itself would end the process.
void check_workers(const std::string& endpoints);

struct WorkerOptions {
  std::string host = "127.0.0.1";
  int port = 50052;
  int threads = 0;  // 0: all cores
};

/// Serves one client after another until the process is ended: on the graphics cards that llama.cpp finds, or
/// on the processor. `listens` is called when all is ready, with what computes ("CPU"). Throws io when the
/// port cannot be had. Silences standard output.
void run_worker(const WorkerOptions& options, const std::function<void(const std::string& devices)>& listens);

}  // namespace moerge
