// Shared by the tests: what a wrong program says, and a command with its output.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <exception>
#include <string>

namespace tessera::test {

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// How often `part` stands in `text`.
inline int count_of(const std::string& text, const std::string& part) {
  int n = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

/// The message of what the body threw, "" where it threw nothing.
template <class Body>
std::string message_from(const Body& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

struct CommandResult {
  int exit = -1;  // the exit code, 128 + n after signal n, -1 where the command could not be started
  std::string output;
};

/// Runs a command of the shell, and returns what it writes to its standard output.
inline CommandResult run_command(const std::string& command) {
  CommandResult result;
  std::fflush(stdout);
  std::FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  while (const std::size_t bytes = std::fread(buffer.data(), 1, buffer.size(), pipe))
    result.output.append(buffer.data(), bytes);
  const int status = pclose(pipe);
  result.exit = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace tessera::test
