// llama.cpp's quantiser on its own, for gguf.py: llama_quantize IN.gguf OUT.gguf FILE_TYPE (a number of llama_ftype)
#include <cstdio>
#include <cstdlib>

#include "moerge/testing/llama_quantizer.h"

int main(int argc, char** argv) {
  if (argc != 4) return std::fputs("usage: llama_quantize IN.gguf OUT.gguf FILE_TYPE\n", stderr), 2;
  try {
    moerge::testing::quantize_with_llama(argv[1], argv[2], std::atoi(argv[3]));
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
}
