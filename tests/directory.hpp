// Shared by the tests that write files.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "tensor/error.hpp"

namespace tessera::test {

/// A temporary directory, gone with this object, also where a test throws.
class Directory {
 public:
  Directory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tessera.XXXXXX").string();  // mkdtemp's
    expect(mkdtemp(pattern.data()) != nullptr, "no temporary directory");
    path_ = pattern;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      names.push_back(entry.path().filename().string());
    return names;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace tessera::test
