#include "moerge/formats/pytorch.h"

#include <gtest/gtest.h>

#include <span>

#include "moerge/base/error.h"
#include "moerge/testing/tiny_pytorch.h"

namespace moerge {
namespace {

using namespace std::string_literals;
using namespace testing;

std::vector<WeightEntry> parse(const std::string& file) {
  return parse_pytorch(std::as_bytes(std::span(file)), "f");
}

std::string message_of(const std::string& file) {
  try {
    parse(file);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_refused(const std::string& file, const std::string& because) {
  const std::string message = message_of(file);
  EXPECT_NE(message.find(because), std::string::npos) << "expected: " << because << "\nfound: " << message;
}

std::string bytes_of(const std::string& file, const WeightEntry& entry) {
  return file.substr(static_cast<size_t>(entry.offset), static_cast<size_t>(entry.spec.bytes()));
}

// A file of this dict and the storage "0" of 24 bytes.
std::string with_dict(const std::vector<Opcodes>& items) {
  return torch_file(py_dict(items), {{"0", "abcdefghijklmnopqrstuvwx"}});
}

const Opcodes kFloats = torch_storage("FloatStorage", "0", 6);

// The same with one tensor "w".
std::string with_tensor(int64_t offset, const std::vector<int64_t>& size, const std::vector<int64_t>& stride,
                        const Opcodes& storage = kFloats) {
  return with_dict({py_text("w"), torch_tensor(storage, offset, size, stride)});
}

Opcodes tensor_v3(const std::string& dtype, const Opcodes& storage, int64_t count) {
  return py_call(
      py_global("torch._utils", "_rebuild_tensor_v3"),
      {storage, py_int(0), py_ints({count}), py_ints({1}), "\x89", py_hooks(), py_global("torch", dtype)});
}

Opcodes untyped(int64_t bytes) {
  return py_tuple({py_text("storage"), py_global("torch.storage", "UntypedStorage"), py_text("0"),
                   py_text("cuda:0"), py_int(bytes)}) +
         "Q";
}

TEST(Pytorch, ReadsWhatIsThere) {
  const std::string file = pytorch_bytes(
      {{"b", "F32", {2, 3}, std::string(24, 'b')}, {"a", "BF16", {}, "xy"}, {"none", "U8", {0, 5}, ""}});
  const std::vector<WeightEntry> entries = parse(file);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].spec.name, "b");
  EXPECT_EQ(entries[0].spec.dtype, DType::f32);
  EXPECT_EQ(entries[0].spec.shape, (Shape{2, 3}));
  EXPECT_EQ(bytes_of(file, entries[0]), std::string(24, 'b'));
  EXPECT_EQ(entries[1].spec.dtype, DType::bf16);
  EXPECT_EQ(entries[1].spec.shape, Shape{});
  EXPECT_EQ(bytes_of(file, entries[1]), "xy");
  EXPECT_EQ(entries[2].spec.shape, (Shape{0, 5}));
}

TEST(Pytorch, TensorsThatShareAStorage) {
  const std::string file = with_dict({py_text("a"), torch_tensor(kFloats, 0, {2, 3}, {3, 1}), py_text("tied"),
                                      torch_tensor(kFloats, 0, {6}, {1}), py_text("row"),
                                      torch_tensor(kFloats, 3, {1, 3}, {99, 1})});
  const std::vector<WeightEntry> entries = parse(file);
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_EQ(entries[0].offset, entries[1].offset);
  EXPECT_EQ(entries[2].spec.name, "row");
  EXPECT_EQ(bytes_of(file, entries[2]), "mnopqrstuvwx");
}

TEST(Pytorch, EveryTypeOfStorage) {
  for (const auto& [type, dtype, bytes] :
       std::vector<std::tuple<const char*, DType, int64_t>>{{"DoubleStorage", DType::f64, 8},
                                                            {"FloatStorage", DType::f32, 4},
                                                            {"HalfStorage", DType::f16, 2},
                                                            {"BFloat16Storage", DType::bf16, 2},
                                                            {"LongStorage", DType::i64, 8},
                                                            {"IntStorage", DType::i32, 4},
                                                            {"ShortStorage", DType::i16, 2},
                                                            {"CharStorage", DType::i8, 1},
                                                            {"ByteStorage", DType::u8, 1},
                                                            {"BoolStorage", DType::boolean, 1}}) {
    const std::string file = with_tensor(0, {24 / bytes}, {1}, torch_storage(type, "0", 24 / bytes));
    EXPECT_EQ(parse(file).at(0).spec.dtype, dtype) << type;
    expect_refused(with_tensor(0, {1}, {1}, torch_storage(type, "0", 24 / bytes + 1)), "and has 24 bytes");
  }
}

TEST(Pytorch, TypesWithoutAStorageOfTheirOwn) {
  EXPECT_EQ(parse(with_dict({py_text("w"), tensor_v3("float8_e4m3fn", untyped(24), 24)})).at(0).spec.dtype,
            DType::f8_e4m3);
  EXPECT_EQ(parse(with_dict({py_text("w"), tensor_v3("uint16", untyped(24), 12)})).at(0).spec.dtype,
            DType::u16);
  expect_refused(with_dict({py_text("w"), tensor_v3("uint16", untyped(24), 13)}),
                 "do not lie in its storage");
  expect_refused(with_dict({py_text("w"), tensor_v3("uint16", kFloats, 12)}), "the type of its storage");
  expect_refused(with_tensor(0, {1}, {1}, untyped(24)), "the type of its storage");
  expect_refused(with_dict({py_text("w"), tensor_v3("complex64", untyped(24), 3)}),
                 "\"w\" is of type torch.complex64, which this program does not know");
  expect_refused(with_tensor(0, {1}, {1}, torch_storage("ComplexFloatStorage", "0", 3)),
                 "torch.ComplexFloatStorage");
}

TEST(Pytorch, Parameters) {
  const Opcodes tensor = torch_tensor(kFloats, 0, {6}, {1});
  const Opcodes parameter = py_global("torch._utils", "_rebuild_parameter");
  EXPECT_EQ(parse(with_dict({py_text("w"), py_call(parameter, {tensor, "\x88", py_hooks()})})).size(), 1u);
  EXPECT_EQ(parse(with_dict({py_text("w"), py_call(py_global("torch._utils", "_rebuild_parameter_with_state"),
                                                   {tensor, "\x88", py_hooks(), py_dict({})})}))
                .size(),
            1u);
  expect_refused(with_dict({py_text("w"), py_call(parameter, {tensor})}),
                 "takes 3 to 3 arguments, 1 are given");
  expect_refused(
      with_dict({py_text("w"),
                 py_call(parameter, {py_call(parameter, {tensor, "\x88", py_hooks()}), "\x88", py_hooks()})}),
      "it is not made as torch makes tensors");
}

TEST(Pytorch, PlainValuesAreLeftOut) {
  const std::vector<Opcodes> plain = {py_text("n"),    "N",
                                      py_text("i"),    py_int(1),
                                      py_text("t"),    py_text("x"),
                                      py_text("b"),    "\x88",
                                      py_text("f"),    "G12345678",
                                      py_text("l"),    "]",
                                      py_text("d"),    "}",
                                      py_text("size"), py_call(py_global("torch", "Size"), {py_ints({1, 2})}),
                                      py_text("type"), py_global("torch", "float16")};
  EXPECT_EQ(parse(with_dict(plain)).size(), 0u);
  const Opcodes tensor = torch_tensor(kFloats, 0, {6}, {1});
  for (const Opcodes& other : {py_list({tensor}), py_tuple({tensor}), py_dict({py_text("a"), tensor}),
                               kFloats, py_global("torch", "FloatStorage")})
    expect_refused(with_dict({py_text("w"), tensor, py_text("other"), other}),
                   "\"other\" is neither a tensor nor a plain value");
}

TEST(Pytorch, DictsOfDicts) {
  const Opcodes tensor = torch_tensor(kFloats, 0, {6}, {1}), state = py_dict({py_text("w"), tensor});
  const std::vector<WeightEntry> entries =
      parse(with_dict({py_text("epoch"), py_int(3), py_text("state_dict"), state}));
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_EQ(entries[0].spec.name, "w");
  expect_refused(
      with_dict({py_text("model"), state, py_text("optimizer"), py_dict({py_text("lr"), py_int(1)})}),
      "a dict of other things (model, optimizer), perhaps a checkpoint of a training: a file of "
      "weights is a dict of tensors");
  std::vector<Opcodes> many;
  for (int i = 0; i < 100; i++) many.insert(many.end(), {py_text(std::to_string(i)), state});
  expect_refused(with_dict(many), "(0, 1, 2, 3, 4, 5, 6, 7, ...)");
  expect_refused(torch_file(py_list({tensor}), {{"0", std::string(24, 'x')}}), "holds no dict");
  expect_refused(torch_file(tensor, {{"0", std::string(24, 'x')}}), "holds no dict");
  expect_refused(with_dict({py_int(1), tensor}), "a key of its dict is no text");
  expect_refused(with_dict({py_text("w"), tensor, py_text("w"), tensor}), "two tensors named \"w\"");
}

TEST(Pytorch, ObjectsThatHoldThemselves) {
  expect_refused(torch_file("}q\1(" + py_text("me") + "h\1u"), "a dict of other things (me)");
  expect_refused(torch_file("}q\1(" + py_text("state_dict") + "h\1u"), "\"state_dict\" is neither a tensor");
  // The tensor's arguments hold a list that holds the tensor.
  const Opcodes call = py_call(py_global("torch._utils", "_rebuild_parameter"), {"]q\1", "\x88", py_hooks()});
  expect_refused(torch_file("}(" + py_text("w") + call + "q\2" + py_text("x") + "h\1h\2au"),
                 "\"w\": it is not made as torch makes tensors");
}

TEST(Pytorch, ViewsThatAreNotContiguous) {
  EXPECT_EQ(parse(with_tensor(0, {3, 1, 2}, {2, 77, 1})).size(), 1u);  // no step is ever taken there
  EXPECT_EQ(parse(with_tensor(6, {0, 4}, {9, 9})).size(), 1u);
  expect_refused(
      with_tensor(0, {3, 2}, {1, 3}),
      "\"w\" of shape [3, 2] is a view with strides [1, 3] (transposed, say): save its .contiguous()");
  expect_refused(with_tensor(0, {3}, {2}), "strides [2]");
  expect_refused(with_tensor(0, {3}, {0}), "strides [0]");
  expect_refused(with_tensor(0, {3}, {-1}), "a negative stride");
  expect_refused(with_tensor(0, {3}, {INT64_MIN}), "a negative stride");
}

TEST(Pytorch, SizesAndPlacesBeyondTheStorage) {
  EXPECT_EQ(parse(with_tensor(6, {0}, {1})).size(), 1u);
  for (const auto& [offset, size] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 7}, {1, 6}, {6, 1}, {7, 0}, {INT64_MAX, 1}, {INT64_MAX / 4, 6}, {-1, 1}, {INT64_MIN, 1}})
    expect_refused(with_tensor(offset, {size}, {1}), "do not lie in its storage of 24 bytes");
  for (const int64_t size : {int64_t{1} << 62, INT64_MAX, int64_t{-1}, INT64_MIN})
    expect_refused(with_tensor(0, {size}, {1}), "is larger than any file");
  expect_refused(with_tensor(0, {int64_t{1} << 32, int64_t{1} << 32}, {int64_t{1} << 32, 1}),
                 "larger than any");
  expect_refused(with_tensor(0, {6}, {1, 1}), "1 sizes and 2 strides");
  const std::vector<int64_t> ones(17, 1);
  expect_refused(with_tensor(0, ones, ones), "more than 16 dimensions");
  for (const int64_t elements : {int64_t{7}, int64_t{-1}, int64_t{1} << 62, INT64_MAX})
    expect_refused(with_tensor(0, {1}, {1}, torch_storage("FloatStorage", "0", elements)),
                   "elements of float32 and has 24 bytes");
  // A storage says how much of its place is its own.
  expect_refused(with_tensor(0, {6}, {1}, torch_storage("FloatStorage", "0", 5)), "storage of 20 bytes");
}

