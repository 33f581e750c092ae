#include "moerge/moe/texts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <optional>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/interrupt.h"
#include "moerge/base/random.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

constexpr int64_t kSlot = 2048;          // bytes
constexpr int64_t kLookBack = 512;       // how far in front of a slot's end a place to cut is looked for
constexpr int64_t kMaxRow = 16 << 20;    // bytes
constexpr int64_t kCheckAll = 64 << 20;  // bytes
constexpr size_t kAround = 128 << 10;    // bytes
constexpr std::string_view kBlanks = " \t\r\n\f\v";

struct Signature {
  std::string_view bytes, name;
};
// UTF-32 little-endian starts like UTF-16 does.
constexpr Signature kOtherEncodings[] = {{{"\xff\xfe\0\0", 4}, "UTF-32"},
                                         {{"\0\0\xfe\xff", 4}, "UTF-32"},
                                         {"\xff\xfe", "UTF-16"},
                                         {"\xfe\xff", "UTF-16"}};

bool is_blank(std::string_view text) { return text.find_first_not_of(kBlanks) == std::string_view::npos; }

int64_t slots_of(int64_t bytes) { return (bytes + kSlot - 1) / kSlot; }

// Where the piece `k` of a text begins: at or shortly before its slot.
size_t cut(std::string_view text, int64_t k) {
  const auto slot = static_cast<size_t>(k * kSlot);
  if (slot == 0 || slot >= text.size()) return std::min(slot, text.size());
  const size_t back = slot - kLookBack;
  const std::string_view before = text.substr(back, kLookBack);
  if (const size_t line = before.rfind('\n'); line != std::string_view::npos) return back + line + 1;
  if (const size_t space = before.rfind(' '); space != std::string_view::npos) return back + space;
  size_t at = slot;
  while (slot - at < 3 && (text[at] & 0xc0) == 0x80) at--;
  return at;
}

std::string_view piece(std::string_view text, int64_t k) {
  const size_t begin = cut(text, k);
  return text.substr(begin, cut(text, k + 1) - begin);
}

int64_t pieces_of(std::string_view text) { return std::max<int64_t>(1, slots_of(std::ssize(text))); }

// A file without its byte order mark.
class OpenFile {
 public:
  explicit OpenFile(const TextFile& file) : file_(file), map_(file.path) {
    text_ = {reinterpret_cast<const char*>(map_.bytes().data()), map_.bytes().size()};
    for (const Signature& other : kOtherEncodings)
      if (text_.starts_with(other.bytes))
        fail(ErrorKind::input, "{}: this is {}; save it as UTF-8", name(), other.name);
    if (text_.starts_with("\xef\xbb\xbf")) text_.remove_prefix(3);
  }

  std::string_view text() const { return text_; }
  TextFormat format() const { return file_.format; }
  std::string name() const { return file_.path.string(); }

  /// Of a place in text(), from 1.
  int64_t line_of(size_t at) const { return 1 + std::ranges::count(text_.substr(0, at), '\n'); }

  /// The kernel maps more around a page than was asked for; a large file's sample would add up to much of it.
  void release(size_t at) const {
    const size_t begin = at > kAround ? at - kAround : 0;
    const auto bytes = map_.bytes();
    if (std::ssize(bytes) > kCheckAll && begin < bytes.size())
      map_.release(bytes.subspan(begin, std::min(2 * kAround, bytes.size() - begin)));
  }

  void check(size_t begin, size_t size) const {
    const std::string_view part = text_.substr(begin, size);
    if (const auto bad = find_invalid_utf8(part))
      fail(ErrorKind::input, "{}: not UTF-8 (byte 0x{:02X} at line {}); save it as UTF-8", name(),
           static_cast<unsigned char>(part[*bad]), line_of(begin + *bad));
    if (const size_t null = part.find('\0'); null != std::string_view::npos)
      fail(ErrorKind::input, "{}: a null character at line {}, so this is no text file", name(),
           line_of(begin + null));
  }

 private:
  TextFile file_;
  MappedFile map_;
  std::string_view text_;
};

