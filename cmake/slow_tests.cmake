# What `./tessera test --all` adds (ctest label slow): other builds, and clang-tidy.
# other_build(NAME TARGET SECONDS -DNAME=VALUE...) configures in build/NAME, builds TARGET, and runs its tests.
function(other_build name target seconds)
  add_test(NAME ${name} COMMAND ${CMAKE_SOURCE_DIR}/tests/other_build.sh ${CMAKE_BINARY_DIR}/${name}
      ${target} ${ARGN}
      -G${CMAKE_GENERATOR} -DTESSERA_HEADERS=${TESSERA_HEADERS} -DTESSERA_MARCH=${TESSERA_MARCH})
  set_tests_properties(${name} PROPERTIES LABELS slow TIMEOUT ${seconds} SKIP_RETURN_CODE 77 PROCESSORS 2)
endfunction()

# The suite under tsan is the suite without MPI, CUDA and BLAS; what is left for the bare build is the lessons.
other_build(bare programs 900 --preset no-extras -DCMAKE_CXX_FLAGS_RELEASE=-O1)
other_build(asan suite 2400 --preset asan)
other_build(tsan suite 2400 --preset tsan)
if(NOT HAVE_CUDA)  # else this very build compiles it, for every generation and with warnings as errors
  other_build(cuda_compiles tessera_core 900 --preset cuda)
endif()

# The labs, whole; then a student's tree built as a student builds it, in its own folder. Both in the bare build, or with
# its core: hundreds of programs are started, and one that has CUDA's libraries takes 0.1 s to begin.
add_test(NAME labs COMMAND ${CMAKE_SOURCE_DIR}/tests/labs/labs_test.sh ${CMAKE_BINARY_DIR} ${CMAKE_BINARY_DIR}/bare)
add_test(NAME labs_tree COMMAND ${CMAKE_SOURCE_DIR}/tests/labs/tree_test.sh ${CMAKE_BINARY_DIR} ${CMAKE_BINARY_DIR}/bare
    -G${CMAKE_GENERATOR} -DTESSERA_HEADERS=${TESSERA_HEADERS} -DTESSERA_MARCH=${TESSERA_MARCH})
set_tests_properties(bare PROPERTIES FIXTURES_SETUP bare)
set_tests_properties(labs labs_tree PROPERTIES LABELS "slow;once" TIMEOUT 900 RUN_SERIAL ON FIXTURES_REQUIRED bare)

# Ten times as many random programs on threads, and four times as many wrong ones as processes.
add_test(NAME comm_long COMMAND tessera_tests "--test-case=random programs*")
set_tests_properties(comm_long PROPERTIES LABELS "slow;once" ENVIRONMENT TESSERA_LONG=1 TIMEOUT 900)
if(HAVE_MPI)
  add_test(NAME mpi_long_4 COMMAND ${MPIEXEC_EXECUTABLE} -n 4 $<TARGET_FILE:tessera_mpi_tests>)
  add_test(NAME mpi_wrong_long COMMAND tessera_mpi_tests ${MPIEXEC_EXECUTABLE})
  set_tests_properties(mpi_long_4 mpi_wrong_long PROPERTIES LABELS "slow;once" TIMEOUT 900
      ENVIRONMENT "TESSERA_LONG=1;${mpi_environment}")
endif()

# Seeded bugs, each of which must be caught by its symptom.
add_test(NAME mutants COMMAND ${CMAKE_SOURCE_DIR}/tests/mutants/mutants.sh check ${CMAKE_BINARY_DIR})
set_tests_properties(mutants PROPERTIES LABELS "slow;once" TIMEOUT 1800 PROCESSORS 2)

add_test(NAME clang_tidy COMMAND ${CMAKE_SOURCE_DIR}/tests/clang_tidy.sh ${CMAKE_BINARY_DIR})
set_tests_properties(clang_tidy PROPERTIES LABELS slow TIMEOUT 900 SKIP_RETURN_CODE 77 PROCESSORS 2)

# Lesson 06's measured bubble, by sleeping: alone, since whatever else runs delays the sleepers.
add_test(NAME pace COMMAND ${python} json ${CMAKE_SOURCE_DIR}/tests/pace_check.py $<TARGET_FILE:06_pipeline>)
set_tests_properties(pace PROPERTIES LABELS "slow;once" SKIP_RETURN_CODE 77 TIMEOUT 300 RUN_SERIAL ON)

# The build for TSan proves that its detector is awake: this program has a race, and must be caught.
if(TESSERA_SANITIZE MATCHES thread)
  add_executable(seeded_race tests/seeded_race.cpp)
  target_link_libraries(seeded_race PRIVATE tessera_parts)
  add_dependencies(suite seeded_race)
  add_test(NAME seeded_race COMMAND seeded_race)
  set_tests_properties(seeded_race PROPERTIES PASS_REGULAR_EXPRESSION "data race" TIMEOUT 60)
endif()
