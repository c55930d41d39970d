// Another program, with limits of time and memory. What it prints, and what it writes to file descriptor 3,
// is kept in files in memory. A program that holds a student's code has two walls around it: it can make no
// system call but those of a program that computes (seccomp), so that it starts, signals and writes nothing;
// and it sees no file but those of one folder (chroot).
#pragma once

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace tessera::labs {

struct Limits {
  int seconds = 20;
  rlim_t bytes = RLIM_INFINITY;  // of address space
  bool computes = false;         // it may compute, and nothing else
  std::filesystem::path folder;  // all that it sees of the disk, "" for all of it; its path begins there
};

/// Of a task: enough for any that is right.
inline const Limits task_limits = {.bytes = rlim_t{4} << 30, .computes = true};

struct Ended {
  std::string fault;   // "exit code 1", "it took longer than 20 s"; "" after exit code 0
  std::string said;    // what it printed, the first MiB
  std::string record;  // what it wrote to file descriptor 3, the first 16 MiB
};

/// From here on this process can compute, read files and write to what is open; and become `program`. Every
/// other call to the system fails as one that the kernel does not have. Returns whether this kernel can do
/// it.
inline bool only_compute(const char* program) {
#ifdef __x86_64__
  constexpr std::uint32_t machine = AUDIT_ARCH_X86_64;
  static constexpr std::array older = {SYS_access, SYS_readlink, SYS_poll, SYS_arch_prctl};
#else
  constexpr std::uint32_t machine = AUDIT_ARCH_AARCH64;  // it has the newer forms of these calls alone
  static constexpr std::array older = {SYS_faccessat, SYS_readlinkat, SYS_ppoll};
#endif
  static constexpr std::array calls = {
      // Files that are open, and what there is.
      SYS_read, SYS_pread64, SYS_readv, SYS_write, SYS_writev, SYS_close, SYS_lseek, SYS_fstat,
      SYS_newfstatat, SYS_statx, SYS_getcwd, SYS_getdents64,
      // Memory.
      SYS_mmap, SYS_mprotect, SYS_munmap, SYS_mremap, SYS_madvise, SYS_brk,
      // Signals and threads.
      SYS_rt_sigaction, SYS_rt_sigreturn, SYS_rt_sigprocmask, SYS_sigaltstack, SYS_sched_yield, SYS_futex,
      SYS_sched_getaffinity, SYS_set_tid_address, SYS_rseq, SYS_set_robust_list, SYS_exit, SYS_exit_group,
      // Time.
      SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday,
      SYS_restart_syscall,
      // What this process and this machine are.
      SYS_getpid, SYS_gettid, SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_uname, SYS_sysinfo,
      SYS_getrlimit, SYS_getrusage, SYS_getrandom, SYS_getcpu};
  std::array<sock_filter, 6 * (older.size() + calls.size()) + 40> code;
  std::size_t lines = 0;
  const auto line = [&](int what, std::uint64_t value, std::uint8_t yes = 0, std::uint8_t no = 0) {
    code[lines++] = {static_cast<std::uint16_t>(what), yes, no, static_cast<std::uint32_t>(value)};
  };
  const auto load = [&](std::size_t offset) { line(BPF_LD | BPF_W | BPF_ABS, offset); };
  constexpr std::uint64_t refused = SECCOMP_RET_ERRNO | ENOSYS;
  // A call that is let through where its argument, under the mask, has the value.
  const auto only = [&](int call, std::size_t argument, std::uint64_t mask, std::uint64_t value) {
    line(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint64_t>(call), 0, 5);
    load(offsetof(seccomp_data, args) + 8 * argument);
    line(BPF_ALU | BPF_AND | BPF_K, mask);
    line(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    line(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    line(BPF_RET | BPF_K, refused);
  };
  load(offsetof(seccomp_data, arch));
  line(BPF_JMP | BPF_JEQ | BPF_K, machine, 1, 0);
  line(BPF_RET | BPF_K, refused);
  load(offsetof(seccomp_data, nr));
  only(SYS_openat, 2, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY);
  only(SYS_clone, 0, CLONE_THREAD, CLONE_THREAD);
  only(SYS_tgkill, 0, ~0U, static_cast<std::uint64_t>(getpid()));  // abort() ends this process
  only(SYS_prlimit64, 0, ~0U, 0);                                  // of itself
  // This fits `program` alone, by the address of its name: the new program has nothing at this address.
  only(SYS_execve, 0, ~0U, reinterpret_cast<std::uintptr_t>(program));
  for (const int call : older) only(call, 0, 0, 0);
  for (const int call : calls) only(call, 0, 0, 0);
  line(BPF_RET | BPF_K, refused);
  const sock_fprog filter{static_cast<unsigned short>(lines), code.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0;
}

/// From here on `folder` is all that this process sees of the disk: as the user nobody where it was root, in
/// a user namespace where it was not. Returns whether this machine lets it.
inline bool enter(const char* folder) {
  constexpr int nobody = 65534;
  const bool root = geteuid() == 0;
  if ((!root && unshare(CLONE_NEWUSER) != 0) || chroot(folder) != 0 || chdir("/") != 0) return false;
  return !root ||
         (syscall(SYS_setgroups, 0, nullptr) == 0 && syscall(SYS_setresgid, nobody, nobody, nobody) == 0 &&
          syscall(SYS_setresuid, nobody, nobody, nobody) == 0);
}

/// Does the step succeed in a process of its own?
inline bool can(const std::function<bool()>& step) {
  const pid_t child = fork();
  if (child == 0) _exit(step() ? 0 : 1);
  int status = 1;
  return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/// A file in memory, to which a program writes.
class MemoryFile {
 public:
  MemoryFile() = default;
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { close(file_); }
  int file() const { return file_; }
  std::string text(std::size_t most) const {
    struct stat facts {};
    fstat(file_, &facts);
    std::string text(std::min(static_cast<std::size_t>(facts.st_size), most), ' ');
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, pread(file_, text.data(), text.size(), 0))));
    return text;
  }

 private:
  int file_ = memfd_create("output", MFD_CLOEXEC);
};

/// Runs the words of a command. Nothing of its process group is left when this returns. Meanwhile `heard`
/// gets all that it has said so far, again and again.
inline Ended run_limited(const std::vector<std::string>& words, const Limits& limits,
                         const std::function<void(const std::string&)>& heard = {}) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  std::string libraries = "LD_LIBRARY_PATH=/lib";
  std::array<char*, 2> closed = {libraries.data(), nullptr};  // the environment in a folder of its own
  constexpr std::size_t most_said = 1 << 20;
  const MemoryFile said, record;
  const pid_t child = said.file() < 0 || record.file() < 0 ? -1 : fork();
  if (child < 0) return {"no process could be started", "", ""};
  if (child == 0) {  // from here to exec: only what is safe after a fork
    setpgid(0, 0);
    const auto limit = [](auto what, rlim_t value) {
      const rlimit both{value, value};
      setrlimit(what, &both);
    };
    limit(RLIMIT_AS, limits.bytes);
    limit(RLIMIT_CORE, 0);
    if (geteuid() == 0) limit(RLIMIT_NPROC, 1000);  // threads; it binds the user whom a closed folder has
    limit(RLIMIT_FSIZE, rlim_t{1} << 28);           // of what it prints and records, too
    const int recorded = fcntl(record.file(), F_DUPFD, 10), printed = fcntl(said.file(), F_DUPFD, 10);
    dup2(open("/dev/null", O_RDONLY), 0), dup2(printed, 1), dup2(printed, 2), dup2(recorded, 3);
    close_range(4, ~0U, CLOSE_RANGE_CLOEXEC);
    if (!limits.folder.empty() && !enter(limits.folder.c_str())) _exit(126);
    if (limits.computes) only_compute(arguments[0]);
    // A path with a / goes to the kernel as it is, at its address.
    execvpe(arguments[0], arguments.data(), limits.folder.empty() ? environ : closed.data());
    _exit(127);
  }
  setpgid(child, child);  // whoever comes first
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(limits.seconds);
  int status = 0;
  bool late = false;
  while (waitpid(child, &status, late ? 0 : WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (heard) heard(said.text(most_said));
    late = std::chrono::steady_clock::now() > deadline;
    if (late) kill(-child, SIGKILL);
  }
  kill(-child, SIGKILL);  // what it may have left behind
  Ended ended{"", said.text(most_said), record.text(1 << 24)};
  const int code = WIFEXITED(status) ? WEXITSTATUS(status) : 0;
  if (late)
    ended.fault = "it took longer than " + std::to_string(limits.seconds) + " s";
  else if (WIFSIGNALED(status))
    ended.fault = "signal " + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) + ")";
  else if (code != 0)
    ended.fault = "exit code " + std::to_string(code);
  return ended;
}

}  // namespace tessera::labs
