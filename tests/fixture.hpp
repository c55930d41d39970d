// Shared by the tests that have a witness: what PyTorch and Hugging Face's transformers computed.
#pragma once

#include "tensor/safetensors.hpp"

namespace tessera::test {

using Tensors = std::map<std::string, Tensor>;

inline const std::string fixtures = TESSERA_SOURCE_DIR "/tests/fixtures/";  ///< The folder.

/// All tensors of a file there.
inline Tensors load_fixture(const std::string& file) { return load_safetensors(fixtures + file); }

}  // namespace tessera::test
