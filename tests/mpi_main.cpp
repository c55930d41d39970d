// The conformance suite over MPI. Under mpirun: all programs, or `wrong NAME`, one that must fail. Started by
// hand, with the path of mpirun: runs each wrong program under it, and reads what it says and how it ends.
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "comm/launch.hpp"
#include "comm_suite.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

LaunchOptions options() {
  LaunchOptions options;
  options.transport = Transport::mpi;
  options.ranks = mpi::launched_size();
  return options;
}

void conform() {
  for (const bool verify : {true, false})
    for (const Program& program : programs) {
      LaunchOptions each = options();
      each.verify = verify;
      launch(each, program.run);
    }
  std::array<char, 128> id{};
  if (mpi::launched_rank() == 0) id.fill('x');
  mpi::broadcast_bytes(id.data(), id.size(), 0);
  expect(std::count(id.begin(), id.end(), 'x') == 128, "broadcast_bytes");

  // How ids reach the ranks that open a channel of NCCL; a rank may have sent several before the other looks.
  const int rank = mpi::launched_rank(), size = mpi::launched_size();
  for (int i = 0; i < 3; ++i) mpi::send_message(std::to_string(10 * rank + i), (rank + 1) % size);
  for (int i = 0; i < 3; ++i) {
    std::optional<std::string> message;
    while (!message) message = mpi::receive_message();
    expect_eq(*message, std::to_string(10 * ((rank + size - 1) % size) + i), "messages arrive in order");
  }
  mpi::expect_processes(size);
  std::string refused;
  try {
    mpi::expect_processes(size + 1);
  } catch (const UsageError& error) {
    refused = error.what();
  }
  expect(refused.find("MPI was started with " + std::to_string(size)) != std::string::npos,
         "the number of processes");
}

/// Beyond those of all transports: what only processes can do.
std::vector<WrongProgram> all_wrong_programs() {
  std::vector<WrongProgram> all = wrong_programs;
  all.push_back(
      {"never_comes",
       3,
       [](Communicator& c) {
         if (c.rank() == 1) std::this_thread::sleep_for(std::chrono::hours(1));
         c.barrier();
       },
       {"rank 0 waits in barrier (call 1)", "rank 2 waits in barrier (call 1)", "no progress for 2 s"}});
  all.push_back({"dies",
                 3,
                 [](Communicator& c) {
                   if (c.rank() == 1) std::_Exit(7);
                   c.barrier();
                 },
                 {},
                 7});
  all.push_back({"beyond_its_memory",
                 3,
                 [](Communicator& c) {
                   c.barrier();
                   if (c.rank() == 2) zeros(1 << 20);
                   c.barrier();
                 },
                 {"error: rank 2: rank 2 is out of memory"},
                 2});
  all.push_back({"never_launches", 2, nullptr, {"waits in MPI_Init_thread, no progress for 2 s"}});
  return all;
}

void run_wrong(const std::string& name) {
  for (const WrongProgram& program : all_wrong_programs()) {
    if (program.name != name) continue;
    if (program.run)
      launch(options(), [](Communicator&) {});  // MPI's own start is slow where cores are few
    else if (mpi::launched_rank() == 0)
      std::this_thread::sleep_for(std::chrono::hours(1));
    LaunchOptions each = options();
    each.timeout = std::chrono::seconds(2);
    each.memory_per_rank = 1 << 20;
    launch(each, program.run);
    return;
  }
  throw UsageError("no wrong program " + name);
}

/// The launchers by their environment; a shell of Slurm is none.
void check_launchers() {
  using Variables = std::vector<std::pair<const char*, const char*>>;
  struct Case {
    Variables variables;
    int size, rank, local_rank;
  };
  for (const Case& each : {
           Case{{}, 0, 0, 0},
           {{{"OMPI_COMM_WORLD_SIZE", "4"},
             {"OMPI_COMM_WORLD_RANK", "3"},
             {"OMPI_COMM_WORLD_LOCAL_RANK", "1"}},
            4,
            3,
            1},
           {{{"PMI_SIZE", "1"}, {"PMI_RANK", "0"}}, 1, 0, 0},
           {{{"PMI_SIZE", "8"}, {"PMI_RANK", "5"}, {"SLURM_STEP_ID", "0"}, {"SLURM_STEP_NUM_TASKS", "2"}},
            8,
            5,
            0},
           {{{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}, {"SLURM_LOCALID", "0"}}, 0, 0, 0},
           {{{"SLURM_NTASKS", "4"}, {"SLURM_STEP_ID", "7"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"PMI_SIZE", "1"}},
            0,
            0,
            0},
           {{{"SLURM_STEP_ID", "0"},
             {"SLURM_STEP_NUM_TASKS", "4"},
             {"SLURM_PROCID", "2"},
             {"SLURM_LOCALID", "1"}},
            4,
            2,
            1},
       }) {
    for (const auto& [name, value] : each.variables) setenv(name, value, 1);
    const std::string said =
        format("{} {} {}", mpi::launched_size(), mpi::launched_rank(), mpi::local_rank());
    for (const auto& [name, value] : each.variables) unsetenv(name);
    expect_eq(said, format("{} {} {}", each.size, each.rank, each.local_rank), "size, rank, local rank");
  }
}

int lines_with(const std::string& text, const std::string& part) {
  int lines = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++lines;
  return lines;
}

/// Runs every wrong program as a job of its own. The number of those that did not end as they must.
int observe_wrong_programs(const std::string& mpirun) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  int failures = 0;
  for (const WrongProgram& program : all_wrong_programs()) {
    const std::string command =
        format("timeout -k 5 30 '{}' -n {} '{}' wrong {} 2>&1", mpirun, program.ranks, self, program.name);
    FILE* pipe = popen(command.c_str(), "r");
    expect(pipe != nullptr, command);
    std::string output;
    std::array<char, 4096> buffer;
    while (const auto bytes = std::fread(buffer.data(), 1, buffer.size(), pipe))
      output.append(buffer.data(), bytes);
    const int status = pclose(pipe), code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

    std::vector<std::string> complaints;
    if (code != program.code) complaints.push_back(format("exit code {}, not {}", code, program.code));
    for (const std::string& part : program.says)
      if (output.find(part) == std::string::npos) complaints.push_back("does not say: " + part);
    // After a time-out every rank says where it is. Of everything else one rank speaks.
    if (output.find("no progress") == std::string::npos && lines_with(output, "error: rank") > 1)
      complaints.push_back("says it more than once");
    std::cout << (complaints.empty() ? "ends as it must: " : "FAILED: ") << program.name << "\n";
    for (const std::string& complaint : complaints) std::cout << "  " << complaint << "\n";
    if (!complaints.empty()) std::cout << command << "\n" << output << "\n";
    failures += !complaints.empty();
  }
  return failures;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (mpi::launched_size() > 0 && count == 1) conform();
    if (mpi::launched_size() > 0 && count == 3) run_wrong(arguments[2]);
    if (mpi::launched_size() > 0) return 0;
    check_launchers();
    return observe_wrong_programs(count > 1 ? arguments[1] : "mpirun") > 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 3;
  }
}
