// Stands in the place of mpi.cpp where no MPI is there, and processes are to run all the same: processes.sh
// starts them, and a folder that they share takes the place of MPI's messages. The ranks then talk through
// NCCL, whose ids are files.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "comm/launch.hpp"
#include "tensor/error.hpp"
#include "tensor/file.hpp"

namespace tessera::mpi {

namespace {

namespace fs = std::filesystem;

int variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : 0;
}

fs::path folder() { return std::getenv("TESSERA_STORE"); }

/// Other processes see the whole file or none.
void write(const fs::path& file, const std::string& text) {
  const fs::path part = folder() / format("part.{}", launched_rank());
  std::ofstream(part, std::ios::binary) << text;
  fs::rename(part, file);
}

}  // namespace

bool built() { return false; }
int launched_size() { return variable("TESSERA_PROCESSES"); }
int launched_rank() {
  // A test runs several processes as threads. Each sets the variable before it calls this.
  thread_local const int rank = variable("TESSERA_PROCESS");
  return rank;
}
int local_rank() { return launched_rank(); }

void expect_processes(int ranks, std::chrono::duration<double>) {
  if (ranks != launched_size())
    throw UsageError(format("{} processes were started for {} ranks", launched_size(), ranks));
}

void broadcast_bytes(void* data, int bytes, int root) {
  thread_local int calls = 0;
  const fs::path file = folder() / format("broadcast.{}", calls++);
  if (launched_rank() == root)
    return write(file, {static_cast<char*>(data), static_cast<std::size_t>(bytes)});
  const auto begin = std::chrono::steady_clock::now();
  while (!fs::exists(file)) {
    expect(std::chrono::steady_clock::now() - begin < LaunchOptions{}.timeout,
           [&] { return format("process {} does not come to call {} of broadcast_bytes", root, calls); });
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const std::string text = read_file(file);
  expect_eq(static_cast<int>(text.size()), bytes, "bytes of a broadcast");
  text.copy(static_cast<char*>(data), text.size());
}

void send_message(const std::string& text, int to) {
  thread_local int sent = 0;
  write(folder() / format("to.{}.{:08}.{}", to, sent++, launched_rank()), text);
}

std::optional<std::string> receive_message() {
  const std::string mine = format("to.{}.", launched_rank());
  fs::path first;  // by its number, which keeps a sender's messages in order
  for (const auto& entry : fs::directory_iterator(folder()))
    if (entry.path().filename().string().starts_with(mine) && (first.empty() || entry.path() < first))
      first = entry.path();
  if (first.empty()) return std::nullopt;
  std::string text = read_file(first);
  fs::remove(first);
  return text;
}

void launch(const LaunchOptions&, const std::function<void(Communicator&)>&) {
  throw UsageError("these processes have no MPI: --device cuda --transport nccl would work");
}

}  // namespace tessera::mpi
