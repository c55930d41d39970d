// Ranks that each have a GPU: as threads of one process, or as processes of mpirun or srun on any number of
// machines. The transport is NCCL; nccl_engine.hpp says how its calls are kept from blocking each other.
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "comm/launch.hpp"
#include "comm/nccl_engine.hpp"

namespace tessera::nccl {

namespace {

std::vector<Header> matching_headers(World& world, const Header* all, std::size_t ranks) {
  std::vector<Header> headers(all, all + ranks);
  try {
    expect_match(headers);
  } catch (const Error& error) {
    world.report(error.what());
    throw;
  }
  return headers;
}

ncclDataType_t type(const Tensor& x) {
  static constexpr ncclDataType_t types[] = {ncclFloat32, ncclFloat64, ncclInt32, ncclBfloat16};  // by DType
  return types[static_cast<int>(x.dtype())];
}
ncclRedOp_t op(const Call& call) { return call.reduce == Reduce::sum ? ncclSum : ncclMax; }
std::size_t count(const Tensor& x) { return static_cast<std::size_t>(x.size()); }

class NcclWork final : public Work {
 public:
  NcclWork(Engine& engine, std::shared_ptr<Task> task) : engine_(engine), task_(std::move(task)) {}
  void wait() override { engine_.wait(task_); }
  void abandon() override { engine_.abandon(*task_); }
  std::pair<Event, Event> marks() const override { return {task_->began, task_->ended}; }

 private:
  Engine& engine_;
  std::shared_ptr<Task> task_;
};

/// NCCL's maximum of a NaN and a number is the number, which would hide the NaN. Therefore every rank gathers
/// all inputs, and the wait takes their maximum by our own kernel.
class MaximumWork final : public Work {
 public:
  /// `inputs` is (ranks, elements of out), full when `gathering` is done.
  MaximumWork(std::unique_ptr<Work> gathering, Tensor inputs, const Tensor& out)
      : gathering_(std::move(gathering)), inputs_(std::move(inputs)), out_(out.reshape(1, out.size())) {}
  void wait() override {
    constexpr std::size_t at_once = 64;  // the kernel takes no more
    gathering_->wait();
    std::vector<Tensor> some;
    for (std::int64_t rank = 0; rank < inputs_.rows(); ++rank) {
      some.push_back(inputs_.row_range(rank, rank + 1));
      if (some.size() < at_once && rank + 1 < inputs_.rows()) continue;
      kernels_of(out_).reduce(out_, some, Reduce::max);
      some = {out_};
    }
  }
  void abandon() override { gathering_->abandon(); }
  std::pair<Event, Event> marks() const override { return gathering_->marks(); }

 private:
  std::unique_ptr<Work> gathering_;
  Tensor inputs_, out_;
};

class NcclCommunicator final : public Communicator {
 public:
  /// `id` is the same on all ranks of the group, and no other group's. `members` are the group's ranks in the
  /// world, in group order. `channel` is connected.
  NcclCommunicator(Engine& engine, Channel& channel, std::string id, std::vector<int> members, int rank,
                   std::string name, std::shared_ptr<Journal> journal)
      : Communicator(rank, static_cast<int>(members.size()), std::move(name), std::move(journal), members),
        engine_(engine),
        channel_(channel),
        id_(std::move(id)),
        members_(std::move(members)),
        outgoing_(members_.size()),
        incoming_(members_.size()) {}

  std::string transport() const override { return "nccl"; }

 private:
  using Issue = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;

  /// Makes the task of a call. The headers are compared where the user wants that, or where they are the
  /// whole call.
  Task logged(const Call& call, Issue issue) {
    Task task;
    task.doing = engine_.world().enter(engine_.world_rank(), call);
    const int rank = engine_.world_rank();
    task.mine = Header::of(call, rank, engine_.world().calls(rank));
    task.compares = engine_.verifies() || !issue;
    task.issue = std::move(issue);
    return task;
  }

  std::unique_ptr<Work> post(Channel& channel, Task task) {
    if (!task.met)
      task.met = [&world = engine_.world(), n = static_cast<std::size_t>(channel.ranks)](const Header* all) {
        matching_headers(world, all, n);
      };
    return std::make_unique<NcclWork>(engine_, engine_.post(channel, std::move(task)));
  }

  std::unique_ptr<Work> collective(const Call& call, Issue issue) {
    return post(channel_, logged(call, std::move(issue)));
  }

  /// The channel of the messages from one rank of the group to another, made when the first is posted.
  Channel& messages(Channel*& channel, int from, int to) {
    if (!channel)
      channel = &engine_.open(format("{}:{}>{}", id_, from, to), {member(from), member(to)},
                              rank() == from ? 0 : 1, Use::messages);
    return *channel;
  }
  int member(int rank) const { return members_[static_cast<std::size_t>(rank)]; }