// Visits 0 .. count-1, each once, so that any number of steps is spread evenly: steps of the golden ratio.
class EvenOrder {
 public:
  EvenOrder(int64_t count, uint64_t seed) : count_(count) {
    at_ = std::min(static_cast<int64_t>(RandomStream(seed, "texts").uniform(0) * static_cast<double>(count)),
                   count - 1);
    step_ = std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(count) * 0.6180339887498949));
    while (std::gcd(step_, count) != 1) step_++;
  }
  int64_t next() {
    const int64_t now = at_;
    at_ += step_ % count_;
    if (at_ >= count_) at_ -= count_;
    return now;
  }

 private:
  int64_t count_, at_, step_;
};

// Token sequences up to the wanted number of tokens.
class Collector {
 public:
  Collector(const Tokenizer& tokenizer, int64_t max_tokens)
      : tokenizer_(tokenizer), left_(max_tokens), bos_(tokenizer.bos_token().value_or("")) {
    if (!bos_.empty()) prefix_ = tokenizer.encode(bos_);
    if (std::ssize(prefix_) >= kMinSequence) prefix_.clear();  // no token of the vocabulary
  }

  bool full() const { return left_ <= 0; }
  std::vector<TokenSequence> take() { return std::move(sequences_); }

  /// `whole`: all that the document has.
  void add(std::string_view text, bool whole) {
    if (full() || is_blank(text)) return;
    std::string with_bos =
        bos_.empty() || text.starts_with(bos_) ? std::string(text) : bos_ + std::string(text);
    const TokenSequence ids = tokenizer_.encode(with_bos);
    const auto size = std::ssize(ids);
    for (int64_t at = 0; at < size && !full();) {
      TokenSequence sequence;
      if (at > 0) sequence = prefix_;
      const int64_t count = std::min(size - at, kMaxSequence - std::ssize(sequence));
      sequence.insert(sequence.end(), ids.begin() + at, ids.begin() + at + count);
      at += count;
      keep(std::move(sequence), whole && count == size);
    }
  }

 private:
  void keep(TokenSequence sequence, bool only) {
    if (std::ssize(sequence) > left_) {
      sequence.resize(static_cast<size_t>(left_));
      only = only || sequences_.empty();
      if (std::ssize(sequence) < kMinSequence && !only) left_ = 0;
    }
    if (std::ssize(sequence) < kMinSequence && !only) return;
    left_ -= std::ssize(sequence);
    sequences_.push_back(std::move(sequence));
  }

  const Tokenizer& tokenizer_;
  int64_t left_;
  std::string bos_;
  TokenSequence prefix_;  // of a sequence that goes on with a text
  std::vector<TokenSequence> sequences_;
};

class Reader {
 public:
  Reader(std::vector<TextFile> files, const TextOptions& options, const Tokenizer& tokenizer)
      : files_(std::move(files)), options_(options), collector_(tokenizer, options.max_tokens) {}

  std::vector<TokenSequence> read() {
    check_files();
    int64_t slots = 0;
    for (const TextFile& file : files_) ends_.push_back(slots += slots_of(file.bytes));
    if (slots > 0) {
      EvenOrder order(slots, options_.seed);
      for (int64_t i = 0; i < slots && !collector_.full(); i++) read_slot(order.next());
    }
    return collector_.take();
  }

 private:
  void check_files() {
    int64_t total = 0;
    for (const TextFile& file : files_) total += file.bytes;
    for (size_t i = 0; i < files_.size(); i++) {
      check_interrupted();
      const OpenFile& file = open(i);
      if (total > kCheckAll) continue;
      file.check(0, file.text().size());
      if (files_[i].named && is_blank(file.text()))
        fail(ErrorKind::input, "{}: {} holds no text", options_.whose, file.name());
    }
  }

  // One is kept open: the folders of data sets hold more files than a process may have open.
  const OpenFile& open(size_t index) {
    if (!open_ || open_index_ != index) {
      open_ = std::make_unique<OpenFile>(files_[index]);
      open_index_ = index;
      row_begin_.reset();
    }
    return *open_;
  }

  void read_slot(int64_t slot) {
    check_interrupted();
    const auto found = std::ranges::upper_bound(ends_, slot);
    const auto index = static_cast<size_t>(found - ends_.begin());
    const int64_t k = slot - (index > 0 ? ends_[index - 1] : 0);
    const OpenFile& file = open(index);
    if (k * kSlot >= std::ssize(file.text()))
      return;  // what the byte order mark took, or a file cut meanwhile
    if (file.format() == TextFormat::plain)
      read_plain(file, k);
    else
      read_rows(file, k);
    file.release(static_cast<size_t>(k * kSlot));
  }

