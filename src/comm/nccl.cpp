// Ranks that each have a GPU: as threads of one process, or as processes of mpirun or srun on any number of
// machines. The transport is NCCL; nccl_engine.hpp says how its calls are kept from blocking each other.
#include <cstdlib>
#include <map>
#include <numeric>

#include "comm/nccl_engine.hpp"

namespace tessera::nccl {

namespace {

ncclDataType_t type_of(DType dtype) {
  static constexpr ncclDataType_t types[] = {ncclFloat32, ncclFloat64, ncclInt32, ncclBfloat16};
  return types[static_cast<int>(dtype)];
}
std::size_t count(const Tensor& x) { return static_cast<std::size_t>(x.size()); }

class NcclCommunicator final : public Communicator {
 public:
  /// `id` is the same on all ranks of the group, and no other group's. `channel` is connected.
  NcclCommunicator(Engine& engine, Channel& channel, std::string id, std::string name,
                   std::shared_ptr<Journal> journal, std::vector<int> members = {})
      : Communicator(channel.rank, channel.ranks, std::move(name), std::move(journal), std::move(members)),
        engine_(engine),
        channel_(channel),
        id_(std::move(id)) {}

  std::string transport() const override { return "nccl"; }

 private:
  /// The channel of the messages from one rank of the group to another, made when the first is posted.
  Channel& messages(int from, int to) {
    Channel*& channel = messages_[{from, to}];
    if (!channel)
      channel = &engine_.open(format("{}:{}>{}", id_, from, to), {world_rank(from), world_rank(to)},
                              rank() == from ? 0 : 1, Use::messages);
    return *channel;
  }

  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    Channel& channel = call.op == OpType::send   ? messages(rank(), call.peer)
                       : call.op == OpType::recv ? messages(call.peer, rank())
                                                 : channel_;
    return engine_.post(channel, call, in, out);
  }

  std::unique_ptr<Communicator> do_split(const Call& call, const std::string& name) override {
    const auto meeting = engine_.post(channel_, call, {}, {});
    meeting->wait();
    const Part part = part_of(meeting->theirs);
    const std::string id = format("{}/{}.{}", id_, splits_++, call.color);
    if (call.color < 0) return nullptr;
    Channel& channel = engine_.open(id, part.members, part.rank, Use::collectives);
    engine_.connect(channel);
    return std::make_unique<NcclCommunicator>(engine_, channel, id, name, shared_journal(), part.members);
  }

  std::shared_ptr<void> do_busy(const std::string& what) override { return engine_.busy(what); }

  Engine& engine_;
  Channel& channel_;  // of the collectives
  std::string id_;
  int splits_ = 0;
  std::map<std::pair<int, int>, Channel*> messages_;  // by sender and receiver
};

/// Runs one rank on this thread. What it throws goes to the world.
void run(World& world, int rank, int ordinal, Store& store, const LaunchOptions& options,
         std::chrono::steady_clock::time_point start, const std::function<void(Communicator&)>& body) {
  // After a fault the engine's end ends the kernels that wait, for which the end of the device would wait.
  std::shared_ptr<Device> device;
  std::unique_ptr<Engine> engine;
  try {
    device = make_cuda_device(ordinal);
    run_rank(device, rank, options, threads_of_rank(options), [&] {
      engine = std::make_unique<Engine>(world, rank, cuda_device(device), store, options);
      std::vector<int> members(static_cast<std::size_t>(options.ranks));
      std::iota(members.begin(), members.end(), 0);
      Channel& channel = engine->open("world", members, rank, Use::collectives);
      engine->connect(channel);
      NcclCommunicator comm(*engine, channel, "world", "world",
                            std::make_shared<Journal>(start, options.trace));
      body(comm);
    });
    world.returned(rank);
    engine->close();
  } catch (...) {
    world.failed(rank);
  }
}

}  // namespace

