#pragma once
// Requests that llama.cpp's server would not survive, or only after minutes or gigabytes, are refused before
// it sees them.

#include <string_view>

#include "moerge/base/json.h"
#include "moerge/serve/inference.h"

namespace moerge {

/// The body of a request. Throws input, naming the place, for what is no JSON object, is too deep, or has too
/// many members: the library that reads it compares each with all the others.
Json parse_request(std::string_view body);

struct RequestLimits {
  int parallel = 1;         // answers at once
  size_t longest_text = 0;  // bytes: what is longer has more tokens than a request may have
  int64_t context = 0;      // tokens that a request may have
};

/// A request for an answer. Throws input with a sentence for the client.
void check_request(const Json& request, RequestKind kind, const RequestLimits& limits);

/// One of /tokenize or /detokenize.
void check_tokens_request(const Json& request);

}  // namespace moerge
