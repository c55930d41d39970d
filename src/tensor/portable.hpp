// Functions that are written once and run on both sides:
// plain C++ for g++, for the host and the GPU under nvcc.
#pragma once

#ifdef __CUDACC__
#define TESSERA_BOTH __host__ __device__ inline
#define TESSERA_KERNEL __device__  // what calls a block's own functions
#else
#define TESSERA_BOTH [[gnu::always_inline]] inline  // a loop that calls a function does not vectorise
#define TESSERA_KERNEL
#endif
