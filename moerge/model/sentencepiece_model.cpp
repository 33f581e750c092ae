#include "moerge/model/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <optional>

#include "moerge/base/error.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

// ModelProto
constexpr uint64_t kPieces = 1, kTrainerSpec = 2;
// ModelProto.SentencePiece
constexpr uint64_t kText = 1, kScore = 2, kType = 3;
// TrainerSpec
constexpr uint64_t kModelType = 3, kUnknownPiece = 45;
constexpr uint64_t kUnigram = 1, kMerging = 2;  // BPE; the default is unigram

// One field of a message. `number` holds a varint or the bits of a fixed32 or fixed64, `bytes` the rest.
struct Field {
  uint64_t id = 0;
  int wire_type = 0;
  uint64_t number = 0;
  std::span<const std::byte> bytes;
};
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

class Message {
 public:
  Message(std::span<const std::byte> bytes, const std::string& where) : rest_(bytes), where_(where) {}

  /// The next field; empty at the end.
  std::optional<Field> next() {
    if (rest_.empty()) return {};
    const uint64_t key = varint();
    Field field{.id = key >> 3, .wire_type = static_cast<int>(key & 7), .number = 0, .bytes = {}};
    if (field.id == 0) refuse("a field with the number 0");
    switch (field.wire_type) {
      case kVarint:
        field.number = varint();
        break;
      case kFixed64:
        field.number = fixed(8);
        break;
      case kFixed32:
        field.number = fixed(4);
        break;
      case kBytes:
        field.bytes = take(varint());
        break;
      default:
        refuse("a field of an unknown kind");
    }
    return field;
  }

 private:
  [[noreturn]] void refuse(const char* found) const {
    fail(ErrorKind::input, "{}: not a SentencePiece model, or damaged: {}", where_, found);
  }
  std::span<const std::byte> take(uint64_t count) {
    if (count > rest_.size()) refuse("it ends within a field");
    const auto taken = rest_.first(static_cast<size_t>(count));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  uint64_t fixed(size_t size) {
    uint64_t value = 0;
    int shift = 0;
    for (const std::byte byte : take(size)) {
      value |= std::to_integer<uint64_t>(byte) << shift;
      shift += 8;
    }
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint64_t byte = std::to_integer<uint64_t>(take(1)[0]);
      if (shift == 63 && byte > 1) break;
      value |= (byte & 127) << shift;
      if (byte < 128) return value;
    }
    refuse("a number longer than 64 bits");
  }

  std::span<const std::byte> rest_;
  const std::string& where_;
};

SentencePiece parse_piece(std::span<const std::byte> bytes, size_t id, const std::string& where) {
  SentencePiece piece;
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->id == kText && field->wire_type == kBytes)
      piece.text.assign(reinterpret_cast<const char*>(field->bytes.data()), field->bytes.size());
    else if (field->id == kScore && field->wire_type == kFixed32)
      piece.score = std::bit_cast<float>(static_cast<uint32_t>(field->number));
    else if (field->id == kType && field->wire_type == kVarint && field->number >= 1 && field->number <= 6)
      piece.type = static_cast<PieceType>(field->number);
  }
  if (piece.text.empty()) fail(ErrorKind::input, "{}: piece {} has no text", where, id);
  if (!is_utf8(piece.text)) fail(ErrorKind::input, "{}: piece {} is not UTF-8", where, id);
  if (!std::isfinite(piece.score)) fail(ErrorKind::input, "{}: piece {} has no finite score", where, id);
  return piece;
}

}  // namespace

SentencePieceModel parse_sentencepiece_model(std::span<const std::byte> bytes, const std::string& where) {
  SentencePieceModel model;
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->wire_type != kBytes) continue;
    if (field->id == kPieces) {
      if (std::ssize(model.pieces) >= kMaxTokens)
        fail(ErrorKind::input, "{}: more than {} pieces", where, kMaxTokens);
      model.pieces.push_back(parse_piece(field->bytes, model.pieces.size(), where));
    } else if (field->id == kTrainerSpec) {
      Message trainer(field->bytes, where);
      while (const auto setting = trainer.next()) {
        if (setting->id == kModelType && setting->wire_type == kVarint) {
          model.merges = setting->number == kMerging;
          model.unigram = setting->number == kUnigram;
        } else if (setting->id == kUnknownPiece && setting->wire_type == kBytes) {
          model.unknown.assign(reinterpret_cast<const char*>(setting->bytes.data()), setting->bytes.size());
          if (!is_utf8(model.unknown)) fail(ErrorKind::input, "{}: its unknown piece is not UTF-8", where);
        }
      }
    }
  }
  if (model.pieces.empty()) fail(ErrorKind::input, "{}: no pieces: not a SentencePiece model", where);
  return model;
}

}  // namespace moerge
