// Another program, in a process group of its own with limits of time and memory.
#pragma once

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

namespace tessera::labs {

struct Limits {
  int seconds = 20;
  rlim_t bytes = RLIM_INFINITY;  // of address space
  bool alone = false;            // starts no other program: the master's solutions lie beside it
};

/// From here on this process may execute the program whose path lies at `path`, and no other. What it becomes
/// does not know that address. A kernel without seccomp lets everything pass.
inline void execute_only(const char* path) {
  const auto address = reinterpret_cast<std::uintptr_t>(path);
  const auto load = [](std::size_t offset) {
    return sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, static_cast<std::uint32_t>(offset)};
  };
  const auto jump = [](unsigned test, std::uint32_t value, std::uint8_t yes, std::uint8_t no) {
    return sock_filter{static_cast<std::uint16_t>(BPF_JMP | test | BPF_K), yes, no,
                       value};  // by so many lines
  };
  sock_filter code[] = {load(offsetof(seccomp_data, arch)),
                        jump(BPF_JEQ, AUDIT_ARCH_X86_64, 0, 9),
                        load(offsetof(seccomp_data, nr)),
                        jump(BPF_JEQ, SYS_execveat, 7, 0),
                        jump(BPF_JGE, 0x40000000, 6, 0),  // the calls of x32
                        jump(BPF_JEQ, SYS_execve, 0, 4),
                        load(offsetof(seccomp_data, args)),
                        jump(BPF_JEQ, static_cast<std::uint32_t>(address), 0, 3),
                        load(offsetof(seccomp_data, args) + 4),
                        jump(BPF_JEQ, static_cast<std::uint32_t>(address >> 32), 0, 1),
                        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
                        {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS}};
  const sock_fprog program{sizeof code / sizeof *code, code};
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0);
}

/// Runs the words of a command, what it prints goes to `output`. Returns what ended it otherwise than with
/// exit code 0: "exit code 1", "signal 11 (Segmentation fault)", "it took longer than 20 s";
/// "" where nothing did.
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
    if (limits.alone) execute_only(arguments[0]);
    execvp(arguments[0], arguments.data());  // a path with a / goes to the kernel as it is, at its address
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
