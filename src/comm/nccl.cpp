// Ranks that each have a GPU: as threads of one process, or as processes of mpirun or srun on any number of
// machines. The transport is NCCL; nccl_engine.hpp says how its calls are kept from blocking each other.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <thread>

#include "comm/launch.hpp"
#include "comm/nccl_engine.hpp"

namespace tessera::nccl {

namespace {

template <class T>
std::string bytes_of(const T* objects, std::size_t count) {
  return {reinterpret_cast<const char*>(objects), count * sizeof(T)};
}

template <class T>
std::vector<T> objects_in(const char* bytes, std::size_t count) {
  std::vector<T> objects(count);
  std::memcpy(objects.data(), bytes, count * sizeof(T));
  return objects;
}

std::vector<Header> matching_headers(World& world, const char* letters, std::size_t ranks) {
  auto headers = objects_in<Header>(letters, ranks);
  try {
    expect_match(headers);
  } catch (const Error& error) {
    world.report(error.what());
    throw;
  }
  return headers;
}

ncclDataType_t type(const Tensor& x) {
  return x.dtype() == DType::f32 ? ncclFloat32 : x.dtype() == DType::f64 ? ncclFloat64 : ncclInt32;
}
ncclRedOp_t op(const Call& call) { return call.reduce == Reduce::sum ? ncclSum : ncclMax; }
std::size_t count(const Tensor& x) { return static_cast<std::size_t>(x.size()); }

class NcclWork final : public Work {
 public:
  NcclWork(Engine& engine, std::shared_ptr<Task> task) : engine_(engine), task_(std::move(task)) {}
  void wait() override { engine_.wait(task_); }
  void abandon() override { engine_.abandon(*task_); }

 private:
  Engine& engine_;
  std::shared_ptr<Task> task_;
};

/// Room for a header, and for the ids of this rank's channels to all others.
std::size_t longest_letter(std::size_t ranks) {
  return std::max(sizeof(Header), ranks * sizeof(ncclUniqueId));
}

class NcclCommunicator final : public Communicator {
 public:
  /// `line` is connected. `members`: the group's ranks in the world, in group order.
  NcclCommunicator(Engine& engine, Line& line, std::vector<int> members, int rank, std::string name,
                   std::shared_ptr<Journal> journal)
      : Communicator(rank, static_cast<int>(members.size()), std::move(name), std::move(journal), members),
        engine_(engine),
        line_(line),
        members_(std::move(members)),
        outgoing_(members_.size()),
        incoming_(members_.size()) {
    engine_.settle(line_);
    if (size() == 1) return;
    // Channels are opened when they are first used, by two ranks of which the others know nothing. So each
    // rank hands out the ids of its outgoing channels now.
    std::vector<ncclUniqueId> mine(members_.size());
    for (int to = 0; to < size(); ++to)
      if (to != this->rank()) NCCL_CHECK(ncclGetUniqueId(&mine[static_cast<std::size_t>(to)]));
    Task task;
    task.doing = str("making group ", this->name());
    task.letter = bytes_of(mine.data(), mine.size());
    const std::size_t n = members_.size();
    task.open = [this, n](const char* letters) { ids_ = objects_in<ncclUniqueId>(letters, n * n); };
    engine_.wait(engine_.post(line_, std::move(task)));
  }

  std::string transport() const override { return "nccl"; }

 private:
  using Issue = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;

  Header header(const Call& call) const {
    return Header::of(call, engine_.world_rank(), engine_.world().calls(engine_.world_rank()));
  }

  Task logged(const Call& call) {
    Task task;
    task.doing = engine_.world().enter(engine_.world_rank(), call);
    return task;
  }

  std::unique_ptr<Work> post(Line& line, Task task) {
    return std::make_unique<NcclWork>(engine_, engine_.post(line, std::move(task)));
  }

  std::unique_ptr<Work> collective(const Call& call, Issue issue) {
    Task task = logged(call);
    if (engine_.verifies() || !issue) {
      const Header mine = header(call);
      task.letter = bytes_of(&mine, 1);
      task.open = [&world = engine_.world(), n = members_.size()](const char* letters) {
        matching_headers(world, letters, n);
      };
    }
    task.issue = std::move(issue);
    return post(line_, std::move(task));
  }

