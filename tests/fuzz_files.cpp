// The readers of files under libFuzzer (tests/fuzz.sh): whatever a file holds, it is read or refused by a
// UsageError. The first byte of an input says which reader gets the rest.
// sources: src/tensor/*.cpp
#include <sys/mman.h>
#include <unistd.h>

#include "gpt/checkpoint.hpp"
#include "gpt/tokens.hpp"

using namespace tessera;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const int file = memfd_create("input", 0);
  static const std::string path = format("/proc/self/fd/{}", file);
  if (size == 0) return 0;
  if (ftruncate(file, 0) != 0 || pwrite(file, bytes + 1, size - 1, 0) != static_cast<ssize_t>(size) - 1)
    std::abort();
  try {
    switch (bytes[0]) {
      case 's':
        load_safetensors(path);
        break;
      case 'w': {
        const gpt::WeightsFile weights(path);
        gpt::ModelConfig model;
        model.attention.width = weights.width, model.attention.heads = model.attention.kv_heads = 1;
        model.layers = weights.layers, model.vocabulary = weights.vocabulary, model.tied = true;
        weights.check(model, gpt::state_prefixes(true, size % 2 == 0));
        break;
      }
      case 'j':
        read_json(path);
        break;
      default:
        gpt::read_tokens(path, bytes[0] == '4' ? 4 : bytes[0] == '8' ? 8 : 0);
    }
  } catch (const UsageError&) {
  }
  return 0;
}
