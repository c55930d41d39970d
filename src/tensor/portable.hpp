// Functions that are written once and run on both sides: g++ compiles them as plain C++, and nvcc for the
// host and for the GPU.
#pragma once

#ifdef __CUDACC__
#define TESSERA_BOTH __host__ __device__ inline
#define TESSERA_KERNEL __device__  // for what calls functions that only a GPU has, such as __syncthreads
#else
#define TESSERA_BOTH [[gnu::always_inline]] inline  // a loop that calls a function does not vectorise
#define TESSERA_KERNEL
#endif
