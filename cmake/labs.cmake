# The labs: tests/labs/lab_NN.cpp calls each task of lesson NN; tessera_labs (./tessera lab) runs these programs and
# judges what they leave. lab_NN has this tree's lessons, graded_NN those that `lab grade` puts below submission/NN.
# Those programs are no part of `all`: tessera_labs builds what it needs.
add_executable(tessera_labs tests/labs/labs.cpp)
target_compile_options(tessera_labs PRIVATE -O1)
target_link_libraries(tessera_labs PRIVATE tessera_core)
add_library(lab_run OBJECT EXCLUDE_FROM_ALL tests/labs/run.cpp)
target_compile_options(lab_run PRIVATE -O1)
target_link_libraries(lab_run PRIVATE tessera_core)
foreach(lesson IN LISTS lessons)
  string(SUBSTRING ${lesson} 0 2 number)
  foreach(target lab_${number} graded_${number})
    add_executable(${target} EXCLUDE_FROM_ALL tests/labs/lab_${number}.cpp)
    target_compile_options(${target} PRIVATE -O0 -w)  # from an edit to a verdict in seconds
    target_link_libraries(${target} PRIVATE tessera_core lab_run)
  endforeach()
  target_include_directories(graded_${number} BEFORE PRIVATE ${CMAKE_BINARY_DIR}/submission/${number})
endforeach()
