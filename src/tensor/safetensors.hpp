// safetensors: 8 bytes little-endian length of the header, the header as JSON {name: {dtype, shape,
// data_offsets}}, the data. Format: https://huggingface.co/docs/safetensors
#pragma once

#include <map>
#include <string>

#include "tensor/tensor.hpp"

namespace tessera {

/// Writes all tensors (from any device), sorted by name. The file appears whole or not at all: it is written
/// beside its place and renamed. Throws UsageError where it cannot be written.
void save_safetensors(const std::string& path, const std::map<std::string, Tensor>& tensors);

/// Reads all tensors to the host: F32, F64 and I32, of at most two axes (a scalar is (1, 1), a vector (1,
/// n)). Throws UsageError that names the file and the fault: truncated, oversized, overlapping, of another
/// dtype.
std::map<std::string, Tensor> load_safetensors(const std::string& path);

}  // namespace tessera
