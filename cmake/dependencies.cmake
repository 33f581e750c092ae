# Third-party code, all of it brought by package clients (tools/setup.sh); THIRD_PARTY.md lists versions and licences.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)

# ggml, llama and nlohmann/json come from one pinned llama.cpp source tree in the cache folder.
if(NOT MOERGE_LLAMA_DIR)
  execute_process(COMMAND ${CMAKE_SOURCE_DIR}/tools/fetch-llama.sh OUTPUT_VARIABLE MOERGE_LLAMA_DIR
                  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()
set(BUILD_SHARED_LIBS OFF)
set(LLAMA_BUILD_NUMBER 0)  # all three given: else git is asked about OUR repository
set(LLAMA_BUILD_COMMIT 0c1e57098)
set(GGML_BUILD_COMMIT 0c1e57098 CACHE STRING "")
foreach(part COMMON TESTS TOOLS EXAMPLES SERVER APP UI)
  set(LLAMA_BUILD_${part} OFF CACHE BOOL "")
endforeach()
set(LLAMA_USE_PREBUILT_UI OFF CACHE BOOL "")  # its default downloads at build time
set(LLAMA_OPENSSL OFF CACHE BOOL "")
set(GGML_CCACHE OFF CACHE BOOL "")
set(GGML_LLAMAFILE ON CACHE BOOL "")         # tiled matrix products: 2.5 times less CPU time for bf16 on AVX2
set(moerge_build_type ${CMAKE_BUILD_TYPE})
set(CMAKE_BUILD_TYPE Release)                      # fast in the sanitizer build as well
add_subdirectory(${MOERGE_LLAMA_DIR} ${CMAKE_BINARY_DIR}/llama EXCLUDE_FROM_ALL SYSTEM)
set(CMAKE_BUILD_TYPE ${moerge_build_type})

add_library(moerge_json INTERFACE)
target_include_directories(moerge_json SYSTEM INTERFACE ${MOERGE_LLAMA_DIR}/vendor)

# llama.cpp's Jinja engine, of all that lies in its common/ folder.
set(common_dir ${MOERGE_LLAMA_DIR}/common)
add_library(moerge_jinja STATIC EXCLUDE_FROM_ALL
  ${common_dir}/json.cpp ${common_dir}/unicode.cpp ${common_dir}/jinja/lexer.cpp ${common_dir}/jinja/parser.cpp
  ${common_dir}/jinja/runtime.cpp ${common_dir}/jinja/string.cpp ${common_dir}/jinja/value.cpp)
target_include_directories(moerge_jinja SYSTEM PUBLIC ${common_dir} PRIVATE ${MOERGE_LLAMA_DIR}/vendor)
target_link_libraries(moerge_jinja PRIVATE ggml)
set_target_properties(moerge_jinja PROPERTIES COMPILE_OPTIONS -O2)  # fast in the sanitizer build as well

# The one Rust library. Its target folder is shared by all presets: it is compiled once.
find_program(MOERGE_CARGO cargo REQUIRED HINTS $ENV{HOME}/.cargo/bin)
set(rust_dir ${CMAKE_SOURCE_DIR}/rust)
set(rust_target ${CMAKE_SOURCE_DIR}/build/rust)
set(rust_lib ${rust_target}/release/libmoerge_rust.a)
file(GLOB rust_sources CONFIGURE_DEPENDS ${rust_dir}/src/*.rs)
add_custom_command(OUTPUT ${rust_lib}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${rust_target} ${MOERGE_CARGO} build --release --locked --quiet
          --manifest-path ${rust_dir}/Cargo.toml
  DEPENDS ${rust_sources} ${rust_dir}/Cargo.toml ${rust_dir}/Cargo.lock
  COMMENT "Compiling the Rust library (tokenizers)" VERBATIM)
add_custom_target(moerge_rust_build DEPENDS ${rust_lib})
add_library(moerge_rust STATIC IMPORTED GLOBAL)
set_target_properties(moerge_rust PROPERTIES IMPORTED_LOCATION ${rust_lib} INTERFACE_INCLUDE_DIRECTORIES ${rust_dir}
  INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
add_dependencies(moerge_rust moerge_rust_build)

if(MOERGE_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
endif()
