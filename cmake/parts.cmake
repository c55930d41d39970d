# Which parts this machine has. Sets HAVE_BLAS, HAVE_MPI, HAVE_CUDA, HAVE_NCCL and the target tessera_parts, which
# carries flags and libraries.
add_library(tessera_parts INTERFACE)
target_compile_options(tessera_parts INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Werror -Wno-missing-field-initializers
        $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>  # false alarms of g++ 12 on string concatenation (GCC bug 105651)
        -march=${TESSERA_MARCH}>)
if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  message(FATAL_ERROR "Tessera is built for x86-64")
endif()
find_package(Threads REQUIRED)
target_link_libraries(tessera_parts INTERFACE Threads::Threads)

if(TESSERA_SANITIZE)
  target_compile_options(tessera_parts INTERFACE
      -fsanitize=${TESSERA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(tessera_parts INTERFACE -fsanitize=${TESSERA_SANITIZE})
endif()

set(found "threads")

# Header-only: from the system, from a folder (-DTESSERA_HEADERS=...) where there is no network, else fetched.
set(TESSERA_HEADERS "" CACHE PATH "A folder with CLI/CLI.hpp, doctest/doctest.h, fmt/core.h, nlohmann/json.hpp")
function(header_only name header repository tag include)
  find_path(${name}_INCLUDE ${header} HINTS ${TESSERA_HEADERS})
  if(NOT ${name}_INCLUDE)
    include(FetchContent)
    message(STATUS "${name} is not installed: fetching ${tag}")
    FetchContent_Declare(${name} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW ON)
    FetchContent_Populate(${name})
    set(${name}_INCLUDE ${${name}_SOURCE_DIR}/${include} CACHE PATH "" FORCE)
  endif()
  target_include_directories(tessera_parts SYSTEM INTERFACE ${${name}_INCLUDE})
endfunction()
header_only(doctest doctest/doctest.h https://github.com/doctest/doctest.git v2.4.11 .)
header_only(cli11 CLI/CLI.hpp https://github.com/CLIUtils/CLI11.git v2.3.2 include)
header_only(json nlohmann/json.hpp https://github.com/nlohmann/json.git v3.11.3 include)

# Messages are written by std::format, or by fmt where the compiler's library has no std::format.
include(CheckCXXSourceCompiles)
check_cxx_source_compiles("#include <version>
#ifndef __cpp_lib_format
#error
#endif
int main() {}" HAVE_STD_FORMAT)
if(NOT HAVE_STD_FORMAT)
  find_package(fmt QUIET)
  if(NOT fmt_FOUND)
    header_only(fmt fmt/core.h https://github.com/fmtlib/fmt.git 9.1.0 include)
    target_compile_definitions(tessera_parts INTERFACE FMT_HEADER_ONLY)
  else()
    target_link_libraries(tessera_parts INTERFACE fmt::fmt)
  endif()
endif()

set(HAVE_BLAS OFF)
if(TESSERA_BLAS)
  # Debian keeps each build of OpenBLAS in a folder of its own; the openmp one lets ranks compute side by side.
  find_library(OPENBLAS_LIBRARY openblas
      HINTS /usr/lib/${CMAKE_CXX_LIBRARY_ARCHITECTURE}/openblas-openmp PATH_SUFFIXES openblas-openmp)
  find_path(OPENBLAS_INCLUDE cblas.h
      HINTS /usr/include/${CMAKE_CXX_LIBRARY_ARCHITECTURE}/openblas-openmp PATH_SUFFIXES openblas openblas-openmp)
  if(OPENBLAS_LIBRARY AND OPENBLAS_INCLUDE)
    set(HAVE_BLAS ON)
    target_include_directories(tessera_parts SYSTEM INTERFACE ${OPENBLAS_INCLUDE})
    target_link_libraries(tessera_parts INTERFACE ${OPENBLAS_LIBRARY})
    string(APPEND found ", OpenBLAS")
  endif()
endif()

if(TESSERA_OPENMP AND NOT TESSERA_SANITIZE MATCHES thread)  # TSan cannot see into libgomp and reports false races
  find_package(OpenMP)
  if(OpenMP_CXX_FOUND)
    target_link_libraries(tessera_parts INTERFACE OpenMP::OpenMP_CXX)
    string(APPEND found ", OpenMP")
  endif()
endif()
if(NOT OpenMP_CXX_FOUND)
  target_compile_options(tessera_parts INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-unknown-pragmas>)
endif()

set(HAVE_MPI OFF)
if(TESSERA_MPI)
  set(MPI_CXX_SKIP_MPICXX ON)
  find_package(MPI COMPONENTS CXX)
  if(MPI_CXX_FOUND)
    set(HAVE_MPI ON)  # mpi*.cpp alone see its headers
    string(APPEND found ", MPI")
  endif()
endif()

set(HAVE_CUDA OFF)
set(HAVE_NCCL OFF)
if(TESSERA_CUDA)
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    include(${CMAKE_CURRENT_LIST_DIR}/cuda.cmake)
  endif()
endif()
message(STATUS "Tessera is built with: ${found}")
