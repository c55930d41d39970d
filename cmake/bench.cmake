# ./tessera bench. No sanitizer's build has it: what it measures there would mean nothing.
set(bench_sources measure bench block gpt collectives steps growth bandwidth)
list(APPEND bench_sources $<IF:$<BOOL:${HAVE_CUDA}>,tf32,no_tf32>)
list(TRANSFORM bench_sources REPLACE "(.+)" "tests/bench/\\1.cpp")
add_executable(tessera_bench ${bench_sources})
target_link_libraries(tessera_bench PRIVATE tessera_core)
set(with_mpi "")
if(HAVE_MPI)
  add_executable(tessera_mpi_all_reduce tests/bench/mpi_all_reduce.cpp)
  target_link_libraries(tessera_mpi_all_reduce PRIVATE tessera_parts MPI::MPI_CXX)
  add_dependencies(tessera_bench tessera_mpi_all_reduce)
  list(JOIN mpi_environment " " with_mpi)
  set(with_mpi "env ${with_mpi} ${MPIEXEC_EXECUTABLE} -n 2 $<TARGET_FILE:tessera_mpi_all_reduce>")
endif()
target_compile_definitions(tessera_bench PRIVATE TESSERA_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
    TESSERA_MPI_ALL_REDUCE="${with_mpi}")
# That all of it runs; the figures are those of a quiet machine at full size.
add_test(NAME bench COMMAND tessera_bench --quick --json ${CMAKE_BINARY_DIR}/bench.json)
set_tests_properties(bench PROPERTIES LABELS once TIMEOUT 120 PROCESSORS 2)
