// safetensors: 8 bytes little-endian length of the header, the header as JSON {name: {dtype, shape,
// data_offsets}}, the data. Format: https://huggingface.co/docs/safetensors
#pragma once

#include <map>
#include <set>
#include <string>

#include "tensor/file.hpp"
#include "tensor/tensor.hpp"

namespace tessera {

/// Writes all tensors (from any device), sorted by name. The file appears whole or not at all: it is written
/// beside its place and renamed. Throws UsageError where it cannot be written.
/// `metadata` goes into the header. Where it is not empty, the header also has a CRC-32 of every tensor's
/// bytes, "crc32 NAME", and one of the header without itself, "header crc32". The (1, n) tensors that are
/// named in `vectors` have one axis in the file.
void save_safetensors(const std::string& path, const std::map<std::string, Tensor>& tensors,
                      const std::map<std::string, std::string>& metadata = {},
                      const std::set<std::string>& vectors = {});

/// A file whose header has been read and checked. Its tensors are read one by one, from the file as it was
/// opened; F16 is read as f32, which is exact. Every fault is a UsageError that names the file. The header is
/// at fault where it is truncated or too large, or where tensors overlap. A tensor is at fault, when it is
/// read, where its dtype is none of BF16, F16, F32, F64 and I32, where it has more than two axes (a scalar is
/// (1, 1), a vector (1, n)), or where its bytes do not have their checksum.
class SafetensorsFile {
 public:
  struct Entry {
    DType dtype = DType::f32;
    float (*widen)(std::uint16_t) = nullptr;  // makes a float of a 16-bit number in the file
    std::int64_t rows = 0, cols = 0;
    std::uint64_t begin = 0, bytes = 0;  // in the file
    std::string unreadable;              // why not, "" where it can be read
  };

  explicit SafetensorsFile(const std::string& path);
  const std::string& path() const { return file_.path(); }
  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return entries_.count(name) > 0; }
  const Entry& at(const std::string& name) const;
  Tensor read(const std::string& name) const;  ///< To the host. Several threads may call it.

 private:
  OpenFile file_;
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// The members of the JSON object in a file: strings as they are, all else as JSON writes it. Throws
/// UsageError that names the file.
std::map<std::string, std::string> read_json(const std::string& path);

/// Reads all tensors to the host.
std::map<std::string, Tensor> load_safetensors(const std::string& path);

}  // namespace tessera
