#include "tensor/file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "tensor/error.hpp"

namespace tessera {

namespace {

std::filesystem::path folder_of(const std::filesystem::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

/// Removes the files that killed writers of `path` have left under construction. A writer that lives has
/// locked its own.
void remove_orphans(const std::filesystem::path& path) {
  const std::string begin = path.filename().string() + ".", end = ".tmp";
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder_of(path), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(begin) || !name.ends_with(end) ||
        name.find_first_not_of("0123456789-", begin.size()) != name.size() - end.size())
      continue;
    const int file = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0) unlink(entry.path().c_str());
    if (file >= 0) close(file);
  }
}

std::string temporary_name(const std::string& path) {
  static std::atomic<int> serial = 0;  // ranks are threads of one process
  return format("{}.{}-{}.tmp", path, getpid(), serial++);
}

}  // namespace

std::uint32_t crc32(const void* bytes, std::uint64_t count) {
  static const auto table = [] {  // the remainder of each byte
    std::array<std::uint32_t, 256> made{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      std::uint32_t rest = byte;
      for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest % 2 == 1 ? 0xEDB88320 : 0);
      made[byte] = rest;
    }
    return made;
  }();
  const auto* at = static_cast<const unsigned char*>(bytes);
  std::uint32_t rest = ~0U;
  for (std::uint64_t i = 0; i < count; ++i) rest = rest >> 8 ^ table[(rest ^ at[i]) % 256];
  return ~rest;
}

OpenFile::OpenFile(const std::string& path) : path_(path) {
  file_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // opening a pipe would wait for a writer
  struct stat facts {};
  if (file_ < 0 || fstat(file_, &facts) != 0)
    throw UsageError(format("cannot read {}: {}", path, std::strerror(errno)));
  size_ = static_cast<std::uint64_t>(facts.st_size);
  if (S_ISREG(facts.st_mode)) return;
  close(file_);
  throw UsageError(format("cannot read {}: it is no regular file", path));
}

OpenFile::~OpenFile() { close(file_); }

void OpenFile::read(void* to, std::uint64_t count, std::uint64_t begin) const {
  for (std::uint64_t done = 0; done < count;) {  // one call reads at most 2 GiB
    const auto got =
        pread(file_, static_cast<char*>(to) + done, count - done, static_cast<off_t>(begin + done));
    if (got <= 0) throw UsageError(format("{}: the file could not be read to its end", path_));
    done += static_cast<std::uint64_t>(got);
  }
}

std::string read_file(const std::string& path) {
  const OpenFile file(path);
  std::string bytes(file.size(), '\0');
  file.read(bytes.data(), bytes.size(), 0);
  return bytes;
}

void check_writable(const std::string& path) {
  const std::filesystem::path target(path);
  const std::filesystem::path folder = folder_of(target);
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
  remove_orphans(path);
  struct stat facts {};
  do {  // again, by another name, where another writer took it for an orphan before it was locked
    if (file_ >= 0) close(file_);
    temporary_ = temporary_name(path);
    file_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    check(file_ >= 0);
    flock(file_, LOCK_EX);  // until it is closed, be it by a kill; some file systems have no locks
  } while (fstat(file_, &facts) == 0 && facts.st_nlink == 0);
}

NewFile::~NewFile() {
  close(file_);
  if (!finished_) unlink(temporary_.c_str());
}

void NewFile::write(const void* bytes, std::uint64_t count) {
  for (std::uint64_t done = 0; done < count;) {
    const auto put = ::write(file_, static_cast<const char*>(bytes) + done, count - done);
    check(put >= 0);
    done += static_cast<std::uint64_t>(put);
  }
}

void NewFile::finish() {
  check(fsync(file_) == 0);  // else, after a power cut, the new name might stand for half of the bytes
  check(rename(temporary_.c_str(), path_.c_str()) == 0);
  finished_ = true;
  const int folder = open(folder_of(path_).c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
  if (folder < 0)
    return;  // a folder may be writable and not readable: the name reaches the disk a little later
  fsync(folder);
  close(folder);
}

void NewFile::check(bool holds) const {
  if (!holds) throw UsageError(format("cannot write {}: {}", path_, std::strerror(errno)));
}

void write_file(const std::string& path, const std::string& content) {
  check_writable(path);
  NewFile file(path);
  file.write(content.data(), content.size());
  file.finish();
}

}  // namespace tessera
