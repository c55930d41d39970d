# The tests that ./tessera test runs. The slow ones, for --all, stand in slow_tests.cmake. The label `once` is for
# those that look at files or whole programs: other builds (sanitizers, other compilers) leave them out.

# Each lesson's run with its defaults holds.
foreach(lesson IN LISTS lessons)
  add_test(NAME ${lesson} COMMAND ${lesson})
  set_tests_properties(${lesson} PROPERTIES LABELS program TIMEOUT 300)
endforeach()

# The unsplit reference trains for longer than a call may wait: announced work is no stall.
set(long_reference $<TARGET_FILE:08_three_d> --quiet --timeout 1 --steps 300 --tp 1 --pp 2 --dp 1)
add_test(NAME long_reference COMMAND ${long_reference})
set_tests_properties(long_reference PROPERTIES LABELS program TIMEOUT 300)

# The suite: one executable, a file a subject, a ctest for each test case.
set(TESSERA_SUITE tests/test_*.cpp CACHE STRING "a part of it, e.g. tests/test_comm.cpp, builds faster")
file(GLOB suite CONFIGURE_DEPENDS ${TESSERA_SUITE})
if(TESSERA_SANITIZE)
  set(left_out labs)  # what runs there are other processes
  if(TESSERA_SANITIZE MATCHES thread)
    list(APPEND left_out attention fixtures gradients ops safetensors schedule tensor timeline)  # one thread each
  endif()
  list(JOIN left_out | left_out)
  list(FILTER suite EXCLUDE REGEX "/test_(${left_out})\\.cpp$")
