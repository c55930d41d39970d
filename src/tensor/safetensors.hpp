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

/// A file whose header has been read and checked; its tensors are read one by one. Every fault is a
/// UsageError that names the file: truncated, oversized, overlapping, or, when it is read, a tensor of
/// another dtype than BF16, F32, F64 and I32 or of more than two axes (a scalar is (1, 1), a vector (1, n)).
class SafetensorsFile {
 public:
  struct Entry {
    DType dtype = DType::f32;
    std::int64_t rows = 0, cols = 0;
    std::uint64_t begin = 0, bytes = 0;  // in the file
    std::string unreadable;              // why not, "" where it can be read
  };

  explicit SafetensorsFile(const std::string& path);
  const std::string& path() const { return path_; }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  bool has(const std::string& name) const { return entries_.count(name) > 0; }
  const Entry& at(const std::string& name) const;
  Tensor read(const std::string& name) const;  ///< To the host. Several threads may.

 private:
  std::string path_;
  std::map<std::string, Entry> entries_;
};

/// Reads all tensors to the host.
std::map<std::string, Tensor> load_safetensors(const std::string& path);

}  // namespace tessera
