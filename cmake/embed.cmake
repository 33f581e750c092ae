# cmake -DPAGE=FOLDER/index.html -DOUT=FILE.cpp -P embed.cmake: the chat page as bytes of the program. Each
# <script src="NAME"></script> is replaced by what the file NAME beside it holds, and the page's policy names the
# scripts by their hashes: no other script can run in it.
cmake_minimum_required(VERSION 3.25)

# The bytes that hexadecimal digits stand for, in base64.
function(to_base64 hex out)
  set(digits ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/)
  string(LENGTH ${hex} length)
  set(text "")
  foreach(at RANGE 0 ${length} 6)
    if(at GREATER_EQUAL length)
      break()
    endif()
    string(SUBSTRING ${hex} ${at} 6 group)
    string(LENGTH ${group} given)
    string(SUBSTRING ${group}0000 0 6 group)
    foreach(shift 18 12 6 0)
      math(EXPR index "(0x${group} >> ${shift}) & 63")
      string(SUBSTRING ${digits} ${index} 1 digit)
      string(APPEND text ${digit})
    endforeach()
    string(LENGTH ${text} end)
    math(EXPR missing "(6 - ${given}) / 2")
    math(EXPR end "${end} - ${missing}")
    string(SUBSTRING ${text} 0 ${end} text)
    string(REPEAT "=" ${missing} padding)
    string(APPEND text "${padding}")
  endforeach()
  set(${out} "${text}" PARENT_SCOPE)
endfunction()

get_filename_component(folder "${PAGE}" DIRECTORY)
file(READ "${PAGE}" page)
set(hashes "")
while(page MATCHES "<script src=\"([a-z]+[.]js)\"></script>")
  set(tag "${CMAKE_MATCH_0}")
  file(READ "${folder}/${CMAKE_MATCH_1}" script)
  if(script MATCHES "</[Ss][Cc]|<!--|\r")
    message(FATAL_ERROR "${folder}: a script in a page cannot hold \"</sc\", \"<!--\" or carriage returns")
  endif()
  string(SHA256 hash "${script}")
  to_base64(${hash} hash)
  string(APPEND hashes " 'sha256-${hash}'")
  string(REPLACE "${tag}" "<script>${script}</script>" page "${page}")
endwhile()
set(policy "default-src 'none'; style-src 'unsafe-inline'; script-src${hashes}; connect-src 'self'; \
img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")

file(WRITE "${OUT}.html" "${page}")
file(READ "${OUT}.html" bytes HEX)
file(REMOVE "${OUT}.html")
string(REGEX REPLACE "(..)" "'\\\\x\\1'," bytes "${bytes}")
file(WRITE "${OUT}" "// Made by cmake/embed.cmake.
#include \"moerge/serve/chat_page.h\"

namespace moerge {
namespace {

constexpr char kPage[] = {
${bytes}};

}  // namespace

std::string_view chat_page() { return {kPage, sizeof(kPage)}; }

std::string_view chat_page_policy() {
  return \"${policy}\";
}

}  // namespace moerge
")
