#pragma once
// Python's pickles as data (https://docs.python.org/3/library/pickletools.html). Unpickling runs whatever the
// file asks for; here a call stays a call: a value that names a function and its arguments, for the caller to
// look at. Nothing is imported, built or run, and a name that the caller does not know ends the reading.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

inline constexpr size_t kMaxPickle = 32 << 20;         // a state dict takes some 130 bytes a tensor
inline constexpr size_t kMaxPickleValues = 2'000'000;  // and some 10 values

class Pickle {
 public:
  enum class Kind : uint8_t {
    none,
    boolean,
    integer,
    real,
    text,
    tuple,
    list,
    dict,
    global,
    call,
    persistent
  };
  /// A value by its number: what is shared in the pickle is shared here. Lists and dicts may hold themselves,
  /// so a walk through them must not follow them without a limit.
  using Ref = uint32_t;

  /// Reads a pickle of protocols 2 to 5 with the opcodes of a state dict; "collections.OrderedDict()" is a
  /// dict, what BUILD adds to a dict (a state dict's _metadata) is left out. `known` says which globals
  /// ("torch.Size") may be there. `where` starts every message. Throws input for what is damaged or asks
  /// for another global, unsupported for other protocols and opcodes.
  /// The texts stay in `bytes`, which must outlive this object.
  Pickle(std::span<const std::byte> bytes, bool (*known)(std::string_view global), const std::string& where);

  Ref root() const { return root_; }
  Kind kind(Ref value) const { return values_[value].kind; }
  /// Of a boolean or an integer. (Integers beyond 64 bits are refused.)
  int64_t integer(Ref value) const { return values_[value].number; }
  /// Of a text (UTF-8), or the name of a global.
  std::string_view text(Ref value) const;
  /// The elements of a tuple or list; of a dict its keys and values in turns; of a call the function and the
  /// tuple of its arguments; of a persistent id the value that it stands for.
  std::span<const Ref> items(Ref value) const;

 private:
  friend class PickleReader;
  // number: of a boolean or integer; of the others the index in texts_, tuples_ or lists_.
  struct Value {
    Kind kind;
    uint32_t count;  // items of a tuple, call or persistent id
    int64_t number;
  };

  std::vector<Value> values_;
  std::vector<Ref> tuples_;              // their items one after another
  std::vector<std::vector<Ref>> lists_;  // of lists and dicts, which grow
  std::vector<std::string_view> texts_;
  std::vector<std::string> names_;  // of globals
  Ref root_ = 0;
};

/// A text from a pickle for a message: no longer than a line, without control characters.
std::string shown_text(std::string_view text);

}  // namespace moerge
