#include "moerge/formats/pickle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "moerge/base/error.h"
#include "moerge/base/utf8.h"

namespace moerge {
namespace {

constexpr int kMinProtocol = 2, kMaxProtocol = 5;
constexpr std::string_view kOrderedDict = "collections.OrderedDict";

}  // namespace

// Every opcode takes at least a byte and adds at most one value, one memo entry and one place on the stack,
// so memory is a multiple of the pickle's size; nothing here recurses.
class PickleReader {
 public:
  PickleReader(Pickle& out, std::span<const std::byte> bytes, bool (*known)(std::string_view),
               const std::string& where)
      : out_(out), bytes_(bytes), known_(known), where_(where) {}

  void read() {
    if (bytes_.size() > kMaxPickle)
      fail(ErrorKind::input, "{}: its pickle has {} bytes, at most {} are read", where_, bytes_.size(),
           kMaxPickle);
    if (bytes_.empty() || bytes_[0] != std::byte{0x80})
      fail(ErrorKind::unsupported, "{}: its pickle is of protocol 0 or 1, protocols {} to {} are read",
           where_, kMinProtocol, kMaxProtocol);
    while (!stopped_) step();
    if (position_ != bytes_.size()) damaged("it goes on after its end");
  }

 private:
  using Kind = Pickle::Kind;
  using Ref = Pickle::Ref;

  [[noreturn]] void damaged(std::string_view why) const {
    fail(ErrorKind::input, "{}: damaged: its pickle cannot be read at byte {}: {}", where_, opcode_, why);
  }

  // -------- the bytes

  std::span<const std::byte> take(uint64_t count) {
    if (count > bytes_.size() - position_) damaged("it is cut off");
    const auto taken = bytes_.subspan(position_, static_cast<size_t>(count));
    position_ += taken.size();
    return taken;
  }

  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string_view characters(uint64_t count) {
    const auto taken = take(count);
    const std::string_view text(reinterpret_cast<const char*>(taken.data()), taken.size());
    if (!is_utf8(text)) damaged("a text is not UTF-8");
    return text;
  }

  std::string_view line() {
    const auto rest = bytes_.subspan(position_);
    const auto end = std::ranges::find(rest, std::byte{'\n'});
    if (end == rest.end()) damaged("it is cut off");
    const std::string_view text = characters(static_cast<uint64_t>(end - rest.begin()));
    position_++;
    return text;
  }

  // -------- values and the stack

  Ref add(Kind kind, int64_t number = 0, uint32_t count = 0) {
    if (out_.values_.size() == kMaxPickleValues)
      fail(ErrorKind::input, "{}: its pickle holds more than {} values", where_, kMaxPickleValues);
    out_.values_.push_back({kind, count, number});
    return static_cast<Ref>(out_.values_.size() - 1);
  }

  void push(Ref value) { stack_.push_back(value); }
  void push_new(Kind kind, int64_t number = 0) { push(add(kind, number)); }

  template <typename Length>
  void push_text() {
    const std::string_view text = characters(number<Length>());
    push_new(Kind::text, std::ssize(out_.texts_));
    out_.texts_.push_back(text);
  }

  void push_growing(Kind kind) {
    push_new(kind, std::ssize(out_.lists_));
    out_.lists_.emplace_back();
  }

  void push_items(Kind kind, std::span<const Ref> items) {
    const Ref value = add(kind, std::ssize(out_.tuples_), static_cast<uint32_t>(items.size()));
    out_.tuples_.insert(out_.tuples_.end(), items.begin(), items.end());
    stack_.resize(static_cast<size_t>(items.data() - stack_.data()));
    push(value);
  }

  // The `count` values on top, which must lie above the last mark.
  std::span<const Ref> top(size_t count) const {
    const size_t bottom = marks_.empty() ? 0 : marks_.back();
    if (stack_.size() - bottom < count) damaged("a value is missing on its stack");
    return std::span(stack_).last(count);
  }

