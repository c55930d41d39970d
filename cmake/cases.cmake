# Makes each TEST_CASE of a doctest executable a ctest of its own, so that `ctest -R gelu` finds it and the count counts
# it. Read twice: when CMake configures, and as a script after each build, when it asks the executable for its list.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  function(discover_cases target)
    set(list ${CMAKE_BINARY_DIR}/${target}_cases.cmake)
    if(NOT EXISTS ${list})
      file(WRITE ${list} "add_test(${target}_is_not_built ${target}_is_not_built)\n")
    endif()
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${list})
    add_custom_command(TARGET ${target} POST_BUILD VERBATIM COMMAND ${CMAKE_COMMAND}
        -DSUITE=$<TARGET_FILE:${target}> -DLIST=${list} -P ${CMAKE_SOURCE_DIR}/cmake/cases.cmake)
  endfunction()
  return()
endif()

execute_process(COMMAND ${SUITE} --list-test-cases --no-version OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "[^\n]*\\[doctest\\][^\n]*\n|====+\n" "" output "${output}")
string(REGEX REPLACE "\n+$" "" output "${output}")
string(REPLACE ";" "\\;" output "${output}")
string(REPLACE "\n" ";" cases "${output}")
set(text "")
foreach(case IN LISTS cases)
  string(REGEX REPLACE "[,\\]" "?" filter "${case}")  # a comma would begin a second filter; ? matches one character
  string(APPEND text "add_test([==[${case}]==] [==[${SUITE}]==] [==[--test-case=${filter}]==] --exit-77-if-skipped)\n"
      "set_tests_properties([==[${case}]==] PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)\n")
endforeach()
file(WRITE ${LIST} "${text}")
