set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_C_STANDARD 11)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()

# Our own code only; third-party targets keep their own flags.
add_library(moerge_settings INTERFACE)
target_include_directories(moerge_settings INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(moerge_settings INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion
                       $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # GCC 12 sees overlaps in std::string that are not there

if(MOERGE_SANITIZE)
  target_compile_options(moerge_settings INTERFACE -fsanitize=${MOERGE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(moerge_settings INTERFACE -fsanitize=${MOERGE_SANITIZE})
endif()

if(MOERGE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "MOERGE_FUZZ needs clang, for its libFuzzer: -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++")
  endif()
  # Third-party code that is compiled apart (llama.cpp, Debian's packages) is neither measured nor checked.
  target_compile_definitions(moerge_settings INTERFACE _GLIBCXX_ASSERTIONS)
  target_compile_options(moerge_settings INTERFACE -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
                         -fno-omit-frame-pointer)
  target_link_options(moerge_settings INTERFACE -fsanitize=address,undefined)
endif()