  // The values above the last mark, which is taken away.
  std::span<const Ref> marked() {
    if (marks_.empty()) damaged("a mark is missing on its stack");
    const auto values = std::span(stack_).subspan(marks_.back());
    marks_.pop_back();
    return values;
  }

  Ref pop() {
    const Ref value = top(1)[0];
    stack_.pop_back();
    return value;
  }

  void pop_mark() { stack_.resize(stack_.size() - marked().size()); }

  // Moves the values to the list or dict below them on the stack.
  void append(Kind kind, std::span<const Ref> items) {
    const size_t count = items.size();
    const Ref target = top(count + 1)[0];
    if (out_.kind(target) != kind) damaged("it adds an element to something that is no list or dict");
    if (kind == Kind::dict && count % 2 != 0) damaged("a dict's key has no value");
    std::vector<Ref>& list = out_.lists_[static_cast<size_t>(out_.values_[target].number)];
    list.insert(list.end(), items.begin(), items.end());
    stack_.resize(stack_.size() - count);
  }

  void put(uint64_t index) {
    const Ref value = top(1)[0];
    if (index >= kMaxPickleValues) damaged("it remembers more values than it can have");
    if (index >= memo_.size()) memo_.resize(static_cast<size_t>(index) + 1);
    memo_[static_cast<size_t>(index)] = value;
  }

  void get(uint64_t index) {
    if (index >= memo_.size() || !memo_[static_cast<size_t>(index)])
      damaged("it refers to a value that it has not named");
    push(*memo_[static_cast<size_t>(index)]);
  }

  // -------- globals

  void push_global(std::string_view module, std::string_view name) {
    std::string global = fmt::format("{}.{}", module, name);
    if (global != kOrderedDict && !known_(global))
      fail(ErrorKind::input,
           "{}: asks to run `{}`, which a model's weights have no need of. Nothing of it was run, and no "
           "other "
           "program should load it: get the weights as safetensors, or as torch.save(model.state_dict(), "
           "FILE) "
           "writes them",
           where_, shown_text(global));
    push_new(Kind::global, std::ssize(out_.names_));
    out_.names_.push_back(std::move(global));
  }

  void push_named_global() {
    const std::string_view module = line();
    push_global(module, line());
  }

  void push_stack_global() {
    const auto names = top(2);
    if (out_.kind(names[0]) != Kind::text || out_.kind(names[1]) != Kind::text)
      damaged("the name of a global is no text");
    const std::string_view module = out_.text(names[0]), name = out_.text(names[1]);
    stack_.resize(stack_.size() - 2);
    push_global(module, name);
  }

  void reduce() {
    const auto call = top(2);
    if (out_.kind(call[0]) != Kind::global) damaged("it calls something that is no function");
    if (out_.kind(call[1]) != Kind::tuple) damaged("the arguments of a call are no tuple");
    if (out_.text(call[0]) != kOrderedDict) return push_items(Kind::call, call);
    if (!out_.items(call[1]).empty()) damaged("an OrderedDict is made of something");
    stack_.resize(stack_.size() - 2);
    push_growing(Kind::dict);
  }

  void build() {
    if (out_.kind(top(2)[0]) != Kind::dict) damaged("it changes the inside of something that is no dict");
    stack_.pop_back();
  }

  // -------- opcodes

  void protocol() {
    const int version = number<uint8_t>();
    if (version < kMinProtocol || version > kMaxProtocol)
      fail(ErrorKind::unsupported, "{}: its pickle is of protocol {}, protocols {} to {} are read", where_,
           version, kMinProtocol, kMaxProtocol);
  }

  // A frame only says how many bytes to read at once.
  void frame() {
    if (number<uint64_t>() > bytes_.size() - position_) damaged("it is cut off");
  }

  void long1() {
    const auto bytes = take(number<uint8_t>());
    if (bytes.size() > sizeof(int64_t)) damaged("an integer has more than 64 bits");
    const bool negative = !bytes.empty() && (bytes.back() & std::byte{0x80}) != std::byte{0};
    int64_t value = negative ? -1 : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    push_new(Kind::integer, value);
  }

