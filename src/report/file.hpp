// Files that appear whole or not at all.
#pragma once

#include <string>

namespace tessera {

/// Throws UsageError, before any work is done, where a file could not be made at `path` later.
void check_writable(const std::string& path);

/// Writes beside `path` and renames. Throws UsageError, and leaves nothing behind, where that fails.
void write_file(const std::string& path, const std::string& content);

}  // namespace tessera
