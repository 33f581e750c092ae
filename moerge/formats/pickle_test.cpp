#include "moerge/formats/pickle.h"

#include <gtest/gtest.h>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_pytorch.h"

namespace moerge {
namespace {

using namespace std::string_literals;
using namespace testing;
using Kind = Pickle::Kind;

Pickle read(const std::string& bytes) {
  return {std::as_bytes(std::span(bytes)), [](std::string_view name) { return name.starts_with("torch."); },
          "f"};
}

std::string message_of(const std::string& bytes) {
  try {
    read(bytes);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_refused(const std::string& bytes, const std::string& because) {
  const std::string message = message_of(bytes);
  EXPECT_NE(message.find(because), std::string::npos) << "expected: " << because << "\nfound: " << message;
}

int64_t integer_of(const Opcodes& opcodes) {
  const std::string bytes = pickle_bytes(opcodes);
  const Pickle pickle = read(bytes);
  EXPECT_EQ(pickle.kind(pickle.root()), Kind::integer);
  return pickle.integer(pickle.root());
}

TEST(Pickle, Integers) {
  EXPECT_EQ(integer_of("K\xff"), 255);
  EXPECT_EQ(integer_of("M\xff\xff"), 65535);
  EXPECT_EQ(integer_of("J\xff\xff\xff\xff"), -1);
  EXPECT_EQ(integer_of("\x8a\x00"s), 0);
  EXPECT_EQ(integer_of("\x8a\x01\x80"), -128);
  EXPECT_EQ(integer_of("\x8a\x02\xff\x00"s), 255);
  EXPECT_EQ(integer_of(py_int(INT64_MIN)), INT64_MIN);
  expect_refused(pickle_bytes("\x8a\x09" + std::string(9, '\1')), "more than 64 bits");
}

TEST(Pickle, NestsAndShares) {
  // {"a": (1, [x, x]), "b": OrderedDict()} with x = torch.f(("k",)), the persistent id "p".
  const std::string bytes = pickle_bytes(py_dict(
      {py_text("a"),
       py_tuple({py_int(1), py_list({py_call(py_global("torch", "f"), {py_text("k")}) + "q\7", "h\7"})}),
       py_text("b"), py_hooks(), py_text("c"), py_text("p") + "Q"}));
  const Pickle pickle = read(bytes);
  ASSERT_EQ(pickle.kind(pickle.root()), Kind::dict);
  const auto items = pickle.items(pickle.root());
  ASSERT_EQ(items.size(), 6u);
  EXPECT_EQ(pickle.text(items[0]), "a");
  const auto tuple = pickle.items(items[1]);
  ASSERT_EQ(tuple.size(), 2u);
  const auto list = pickle.items(tuple[1]);
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0], list[1]);
  EXPECT_EQ(pickle.kind(list[0]), Kind::call);
  EXPECT_EQ(pickle.text(pickle.items(list[0])[0]), "torch.f");
  EXPECT_EQ(pickle.text(pickle.items(pickle.items(list[0])[1])[0]), "k");
  EXPECT_EQ(pickle.kind(items[3]), Kind::dict);
  EXPECT_EQ(pickle.kind(items[5]), Kind::persistent);
  EXPECT_EQ(pickle.text(pickle.items(items[5])[0]), "p");
}

TEST(Pickle, NewerProtocols) {
  const std::string bytes =
      "\x80\x04\x95"s + le(5, 8) + "\x8c\5torch\x94\x8c\4Size\x94\x93\x94" + "0h\0h\1\x86."s;
  const Pickle pickle = read(bytes);
  const auto items = pickle.items(pickle.root());
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(pickle.text(items[0]), "torch");
  EXPECT_EQ(pickle.text(items[1]), "Size");
}

TEST(Pickle, StateOfADictIsLeftOut) {
  const std::string bytes = pickle_bytes(py_hooks() + py_dict({py_text("_metadata"), py_hooks()}) + "b");
  const Pickle pickle = read(bytes);
  EXPECT_EQ(pickle.kind(pickle.root()), Kind::dict);
  EXPECT_TRUE(pickle.items(pickle.root()).empty());
  expect_refused(pickle_bytes(py_call(py_global("torch", "f"), {}) + py_dict({}) + "b"),
                 "changes the inside of something that is no dict");
}

TEST(Pickle, RefusesToRunAnything) {
  for (const auto& [module, name] : std::vector<std::pair<std::string, std::string>>{
           {"os", "system"}, {"posix", "system"}, {"builtins", "eval"}, {"collections", "Counter"}}) {
    const std::string because = "asks to run `" + module + "." + name + "`";
    expect_refused(pickle_bytes(py_call(py_global(module, name), {py_text("true")})), because);
    expect_refused(pickle_bytes(py_text(module) + py_text(name) + "\x93"), because);
    expect_refused(pickle_bytes(py_dict({py_text("a"), py_global(module, name)})), because);
  }
  expect_refused(pickle_bytes(py_global("os\x1b[31m", "system")), "asks to run `os?[31m.system`");
  expect_refused(pickle_bytes(py_int(1) + py_text("system") + "\x93"), "the name of a global is no text");
}

TEST(Pickle, RefusesOtherCalls) {
  expect_refused(pickle_bytes(py_text("f") + py_tuple({}) + "R"), "calls something that is no function");
  const Opcodes call = py_call(py_global("torch", "f"), {});
  expect_refused(pickle_bytes(call + py_tuple({}) + "R"), "calls something that is no function");
  expect_refused(pickle_bytes(py_global("torch", "f") + py_list({}) + "R"), "no tuple");
  expect_refused(pickle_bytes(py_call(py_global("collections", "OrderedDict"), {py_list({})})),
                 "an OrderedDict is made of something");
}

TEST(Pickle, NamesTheOpcodesItRefuses) {
  expect_refused(pickle_bytes("(ios\nsystem\n"), "the opcode INST at byte 3");
  expect_refused(pickle_bytes(py_global("torch", "f") + ")\x81"), "the opcode NEWOBJ");
  expect_refused(pickle_bytes("\x82\1"), "the opcode EXT1");
  expect_refused(pickle_bytes("(o"), "the opcode OBJ");
  expect_refused(pickle_bytes("K\1"
                              "2"),
                 "the opcode DUP");
  expect_refused(pickle_bytes("B\1"), "the opcode BINBYTES");
  expect_refused(pickle_bytes("\xff"), "opcode 0xff does not exist");
  expect_refused("(dp0\n.", "protocol 0 or 1");
  expect_refused("\x80\x06N.", "protocol 6");
  expect_refused("", "protocol 0 or 1");
}

TEST(Pickle, RefusesAWrongStack) {
  expect_refused(pickle_bytes(""), "something left over");
  expect_refused(pickle_bytes("NN"), "something left over");
  expect_refused(pickle_bytes("N("), "something left over");
  expect_refused(pickle_bytes("t"), "a mark is missing");
  expect_refused(pickle_bytes("1"), "a mark is missing");
  expect_refused(pickle_bytes("N(\x85"), "a value is missing");
  expect_refused(pickle_bytes("N(0"), "a value is missing");
  expect_refused(pickle_bytes("R"), "a value is missing");
  expect_refused(pickle_bytes("(e"), "a value is missing");
  expect_refused(pickle_bytes("q\1"), "a value is missing");
  expect_refused(pickle_bytes("N(NNu"), "no list or dict");
  expect_refused(pickle_bytes("](NNu"), "no list or dict");
  expect_refused(pickle_bytes("}Na"), "no list or dict");
  expect_refused(pickle_bytes("}(NNNu"), "a dict's key has no value");
  expect_refused(pickle_bytes("h\1"), "has not named");
  expect_refused(pickle_bytes("Nq\3h\2"), "has not named");
  expect_refused(pickle_bytes("Nr\xff\xff\xff\xff"), "remembers more values than it can have");
  expect_refused(pickle_bytes("N") + "N", "goes on after its end");
  expect_refused(pickle_bytes("X\1\0\0\0\xff"s), "not UTF-8");
}

TEST(Pickle, EveryTruncatedPickleIsRefused) {
  const std::string bytes =
      pickle_bytes(py_dict({py_text("a"), py_tuple({py_int(1), py_hooks(), "G12345678"}),
                            "\x8d" + le(3, 8) + "abc", py_global("torch", "f")}));
  EXPECT_EQ(message_of(bytes), "");
  for (size_t size = 0; size < bytes.size(); size++) EXPECT_NE(message_of(bytes.substr(0, size)), "");
  expect_refused(pickle_bytes("X" + le(UINT32_MAX, 4)), "cut off");
  expect_refused(pickle_bytes("\x8d" + le(UINT64_MAX, 8)), "cut off");
  expect_refused(pickle_bytes("\x95" + le(UINT64_MAX, 8)), "cut off");
}

TEST(Pickle, ValuesThatHoldThemselves) {
  // l = []; l.append(l); d = {"l": l, "d": d}
  const std::string bytes = pickle_bytes("}q\1(" + py_text("l") + "]q\2h\2a" + py_text("d") + "h\1u");
  const Pickle pickle = read(bytes);
  const auto items = pickle.items(pickle.root());
  ASSERT_EQ(items.size(), 4u);
  EXPECT_EQ(items[3], pickle.root());
  EXPECT_EQ(pickle.items(items[1])[0], items[1]);
}

TEST(Pickle, DepthAndSharingCostNothing) {
  const std::string deep(1'500'000, '\x85');  // a tuple in a tuple in ...
  const std::string deep_bytes = pickle_bytes("N" + deep);
  const Pickle tuples = read(deep_bytes);
  EXPECT_EQ(tuples.items(tuples.root()).size(), 1u);
  // Every list holds the one before ten times: 10^60 elements.
  Opcodes laughs = "](NNNNNNNNNNe";
  for (int i = 0; i < 60; i++) {
    const std::string memo(1, static_cast<char>(i));
    laughs += "q" + memo + "0](";
    for (int j = 0; j < 10; j++) laughs += "h" + memo;
    laughs += "e";
  }
  const std::string laugh_bytes = pickle_bytes(laughs);
  const Pickle lists = read(laugh_bytes);
  EXPECT_EQ(lists.items(lists.root()).size(), 10u);
}

TEST(Pickle, SizeIsLimited) {
  expect_refused(pickle_bytes("(" + std::string(kMaxPickleValues + 1, 'N') + "t"), "holds more than");
  expect_refused(std::string(kMaxPickle + 1, 'N'), "bytes, at most");
}

}  // namespace
}  // namespace moerge