  void read_plain(const OpenFile& file, int64_t k) {
    const std::string_view part = piece(file.text(), k);
    file.check(static_cast<size_t>(part.data() - file.text().data()), part.size());
    std::string text;
    for (size_t i = 0; i < part.size(); i++)
      if (part[i] != '\r' || i + 1 == part.size() || part[i + 1] != '\n') text += part[i];
    collector_.add(text, pieces_of(file.text()) == 1);
  }

  // Every slot that a row touches has one piece of its text, the last one the rest.
  void read_rows(const OpenFile& file, int64_t k) {
    const std::string_view text = file.text();
    const size_t slot_end = std::min(static_cast<size_t>((k + 1) * kSlot), text.size());
    for (size_t begin = row_start(file, static_cast<size_t>(k * kSlot));
         begin < slot_end && !collector_.full();) {
      const size_t end = row_end(file, begin);
      if (!is_blank(text.substr(begin, end - begin))) {
        const int64_t first = static_cast<int64_t>(begin) / kSlot,
                      last = static_cast<int64_t>(end - 1) / kSlot;
        const std::string& row = read_row(file, begin, end);
        const int64_t pieces = pieces_of(row), stop = k == last ? pieces : std::min(pieces, k - first + 1);
        for (int64_t j = k - first; j < stop; j++) collector_.add(piece(row, j), pieces == 1);
      }
      begin = end + 1;
    }
  }

  // The row that byte `at` belongs to.
  static size_t row_start(const OpenFile& file, size_t at) {
    const size_t limit = at > kMaxRow ? at - kMaxRow : 0;
    const void* found = at > limit ? memrchr(file.text().data() + limit, '\n', at - limit) : nullptr;
    if (found) return static_cast<size_t>(static_cast<const char*>(found) - file.text().data()) + 1;
    if (limit > 0) fail_long(file, at);
    return 0;
  }

  static size_t row_end(const OpenFile& file, size_t begin) {
    const size_t size = std::min(file.text().size() - begin, static_cast<size_t>(kMaxRow) + 1);
    const void* found = memchr(file.text().data() + begin, '\n', size);
    if (found) return static_cast<size_t>(static_cast<const char*>(found) - file.text().data());
    if (size > kMaxRow) fail_long(file, begin);
    return begin + size;
  }

  [[noreturn]] static void fail_long(const OpenFile& file, size_t at) {
    fail(ErrorKind::input, "{}:{}: this line is longer than {} MB; a .jsonl file has one document a line",
         file.name(), file.line_of(at), kMaxRow >> 20);
  }

  // The last row is kept: a long one has many slots.
  const std::string& read_row(const OpenFile& file, size_t begin, size_t end) {
    if (row_begin_ == begin) return row_;
    file.check(begin, end - begin);
    std::string_view row = file.text().substr(begin, end - begin);
    if (row.ends_with('\r')) row.remove_suffix(1);
    try {
      row_ = text_of_row(row, file.name(), options_.chat);
    } catch (const Error& error) {  // lines are counted where they are needed
      if (error.kind() == ErrorKind::interrupted) throw;
      throw Error(error.kind(), fmt::format("{}:{}{}", file.name(), file.line_of(begin),
                                            error.message().substr(file.name().size())));
    }
    row_begin_ = begin;
    return row_;
  }

  std::vector<TextFile> files_;
  std::vector<int64_t> ends_;  // the slots of the files up to each
  const TextOptions& options_;
  Collector collector_;
  std::unique_ptr<OpenFile> open_;
  size_t open_index_ = 0;
  std::optional<size_t> row_begin_;
  std::string row_;
};

}  // namespace

std::vector<TokenSequence> read_texts(std::span<const TextSource> sources, const TextOptions& options,
                                      const Tokenizer& tokenizer) {
  std::vector<TokenSequence> sequences;
  sequences = Reader(find_text_files(sources), options, tokenizer).read();
  if (!sequences.empty()) return sequences;
  std::string list;
  for (const TextSource& source : sources) list += (list.empty() ? "" : ", ") + source.path.string();
  fail(ErrorKind::input, "{}: {} hold{} no text", options.whose, list, sources.size() == 1 ? "s" : "");
}

}  // namespace moerge
