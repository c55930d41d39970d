// Memory that is not there is refused with its size, also where a vector of the standard library asks for it.
#include <cstdlib>

#include "tensor/device.hpp"
#include "tensor/error.hpp"

void* operator new(std::size_t bytes) {
  if (void* block = std::malloc(bytes > 0 ? bytes : 1)) return block;
  throw tessera::OutOfMemory(tessera::format("no {} B of memory left: {} B are free on this machine", bytes,
                                             tessera::available_memory()));
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
