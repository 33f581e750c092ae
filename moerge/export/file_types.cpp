#include "moerge/export/file_types.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "moerge/base/error.h"
#include "moerge/base/suggest.h"

namespace moerge {
namespace {

// Numbers: enum llama_ftype in llama.h. Bits per weight are those of the mixture's main type.
constexpr FileType kTypes[] = {
    {"F32", 0, "unquantised, 32 bits"},
    {"F16", 1, "unquantised, 16 bits"},
    {"BF16", 32, "unquantised, 16 bits with float32's range"},
    {"Q8_0", 7, "8.5 bits, hardly distinguishable from F16"},
    {"Q6_K", 18, "6.6 bits"},
    {"Q5_K_M", 17, "5.5 bits and more where it matters"},
    {"Q5_K_S", 16, "5.5 bits"},
    {"Q5_1", 9, "6 bits, an older form"},
    {"Q5_0", 8, "5.5 bits, an older form"},
    {"Q4_K_M", 15, "4.5 bits and more where it matters: the usual choice"},
    {"Q4_K_S", 14, "4.5 bits"},
    {"IQ4_NL", 25, "4.5 bits, not linear"},
    {"IQ4_XS", 30, "4.3 bits, not linear"},
    {"Q4_1", 3, "5 bits, an older form"},
    {"Q4_0", 2, "4.5 bits, an older form"},
    {"MXFP4_MOE", 38, "experts in MXFP4 (4.3 bits), the rest Q8_0"},
    {"Q3_K_L", 13, "3.4 bits, mixed with 5"},
    {"Q3_K_M", 12, "3.4 bits, mixed with 4 and 5"},
    {"Q3_K_S", 11, "3.4 bits"},
    {"IQ3_M", 27, "3.7 bits"},
    {"IQ3_S", 26, "3.4 bits"},
    {"IQ3_XS", 22, "3.3 bits, wants an importance matrix"},
    {"IQ3_XXS", 23, "3.1 bits, wants an importance matrix"},
    {"Q2_K", 10, "2.6 bits, mixed with 3 and 4"},
    {"Q2_K_S", 21, "2.6 bits, wants an importance matrix"},
    {"IQ2_M", 29, "2.7 bits, wants an importance matrix"},
    {"IQ2_S", 28, "2.5 bits, wants an importance matrix"},
    {"IQ2_XS", 20, "2.3 bits, wants an importance matrix"},
    {"IQ2_XXS", 19, "2.1 bits, wants an importance matrix"},
    {"IQ1_M", 31, "1.8 bits, wants an importance matrix"},
    {"IQ1_S", 24, "1.6 bits, wants an importance matrix"},
    {"TQ2_0", 37, "2.1 bits, for ternary models"},
    {"TQ1_0", 36, "1.7 bits, for ternary models"},
    {"Q2_0", 41, "2.3 bits, for models trained for it"},
    {"Q1_0", 40, "1.1 bits, for models trained for it"},
};

// llama.cpp's own shorthands.
constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"Q3_K", "Q3_K_M"}, {"Q4_K", "Q4_K_M"}, {"Q5_K", "Q5_K_M"}, {"FP16", "F16"}, {"FP32", "F32"}};

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

const FileType& find_file_type(std::string_view word) {
  std::string name = upper(word);
  for (const auto& [alias, meaning] : kAliases)
    if (name == alias) name = meaning;
  std::vector<std::string_view> names;
  for (const FileType& type : kTypes) {
    if (type.name == name) return type;
    names.push_back(type.name);
  }
  const std::string close = nearest(name, names);
  fail(ErrorKind::usage, "--type {}: there is no such type{}; moerge gguf --help lists them", word,
       close.empty() ? "" : fmt::format(" (did you mean {}?)", close));
}

}  // namespace

std::span<const FileType> file_types() { return kTypes; }

std::vector<const FileType*> parse_file_types(std::string_view list) {
  std::vector<const FileType*> types;
  constexpr std::string_view separators = ", \t\n";
  for (size_t begin = list.find_first_not_of(separators); begin < list.size();
       begin = list.find_first_not_of(separators, begin)) {
    const size_t end = std::min(list.find_first_of(separators, begin), list.size());
    const FileType& type = find_file_type(list.substr(begin, end - begin));
    if (std::ranges::find(types, &type) == types.end()) types.push_back(&type);
    begin = end;
  }
  if (types.empty()) fail(ErrorKind::usage, "--type: a list like q4_k_m,q5_k_m is expected");
  return types;
}

DType parse_tensor_type(std::string_view name, std::string_view flag) {
  const std::string wanted = upper(name);
  std::vector<std::string_view> names;
  for (const DTypeInfo& row : dtype_table()) {
    if (!is_quantized(row.dtype) && !is_weight_type(row.dtype)) continue;
    if (row.gguf == wanted) return row.dtype;
    names.push_back(row.gguf);
  }
  const std::string close = nearest(wanted, names);
  fail(ErrorKind::usage, "{}: \"{}\" is no type of a tensor{}; they are {}", flag, name,
       close.empty() ? "" : fmt::format(" (did you mean {}?)", close), fmt::join(names, ", "));
}

bool requires_importance(std::string_view tensor, DType dtype, const FileType& type) {
  if (tensor == "token_embd.weight" || tensor == "output.weight") return false;
  switch (dtype) {
    case DType::iq1_s:
    case DType::iq1_m:
    case DType::iq2_xxs:
    case DType::iq2_xs:
    case DType::iq2_s:
    case DType::iq3_xxs:
      return true;
    case DType::q2_k:
      return type.name == "Q2_K_S";
    default:
      return false;
  }
}

}  // namespace moerge
