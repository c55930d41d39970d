// Files that appear whole or not at all.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace tessera {

/// Throws UsageError, before any work is done, where a file could not be made at `path` later.
void check_writable(const std::string& path);

/// A file under construction beside its place. Unless finish() has run, the destructor leaves nothing behind.
/// Every fault is a UsageError that names the path.
class NewFile {
 public:
  explicit NewFile(const std::string& path);
  ~NewFile();
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  void write(const void* bytes, std::uint64_t count);
  void finish();  ///< Renames it into its place.

 private:
  void check() const;
  std::string path_, temporary_;
  std::ofstream stream_;
  bool finished_ = false;
};

/// Writes beside `path` and renames. Throws UsageError, and leaves nothing behind, where that fails.
void write_file(const std::string& path, const std::string& content);

}  // namespace tessera
