// Ranks as threads of one process, on the CPU or all on one GPU. A rank reads what another one sends from the
// other one's own memory; world.hpp says when.
#include <algorithm>
#include <thread>

#include "comm/launch.hpp"
#include "comm/world.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

class ThreadWork final : public Work {
 public:
  ThreadWork(World& world, int world_rank, std::shared_ptr<Operation> operation)
      : world_(world), world_rank_(world_rank), operation_(std::move(operation)) {}

  void wait() override {
    world_.wait(world_rank_, operation_);
    // On CUDA the copies may not have ended. Later work on the compute stream starts after them.
    for (const auto& seat : operation_->seats)
      if (seat.last) Device::current()->wait(seat.last);
  }
  void abandon() override { world_.abandon(world_rank_, operation_); }
  std::pair<Event, Event> marks() const override {
    for (const auto& seat : operation_->seats)
      if (seat.world_rank == world_rank_) return {seat.began, seat.ended};
    return {};
  }

 private:
  World& world_;
  int world_rank_;
  std::shared_ptr<Operation> operation_;
};

class ThreadCommunicator final : public Communicator {
 public:
  /// `id` is the same on all ranks of the group, and no other group has it.
  ThreadCommunicator(std::shared_ptr<World> world, std::string id, int rank, int size, std::string name,
                     std::shared_ptr<Journal> journal, std::vector<int> members = {})
      : Communicator(rank, size, std::move(name), std::move(journal), std::move(members)),
        world_(std::move(world)),
        id_(std::move(id)),
        transfers_(static_cast<std::size_t>(size), {0, 0}) {}

  std::string transport() const override { return "threads"; }

 private:
  std::shared_ptr<Operation> meet(const Call& call, const TrafficKey& row, int steps, const Tensor& in,
                                  const Tensor& out, int color = 0, int key = 0) {
    Operation::Seat entry = seat(row, in, out);
    entry.color = color;
    entry.key = key;
    return world_->post(format("{}#{}", id_, collectives_++), size(), steps, rank(), call, std::move(entry));
  }

  Operation::Seat seat(const TrafficKey& row, const Tensor& in, const Tensor& out) {
    Operation::Seat entry;
    entry.world_rank = world_rank(rank());
    entry.in = in;
    entry.out = out;
    entry.journal = &journal();
    entry.row = row;
    if (in.defined() || out.defined()) entry.last = Device::current()->record();
    return entry;
  }

  std::unique_ptr<Work> work(std::shared_ptr<Operation> operation) {
    return std::make_unique<ThreadWork>(*world_, world_rank(rank()), std::move(operation));
  }

  std::unique_ptr<Work> do_all_reduce(const Call& call, const TrafficKey& row, const Tensor& in,
                                      const Tensor& out) override {
    return work(meet(call, row, 2, in, out));  // reduce a chunk each, then copy the others' chunks
  }
  std::unique_ptr<Work> do_all_gather(const Call& call, const TrafficKey& row, const Tensor& in,
                                      const Tensor& out) override {
    return work(meet(call, row, 1, in, out));
  }
  std::unique_ptr<Work> do_reduce_scatter(const Call& call, const TrafficKey& row, const Tensor& in,
                                          const Tensor& out) override {
    return work(meet(call, row, 1, in, out));
  }
  std::unique_ptr<Work> do_broadcast(const Call& call, const TrafficKey& row, const Tensor& x) override {
    return work(meet(call, row, 1, x, x));
  }
  std::unique_ptr<Work> do_barrier(const Call& call) override { return work(meet(call, {}, 0, {}, {})); }

  std::unique_ptr<Work> do_send(const Call& call, const TrafficKey& row, const Tensor& x) override {
    const auto number = transfers_[static_cast<std::size_t>(call.peer)].first++;
    return work(
        world_->post(format("{}:{}>{}#{}", id_, rank(), call.peer, number), 2, 1, 0, call, seat(row, x, {})));
  }
  std::unique_ptr<Work> do_recv(const Call& call, const TrafficKey& row, const Tensor& x) override {
    const auto number = transfers_[static_cast<std::size_t>(call.peer)].second++;
    return work(
        world_->post(format("{}:{}>{}#{}", id_, call.peer, rank(), number), 2, 1, 1, call, seat(row, {}, x)));
  }

  std::unique_ptr<Communicator> do_split(const Call& call, int color, int key,
                                         const std::string& name) override {
    const std::string id = format("{}/{}.{}", id_, collectives_, color);
    const auto operation = meet(call, {}, 0, {}, {}, color, key);
    work(operation)->wait();
    if (color < 0) return nullptr;
    std::vector<std::pair<int, int>> order;  // (key, rank) of this color
    for (int i = 0; i < size(); ++i)
      if (const auto& other = operation->seats[static_cast<std::size_t>(i)]; other.color == color)
        order.emplace_back(other.key, i);
    std::sort(order.begin(), order.end());
    std::vector<int> members;
    int mine = 0;
    for (const auto& [_, i] : order) {
      if (i == rank()) mine = static_cast<int>(members.size());
      members.push_back(world_rank(i));
    }
    const int size = static_cast<int>(members.size());
    return std::make_unique<ThreadCommunicator>(world_, id, mine, size, name, shared_journal(),
                                                std::move(members));
  }
  std::unique_ptr<Busy> do_busy(const std::string& what) override {
    return world_->busy(world_rank(rank()), what);
  }

  std::shared_ptr<World> world_;
  std::string id_;
  long collectives_ = 0;
  std::vector<std::pair<long, long>> transfers_;  // by peer: sent, received
};

}  // namespace

void launch_threads(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  const auto world = std::make_shared<World>(options.ranks, options.timeout);
  const auto start = std::chrono::steady_clock::now();
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));

  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks; ++rank)
    threads.emplace_back([&, rank] {
      try {
        const auto device = options.make_device(0, rank);  // virtual ranks share GPU 0
        const Device::Scope scope(device);
        set_math_threads(math_threads_or(options.ranks == 1 ? cores : 1, options.ranks));
        ThreadCommunicator comm(world, "world", rank, options.ranks, "world",
                                std::make_shared<Journal>(start, options.trace));
        body(comm);
        device->synchronize();
      } catch (...) {
        world->failed(rank, std::current_exception());
      }
      world->finished(rank);
    });
  world->join(threads, options.device);
}

}  // namespace tessera
