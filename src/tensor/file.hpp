// Files: what is read is opened once, what is written appears whole or not at all.
#pragma once

#include <cstdint>
#include <string>

namespace tessera {

/// A regular file, opened once: whatever is renamed into its place later, this one stays as it was opened.
/// Several threads may read it. Every fault is a UsageError that names the path.
class OpenFile {
 public:
  explicit OpenFile(const std::string& path);
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  const std::string& path() const { return path_; }
  std::uint64_t size() const { return size_; }
  void read(void* to, std::uint64_t count, std::uint64_t begin) const;  ///< `count` bytes from `begin` on.

 private:
  std::string path_;
  int file_ = -1;
  std::uint64_t size_ = 0;
};

/// All bytes of a regular file.
std::string read_file(const std::string& path);

/// The checksum that zlib's crc32 computes: the remainder of the bytes as a polynomial over the field {0, 1}.
std::uint32_t crc32(const void* bytes, std::uint64_t count);

/// Throws UsageError, before any work is done, where a file could not be made at `path` later.
void check_writable(const std::string& path);

/// A file under construction beside its place. Unless finish() has run, the destructor leaves nothing behind.
/// What a killed process has left behind is removed by the next NewFile of this path. Every fault is a
/// UsageError that names the path.
class NewFile {
 public:
  explicit NewFile(const std::string& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  void write(const void* bytes, std::uint64_t count);
  void finish();  ///< Brings it to the disk, and renames it into its place.

 private:
  void check(bool holds) const;
  std::string path_, temporary_;
  int file_ = -1;
  bool finished_ = false;
};

/// Writes beside `path` and renames. Throws UsageError, and leaves nothing behind, where that fails.
void write_file(const std::string& path, const std::string& content);

}  // namespace tessera
