#pragma once
// "tokenizer.ggml.pre": the name under which llama.cpp knows how a byte-level BPE cuts text into words.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "moerge/base/json.h"

namespace moerge {

struct PreHash {
  std::string_view sha256, name;
};

/// The text that llama.cpp's converter tokenises to recognise a pre-tokenizer.
std::string_view pre_check_text();
/// What the tokens of that text hash to, for the vocabularies that the converter knows.
std::span<const PreHash> pre_hashes();
/// Every name that llama.cpp takes for a byte-level BPE, in alphabetical order.
std::span<const std::string_view> pre_names();

/// The converter's own recognition: by the hash of `ids`, the tokens of pre_check_text(). Empty when unknown.
std::string_view pre_by_hash(std::span<const int32_t> ids);

/// What tokenizer.json says about cutting text into words.
struct PreTokenizer {
  /// The patterns that cut, one after another; ByteLevel's own and Digits spelled out as such.
  std::vector<std::string> cuts;
  std::vector<std::string> normalizers;  // their types; llama.cpp has none for a byte-level BPE
  bool byte_level = false;
  bool adds_space = false;  // in front of a text that does not begin with one
  bool ignore_merges = false;
};
PreTokenizer read_pre_tokenizer(const Json& tokenizer);

/// The same for a message: "Split(REGEX) + ByteLevel".
std::string describe(const PreTokenizer& pre_tokenizer);

/// The names of llama.cpp that do the same by their construction, the best one first; empty when there is
/// none.
std::vector<std::string_view> pre_by_structure(const PreTokenizer& pre_tokenizer);

/// One name for each way of cutting that llama.cpp has, the more usual ones first.
std::span<const std::string_view> pre_kinds();

}  // namespace moerge