  // (No weight is a Python float: its value is not kept.)
  void real() {
    take(sizeof(double));
    push_new(Kind::real);
  }

  void stop() {
    if (stack_.size() != 1 || !marks_.empty()) damaged("it ends with something left over");
    out_.root_ = stack_[0];
    stopped_ = true;
  }

  void step() {
    opcode_ = position_;
    const auto code = number<uint8_t>();
    const auto known = std::ranges::find(kOpcodes, code, &Opcode::code);
    if (known == kOpcodes.end()) damaged(fmt::format("opcode 0x{:02x} does not exist", code));
    if (!known->run)
      fail(ErrorKind::unsupported,
           "{}: its pickle uses the opcode {} at byte {}, which a model's weights have no need of", where_,
           known->name, opcode_);
    known->run(*this);
  }

  struct Opcode {
    uint8_t code;
    const char* name;
    void (*run)(PickleReader&);  // null: a state dict does not use it
  };
  static const std::array<Opcode, 68> kOpcodes;

  Pickle& out_;
  std::span<const std::byte> bytes_;
  bool (*known_)(std::string_view);
  const std::string& where_;
  size_t position_ = 0, opcode_ = 0;  // of the next byte, of the opcode at hand
  bool stopped_ = false;
  std::vector<Ref> stack_;
  std::vector<uint32_t> marks_;
  std::vector<std::optional<Ref>> memo_;  // MEMOIZE names a value by the next free number
};

const std::array<PickleReader::Opcode, 68> PickleReader::kOpcodes = {{
    {0x80, "PROTO", [](PickleReader& r) { r.protocol(); }},
    {0x95, "FRAME", [](PickleReader& r) { r.frame(); }},
    {'.', "STOP", [](PickleReader& r) { r.stop(); }},
    {'(', "MARK", [](PickleReader& r) { r.marks_.push_back(static_cast<uint32_t>(r.stack_.size())); }},
    {'0', "POP", [](PickleReader& r) { r.pop(); }},
    {'1', "POP_MARK", [](PickleReader& r) { r.pop_mark(); }},
    {'N', "NONE", [](PickleReader& r) { r.push_new(Kind::none); }},
    {0x88, "NEWTRUE", [](PickleReader& r) { r.push_new(Kind::boolean, 1); }},
    {0x89, "NEWFALSE", [](PickleReader& r) { r.push_new(Kind::boolean, 0); }},
    {'J', "BININT", [](PickleReader& r) { r.push_new(Kind::integer, r.number<int32_t>()); }},
    {'K', "BININT1", [](PickleReader& r) { r.push_new(Kind::integer, r.number<uint8_t>()); }},
    {'M', "BININT2", [](PickleReader& r) { r.push_new(Kind::integer, r.number<uint16_t>()); }},
    {0x8a, "LONG1", [](PickleReader& r) { r.long1(); }},
    {'G', "BINFLOAT", [](PickleReader& r) { r.real(); }},
    {'X', "BINUNICODE", [](PickleReader& r) { r.push_text<uint32_t>(); }},
    {0x8c, "SHORT_BINUNICODE", [](PickleReader& r) { r.push_text<uint8_t>(); }},
    {0x8d, "BINUNICODE8", [](PickleReader& r) { r.push_text<uint64_t>(); }},
    {')', "EMPTY_TUPLE", [](PickleReader& r) { r.push_items(Kind::tuple, r.top(0)); }},
    {'t', "TUPLE", [](PickleReader& r) { r.push_items(Kind::tuple, r.marked()); }},
    {0x85, "TUPLE1", [](PickleReader& r) { r.push_items(Kind::tuple, r.top(1)); }},
    {0x86, "TUPLE2", [](PickleReader& r) { r.push_items(Kind::tuple, r.top(2)); }},
    {0x87, "TUPLE3", [](PickleReader& r) { r.push_items(Kind::tuple, r.top(3)); }},
    {']', "EMPTY_LIST", [](PickleReader& r) { r.push_growing(Kind::list); }},
    {'a', "APPEND", [](PickleReader& r) { r.append(Kind::list, r.top(1)); }},
    {'e', "APPENDS", [](PickleReader& r) { r.append(Kind::list, r.marked()); }},
    {'}', "EMPTY_DICT", [](PickleReader& r) { r.push_growing(Kind::dict); }},
    {'s', "SETITEM", [](PickleReader& r) { r.append(Kind::dict, r.top(2)); }},
    {'u', "SETITEMS", [](PickleReader& r) { r.append(Kind::dict, r.marked()); }},
    {'q', "BINPUT", [](PickleReader& r) { r.put(r.number<uint8_t>()); }},
    {'r', "LONG_BINPUT", [](PickleReader& r) { r.put(r.number<uint32_t>()); }},
    {0x94, "MEMOIZE", [](PickleReader& r) { r.put(r.memo_.size()); }},
    {'h', "BINGET", [](PickleReader& r) { r.get(r.number<uint8_t>()); }},
    {'j', "LONG_BINGET", [](PickleReader& r) { r.get(r.number<uint32_t>()); }},
    {'c', "GLOBAL", [](PickleReader& r) { r.push_named_global(); }},
    {0x93, "STACK_GLOBAL", [](PickleReader& r) { r.push_stack_global(); }},
    {'R', "REDUCE", [](PickleReader& r) { r.reduce(); }},
    {'b', "BUILD", [](PickleReader& r) { r.build(); }},
    {'Q', "BINPERSID", [](PickleReader& r) { r.push_items(Kind::persistent, r.top(1)); }},
    {'2', "DUP", nullptr},
    {'F', "FLOAT", nullptr},
    {'I', "INT", nullptr},
    {'L', "LONG", nullptr},
    {'P', "PERSID", nullptr},
    {'S', "STRING", nullptr},
    {'T', "BINSTRING", nullptr},
    {'U', "SHORT_BINSTRING", nullptr},
    {'V', "UNICODE", nullptr},
    {'d', "DICT", nullptr},
    {'g', "GET", nullptr},
    {'i', "INST", nullptr},
    {'l', "LIST", nullptr},
    {'o', "OBJ", nullptr},
    {'p', "PUT", nullptr},
    {'B', "BINBYTES", nullptr},
    {'C', "SHORT_BINBYTES", nullptr},
    {0x81, "NEWOBJ", nullptr},
    {0x82, "EXT1", nullptr},
    {0x83, "EXT2", nullptr},
    {0x84, "EXT4", nullptr},
    {0x8b, "LONG4", nullptr},
    {0x8e, "BINBYTES8", nullptr},
    {0x8f, "EMPTY_SET", nullptr},
    {0x90, "ADDITEMS", nullptr},
    {0x91, "FROZENSET", nullptr},
    {0x92, "NEWOBJ_EX", nullptr},
    {0x96, "BYTEARRAY8", nullptr},
    {0x97, "NEXT_BUFFER", nullptr},
    {0x98, "READONLY_BUFFER", nullptr},
}};

Pickle::Pickle(std::span<const std::byte> bytes, bool (*known)(std::string_view), const std::string& where) {
  PickleReader(*this, bytes, known, where).read();
}

std::string_view Pickle::text(Ref value) const {
  const Value& held = values_[value];
  const auto index = static_cast<size_t>(held.number);
  return held.kind == Kind::global ? std::string_view(names_[index]) : texts_[index];
}

std::span<const Pickle::Ref> Pickle::items(Ref value) const {
  const Value& held = values_[value];
  const auto index = static_cast<size_t>(held.number);
  if (held.kind == Kind::list || held.kind == Kind::dict) return lists_[index];
  return std::span(tuples_).subspan(index, held.count);
}

std::string shown_text(std::string_view text) {
  constexpr size_t kLine = 100;
  std::string out(text.substr(0, kLine));
  for (char& c : out)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  return text.size() > kLine ? out + "..." : out;
}

}  // namespace moerge
