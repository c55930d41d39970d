#include "report/file.hpp"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "tensor/error.hpp"

namespace tessera {

void check_writable(const std::string& path) {
  const std::filesystem::path target(path);
  const std::filesystem::path folder = target.has_parent_path() ? target.parent_path() : ".";
  std::error_code ignored;
  if (!std::filesystem::is_directory(folder, ignored))
    throw UsageError(str("cannot write ", path, ": there is no folder ", folder.string()));
  if (std::filesystem::is_directory(target, ignored))
    throw UsageError(str("cannot write ", path, ": it is a folder"));
  // The file is renamed into its place, and must replace no device: root could lose /dev/null.
  const auto there = std::filesystem::symlink_status(target, ignored).type();
  if (there != std::filesystem::file_type::not_found && there != std::filesystem::file_type::regular)
    throw UsageError(str("cannot write ", path, ": it is a device or a link, no file"));
  if (access(folder.c_str(), W_OK) != 0)
    throw UsageError(str("cannot write ", path, ": the folder ", folder.string(), " is not writable"));
}

void write_file(const std::string& path, const std::string& content) {
  check_writable(path);
  const std::string beside = str(path, ".", getpid(), ".part");
  std::ofstream out(beside, std::ios::binary);
  out.write(content.data(), static_cast<std::streamsize>(content.size()));
  out.close();
  if (!out || std::rename(beside.c_str(), path.c_str()) != 0) {
    std::remove(beside.c_str());
    throw UsageError(str("cannot write ", path, ": is the disk full?"));
  }
}

}  // namespace tessera
