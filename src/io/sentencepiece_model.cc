// tokenizer.model: a protocol buffer, of which the fields below are read.
#include <cstring>
#include <optional>

#include "base/error.h"
#include "io/sentencepiece.h"

namespace polylora {
namespace {

constexpr size_t kMaxPieces = size_t{1} << 22;

/// One field of a message: its number, and a varint or bytes, as its wire type says.
struct Field {
  uint32_t number = 0;
  uint64_t varint = 0;
  std::string_view bytes;
};

/// Walks the fields of a message.
class Message {
 public:
  Message(std::string_view bytes, const std::string& where) : rest_(bytes), where_(where) {}

  std::optional<Field> next() {
    if (rest_.empty()) return std::nullopt;
    const uint64_t key = read_varint();
    Field field{.number = static_cast<uint32_t>(key >> 3), .varint = 0, .bytes = {}};
    switch (key & 7u) {
      case 0:
        field.varint = read_varint();
        break;
      case 1:
        field.bytes = take(8);
        break;
      case 2:
        field.bytes = take(read_varint());
        break;
      case 5:
        field.bytes = take(4);
        break;
      default:
        broken();
    }
    return field;
  }

 private:
  [[noreturn]] void broken() const {
    fail(ErrorCode::kDataCorrupt, "{}: not a SentencePiece model, or cut off", where_);
  }

  std::string_view take(uint64_t size) {
    if (size > rest_.size()) broken();
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  uint64_t read_varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1).front());
      value |= uint64_t{byte & 0x7Fu} << shift;
      if ((byte & 0x80u) == 0) return value;
    }
    broken();
  }

  std::string_view rest_;
  const std::string& where_;
};

SentencePieces::Piece read_piece(std::string_view bytes, const std::string& where) {
  SentencePieces::Piece piece;
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->number == 1) piece.text = field->bytes;
    if (field->number == 2 && field->bytes.size() == 4) std::memcpy(&piece.score, field->bytes.data(), 4);
    if (field->number == 3) {
      if (field->varint < 1 || field->varint > 6)
        fail(ErrorCode::kDataCorrupt, "{}: a piece has the unknown type {}", where, field->varint);
      piece.type = static_cast<PieceType>(field->varint);
    }
  }
  return piece;
}

/// A varint that holds an int32, where -1 means "none".
int64_t token_id(uint64_t varint) {
  return static_cast<int32_t>(varint);
}

void read_trainer_spec(std::string_view bytes, const std::string& where, SentencePieces& out) {
  constexpr uint64_t kUnigram = 1, kBpe = 2;
  constexpr const char* kKinds[] = {"unknown", "Unigram", "BPE", "word", "character"};
  uint64_t kind = 1;  // the default
  out.byte_fallback = false;
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->number == 3) kind = field->varint;
    if (field->number == 24 && field->varint != 0)
      fail(ErrorCode::kUnsupported, "{}: a SentencePiece model that writes spaces behind words", where);
    if (field->number == 35) out.byte_fallback = field->varint != 0;
    if (field->number == 40) out.unknown_id = token_id(field->varint);
    if (field->number == 41) out.bos_id = token_id(field->varint);
    if (field->number == 42) out.eos_id = token_id(field->varint);
  }
  out.unigram = kind == kUnigram;
  if (kind == kBpe || kind == kUnigram) return;
  fail(ErrorCode::kUnsupported, "{}: a SentencePiece model of kind {}; BPE and Unigram are read", where,
       kind < std::size(kKinds) ? kKinds[kind] : kKinds[0]);
}

void read_normalizer_spec(std::string_view bytes, const std::string& where, SentencePieces& out) {
  Message message(bytes, where);
  out.remove_extra_whitespaces = true;  // the default, as of the other two
  while (const auto field = message.next()) {
    if (field->number == 2) out.charsmap = field->bytes;
    if (field->number == 3) out.add_dummy_prefix = field->varint != 0;
    if (field->number == 4) out.remove_extra_whitespaces = field->varint != 0;
    if (field->number == 5) out.escape_whitespaces = field->varint != 0;
  }
}

}  // namespace

SentencePieces parse_sentencepiece_model(std::string_view bytes, const std::string& where) {
  SentencePieces out;
  bool has_trainer = false;
  Message message(bytes, where);
  while (const auto field = message.next()) {
    if (field->number == 1) {
      if (out.pieces.size() == kMaxPieces)
        fail(ErrorCode::kDataCorrupt, "{}: more than {} pieces", where, kMaxPieces);
      out.pieces.push_back(read_piece(field->bytes, where));
    }
    if (field->number == 2) {
      read_trainer_spec(field->bytes, where, out);
      has_trainer = true;
    }
    if (field->number == 3) read_normalizer_spec(field->bytes, where, out);
  }
  if (out.pieces.empty() || !has_trainer)
    fail(ErrorCode::kDataCorrupt, "{}: not a SentencePiece model, or cut off", where);
  return out;
}

}  // namespace polylora
