#include "moerge/model/tokenizer_json.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <unordered_map>

#include "moerge/base/error.h"
#include "moerge/base/interrupt.h"

namespace moerge {
namespace {

// Longer than any token that is merged from letters; keeps the work of finding its halves small.
constexpr size_t kMaxPiece = 1024;

struct Merge {
  size_t piece, left, right;            // ids
  int64_t left_letters, right_letters;  // code points
};

bool begins_letter(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) != 0x80; }

}  // namespace

Json tokenizer_document(Json added_tokens) {
  return {{"version", "1.0"},          {"truncation", nullptr},
          {"padding", nullptr},        {"added_tokens", std::move(added_tokens)},
          {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
          {"post_processor", nullptr}, {"decoder", nullptr},
          {"model", nullptr}};
}

Json added_token_json(size_t id, std::string_view text, bool special) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

Json bpe_json(Json vocab, Json merges) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

Json edges_json(const EdgeToken* first, const EdgeToken* last) {
  const auto token = [&](const EdgeToken& edge, int sequence) -> Json {
    return {{"SpecialToken", {{"id", edge.text}, {"type_id", sequence}}}};
  };
  Json single = Json::array(), pair = Json::array(), tokens = Json::object();
  const auto add = [&](Json& list, const char* name, int sequence) {
    if (first) list.push_back(token(*first, sequence));
    list.push_back({{"Sequence", {{"id", name}, {"type_id", sequence}}}});
    if (last) list.push_back(token(*last, sequence));
  };
  add(single, "A", 0);
  add(pair, "A", 0);
  add(pair, "B", 1);
  for (const EdgeToken* edge : {first, last})
    if (edge)
      tokens[edge->text] = {
          {"id", edge->text}, {"ids", Json::array({edge->id})}, {"tokens", Json::array({edge->text})}};
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", tokens}};
}

void set_piece_spaces(Json& document, bool add_space) {
  Json normalizers = Json::array(), decoders = Json::array();
  if (add_space) normalizers.push_back({{"type", "Prepend"}, {"prepend", kPieceSpace}});
  normalizers.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kPieceSpace}});
  decoders.push_back({{"type", "Replace"}, {"pattern", {{"String", kPieceSpace}}}, {"content", " "}});
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (add_space) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  document["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
  document["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
}

Json::array_t find_merges(const ScoredPieces& pieces, MergeTies ties, const std::string& where) {
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < pieces.texts.size(); id++)
    if (!pieces.absent[id]) ids.emplace(pieces.texts[id], id);
  std::vector<Merge> merges;
  int64_t bytes = 0;
  for (size_t id = 0; id < pieces.texts.size(); id++) {
    const std::string_view piece = pieces.texts[id];
    if (pieces.absent[id] || pieces.whole[id]) continue;
    if (piece.size() > kMaxPiece)
      fail(ErrorKind::input, "{}: damaged vocabulary: token {} has {} bytes", where, id, piece.size());
    if (!pieces.scores.empty() && std::isnan(pieces.scores[id]))
      fail(ErrorKind::input, "{}: damaged vocabulary: the score of token {} is not a number", where, id);
    check_interrupted();
    const int64_t letters = std::ranges::count_if(piece, begins_letter);
    int64_t left_letters = 1;
    for (size_t at = 1; at < piece.size(); at++) {
      if (!begins_letter(piece[at])) continue;
      const auto left = ids.find(piece.substr(0, at)), right = ids.find(piece.substr(at));
      if (left != ids.end() && right != ids.end()) {
        merges.push_back({id, left->second, right->second, left_letters, letters - left_letters});
        if ((bytes += std::ssize(piece)) > kMaxTokenizerText)
          fail(ErrorKind::input, "{}: damaged vocabulary: its merges take more than {} bytes", where,
               kMaxTokenizerText);
      }
      left_letters++;
    }
  }
  const auto rank = [&](const Merge& m) {
    const float score = pieces.scores.empty() ? 0 : pieces.scores[m.piece];
    const auto id = static_cast<int64_t>(m.piece);
    return ties == MergeTies::by_id ? std::tuple(-score, id, -m.left_letters, int64_t{0})
                                    : std::tuple(-score, -m.left_letters, -m.right_letters, id);
  };
  std::ranges::sort(merges, [&](const Merge& a, const Merge& b) { return rank(a) < rank(b); });
  Json::array_t out;
  out.reserve(merges.size());
  for (const Merge& merge : merges) {
    std::string text = pieces.texts[merge.left];
    out.emplace_back(text + " " + pieces.texts[merge.right]);
  }
  return out;
}

std::string dump_tokenizer_json(const Json& json, int indent, const std::string& where) {
  std::string out;
  try {
    out = json.dump(indent) + "\n";
  } catch (const Json::exception&) {
    fail(ErrorKind::input, "{}: damaged vocabulary: a token or template in it is not UTF-8", where);
  }
  if (std::ssize(out) > kMaxTokenizerText)
    fail(ErrorKind::input, "{}: damaged vocabulary: its tokenizer.json would have {} bytes", where,
         out.size());
  return out;
}

}  // namespace moerge