TEST(Pytorch, StoragesThatAreNone) {
  for (const char* key : {"1", "../../x", "../data.pkl", "/etc/passwd", ""})
    expect_refused(with_tensor(0, {1}, {1}, torch_storage("FloatStorage", key, 1)),
                   "its storage \""s + key + "\" is not in the archive");
  const Opcodes type = py_global("torch", "FloatStorage");
  expect_refused(with_tensor(0, {1}, {1}, py_int(1)), "its storage is no place in the archive");
  expect_refused(with_tensor(0, {1}, {1}, py_text("0") + "Q"), "not described as torch does");
  expect_refused(
      with_tensor(0, {1}, {1}, py_tuple({py_text("storage"), type, py_text("0"), py_text("cpu")}) + "Q"),
      "not described as torch does");
  expect_refused(
      with_tensor(0, {1}, {1}, py_tuple({py_text("module"), type, py_text("0"), "N", py_int(6)}) + "Q"),
      "not described as torch does");
  expect_refused(
      with_tensor(0, {1}, {1},
                  py_tuple({py_text("storage"), py_text("f"), py_text("0"), "N", py_int(6)}) + "Q"),
      "its type is no name");
  expect_refused(with_tensor(0, {1}, {1}, py_tuple({py_text("storage"), type, py_text("0"), "N", "N"}) + "Q"),
                 "its storage's size is no integer");
}

