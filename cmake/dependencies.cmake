# Third-party code, all of it brought by package clients (tools/setup.sh); THIRD_PARTY.md lists versions and licences.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(CLI11 REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(CURL 7.85 REQUIRED)
find_package(Eigen3 3.4 REQUIRED NO_MODULE)

# ggml, llama.cpp with its HTTP server, and nlohmann/json come from one pinned source tree in the cache folder.
if(NOT MOERGE_LLAMA_DIR)
  execute_process(COMMAND ${CMAKE_SOURCE_DIR}/tools/fetch-llama.sh OUTPUT_VARIABLE MOERGE_LLAMA_DIR
                  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()
# It is built below build/llama, the same for every preset (cmake/llama); its exported targets are ours to link.
# What is given for it at configuration (-DGGML_CUDA=ON) is handed on.
set(MOERGE_LLAMA_BUILD ${CMAKE_SOURCE_DIR}/build/llama CACHE PATH "llama.cpp, built; another folder is used as it is")
if(MOERGE_LLAMA_BUILD STREQUAL ${CMAKE_SOURCE_DIR}/build/llama)
  set(llama_options -DMOERGE_LLAMA_DIR=${MOERGE_LLAMA_DIR})
  get_cmake_property(cache_variables CACHE_VARIABLES)
  list(FILTER cache_variables INCLUDE REGEX "^(GGML_|CMAKE_C(XX)?_COMPILER$|CMAKE_C(XX)?_COMPILER_LAUNCHER$)")
  if(MOERGE_FUZZ)  # clang is for our own code: what is there is kept
    list(FILTER cache_variables EXCLUDE REGEX "_COMPILER$")
  endif()
  foreach(variable ${cache_variables})
    list(APPEND llama_options -D${variable}=${${variable}})
  endforeach()
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${CMAKE_SOURCE_DIR}/cmake/llama -B ${MOERGE_LLAMA_BUILD} -G ${CMAKE_GENERATOR}
                          -DCMAKE_BUILD_TYPE=Release ${llama_options}
                  OUTPUT_VARIABLE llama_output ERROR_VARIABLE llama_output RESULT_VARIABLE llama_result)
  if(NOT llama_result EQUAL 0)
    message(FATAL_ERROR "llama.cpp cannot be configured:\n${llama_output}")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/cmake/llama/CMakeLists.txt)
  file(STRINGS ${MOERGE_LLAMA_BUILD}/libraries.txt llama_libraries)
  add_custom_target(moerge_llama_build BYPRODUCTS ${llama_libraries}
    COMMAND ${CMAKE_COMMAND} --build ${MOERGE_LLAMA_BUILD} --target moerge_llama_server
    COMMENT "Compiling llama.cpp" USES_TERMINAL VERBATIM)
endif()
find_package(OpenMP)  # ggml's threads, when it was built with them
if(MOERGE_FUZZ AND NOT OpenMP_FOUND)  # ggml is built by GCC
  foreach(name OpenMP::OpenMP_C OpenMP::OpenMP_CXX)
    add_library(${name} INTERFACE IMPORTED GLOBAL)
    target_link_libraries(${name} INTERFACE gomp)
  endforeach()
endif()
include(${MOERGE_LLAMA_BUILD}/targets.cmake)
file(STRINGS ${MOERGE_LLAMA_BUILD}/targets.txt llama_targets)
foreach(target ${llama_targets})
  set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
  if(TARGET moerge_llama_build)
    add_dependencies(${target} moerge_llama_build)
  endif()
endforeach()

add_library(moerge_json INTERFACE)
target_include_directories(moerge_json SYSTEM INTERFACE ${MOERGE_LLAMA_DIR}/vendor)

# The one Rust library. Its target folder is shared by all presets: it is compiled once, and once more with Xet.
find_program(MOERGE_CARGO cargo REQUIRED HINTS $ENV{HOME}/.cargo/bin)
set(rust_dir ${CMAKE_SOURCE_DIR}/rust)
set(rust_target ${CMAKE_SOURCE_DIR}/build/rust)
set(rust_crates tokenizers)
if(MOERGE_XET)
  find_package(OpenSSL 3 REQUIRED)
  set(rust_target ${rust_target}-xet)
  set(rust_crates "tokenizers, hf-xet")
  set(rust_features --features xet)
  cmake_path(GET OPENSSL_SSL_LIBRARY PARENT_PATH openssl_folder)
  set(rust_environment OPENSSL_INCLUDE_DIR=${OPENSSL_INCLUDE_DIR} OPENSSL_LIB_DIR=${openssl_folder})
  set(rust_libraries OpenSSL::SSL)
endif()
set(rust_release ${rust_target}/release)
if(MOERGE_FUZZ)  # its edges are counted too; --target spares what runs while it is compiled
  execute_process(COMMAND rustc -vV OUTPUT_VARIABLE rustc_version COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "host: ([^\n]+)" rust_host "${rustc_version}")
  set(rust_target ${rust_target}-fuzz)
  set(rust_release ${rust_target}/${CMAKE_MATCH_1}/release)
  list(APPEND rust_features --target ${CMAKE_MATCH_1})
  string(CONCAT rust_flags "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 "
         "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table")
  list(APPEND rust_environment "RUSTFLAGS=${rust_flags}")
endif()
set(rust_lib ${rust_release}/libmoerge_rust.a)
file(GLOB rust_sources CONFIGURE_DEPENDS ${rust_dir}/src/*.rs)
add_custom_command(OUTPUT ${rust_lib}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${rust_target} ${rust_environment} ${MOERGE_CARGO} build --release
          --locked --quiet ${rust_features} --manifest-path ${rust_dir}/Cargo.toml
  DEPENDS ${rust_sources} ${rust_dir}/Cargo.toml ${rust_dir}/Cargo.lock
  COMMENT "Compiling the Rust library (${rust_crates})" VERBATIM)
add_custom_target(moerge_rust_build DEPENDS ${rust_lib})
add_library(moerge_rust STATIC IMPORTED GLOBAL)
set_target_properties(moerge_rust PROPERTIES IMPORTED_LOCATION ${rust_lib} INTERFACE_INCLUDE_DIRECTORIES ${rust_dir}
  INTERFACE_LINK_LIBRARIES "${rust_libraries};Threads::Threads;${CMAKE_DL_LIBS};m")
add_dependencies(moerge_rust moerge_rust_build)

if(MOERGE_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
endif()
