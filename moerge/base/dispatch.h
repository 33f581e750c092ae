#pragma once
// MOERGE_DISPATCHED before a function compiles it for several instruction sets; the loader picks one at
// start. Sanitizers and other compilers do without.

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define MOERGE_DISPATCHED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define MOERGE_DISPATCHED
#endif

// Of a lambda or template in such a function: it belongs to every variant.
#if defined(__GNUC__)
#define MOERGE_INLINED __attribute__((always_inline))
#else
#define MOERGE_INLINED
#endif
