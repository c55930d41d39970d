// The conformance suite over MPI. Under mpirun it runs all programs, or with `wrong NAME` one that must fail.
// Started by hand, with the path of mpirun, it runs each wrong program as a job, and reads what the job
// prints and how it ends.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <iostream>
#include <sstream>
#include <thread>

#include "comm/launch.hpp"
#include "comm/mpi_job.hpp"
#include "random_programs.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {
std::atomic<bool> freed_unlocked = false;
}  // namespace

/// Stands in the place of MPI's own, which it calls: does its caller keep the thread of a heartbeat out?
extern "C" int MPI_Comm_free(MPI_Comm* group) {
  std::thread([] {
    const std::unique_lock lock(mpi::one_at_a_time(), std::try_to_lock);
    if (lock) freed_unlocked = true;
  }).join();
  return PMPI_Comm_free(group);
}

namespace {

LaunchOptions options() {
  LaunchOptions options;
  options.transport = Transport::mpi;
  options.ranks = mpi::launched_size();
  return options;
}

/// Work that a rank has announced is no stall, however long it takes: the time-out is 1 s.
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

/// A timer that is destroyed before its time calls nothing, also while it begins to wait; a living one calls
/// again and again.
void timers() {
  std::atomic<int> calls = 0;
  const auto call = [&] { ++calls; };
  for (int i = 0; i < 300; ++i) {
    const mpi::Timer timer(std::chrono::hours(1), call);
    std::this_thread::sleep_for(std::chrono::microseconds(i % 20));
  }
  expect(calls == 0, "a timer that ended early has called");
  const mpi::Timer timer(std::chrono::milliseconds(1), call);
  while (calls < 3) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void conform() {
  timers();
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
  expect(!freed_unlocked, "a group was freed while another thread might have called MPI");
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
  expect(contains(message_from([&] { mpi::expect_processes(size + 1); }),
                  format("MPI was started with {}", size)),
         "the number of processes");
}

void sleep_for_ever() { std::this_thread::sleep_for(std::chrono::hours(1)); }

/// The wrong programs of all transports, and those that only processes can run.
std::vector<WrongProgram> all_wrong_programs() {
  std::vector<WrongProgram> all = {
      wrong("never_comes", 3, broke,
            {"no progress for 2 s: rank 0 waits in barrier in group world (call 1); rank 1 did not answer",
             "; rank 2 waits in barrier in group world (call 1)"},
            [](Communicator& c) {
              if (c.rank() == 1) sleep_for_ever();
              c.barrier();
            }),
      // Its peers wait in two groups; all numbers are those of the world.
      wrong("is_stopped", 4, broke,
            {"no progress for 2 s: rank 0 waits in barrier in group dp {0, 2} (call 3); rank 1 waits in "
             "barrier in group tp {0, 1} (call 3); rank 2 did not answer",
             "; rank 3 waits in barrier in group tp {2, 3} (call 3)"},
            [](Communicator& c) {
              const auto tp = c.split(c.rank() / 2, 0, "tp"), dp = c.split(c.rank() % 2, 0, "dp");
              if (c.rank() == 2) raise(SIGSTOP);
              (c.rank() == 0 ? dp : tp)->barrier();
              c.barrier();
            }),
      wrong("is_stopped_while_busy", 2, broke,
            {"rank 0 waits in barrier in group world (call 1); rank 1 did not answer"},
            [](Communicator& c) {
              if (c.rank() == 1) {
                const auto busy = c.busy("computes the unsplit reference");
                std::this_thread::sleep_for(std::chrono::seconds(1));
                raise(SIGSTOP);
              }
              c.barrier();
            }),
      wrong("sleeps_when_all_have_returned", 3, broke,
            {"no progress for 2 s: rank 0 has returned after 1 calls; rank 1 did not answer",
             "; rank 2 has returned after 1 calls"},
            [](Communicator& c) {
              c.barrier();
              if (c.rank() == 1) sleep_for_ever();
            }),
      wrong("exits", 3, 7, {},
            [](Communicator& c) {
              if (c.rank() == 1) std::_Exit(7);
              c.barrier();
            }),
      wrong("is_killed", 3, 128 + SIGKILL, {"signal 9"},
            [](Communicator& c) {
              if (c.rank() == 1) raise(SIGKILL);
              c.barrier();
            }),
      wrong("beyond_its_memory", 3, refused, {"error: rank 2 is out of memory"},
            [](Communicator& c) {
              c.barrier();
              if (c.rank() == 2) zeros(1 << 20);
              c.barrier();
            }),
      wrong("never_launches", 2, broke, {"waits in MPI_Init_thread, no progress for 2 s"}, nullptr)};
  all.insert(all.begin(), wrong_programs.begin(), wrong_programs.end());
  return all;
}

constexpr int random_ranks = 4;
const std::string random_prefix = "random_";

/// How many random wrong programs run as jobs, each named by its number.
int random_programs() {
  return static_cast<int>(fault_names.size()) * (std::getenv("TESSERA_LONG") != nullptr ? 4 : 1);
}

void run_wrong(const std::string& name) {
  WrongProgram program;
  if (name.starts_with(random_prefix)) {
    const int number = std::stoi(name.substr(random_prefix.size()));
    program.run = [number](Communicator& comm) { wrong_program(number, random_ranks).run(comm); };
  } else {
    const std::vector<WrongProgram> all = all_wrong_programs();
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const auto& one) { return one.name == name; });
    if (found == all.end()) throw UsageError("no wrong program " + name);
    program = *found;
  }
  if (program.run)
    launch(options(), [](Communicator&) {});  // MPI's own start is slow where cores are few
  else if (mpi::launched_rank() == 0)
    sleep_for_ever();
  LaunchOptions each = options();
  each.timeout = std::chrono::seconds(2);
  each.memory_per_rank = 1 << 20;
  launch(each, program.run);
}

