#pragma once
// How many ways a grammar leaves open at once.

#include <cstddef>
#include <string>

namespace moerge {

/// The most characters of the grammar, counted by the ways to them, that may come next after any one.
/// llama.cpp follows all of them, for all tokens that fit so far, in the one thread that answers everybody:
/// hundreds take it minutes for a token. Counts no further than `limit`. 0 for a text that is no grammar.
size_t open_ways(const std::string& grammar, size_t limit);

}  // namespace moerge