  std::unique_ptr<Work> do_all_reduce(const Call& call, const TrafficKey&, const Tensor& in,
                                      const Tensor& out) override {
    model_wire(call, out.bytes());
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
  /// The letters alone: who has all of them knows that every rank is here.
  std::unique_ptr<Work> do_barrier(const Call& call) override { return collective(call, nullptr); }

  std::unique_ptr<Work> do_send(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    Task task = logged(call);
    task.issue = [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclSend(x.raw(), count(x), type(x), 1, comm, stream);
    };
    Line*& channel = outgoing_[static_cast<std::size_t>(call.peer)];
    if (!channel) channel = &engine_.open_channel(0, channel_id(rank(), call.peer));
    return post(*channel, std::move(task));
  }
  std::unique_ptr<Work> do_recv(const Call& call, const TrafficKey&, const Tensor& x) override {
    model_wire(call, x.bytes());
    Task task = logged(call);
    task.issue = [=](ncclComm_t comm, cudaStream_t stream) {
      return ncclRecv(x.raw(), count(x), type(x), 0, comm, stream);
    };
    Line*& channel = incoming_[static_cast<std::size_t>(call.peer)];
    if (!channel) channel = &engine_.open_channel(1, channel_id(call.peer, rank()));
    return post(*channel, std::move(task));
  }

  std::unique_ptr<Communicator> do_split(const Call& call, int color, int key,
                                         const std::string& name) override {
    Task task = logged(call);
    Header mine = header(call);
    mine.color = color;
    mine.key = key;
    task.letter = bytes_of(&mine, 1);
    std::vector<Header> all;
    task.open = [&](const char* letters) {
      all = matching_headers(engine_.world(), letters, members_.size());
    };
    engine_.wait(engine_.post(line_, std::move(task)));

    std::vector<std::pair<int, int>> order;  // (key, rank) of this color
    for (int i = 0; i < size(); ++i)
      if (const Header& other = all[static_cast<std::size_t>(i)]; other.color == color)
        order.emplace_back(other.key, i);
    std::sort(order.begin(), order.end());
    std::vector<int> members;
    int place = 0;
    for (const auto& [_, i] : order) {
      if (i == rank()) place = static_cast<int>(members.size());
      members.push_back(members_[static_cast<std::size_t>(i)]);
    }
    Line& line = engine_.add_line(longest_letter(members.size()), static_cast<int>(members.size()));
    ncclConfig_t config = Engine::config();
    NCCL_CHECK(ncclCommSplit(line_.comm, color < 0 ? NCCL_SPLIT_NOCOLOR : color, place, &line.comm, &config));
    engine_.settle(line_);  // the parent is in progress until the child exists
    if (color < 0) return nullptr;
    return std::make_unique<NcclCommunicator>(engine_, line, std::move(members), place, name,
                                              shared_journal());
  }

  std::unique_ptr<Busy> do_busy(const std::string& what) override {
    return engine_.world().busy(engine_.world_rank(), what);
  }

  const ncclUniqueId& channel_id(int from, int to) const {
    return ids_[static_cast<std::size_t>(from) * members_.size() + static_cast<std::size_t>(to)];
  }

  Engine& engine_;
  Line& line_;
  std::vector<int> members_;
  std::vector<ncclUniqueId> ids_;           // of the channel from row to column
  std::vector<Line*> outgoing_, incoming_;  // by peer; null: not used yet
};

/// One rank, on this thread. What it throws goes to the world.
void run_rank(World& world, int rank, int ordinal, const ncclUniqueId& id, const LaunchOptions& options,
              std::chrono::steady_clock::time_point start, const std::function<void(Communicator&)>& body) {
  std::shared_ptr<Device> device;
  std::unique_ptr<Engine> engine;
  try {
    device = make_cuda_device(ordinal);
    device->memory.owner(rank);
    device->memory.limit(options.memory_per_rank);
    const Device::Scope scope(device);
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    set_math_threads(math_threads_or(options.ranks == 1 ? cores : 1, options.ranks));
    engine = std::make_unique<Engine>(world, rank, cuda_device(device), options);
    std::vector<int> members;
    for (int member = 0; member < options.ranks; ++member) members.push_back(member);
    Line& line = engine->add_line(longest_letter(members.size()), options.ranks);
    engine->connect(line, options.ranks, rank, id);
    {
      NcclCommunicator comm(*engine, line, members, rank, "world", std::make_shared<Journal>(start));
      body(comm);
    }
    device->synchronize();
    engine->close();
  } catch (...) {
    world.failed(rank, std::current_exception());
  }
  engine.reset();  // after a fault this aborts, and only then can the GPU's memory go
  device.reset();
  world.finished(rank);
}

[[noreturn]] void end_process(int code, const char* what) {
  std::cerr << "error: " << what << std::endl;
  std::_Exit(code);  // mpirun ends the other processes; MPI_Finalize would wait for them
}

}  // namespace

bool built() { return true; }

std::string version() {
  int version = 0;
  NCCL_CHECK(ncclGetVersion(&version));  // 22809
  return str(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

void launch(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  const auto start = std::chrono::steady_clock::now();
  // Several communicators on a GPU: without this kernels that wait for each other could share out the GPU
  // differently on different ranks. Before driver 12.3 it would make them run one by one, which can hang.
  int driver = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030)
    setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", 0);
  World world(options.ranks, options.timeout);
  ncclUniqueId id{};

  if (mpi::launched_size() > 1) {
    const int rank = mpi::launched_rank();
    try {
      if (rank == 0) NCCL_CHECK(ncclGetUniqueId(&id));
      mpi::broadcast_bytes(&id, sizeof id, 0);
      world.only(rank);
      run_rank(world, rank, mpi::local_rank(), id, options, start, body);
      world.rethrow_first_fault();
    } catch (const UsageError& error) {
      end_process(2, error.what());
    } catch (const std::exception& error) {
      end_process(3, error.what());
    }
    return;
  }

  NCCL_CHECK(ncclGetUniqueId(&id));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank)
    threads.emplace_back([&, rank] { run_rank(world, rank, rank, id, options, start, body); });
  world.join(threads);
}

}  // namespace tessera::nccl
