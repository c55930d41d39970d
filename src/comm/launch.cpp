#include "comm/launch.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <thread>
#include <vector>

#include "tensor/error.hpp"

namespace tessera {

const char* name(Transport transport) {
  static constexpr const char* names[] = {"threads", "mpi", "nccl"};
  return names[static_cast<int>(transport)];
}

namespace {

/// Every process tells all others what it sees. Without this a process that finds a GPU of its own would take
/// NCCL while another, which finds none, takes MPI.
Machine agree(Machine machine) {
  mpi::expect_processes(machine.launched);
  std::vector<SeenGpus> processes(static_cast<std::size_t>(machine.launched));
  const int mine = mpi::launched_rank();
  SeenGpus& seen = processes[static_cast<std::size_t>(mine)];
  seen.count = machine.gpus;
  machine.no_gpu.copy(seen.none, sizeof seen.none - 1);
  // The variable by which NCCL, too, tells hosts apart.
  char host[100] = {};
  gethostname(host, sizeof host - 1);
  const char* named = std::getenv("NCCL_HOSTID");
  if (machine.gpus > 0)
    format("{} {}", named ? named : host, cuda_bus_id(mpi::local_rank() % machine.gpus))
        .copy(seen.taken, sizeof seen.taken - 1);
  for (int process = 0; process < machine.launched; ++process)
    mpi::broadcast_bytes(&processes[static_cast<std::size_t>(process)], sizeof(SeenGpus), process);
  return agreed(std::move(machine), processes);
}

}  // namespace

Machine agreed(Machine machine, const std::vector<SeenGpus>& processes) {
  machine.gpus = processes[0].count;
  machine.no_gpu.clear();  // each process may have a reason of its own, and all must give the same
  for (std::size_t p = 0; p < processes.size(); ++p) {
    if (processes[p].count == 0 && machine.no_gpu.empty()) machine.no_gpu = processes[p].none;
    machine.gpus = std::min(machine.gpus, processes[p].count);
    for (std::size_t q = 0; q < p; ++q)
      if (machine.shared_gpu.empty() && processes[p].count > 0 &&
          std::string(processes[p].taken) == processes[q].taken)
        machine.shared_gpu = format("processes {} and {} would share GPU {}", q, p, processes[p].taken);
  }
  return machine;
}

Choice choose_transport(std::optional<int> ranks, int default_ranks, std::optional<DeviceKind> device,
                        std::optional<Transport> transport) {
  // A shell that a launcher started as its only process is no reason to refuse threads.
  const int launched = mpi::launched_size();
  Machine machine{.launched = launched > 1 || transport == Transport::mpi ? launched : 0,
                  .mpi = mpi::built(),
                  .cuda = built_with_cuda(),
                  .nccl = nccl::built()};
  const bool several = machine.launched > 1 || ranks.value_or(default_ranks) > 1;
  const bool open = !transport || transport == Transport::nccl;
  if (open && device != DeviceKind::cpu && (several || transport)) nccl::prepare();
  machine.gpus = cuda_device_count();
  machine.no_gpu = why_no_gpu();
  if (machine.launched > 1 && machine.cuda && open && device != DeviceKind::cpu)
    machine = agree(std::move(machine));
  return choose(machine, ranks, default_ranks, device, transport);
}

Choice choose(const Machine& machine, std::optional<int> ranks, int default_ranks,
              std::optional<DeviceKind> device, std::optional<Transport> transport) {
  const int launched = machine.launched, gpus = machine.gpus;
  if (transport == Transport::mpi && device == DeviceKind::cuda)
    throw UsageError(
        "--transport mpi moves host memory: --device cpu would work, or --transport nccl for GPUs");
  if (transport == Transport::mpi && !machine.mpi)
    throw UsageError(
        "--transport mpi: this build has no MPI (apt-get install libopenmpi-dev openmpi-bin); "
        "--transport threads would work");
  if (transport == Transport::mpi && launched == 0)
    throw UsageError(
        "--transport mpi needs its processes, which ./tessera run or mpirun starts; "
        "--transport threads would work");
  if (transport == Transport::nccl && device == DeviceKind::cpu)
    throw UsageError(
        "--transport nccl runs on GPUs: without --device it would work, or with --transport threads");
  if (transport == Transport::threads && launched > 1)
    throw UsageError(format(
        "--transport threads under a launcher of {} processes: --transport mpi would work, or one process",
        launched));
  if (device == DeviceKind::cuda && gpus == 0)
    throw UsageError(format("--device cuda: {}{}; --device cpu would work", machine.no_gpu,
                            machine.cuda ? "" : ", and this build has no CUDA"));

  LaunchOptions options;
  options.ranks = ranks.value_or(launched > 0 ? launched : default_ranks);
  if (launched > 0 && options.ranks != launched)
    throw UsageError(
        format("--ranks {} under a launcher of {} process{}: --ranks {} would work, or a launcher of {}",
               options.ranks, launched, launched == 1 ? "" : "es", launched, options.ranks));
  const bool enough = launched > 0 ? machine.shared_gpu.empty() : options.ranks <= gpus;
  const bool gpu_each = machine.nccl && gpus > 0 && enough;
  if (transport == Transport::nccl && !gpu_each) {
    std::string found = gpus == 0 ? machine.no_gpu : format("{}{} here", gpus, gpus == 1 ? " is" : " are");
    if (gpus > 0 && launched > 0) found = machine.shared_gpu;
    if (!machine.nccl) found += (found.empty() ? "" : ", and ") + std::string("this build has no NCCL");
    throw UsageError(
        format("--transport nccl needs a GPU for each of {} ranks: {}; --transport threads would work: "
               "it runs several ranks on one GPU or on the CPU",
               options.ranks, found));
  }

  options.device = device.value_or(gpus > 0 && transport != Transport::mpi && (launched == 0 || gpu_each)
                                       ? DeviceKind::cuda
                                       : DeviceKind::cpu);
  const bool on_gpu = options.device == DeviceKind::cuda;
  if (on_gpu && launched > 1 && !gpu_each)
    throw UsageError(
        format("under a launcher each process needs a GPU of its own and NCCL: {}; --device cpu would work",
               machine.nccl ? machine.shared_gpu : "this build has no NCCL"));
  options.transport = transport.value_or(launched > 0 ? (on_gpu ? Transport::nccl : Transport::mpi)
                                         : on_gpu && gpu_each && options.ranks > 1 ? Transport::nccl
                                                                                   : Transport::threads);

  std::string where = "CPU";
  if (on_gpu)
    where = options.transport == Transport::threads && options.ranks > 1 ? "sharing one GPU" : "CUDA";
  else if (!device && gpus == 0)
    where += format(" ({})", machine.no_gpu);
  else if (!device)
    where += machine.shared_gpu.empty() ? " (MPI moves host memory)" : format(" ({})", machine.shared_gpu);
  const bool threads = options.transport == Transport::threads;
  const char* as = launched > 0 ? "processes" : threads && options.ranks == 1 ? "a thread" : "threads";
  const char* via = threads ? "" : options.transport == Transport::mpi ? ", MPI" : ", a GPU each, NCCL";
  return {options,
          format("{} rank{} as {}{}, {}", options.ranks, options.ranks == 1 ? "" : "s", as, via, where)};
}

bool is_printing_process() { return mpi::launched_size() <= 1 || mpi::launched_rank() == 0; }

void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  switch (options.transport) {
    case Transport::threads:
      return launch_threads(options, body);
    case Transport::mpi:
      return mpi::launch(options, body);
    case Transport::nccl:
      return nccl::launch(options, body);
  }
}

void run_rank(const std::shared_ptr<Device>& device, int rank, const LaunchOptions& options, int threads,
              const std::function<void()>& body) {
  device->memory.limit(rank, options.memory_per_rank);
  device->tf32 = options.tf32;
  const Device::Scope scope(device);
  set_math_threads(threads);
  body();
  device->synchronize();
}

int threads_of_rank(const LaunchOptions& options) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  return math_threads_or(options.ranks == 1 ? cores : 1, options.ranks);
}

Failure Failure::current() {
  try {
    throw;
  } catch (const UsageError& error) {
    return {2, error.what()};
  } catch (const std::exception& error) {
    return {3, error.what()};
  } catch (...) {
    return {3, "an object that is no std::exception"};
  }
}

void end_process(const Failure& failure) {
  std::cerr << "error: " << failure.what << std::endl;
  std::_Exit(failure.code);
}

std::string said_by(int rank, const std::string& what) {
  const std::string who = format("rank {}", rank);
  return what.starts_with("--") || what.starts_with(who) ? what : format("{}: {}", who, what);
}

}  // namespace tessera
