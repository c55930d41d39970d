// launch: run one function on N ranks. The same function runs as N threads on the CPU, as N threads on one
// GPU, as one thread a GPU with NCCL, or once in each process that mpirun or srun started.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "comm/communicator.hpp"

namespace tessera {

enum class Transport { threads, mpi, nccl };
const char* name(Transport transport);

struct LaunchOptions {
  int ranks = 1;
  DeviceKind device = DeviceKind::cpu;
  Transport transport = Transport::threads;
  std::chrono::duration<double> timeout{60};  // of one call, before each rank says what it waits for
  bool verify = true;                         // MPI and NCCL compare headers before each call
  std::int64_t memory_per_rank = INT64_MAX;   // bytes
  bool trace = false;                         // the journals tell a GPU's own times
  bool tf32 = false;                          // products of f32 may round their operands to TF32
};

/// Where the ranks run, and why, as the first line of every lesson says it.
struct Choice {
  LaunchOptions options;
  std::string reason;  // "4 ranks as threads, CPU (no GPU found)"
};

/// What there is to choose from. Under a launcher it is the same in every process, so that all choose alike.
struct Machine {
  int launched = 0;        // processes of the launcher; 0 outside of one
  int gpus = 0;            // how many this process sees; under a launcher, the fewest that any process sees
  std::string no_gpu;      // why there are none: "no GPU found", or what the CUDA runtime says
  std::string shared_gpu;  // which processes would take one GPU; empty where each takes another
  bool mpi = false, cuda = false, nccl = false;  // built with
};

/// Fills in what the user left open (nullopt is auto). An explicit choice is honoured or refused with
/// UsageError, never replaced. `ranks` nullopt: the launcher's processes, else `default_ranks`. Under a
/// launcher this is a collective call of all its processes.
Choice choose_transport(std::optional<int> ranks, int default_ranks, std::optional<DeviceKind> device,
                        std::optional<Transport> transport);
Choice choose(const Machine& machine, std::optional<int> ranks, int default_ranks,
              std::optional<DeviceKind> device, std::optional<Transport> transport);

/// One process's view of GPUs, as plain bytes.
struct SeenGpus {
  int count = 0;
  char none[200] = {};   // why count is 0
  char taken[200] = {};  // the GPU that the process would take, with its host: "node1 0000:1B:00.0"
};
/// The machine that all processes agree on, each with its view.
Machine agreed(Machine machine, const std::vector<SeenGpus>& processes);

/// Runs body(comm) on every rank and returns when all have returned. The first rank's exception, by time, is
/// rethrown with its type; the other ranks stop with an error that names it. (MPI: see mpi::launch.)
void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body);

/// True in the process that prints: the only one, or process 0 of a launcher.
bool is_printing_process();

// The transports. A build without MPI or NCCL links a stub whose `built` is false.
void launch_threads(const LaunchOptions& options, const std::function<void(Communicator&)>& body);

// What the transports have in common.
/// Runs a rank's body on its device, and returns when the device is idle. `threads` are for its mathematics.
void run_rank(const std::shared_ptr<Device>& device, int rank, const LaunchOptions& options, int threads,
              const std::function<void()>& body);
/// How many threads a rank takes for its mathematics where one process has all ranks.
int threads_of_rank(const LaunchOptions& options);
/// How a process ends after an exception.
struct Failure {
  int code = 0;  // 2 (UsageError) or 3; 0 where nothing was thrown
  std::string what;
  static Failure current();  ///< Of the exception that is handled now.
};
[[noreturn]] void end_process(const Failure& failure);
/// What a rank threw, with the rank in front. A refusal of a flag ("--exact ...") is the same on every rank
/// and stays as it is, as does a text that names the rank.
std::string said_by(int rank, const std::string& what);

namespace mpi {
bool built();         ///< Whether this build has MPI.
int launched_size();  ///< Processes of the launcher (mpirun, srun) as the environment says; 0 outside of one.
int launched_rank();  ///< This process's rank there.
int local_rank();     ///< Its number among the processes of its machine.
// The main thread calls these, for what the processes agree on before they have a transport.
/// Throws UsageError where MPI was started with another number of processes, as by a launcher without PMI,
/// which makes every process rank 0 of 1.
void expect_processes(int ranks, std::chrono::duration<double> timeout = LaunchOptions{}.timeout);
void broadcast_bytes(void* data, int bytes, int root);  ///< Over all processes of the launcher.
/// Sends a short text to another process, and does not wait for it.
void send_message(const std::string& text, int to);
std::optional<std::string> receive_message();  ///< The next text, of any process, or nothing yet.
/// Runs body once, in this process. Where it throws, on any rank, the job ends and launch does not return:
/// one message on stderr, and 2 (UsageError) or 3 as the exit code of all.
void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body);
}  // namespace mpi
namespace nccl {
bool built();
std::string version();
/// Before the first CUDA call of a process that may use NCCL. A kernel that is loaded at its first launch may
/// wait until the GPU is idle, and so for a collective whose other ranks wait for this kernel; this has all
/// kernels loaded at the start, unless the environment says otherwise.
void prepare();
/// Runs body in one thread for each GPU, or under a launcher once in this process, where MPI hands out NCCL's
/// ids. There, if body throws, the process prints the message and ends with code 2 (UsageError) or 3.
void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body);
}  // namespace nccl

}  // namespace tessera
