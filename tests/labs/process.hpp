// Another program, in a process group of its own with limits of time and memory.
#pragma once

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace tessera::labs {

struct Limits {
  int seconds = 20;
  rlim_t bytes = RLIM_INFINITY;  // of address space
};

/// Runs the words of a command, what it prints goes to `output`. Returns what ended it otherwise than with
/// exit code 0: "exit code 1", "signal 11 (Segmentation fault)", "it took longer than 20 s"; "" where nothing
/// did.
inline std::string run_limited(const std::vector<std::string>& words, const std::filesystem::path& output,
                               const Limits& limits) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  const pid_t child = fork();
  if (child < 0) return "no process could be started";
  if (child == 0) {  // from here to exec: only what is safe after a fork
    setpgid(0, 0);
    const auto limit = [](auto what, rlim_t value) {
      const rlimit both{value, value};
      setrlimit(what, &both);
    };
    limit(RLIMIT_AS, limits.bytes);
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_FSIZE, rlim_t{1} << 28);
    const int file = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600),
              nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, 0), dup2(file, 1), dup2(file, 2);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  setpgid(child, child);  // whoever comes first
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(limits.seconds);
  int status = 0;
  bool late = false;
  while (waitpid(child, &status, late ? 0 : WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    late = std::chrono::steady_clock::now() > deadline;
    if (late) kill(-child, SIGKILL);
  }
  kill(-child, SIGKILL);  // what it may have left behind
  if (late) return "it took longer than " + std::to_string(limits.seconds) + " s";
  if (WIFSIGNALED(status))
    return "signal " + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
  const int code = WEXITSTATUS(status);
  return code == 0 ? "" : "exit code " + std::to_string(code);
}

}  // namespace tessera::labs
