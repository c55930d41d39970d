// The conformance suite over MPI. Under mpirun it runs all programs, or with `wrong NAME` one that must fail.
// Started by hand, with the path of mpirun, it runs each wrong program as a job, and reads what the job
// prints and how it ends.
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <csignal>
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
  LaunchOptions impatient = options();
  impatient.timeout = std::chrono::seconds(1);
  launch(impatient, busy);
  std::array<char, 128> id{};
  if (mpi::launched_rank() == 0) id.fill('x');
  mpi::broadcast_bytes(id.data(), id.size(), 0);
  expect(std::count(id.begin(), id.end(), 'x') == 128, "broadcast_bytes");
}

void sleep_for_ever() { std::this_thread::sleep_for(std::chrono::hours(1)); }

/// Beyond those of all transports: what only processes can do.
std::vector<WrongProgram> all_wrong_programs() {
  std::vector<WrongProgram> all = wrong_programs;
  all.push_back(
      {"never_comes",
       3,
       [](Communicator& c) {
         if (c.rank() == 1) sleep_for_ever();
         c.barrier();
       },
       {"no progress for 2 s: rank 0 waits in barrier in group world (call 1); rank 1 did not answer",
        "; rank 2 waits in barrier in group world (call 1)"}});
  all.push_back({"is_stopped",  // its peers wait in two groups; all numbers are those of the world
                 4,
                 [](Communicator& c) {
                   const auto tp = c.split(c.rank() / 2, 0, "tp"), dp = c.split(c.rank() % 2, 0, "dp");
                   if (c.rank() == 2) raise(SIGSTOP);
                   (c.rank() == 0 ? dp : tp)->barrier();
                   c.barrier();
                 },
                 {"no progress for 2 s: rank 0 waits in barrier in group dp {0, 2} (call 3); rank 1 waits in "
                  "barrier in group tp {0, 1} (call 3); rank 2 did not answer",
                  "; rank 3 waits in barrier in group tp {2, 3} (call 3)"}});
  all.push_back({"is_stopped_while_busy",
                 2,
                 [](Communicator& c) {
                   if (c.rank() == 1) {
                     const auto busy = c.busy("computes the unsplit reference");
                     std::this_thread::sleep_for(std::chrono::seconds(1));
                     raise(SIGSTOP);
                   }
                   c.barrier();
                 },
                 {"rank 0 waits in barrier in group world (call 1); rank 1 did not answer"}});
  all.push_back({"sleeps_when_all_have_returned",
                 3,
                 [](Communicator& c) {
                   c.barrier();
                   if (c.rank() == 1) sleep_for_ever();
                 },
                 {"no progress for 2 s: rank 0 has returned after 1 calls; rank 1 did not answer",
                  "; rank 2 has returned after 1 calls"}});
  all.push_back({"exits",
                 3,
                 [](Communicator& c) {
                   if (c.rank() == 1) std::_Exit(7);
                   c.barrier();
                 },
                 {},
                 7});
  all.push_back({"is_killed",  // mpirun's code for it is 128 + 9
                 3,
                 [](Communicator& c) {
                   if (c.rank() == 1) raise(SIGKILL);
                   c.barrier();
                 },
                 {"signal 9"},
                 137});
  all.push_back({"beyond_its_memory",
                 3,
                 [](Communicator& c) {
                   c.barrier();
                   if (c.rank() == 2) zeros(1 << 20);
                   c.barrier();
                 },
                 {"error: rank 2 is out of memory"},
                 2});
  all.push_back({"never_launches", 2, nullptr, {"waits in MPI_Init_thread, no progress for 2 s"}});
  return all;
}

/// Work that a rank has announced is no stall, whatever it takes: the time-out is 1 s.
void busy(Communicator& comm) {
  for (const int rank : {0, comm.size() - 1}) {
    if (comm.rank() == rank) {
      const auto busy = comm.busy("computes the unsplit reference");
      std::this_thread::sleep_for(std::chrono::milliseconds(2500));
      const auto alone = comm.busy("does it again");  // calls of its own do not end it
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
    }
    comm.barrier();
  }
  const auto alone = comm.split(comm.rank(), 0, "alone");
  if (comm.rank() != 0) return;
  const auto busy = comm.busy("writes what it found");
  for (int i = 0; i < 25; ++i) {
    alone->barrier();
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

void run_wrong(const std::string& name) {
  for (const WrongProgram& program : all_wrong_programs()) {
    if (program.name != name) continue;
    if (program.run)
      launch(options(), [](Communicator&) {});  // MPI's own start is slow where cores are few
    else if (mpi::launched_rank() == 0)
      sleep_for_ever();
    LaunchOptions each = options();
    each.timeout = std::chrono::seconds(2);
    each.memory_per_rank = 1 << 20;
    launch(each, program.run);
    return;
  }
  throw UsageError("no wrong program " + name);
}

/// Launchers are known by their environment. A shell of Slurm is none.
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
    const std::string said = str(mpi::launched_size(), " ", mpi::launched_rank(), " ", mpi::local_rank());
    for (const auto& [name, value] : each.variables) unsetenv(name);
    expect_eq(said, str(each.size, " ", each.rank, " ", each.local_rank), "size, rank, local rank");
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
    const std::string command = str("timeout -k 5 30 '", mpirun, "' -n ", program.ranks, " '", self,
                                    "' wrong ", program.name, " 2>&1");
    FILE* pipe = popen(command.c_str(), "r");
    expect(pipe != nullptr, command);
    std::string output;
    std::array<char, 4096> buffer;
    while (const auto bytes = std::fread(buffer.data(), 1, buffer.size(), pipe))
      output.append(buffer.data(), bytes);
    const int status = pclose(pipe), code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

    std::vector<std::string> complaints;
    if (code != program.code) complaints.push_back(str("exit code ", code, ", not ", program.code));
    for (const std::string& part : program.says)
      if (output.find(part) == std::string::npos) complaints.push_back("does not say: " + part);
    if (lines_with(output, "error: ") > 1 && program.run != nullptr)
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
