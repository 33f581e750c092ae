#pragma once
// llama.cpp's CPU backend without its roundings of activations to 16 bits.

namespace moerge {

/// While one lives, all that the CPU backend computes in this process: products with float16 and bfloat16
/// weights are those of the widened weights in float32, of experts too, and flash attention reads float32
/// keys and values as they are in memory. Without it ggml rounds activations to the weights' type, and
/// llama.cpp's graphs hand float16 copies to flash attention. Make it before a graph is computed, and end it
/// after; it takes some MB of the backend's work memory.
class Float32Compute {
 public:
  Float32Compute();
  Float32Compute(const Float32Compute&) = delete;
  Float32Compute& operator=(const Float32Compute&) = delete;
  ~Float32Compute();
};

}  // namespace moerge