/// NCCL's maximum of a NaN and a number is the number, which would hide the NaN. Therefore every rank gathers
/// all inputs, and the wait takes their maximum by our own kernel.
Task::Task(Engine& of, Channel& over, const Call& call, Tensor from, Tensor to)
    : engine(of),
      channel(over),
      mine(call),
      compares(engine.verifies() || !call.moves_data()),
      in(std::move(from)),
      out(std::move(to)) {
  if (call.reduce == Reduce::max && call.dtype != DType::i32)
    gathered = Tensor::empty(channel.ranks, in.size(), in.dtype(), in.device());
}

void Task::wait() { engine.wait(*this); }
void Task::abandon() { engine.abandon(*this); }

ncclResult_t Task::issue() const {
  const ncclDataType_t type = type_of(mine.dtype);
  const ncclRedOp_t reduction = mine.reduce == Reduce::sum ? ncclSum : ncclMax;
  const ncclComm_t comm = channel.comm;
  const cudaStream_t stream = channel.stream;
  switch (mine.op) {
    case OpType::all_reduce:
      if (gathered.defined()) return ncclAllGather(in.raw(), gathered.raw(), count(in), type, comm, stream);
      return ncclAllReduce(in.raw(), out.raw(), count(in), type, reduction, comm, stream);
    case OpType::all_gather:
      return ncclAllGather(in.raw(), out.raw(), count(in), type, comm, stream);
    case OpType::reduce_scatter:
      return ncclReduceScatter(in.raw(), out.raw(), count(out), type, reduction, comm, stream);
    case OpType::broadcast:
      return ncclBroadcast(in.raw(), out.raw(), count(out), type, mine.peer, comm, stream);
    case OpType::all_to_all:
      NCCL_CHECK(ncclGroupStart());
      for (int i = 0; i < channel.ranks; ++i) {  // what fails here is what ncclGroupEnd returns
        const Range to = mine.part_sent(i, channel.ranks), from = mine.part_received(i, channel.ranks);
        const Tensor sent = in.row_range(to.begin, to.end), received = out.row_range(from.begin, from.end);
        if (sent.size() > 0) ncclSend(sent.raw(), count(sent), type, i, comm, stream);
        if (received.size() > 0) ncclRecv(received.raw(), count(received), type, i, comm, stream);
      }
      return ncclGroupEnd();
    case OpType::send:  // a channel of messages goes from its rank 0 to its rank 1
      return ncclSend(in.raw(), count(in), type, 1, comm, stream);
    case OpType::recv:
      return ncclRecv(out.raw(), count(out), type, 0, comm, stream);
    case OpType::barrier:
    case OpType::split:
      break;
  }
  return ncclSuccess;
}

void Task::take_maximum() const {
  constexpr std::size_t at_once = 64;  // the kernel takes no more
  const Tensor row = out.reshape(1, out.size());
  std::vector<Tensor> some;
  for (int rank = 0; rank < channel.ranks; ++rank) {
    some.push_back(gathered.row_range(rank, rank + 1));
    if (some.size() < at_once && rank + 1 < channel.ranks) continue;
    kernels_of(row).reduce(row, some, Reduce::max);
    some = {row};
  }
}

bool built() { return true; }

std::string version() {
  int version = 0;
  NCCL_CHECK(ncclGetVersion(&version));  // 22809 for 2.28.9
  return format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

void prepare() { setenv("CUDA_MODULE_LOADING", "EAGER", 0); }

void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  const auto start = std::chrono::steady_clock::now();
  prepare();
  World world(options);
  const bool processes = mpi::launched_size() > 1;
  Store store(processes);
  if (!processes) return world.run([&](int rank) { run(world, rank, rank, store, options, start, body); });

  const int rank = mpi::launched_rank();
  try {
    const int gpus = cuda_device_count();
    expect(gpus > 0, "this process sees no GPU");
    mpi::expect_processes(options.ranks);
    world.only(rank);
    run(world, rank, mpi::local_rank() % gpus, store, options, start, body);
    world.rethrow_first_fault();
  } catch (...) {
    end_process(Failure::current());  // mpirun ends the other processes, for which MPI_Finalize would wait
  }
}

}  // namespace tessera::nccl
