#include "tensor/file.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tensor/error.hpp"

namespace tessera {

void check_writable(const std::string& path) {
  const std::filesystem::path target(path);
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    throw UsageError(format("cannot write {}: there is no folder {}", path, folder.string()));
  if (std::filesystem::is_directory(target, ignored))
    throw UsageError(format("cannot write {}: it is a folder", path));
  // The file is renamed into its place, and must replace no device: root could lose /dev/null.
  const auto there = std::filesystem::symlink_status(target, ignored).type();
  if (there != std::filesystem::file_type::not_found && there != std::filesystem::file_type::regular)
    throw UsageError(format("cannot write {}: it is a device or a link, no file", path));
  if (access(folder.c_str(), W_OK) != 0)
    throw UsageError(format("cannot write {}: the folder {} is not writable", path, folder.string()));
}

NewFile::NewFile(const std::string& path) : path_(path) {
  static std::atomic<int> serial = 0;  // ranks are threads of one process
  temporary_ = format("{}.{}-{}.tmp", path, getpid(), serial++);
  stream_.open(temporary_, std::ios::binary | std::ios::trunc);
  check();
}

NewFile::~NewFile() {
  stream_.close();
  std::error_code ignored;
  if (!finished_) std::filesystem::remove(temporary_, ignored);
}

void NewFile::write(const void* bytes, std::uint64_t count) {
  stream_.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(count));
  check();
}

void NewFile::finish() {
  stream_.close();  // a full disk may show only here, when the buffer goes out
  check();
  std::error_code error;
  std::filesystem::rename(temporary_, path_, error);
  if (error) throw UsageError(format("cannot write {}: {}", path_, error.message()));
  finished_ = true;
}

void NewFile::check() const {
  if (!stream_) throw UsageError(format("cannot write {}: {}", path_, std::strerror(errno)));
}

void write_file(const std::string& path, const std::string& content) {
  check_writable(path);
  NewFile file(path);
  file.write(content.data(), content.size());
  file.finish();
}

}  // namespace tessera
