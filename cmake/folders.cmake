# moerge_folder(NAME LINKS ...): the folder's sources as the static library moerge_NAME, its *_test.cpp as NAME_test.
# LINKS are lower folders (by name) and third-party targets; tools/check_layers.py checks the includes against the ranks.
function(moerge_folder name)
  cmake_parse_arguments(arg "" "" "LINKS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cpp)
  set(tests ${sources})
  list(FILTER tests INCLUDE REGEX "_test\\.cpp$")
  list(FILTER sources EXCLUDE REGEX "(_test|/main)\\.cpp$")
  add_library(moerge_${name} STATIC ${sources})
  target_link_libraries(moerge_${name} PUBLIC moerge_settings ${arg_LINKS})
  if(MOERGE_TESTS AND tests)
    add_executable(${name}_test ${tests})
    target_link_libraries(${name}_test PRIVATE moerge_${name} moerge_testing GTest::gtest_main)
    # The tests themselves need not be fast, and half of what they take to compile is optimisation.
    target_compile_options(${name}_test PRIVATE $<$<CONFIG:Release>:-O1>)
    add_test(NAME ${name}_test COMMAND ${name}_test --gtest_brief=1)
    set_tests_properties(${name}_test PROPERTIES LABELS ${name} ENVIRONMENT "OMP_WAIT_POLICY=PASSIVE")
  endif()
endfunction()
