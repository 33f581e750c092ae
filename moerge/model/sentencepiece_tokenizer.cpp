#include "moerge/model/sentencepiece_tokenizer.h"

#include <algorithm>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/model/sentencepiece_model.h"
#include "moerge/model/tokenizer_json.h"

namespace moerge {
namespace {

constexpr int64_t kMaxSentencePieceFile = 64 << 20;
// Ids whose texts the class takes from the tokenizer rather than from the model, with the score 0.
constexpr size_t kNamedIds = 3;

void check_class(const TokenizerFiles& files, const Json& config) {
  std::string stated = token_text(member(files.tokenizer_config, "tokenizer_class"));
  if (stated.empty()) stated = token_text(member(config, "tokenizer_class"));
  if (stated.ends_with("Fast")) stated.resize(stated.size() - 4);
  // The last two only say "as the files have it".
  constexpr std::string_view kAlike[] = {"", "LlamaTokenizer", "CodeLlamaTokenizer", "PreTrainedTokenizer",
                                         "TokenizersBackend"};
  if (std::ranges::count(kAlike, stated) == 0)
    fail(
        ErrorKind::unsupported,
        "{}: only a SentencePiece tokenizer.model here, for the class \"{}\"; \"LlamaTokenizer\" is known. "
        "Save the tokenizer once with transformers (AutoTokenizer.from_pretrained(...).save_pretrained(...)) "
        "to get tokenizer.json",
        files.folder.string(), stated.substr(0, 80));
}

struct Pieces {
  SentencePieceModel model;
  std::vector<std::string> texts;
  std::vector<float> scores;
};

Pieces read_pieces(const TokenizerFiles& files, const std::string& where) {
  Pieces out;
  const std::string bytes = read_file(where, kMaxSentencePieceFile);
  out.model = parse_sentencepiece_model(std::as_bytes(std::span(bytes)), where);
  if (!out.model.merges && !out.model.unigram)
    fail(ErrorKind::unsupported,
         "{}: a SentencePiece model of whole words or single characters; \"bpe\" and "
         "\"unigram\" are read",
         where);
  std::set<std::string_view> seen;
  for (const SentencePiece& piece : out.model.pieces) {
    if (!seen.insert(piece.text).second)
      fail(ErrorKind::input, "{}: damaged vocabulary: the piece \"{}\" is there twice", where,
           piece.text.substr(0, 80));
    out.texts.push_back(piece.text);
    out.scores.push_back(out.texts.size() > kNamedIds ? piece.score : 0);
  }
  for (const Token& token : decoder_tokens(files)) {
    const auto id = static_cast<uint64_t>(token.id);
    if (id < std::min(kNamedIds, out.texts.size()) && !seen.contains(token.text)) out.texts[id] = token.text;
  }
  return out;
}

Json bpe(const Pieces& pieces, const std::string& where) {
  const std::vector<bool> none(pieces.texts.size());
  const ScoredPieces scored = {.texts = pieces.texts, .scores = pieces.scores, .absent = none, .whole = none};
  Json::object_t vocab;
  vocab.reserve(pieces.texts.size());
  for (size_t id = 0; id < pieces.texts.size(); id++) vocab.push_back({pieces.texts[id], id});
  Json model = bpe_json(std::move(vocab), find_merges(scored, MergeTies::by_length, where));
  model["unk_token"] = pieces.model.unknown;
  model["fuse_unk"] = true;
  model["byte_fallback"] = true;
  return model;
}

Json unigram(const Pieces& pieces) {
  Json::array_t vocab;
  vocab.reserve(pieces.texts.size());
  for (size_t id = 0; id < pieces.texts.size(); id++)
    vocab.push_back(Json::array({pieces.texts[id], pieces.scores[id]}));
  return {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", std::move(vocab)}, {"byte_fallback", true}};
}

// "legacy": the space in front of a text is put there before added tokens cut it up into sections, so every
// section gets one; later only the first does, unless the text begins with one.
void set_spaces(Json& document, const TokenizerFiles& files, const std::string& where) {
  const Json& settings = files.tokenizer_config;
  const bool add_space = json_bool(settings, "add_prefix_space", where).value_or(true);
  set_piece_spaces(document, add_space);
  if (json_bool(settings, "legacy", where).value_or(true)) return;
  document["normalizer"] = nullptr;
  document["pre_tokenizer"] = {{"type", "Metaspace"},
                               {"replacement", kPieceSpace},
                               {"prepend_scheme", add_space ? "first" : "never"},
                               {"split", false}};
}

std::optional<EdgeToken> edge(const Pieces& pieces, const std::string& text) {
  const auto found = std::ranges::find(pieces.texts, text);
  if (found == pieces.texts.end()) return {};
  return EdgeToken{text, static_cast<size_t>(found - pieces.texts.begin())};
}

std::optional<std::string> role(const TokenizerFiles& files, const char* key, const char* usual) {
  const StatedToken token = stated_token(files.tokenizer_config, files.special_tokens_map, key, files.folder);
  return token.stated ? token.text : usual;
}

}  // namespace

std::optional<std::string> sentencepiece_bos(const TokenizerFiles& files) {
  return role(files, "bos_token", "<s>");
}

std::string make_sentencepiece_tokenizer(const TokenizerFiles& files, const Json& config) {
  const std::string where = (files.folder / "tokenizer.model").string();
  const std::string settings_file = (files.folder / "tokenizer_config.json").string();
  check_class(files, config);
  const Pieces pieces = read_pieces(files, where);
  Json added = Json::array();
  for (size_t id = 0; id < pieces.texts.size(); id++) {
    const PieceType type = pieces.model.pieces[id].type;
    if (type == PieceType::control || type == PieceType::user_defined)
      added.push_back(added_token_json(id, pieces.model.pieces[id].text, type == PieceType::control));
  }
  Json out = tokenizer_document(std::move(added));
  set_spaces(out, files, settings_file);
  const bool add_bos = json_bool(files.tokenizer_config, "add_bos_token", settings_file).value_or(true);
  const bool add_eos = json_bool(files.tokenizer_config, "add_eos_token", settings_file).value_or(false);
  const auto bos = edge(pieces, add_bos ? sentencepiece_bos(files).value_or("") : "");
  const auto eos = edge(pieces, add_eos ? role(files, "eos_token", "</s>").value_or("") : "");
  if (bos || eos) out["post_processor"] = edges_json(bos ? &*bos : nullptr, eos ? &*eos : nullptr);
  out["model"] = pieces.model.merges ? bpe(pieces, where) : unigram(pieces);
  return dump_tokenizer_json(out, -1, where);
}

}  // namespace moerge
