#include "tensor/file.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tensor/error.hpp"

namespace tessera {

namespace {

std::string temporary_name(const std::string& path) {
  static std::atomic<int> serial = 0;  // ranks are threads of one process
  return format("{}.{}-{}.tmp", path, getpid(), serial++);
}

}  // namespace

void check_writable(const std::string& path) {
  const std::filesystem::path target(path);
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    throw UsageError(
        format("cannot write {}: there is no folder {}; a file in a folder that is there would work", path,
               folder.string()));
  if (std::filesystem::is_directory(target, ignored))
    throw UsageError(format("cannot write {}: it is a folder; the name of a file would work", path));
  // The name may be too long; until the file is complete it has a suffix.
  if (access(temporary_name(path).c_str(), F_OK) != 0 && errno != ENOENT)
    throw UsageError(format("cannot write {}: {}; another name would work", path, std::strerror(errno)));
  // The file is renamed into its place, and must replace no device: root could lose /dev/null.
  const auto there = std::filesystem::symlink_status(target, ignored).type();
  if (there != std::filesystem::file_type::not_found && there != std::filesystem::file_type::regular)
    throw UsageError(
        format("cannot write {}: it is a device or a link, no file; another name would work", path));
  if (access(folder.c_str(), W_OK) != 0)
    throw UsageError(
        format("cannot write {}: the folder {} is not writable; a file in another one would work", path,
               folder.string()));
}

NewFile::NewFile(const std::string& path) : path_(path) {
  temporary_ = temporary_name(path);
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