/// Launchers are known by their environment. A shell of Slurm is no launcher.
void check_launchers() {
  struct Case {
    const char* variables;  // NAME=VALUE, separated by spaces
    const char* found;      // size, rank, local rank
  };
  for (const Case& each :
       {Case{"", "0 0 0"},
        {"OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_LOCAL_RANK=1", "4 3 1"},
        {"PMI_SIZE=1 PMI_RANK=0", "1 0 0"},
        {"PMI_SIZE=8 PMI_RANK=5 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2", "8 5 0"},
        {"SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0", "0 0 0"},
        {"SLURM_NTASKS=4 SLURM_STEP_ID=7 SLURM_STEP_NUM_TASKS=1 PMI_SIZE=1", "0 0 0"},
        {"SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=2 SLURM_LOCALID=1", "4 2 1"}}) {
    std::vector<std::string> names;
    std::istringstream variables(each.variables);
    for (std::string variable; variables >> variable;) {
      const std::size_t equals = variable.find('=');
      names.push_back(variable.substr(0, equals));
      setenv(names.back().c_str(), variable.substr(equals + 1).c_str(), 1);
    }
    const std::string found =
        format("{} {} {}", mpi::launched_size(), mpi::launched_rank(), mpi::local_rank());
    for (const std::string& name : names) unsetenv(name.c_str());
    expect_eq(found, each.found, "size, rank, local rank");
  }
}

/// A launcher that started one process, perhaps a shell, changes nothing: only --transport mpi takes notice.
void check_launcher_of_one() {
  setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
  for (const auto transport : {std::optional<Transport>(), std::optional(Transport::threads)})
    for (const auto ranks : {std::optional<int>(), std::optional(4)}) {
      const LaunchOptions chosen = choose_transport(ranks, 4, DeviceKind::cpu, transport).options;
      expect(chosen.transport == Transport::threads && chosen.ranks == 4,
             "4 threads under a launcher of one");
    }
  expect_eq(choose_transport(std::nullopt, 4, DeviceKind::cpu, Transport::mpi).options.ranks, 1, "ranks");
  const std::string refused = message_from([] { choose_transport(4, 4, DeviceKind::cpu, Transport::mpi); });
  unsetenv("OMPI_COMM_WORLD_SIZE");
  expect_eq(refused, "--ranks 4 under a launcher of 1 process: --ranks 1 would work, or a launcher of 4",
            "refused");
}

/// Runs `wrong NAME` as a job, and says what is wrong with its end. True where nothing is: it exits with
/// `code`, and missing(output), what its output lacks, is "".
bool ends_as_it_must(const std::string& mpirun, int ranks, const std::string& name, int code, bool says_once,
                     const std::function<std::string(const std::string&)>& missing) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command =
      format("timeout -k 5 30 '{}' -n {} '{}' wrong {} 2>&1", mpirun, ranks, self, name);
  const CommandResult job = run_command(command);
  std::string complaints;
  if (job.exit != code) complaints += format("  exit code {}, not {}\n", job.exit, code);
  if (const std::string lacks = missing(job.output); !lacks.empty())
    complaints += "  does not say: " + lacks + "\n";
  if (says_once && count_of(job.output, "error: ") > 1) complaints += "  says it more than once\n";
  std::cout << (complaints.empty() ? "ends as it must: " : "FAILED: ") << name << "\n" << complaints;
  if (!complaints.empty()) std::cout << command << "\n" << job.output << "\n";
  return complaints.empty();
}

/// Runs every wrong program as a job of its own. The number of those that did not end as they must.
int observe_wrong_programs(const std::string& mpirun) {
  int failures = 0;
  for (const WrongProgram& program : all_wrong_programs())
    failures += !ends_as_it_must(mpirun, program.ranks, program.name, program.code, program.run != nullptr,
                                 [&](const std::string& output) { return missing_from(output, program); });
  for (int i = 0; i < random_programs(); ++i)
    failures += !ends_as_it_must(
        mpirun, random_ranks, format("{}{}", random_prefix, i), 3, false,
        [&](const std::string& output) { return missing_from(output, wrong_program(i, random_ranks)); });
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
