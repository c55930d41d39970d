#include "comm/launch.hpp"

#include "tensor/error.hpp"

namespace tessera {

const char* name(Transport transport) {
  static constexpr const char* names[] = {"threads", "mpi", "nccl"};
  return names[static_cast<int>(transport)];
}

Choice choose_transport(std::optional<int> ranks, int default_ranks, std::optional<DeviceKind> device,
                        std::optional<Transport> transport) {
  const int gpus = cuda_device_count();
  // A shell that a launcher started as its only process is no reason to refuse threads.
  const int launched = mpi::launched_size() > 1 || transport == Transport::mpi ? mpi::launched_size() : 0;
  if (transport == Transport::mpi && device == DeviceKind::cuda)
    throw UsageError("--transport mpi moves host memory: use --device cpu, or --transport nccl for GPUs");
  if (transport == Transport::mpi && !mpi::built())
    throw UsageError("--transport mpi: this build has no MPI (apt-get install libopenmpi-dev openmpi-bin)");
  if (transport == Transport::mpi && launched == 0)
    throw UsageError("--transport mpi needs its processes: ./tessera run starts mpirun, or start it by hand");
  if (transport == Transport::nccl && device == DeviceKind::cpu)
    throw UsageError("--transport nccl runs on GPUs: leave --device cpu out, or use --transport threads");
  if (transport == Transport::threads && launched > 1)
    throw UsageError(
        str("--transport threads under a launcher of ", launched, " processes: start one process"));
  if (device == DeviceKind::cuda && gpus == 0)
    throw UsageError(str("--device cuda: no GPU found",
                         built_with_cuda() ? "" : ", and this build has no CUDA",
                         "; --device cpu would work"));

  LaunchOptions options;
  options.ranks = ranks.value_or(launched > 0 ? launched : default_ranks);
  if (launched > 0 && options.ranks != launched)
    throw UsageError(str("--ranks ", options.ranks, " under a launcher of ", launched,
                         launched == 1 ? " process" : " processes", ": --ranks ", launched,
                         " or a launcher of ", options.ranks, " would work"));
  const bool gpu_each =
      nccl::built() && gpus > 0 && (launched > 0 ? mpi::local_rank() < gpus : options.ranks <= gpus);
  if (transport == Transport::nccl && !gpu_each)
    throw UsageError(str("--transport nccl needs a GPU for each of ", options.ranks, " ranks, and ", gpus,
                         gpus == 1 ? " is" : " are", " here",
                         nccl::built() ? "" : " (and this build has no NCCL)",
                         "; --transport threads runs several ranks on one GPU or on the CPU"));

  options.device = device.value_or(gpus > 0 && transport != Transport::mpi && (launched == 0 || gpu_each)
                                       ? DeviceKind::cuda
                                       : DeviceKind::cpu);
  const bool on_gpu = options.device == DeviceKind::cuda;
  if (on_gpu && launched > 1 && !gpu_each)
    throw UsageError(
        "under a launcher each process needs a GPU of its own and NCCL; --device cpu would work");
  options.transport = transport.value_or(launched > 0 ? (on_gpu ? Transport::nccl : Transport::mpi)
                                         : on_gpu && gpu_each && options.ranks > 1 ? Transport::nccl
                                                                                   : Transport::threads);

  const std::string many = options.ranks == 1 ? "1 rank" : str(options.ranks, " ranks");
  std::string how = options.transport == Transport::threads
                        ? (options.ranks == 1 ? " as a thread" : " as threads")
                    : launched > 0 ? " as processes"
                                   : " as threads";
  if (options.transport == Transport::mpi) how += ", MPI";
  if (options.transport == Transport::nccl) how += ", a GPU each, NCCL";
  std::string where = "CPU";
  if (on_gpu)
    where = options.transport == Transport::threads && options.ranks > 1 ? "sharing one GPU" : "CUDA";
  else if (!device)
    where += gpus > 0 ? " (MPI moves host memory)" : " (no GPU found)";
  return {options, many + how + ", " + where};
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

}  // namespace tessera