  std::unique_ptr<Work> do_all_reduce(const Call& call, const TrafficKey&, const Tensor& in,
                                      const Tensor& out) override {
    model_wire(call, out.bytes());
    if (call.reduce == Reduce::max && in.dtype() != DType::i32) {
      const Tensor all = Tensor::empty(size(), in.size(), in.dtype(), in.device());
      return std::make_unique<MaximumWork>(collective(call,
                                                      [=](ncclComm_t comm, cudaStream_t stream) {
                                                        return ncclAllGather(in.raw(), all.raw(), count(in),
                                                                             type(in), comm, stream);
                                                      }),
                                           all, out);
    }
    return collective(call, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllReduce(in.raw(), out.raw(), count(in), type(in), op(call), comm, stream);
    });
  }
  std::unique_ptr<Work> do_all_gather(const Call& call, const TrafficKey&, const Tensor& in,
                                      const Tensor& out) override {
    model_wire(call, out.bytes());
    return collective(call, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclAllGather(in.raw(), out.raw(), count(in), type(in), comm, stream);
    });
  }
  std::unique_ptr<Work> do_reduce_scatter(const Call& call, const TrafficKey&, const Tensor& in,
                                          const Tensor& out) override {
    model_wire(call, in.bytes());
    return collective(call, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclReduceScatter(in.raw(), out.raw(), count(out), type(in), op(call), comm, stream);
    });
  }
  std::unique_ptr<Work> do_broadcast(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    return collective(call, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclBroadcast(x.raw(), x.raw(), count(x), type(x), call.peer, comm, stream);
    });
  }
  /// Its headers are the whole call: a rank that has all of them knows that every rank is here.
  std::unique_ptr<Work> do_barrier(const Call& call) override { return collective(call, nullptr); }

  std::unique_ptr<Work> do_send(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    Task task = logged(call, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclSend(x.raw(), count(x), type(x), 1, comm, stream);
    });
    Channel*& channel = outgoing_[static_cast<std::size_t>(call.peer)];
    return post(messages(channel, rank(), call.peer), std::move(task));
  }
  std::unique_ptr<Work> do_recv(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    Task task = logged(call, [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclRecv(x.raw(), count(x), type(x), 0, comm, stream);
    });
    Channel*& channel = incoming_[static_cast<std::size_t>(call.peer)];
    return post(messages(channel, call.peer, rank()), std::move(task));
  }

  std::unique_ptr<Communicator> do_split(const Call& call, int color, int key,
                                         const std::string& name) override {
    Task task = logged(call, nullptr);
    task.mine.color = color;
    task.mine.key = key;
    std::vector<Header> all;
    task.met = [&](const Header* headers) {
      all = matching_headers(engine_.world(), headers, members_.size());
    };
    engine_.wait(engine_.post(channel_, std::move(task)));

    std::vector<std::pair<int, int>> order;  // (key, rank) of this color
    for (int i = 0; i < size(); ++i)
      if (const Header& other = all[static_cast<std::size_t>(i)]; other.color == color)
        order.emplace_back(other.key, i);
    std::sort(order.begin(), order.end());
    std::vector<int> members;
    int place = 0;
    for (const auto& [_, i] : order) {
      if (i == rank()) place = static_cast<int>(members.size());
      members.push_back(member(i));
    }
    const std::string id = format("{}/{}.{}", id_, splits_++, color);
    Channel* channel = engine_.split(channel_, color, static_cast<int>(members.size()), place);
    if (!channel) return nullptr;
    return std::make_unique<NcclCommunicator>(engine_, *channel, id, std::move(members), place, name,
                                              shared_journal());
  }

  std::unique_ptr<Busy> do_busy(const std::string& what) override {
    return engine_.world().busy(engine_.world_rank(), what);
  }

  Engine& engine_;
  Channel& channel_;  // of the collectives
  std::string id_;
  std::vector<int> members_;
  int splits_ = 0;
  std::vector<Channel*> outgoing_, incoming_;  // by peer; null: not used yet
};

/// Runs one rank on this thread. What it throws goes to the world.
void run_rank(World& world, int rank, int ordinal, Store& store, const LaunchOptions& options,
              std::chrono::steady_clock::time_point start, const std::function<void(Communicator&)>& body) {
  std::shared_ptr<Device> device;
  std::unique_ptr<Engine> engine;
  try {
    device = options.make_device(ordinal, rank);
    const Device::Scope scope(device);
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    set_math_threads(math_threads_or(options.ranks == 1 ? cores : 1, options.ranks));
    engine = std::make_unique<Engine>(world, rank, cuda_device(device), store, options);
    std::vector<int> members;
    for (int member = 0; member < options.ranks; ++member) members.push_back(member);
    Channel& channel = engine->open("world", members, rank, Use::collectives);
    engine->connect(channel);
    {
      NcclCommunicator comm(*engine, channel, "world", members, rank, "world",
                            std::make_shared<Journal>(start, options.trace));
      body(comm);
    }
    device->synchronize();
    world.returned(rank);
    engine->close();
  } catch (...) {
    world.failed(rank, std::current_exception());
  }
  engine.reset();  // after a fault this ends the kernels that wait; to free the GPU's memory before would
                   // wait for them
  device.reset();
  world.finished(rank);
}

[[noreturn]] void end_process(int code, const char* what) {
  std::cerr << "error: " << what << std::endl;
  std::_Exit(code);  // mpirun ends the other processes, for which MPI_Finalize would wait
}

}  // namespace

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
  World world(options.ranks, options.timeout);

  if (mpi::launched_size() > 1) {
    const int rank = mpi::launched_rank();
    try {
      const int gpus = cuda_device_count();
      expect(gpus > 0, "this process sees no GPU");
      mpi::expect_processes(options.ranks);
      ProcessStore store;
      world.only(rank);
      run_rank(world, rank, mpi::local_rank() % gpus, store, options, start, body);
      world.rethrow_first_fault();
    } catch (const UsageError& error) {
      end_process(2, error.what());
    } catch (const std::exception& error) {
      end_process(3, error.what());
    }
    return;
  }

  ThreadStore store;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank)
    threads.emplace_back([&, rank] { run_rank(world, rank, rank, store, options, start, body); });
  world.join(threads, DeviceKind::cuda);
}

}  // namespace tessera::nccl
