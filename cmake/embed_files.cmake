# cmake -DFOLDER=FOLDER -DFILES=a/b.yaml,c.yaml -DOUT=FILE.cpp -P embed_files.cmake: files below FOLDER as texts of the
# program, for moerge/eval/builtin_files.h.
cmake_minimum_required(VERSION 3.25)

string(REPLACE "," ";" files "${FILES}")
set(arrays "")
set(rows "")
set(number 0)
foreach(file IN LISTS files)
  file(READ "${FOLDER}/${file}" bytes HEX)
  string(REGEX REPLACE "(..)" "'\\\\x\\1'," bytes "${bytes}")
  string(APPEND arrays "constexpr char kFile${number}[] = {${bytes}};\n")
  string(APPEND rows "    {\"${file}\", {kFile${number}, sizeof(kFile${number})}},\n")
  math(EXPR number "${number} + 1")
endforeach()

file(WRITE "${OUT}" "// Made by cmake/embed_files.cmake.
#include \"moerge/eval/builtin_files.h\"

namespace moerge {
namespace {

${arrays}
constexpr BuiltinFile kFiles[] = {
${rows}};

}  // namespace

std::span<const BuiltinFile> builtin_files() { return kFiles; }

}  // namespace moerge
")