TEST(Pytorch, CallsThatMakeNoTensor) {
  expect_refused(with_dict({py_text("w"), py_call(py_global("torch", "FloatStorage"), {})}),
                 "\"w\": it is not made as torch makes tensors");
  const Opcodes rebuild = py_global("torch._utils", "_rebuild_tensor_v2");
  expect_refused(with_dict({py_text("w"), py_call(rebuild, {})}), "takes 6 to 7 arguments, 0 are given");
  const auto rebuilt = [&](const Opcodes& offset, const Opcodes& size,
                           const std::vector<Opcodes>& more = {}) {
    std::vector<Opcodes> arguments = {kFloats, offset, size, py_ints({1}), "\x89", py_hooks()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return with_dict({py_text("w"), py_call(rebuild, arguments)});
  };
  expect_refused(rebuilt(py_text("0"), py_ints({1})), "its offset is no integer");
  expect_refused(rebuilt(py_int(0), py_int(1)), "its size is no tuple of integers");
  expect_refused(rebuilt(py_int(0), py_tuple({py_ints({1})})), "its size is no integer");
  EXPECT_EQ(parse(rebuilt(py_int(0), py_ints({1}), {py_dict({})})).size(), 1u);
  expect_refused(rebuilt(py_int(0), py_ints({1}), {py_dict({py_text("neg"), "\x88"})}),
                 "a view that changes values");
}

TEST(Pytorch, NothingIsRun) {
  expect_refused(torch_file(py_call(py_global("posix", "system"), {py_text("true")})),
                 "f: asks to run `posix.system`, which a model's weights have no need of");
  const Opcodes evil = py_call(py_global("builtins", "eval"), {py_text("1")});
  expect_refused(with_dict({py_text("w"), torch_tensor(kFloats, 0, {6}, {1}), py_text("x"), evil}),
                 "asks to run `builtins.eval`");
  expect_refused(with_dict({py_text("w"), torch_tensor(evil, 0, {6}, {1})}), "asks to run `builtins.eval`");
  for (const char* name : {"load", "_rebuild_tensor_v2", "Tensor", "hub", "FloatStorage.x", "ops"})
    expect_refused(torch_file(py_call(py_global("torch", name), {})), "asks to run `torch."s + name + "`");
}

TEST(Pytorch, OtherFiles) {
  expect_refused("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull");
  expect_refused("", "0 bytes that are no zip archive");
  expect_refused("\x80\x02}q\1.", "no zip archive, which torch.save writes");
  expect_refused("\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", "before version 1.6");
  expect_refused(zip_bytes({{"a/b", "c"}}), "a zip archive without data.pkl");
  expect_refused(zip_bytes({{"a/data.pkl", ""}, {"b/data.pkl", ""}}), "two entries are called data.pkl");
  expect_refused(zip_bytes({{"m/data.pkl", ""}, {"m/code/__torch__.py", ""}}),
                 "a TorchScript program (\"m/code/");
  expect_refused(zip_bytes({{"m/data.pkl", ""}, {"m/constants.pkl", ""}}), "a TorchScript program");
  const std::string pickle = pickle_bytes(py_dict({}));
  TinyZipEntry packed = {"m/data.pkl", pickle};
  packed.method = 8;
  expect_refused(zip_bytes({packed}), "\"m/data.pkl\" is compressed (method 8)");
  packed.name = "m/code/a.py";
  expect_refused(zip_bytes({{"m/data.pkl", pickle}, packed}), "a TorchScript program");
  expect_refused(zip_bytes({{"m/data.pkl", pickle}, {"m/byteorder", "big"}}), "its byte order is \"big\"");
  EXPECT_EQ(parse(zip_bytes({{"m/data.pkl", pickle}})).size(), 0u);  // as torch 2.0 wrote it
  EXPECT_EQ(parse(zip_bytes({{"m/data.pkl", pickle}}, true)).size(), 0u);
}

TEST(Pytorch, EveryTruncatedFileIsRefused) {
  const std::string file = pytorch_bytes({{"a", "F32", {1}, "1234"}, {"b", "U8", {2}, "xy"}});
  for (size_t size = 0; size < file.size(); size++) EXPECT_NE(message_of(file.substr(0, size)), "");
}

// No byte can be changed to anything that crashes or reaches outside.
TEST(Pytorch, EveryChangedByteIsReadOrRefused) {
  const std::string file = with_dict({py_text("w"), torch_tensor(kFloats, 0, {2, 3}, {3, 1})});
  for (size_t at = 0; at < file.size(); at++)
    for (const int change : {1, 0x80, 0xff}) {
      std::string changed = file;
      changed[at] = static_cast<char>(changed[at] ^ change);
      try {
        for (const WeightEntry& entry : parse(changed)) {
          EXPECT_GE(entry.offset, 0);
          EXPECT_LE(entry.offset + entry.spec.bytes(), std::ssize(changed));
        }
      } catch (const Error&) {
      }
    }
}

}  // namespace
}  // namespace moerge