endif()
add_executable(tessera_tests tests/main.cpp ${suite})
target_compile_definitions(tessera_tests PRIVATE TESSERA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
target_include_directories(tessera_tests PRIVATE tests)
target_compile_options(tessera_tests PRIVATE ${TESSERA_LEVEL})
target_link_libraries(tessera_tests PRIVATE tessera_core)
# The claims of all lessons are many templates: compiled once, for the suite and for verify.
add_library(tessera_course OBJECT tests/course.cpp)
target_include_directories(tessera_course PRIVATE tests)
target_compile_options(tessera_course PRIVATE ${TESSERA_LEVEL})
target_link_libraries(tessera_course PRIVATE tessera_core)
if("${suite}" MATCHES test_lessons)
  target_link_libraries(tessera_tests PRIVATE tessera_course)
endif()
include(cmake/cases.cmake)
discover_cases(tessera_tests)
add_custom_target(suite DEPENDS tessera_tests)
add_custom_target(programs DEPENDS ${lessons})

# ./tessera verify
add_executable(tessera_verify tests/verify.cpp)
target_include_directories(tessera_verify PRIVATE tests)
target_compile_options(tessera_verify PRIVATE ${TESSERA_LEVEL})
target_link_libraries(tessera_verify PRIVATE tessera_core tessera_course)
add_test(NAME verify COMMAND tessera_verify --ranks 2-3)
set_tests_properties(verify PROPERTIES LABELS once TIMEOUT 300)

# The same conformance cases, and the wrong programs, as processes.
if(HAVE_MPI)
  add_executable(tessera_mpi_tests tests/mpi_main.cpp)
  target_compile_options(tessera_mpi_tests PRIVATE ${TESSERA_LEVEL})
  target_link_libraries(tessera_mpi_tests PRIVATE tessera_core)
  foreach(n 1 2 3 4 8)
    add_test(NAME mpi_${n} COMMAND ${MPIEXEC_EXECUTABLE} -n ${n} $<TARGET_FILE:tessera_mpi_tests>)
    list(APPEND mpi_tests mpi_${n})
  endforeach()
  foreach(n 2 3 4 8)
    add_test(NAME mpi_verify_${n} COMMAND ${MPIEXEC_EXECUTABLE} -n ${n} $<TARGET_FILE:tessera_verify> --shapes 2)
    list(APPEND mpi_tests mpi_verify_${n})
  endforeach()
  # More processes than verify's: lesson 05's heads are 12. One kv head, whole on every rank; and 12, cut too.
  set(lesson_05 $<TARGET_FILE:05_attention_heads> --quiet)
  set(block --part block --mask padding --dropout 0.1 --kv-heads 1)
  foreach(n 6 12)
    add_test(NAME mpi_05_block_${n} COMMAND ${MPIEXEC_EXECUTABLE} -n ${n} ${lesson_05} ${block})
    add_test(NAME mpi_05_attention_${n} COMMAND ${MPIEXEC_EXECUTABLE} -n ${n} ${lesson_05} --kv-heads 12)
    list(APPEND mpi_tests mpi_05_block_${n} mpi_05_attention_${n})
  endforeach()
  add_test(NAME mpi_wrong COMMAND tessera_mpi_tests ${MPIEXEC_EXECUTABLE})
  add_test(NAME mpi_long_reference COMMAND ${MPIEXEC_EXECUTABLE} -n 2 ${long_reference})
  add_test(NAME launchers COMMAND ${CMAKE_SOURCE_DIR}/tests/launchers.sh ${CMAKE_BINARY_DIR})
  list(APPEND mpi_tests mpi_long_reference mpi_wrong launchers)
  # What Open MPI needs to run more ranks than cores, and as root; as variables, which other launchers ignore.
  set(mpi_environment OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
      PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe PRTE_MCA_hwloc_default_binding_policy=none
      OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1)
  if(TESSERA_SANITIZE)
    list(APPEND mpi_environment ASAN_OPTIONS=detect_leaks=0)  # Open MPI keeps blocks until the process ends
  endif()
  set_tests_properties(${mpi_tests} PROPERTIES TIMEOUT 300 RUN_SERIAL ON ENVIRONMENT "${mpi_environment}")
  set_tests_properties(mpi_wrong launchers PROPERTIES RUN_SERIAL OFF)  # they wait, mostly
endif()

# The pages: what stands on them is regenerated from sources and programs, and compared.
add_executable(tessera_pages tests/pages/pages.cpp)
target_compile_options(tessera_pages PRIVATE -O1 -Wall -Wextra -Wpedantic -Werror)
add_executable(tessera_pages_tests tests/pages/main.cpp tests/pages/test_pages.cpp)
target_compile_definitions(tessera_pages_tests PRIVATE TESSERA_PAGES="$<TARGET_FILE:tessera_pages>")
target_include_directories(tessera_pages_tests PRIVATE tests)
target_compile_options(tessera_pages_tests PRIVATE -O1)
target_link_libraries(tessera_pages_tests PRIVATE tessera_core)
add_dependencies(tessera_pages_tests tessera_pages)
set(pages tessera_pages --root ${CMAKE_SOURCE_DIR} --bin ${CMAKE_BINARY_DIR}/bin --cxx ${CMAKE_CXX_COMPILER})
add_test(NAME pages_tool COMMAND tessera_pages_tests)
add_test(NAME pages COMMAND ${pages} --check)
add_test(NAME by_hand_steps COMMAND ${pages} --steps notebooks_md/00_by_hand.md)
set_tests_properties(pages_tool pages by_hand_steps PROPERTIES LABELS once TIMEOUT 600)

# What the lessons write for programs: dumps that numpy alone redoes, JSON, traces, pictures; and what they refuse.
set(python ${CMAKE_SOURCE_DIR}/tests/with_python.sh)
add_test(NAME numpy COMMAND ${python} numpy ${CMAKE_SOURCE_DIR}/tests/numpy_check.py ${CMAKE_BINARY_DIR}/bin)
add_test(NAME output_files COMMAND ${python} json ${CMAKE_SOURCE_DIR}/tests/output_check.py ${CMAKE_BINARY_DIR}/bin)
foreach(half 1 2)
  add_test(NAME bad_input_${half} COMMAND ${CMAKE_SOURCE_DIR}/tests/bad_input.sh ${CMAKE_BINARY_DIR}/bin ${half})
endforeach()
set_tests_properties(bad_input_1 bad_input_2 PROPERTIES LABELS once TIMEOUT 300)
set_tests_properties(numpy output_files PROPERTIES LABELS once SKIP_RETURN_CODE 77 TIMEOUT 300 PROCESSORS 2)

# Programs that the placements forbid, with the message of each.
foreach(compiler g++ clang++)
  add_test(NAME forbidden_${compiler} COMMAND ${CMAKE_SOURCE_DIR}/tests/forbidden/check.sh ${compiler})
  set_tests_properties(forbidden_${compiler} PROPERTIES LABELS once SKIP_RETURN_CODE 77 TIMEOUT 300 PROCESSORS 2)
endforeach()

# The source itself.
add_test(NAME lint COMMAND ${CMAKE_SOURCE_DIR}/tests/lint.sh)
add_test(NAME lint_format COMMAND ${CMAKE_SOURCE_DIR}/tests/lint.sh format)
add_test(NAME lint_self_test COMMAND ${CMAKE_SOURCE_DIR}/tests/lint_self_test.sh)
set_tests_properties(lint lint_format lint_self_test PROPERTIES LABELS once SKIP_RETURN_CODE 77 TIMEOUT 120)
