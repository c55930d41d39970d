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
#include "random_programs.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

LaunchOptions options() {
  LaunchOptions options;
  options.transport = Transport::mpi;
  options.ranks = mpi::launched_size();
  return options;
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

void conform() {
  for (const bool verify : {true, false})
    for (const Program& program : programs) {
      LaunchOptions each = options();
      each.verify = verify;
      launch(each, program.run);
    }
  const int number = std::getenv("TESSERA_LONG") != nullptr ? 200 : 20;
  for (int i = 0; i < number; ++i) {
    const RandomProgram program(static_cast<std::uint64_t>(i), mpi::launched_size());
    launch(options(), [&](Communicator& comm) { program.run(comm); });
  }
  if (mpi::launched_rank() == 0) std::cout << number << " random programs agree with the model\n";
  LaunchOptions impatient = options();
  impatient.timeout = std::chrono::seconds(1);
  launch(impatient, busy);
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

constexpr int random_ranks = 4;
const std::string random_prefix = "random_";

/// How many random wrong programs run as jobs, each named by its number.
int random_programs() { return std::getenv("TESSERA_LONG") != nullptr ? 4 * faults : faults; }

void run_wrong(const std::string& name) {
  if (name.rfind(random_prefix, 0) == 0) {
    const RandomProgram program = wrong_program(std::stoi(name.substr(random_prefix.size())), random_ranks);
    LaunchOptions each = options();
    launch(each, [](Communicator&) {});
    each.timeout = std::chrono::seconds(2);
    launch(each, [&](Communicator& comm) { program.run(comm); });
    return;
  }
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
    const std::string said =
        format("{} {} {}", mpi::launched_size(), mpi::launched_rank(), mpi::local_rank());
    for (const auto& [name, value] : each.variables) unsetenv(name);
    expect_eq(said, format("{} {} {}", each.size, each.rank, each.local_rank), "size, rank, local rank");
  }
}

/// A launcher that started one process, perhaps a shell, is in nobody's way: only --transport mpi needs it.
void check_launcher_of_one() {
  setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
  for (const auto transport : {std::optional<Transport>(), std::optional(Transport::threads)})
    for (const auto ranks : {std::optional<int>(), std::optional(4)}) {
      const LaunchOptions chosen = choose_transport(ranks, 4, DeviceKind::cpu, transport).options;
      expect(chosen.transport == Transport::threads && chosen.ranks == 4,
             "4 threads under a launcher of one");
    }
  expect_eq(choose_transport(std::nullopt, 4, DeviceKind::cpu, Transport::mpi).options.ranks, 1, "ranks");
  std::string refused;
  try {
    choose_transport(4, 4, DeviceKind::cpu, Transport::mpi);
  } catch (const UsageError& error) {
    refused = error.what();
  }
  unsetenv("OMPI_COMM_WORLD_SIZE");
  expect_eq(refused, "--ranks 4 under a launcher of 1 process: --ranks 1 would work, or a launcher of 4",
            "refused");
}

int lines_with(const std::string& text, const std::string& part) {
  int lines = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++lines;
  return lines;
}

struct Ended {
  std::string command, output;
  int code;
};

/// Runs `wrong NAME` as a job.
Ended run_job(const std::string& mpirun, int ranks, const std::string& name) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  Ended job{format("timeout -k 5 30 '{}' -n {} '{}' wrong {} 2>&1", mpirun, ranks, self, name), "", -1};
  FILE* pipe = popen(job.command.c_str(), "r");
  expect(pipe != nullptr, job.command);
  std::array<char, 4096> buffer;
  while (const auto bytes = std::fread(buffer.data(), 1, buffer.size(), pipe))
    job.output.append(buffer.data(), bytes);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) job.code = WEXITSTATUS(status);
  return job;
}

bool ends_as_it_must(const std::string& name, const Ended& job, const std::vector<std::string>& complaints) {
  std::cout << (complaints.empty() ? "ends as it must: " : "FAILED: ") << name << "\n";
  for (const std::string& complaint : complaints) std::cout << "  " << complaint << "\n";
  if (!complaints.empty()) std::cout << job.command << "\n" << job.output << "\n";
  return complaints.empty();
}

/// Runs every wrong program as a job of its own. The number of those that did not end as they must.
int observe_wrong_programs(const std::string& mpirun) {
  int failures = 0;
  for (const WrongProgram& program : all_wrong_programs()) {
    const Ended job = run_job(mpirun, program.ranks, program.name);
    std::vector<std::string> complaints;
    if (job.code != program.code)
      complaints.push_back(format("exit code {}, not {}", job.code, program.code));
    for (const std::string& part : program.says)
      if (job.output.find(part) == std::string::npos) complaints.push_back("does not say: " + part);
    if (lines_with(job.output, "error: ") > 1 && program.run != nullptr)
      complaints.push_back("says it more than once");
    failures += !ends_as_it_must(program.name, job, complaints);
  }
  for (int i = 0; i < random_programs(); ++i) {
    const Ended job = run_job(mpirun, random_ranks, format("{}{}", random_prefix, i));
    std::vector<std::string> complaints;
    if (job.code != 3) complaints.push_back(format("exit code {}, not 3", job.code));
    const std::string missing = missing_from(job.output, wrong_program(i, random_ranks));
    if (!missing.empty()) complaints.push_back("does not say: " + missing);
    failures += !ends_as_it_must(format("{}{}", random_prefix, i), job, complaints);
  }
  std::cout << all_wrong_programs().size() << " wrong programs and " << random_programs()
            << " random ones ran as jobs\n";
  return failures;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (mpi::launched_size() > 0 && count == 1) conform();
    if (mpi::launched_size() > 0 && count == 3) run_wrong(arguments[2]);
    if (mpi::launched_size() > 0) return 0;
    check_launchers();
    check_launcher_of_one();
    return observe_wrong_programs(count > 1 ? arguments[1] : "mpirun") > 0;
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 3;
  }
}
