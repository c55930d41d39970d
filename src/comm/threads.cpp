// Ranks as threads of one process, on the CPU or all on one GPU. A rank reads what another one sends from the
// other one's own memory; world.hpp says when.
#include <thread>

#include "comm/world.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

class ThreadWork final : public Work {
 public:
  ThreadWork(World& world, Entry entry) : world_(world), entry_(std::move(entry)) {}
  void wait() override { world_.wait(entry_); }
  void abandon() override { world_.abandon(entry_.call()); }
  std::pair<Event, Event> marks() const override { return {entry_.mine().began, entry_.mine().ended}; }

 private:
  World& world_;
  Entry entry_;
};

class ThreadCommunicator final : public Communicator {
 public:
  /// `id` is the same on all ranks of the group, and no other group has it.
  ThreadCommunicator(World& world, std::string id, int rank, int size, std::string name,
                     std::shared_ptr<Journal> journal, std::vector<int> members = {})
      : Communicator(rank, size, std::move(name), std::move(journal), std::move(members)),
        world_(world),
        id_(std::move(id)) {}

  std::string transport() const override { return "threads"; }

 private:
  Entry post(const Call& call, const Tensor& in, const Tensor& out) {
    Operation::Seat mine{.call = call, .in = in, .out = out, .journal = &journal(), .row = row_of(call)};
    world_.enter(*mine.call);
    if (call.moves_data()) mine.last = Device::current()->record();
    if (call.point_to_point()) {
      const bool sends = call.op == OpType::send;
      const std::pair way = sends ? std::pair(rank(), call.peer) : std::pair(call.peer, rank());
      const std::string id = format("{}:{}>{}#{}", id_, way.first, way.second, messages_[way]++);
      return world_.post(id, 2, 1, sends ? 0 : 1, std::move(mine));
    }
    // An all-reduce sums one part a rank, then copies the others' parts.
    const int steps = call.op == OpType::all_reduce ? 2 : call.moves_data() ? 1 : 0;
    return world_.post(format("{}#{}", id_, collectives_++), static_cast<std::size_t>(size()), steps,
                       static_cast<std::size_t>(rank()), std::move(mine));
  }

  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    return std::make_shared<ThreadWork>(world_, post(call, in, out));
  }
  std::unique_ptr<Communicator> do_split(const Call& call, const std::string& name) override {
    const std::string id = format("{}/{}.{}", id_, collectives_, call.color);
    const Entry entry = post(call, {}, {});
    world_.wait(entry);
    if (call.color < 0) return nullptr;
    std::vector<Call> calls;
    for (const auto& seat : entry.operation->seats) calls.push_back(*seat.call);
    const Part part = part_of(std::move(calls));
    return std::make_unique<ThreadCommunicator>(world_, id, part.rank, static_cast<int>(part.members.size()),
                                                name, shared_journal(), part.members);
  }
  std::shared_ptr<void> do_busy(const std::string& what) override {
    return world_.busy(world_rank(rank()), what);
  }
  bool counts_bytes() const override { return true; }

  World& world_;
  std::string id_;
  long collectives_ = 0;
  std::map<std::pair<int, int>, long> messages_;  // how many, by sender and receiver
};

}  // namespace

void launch_threads(const LaunchOptions& options, const std::function<void(Communicator&)>& body) {
  World world(options);
  const auto start = std::chrono::steady_clock::now();
  world.run([&](int rank) {
    const auto device = Device::make(options.device, 0);  // virtual ranks share GPU 0
    run_rank(device, rank, options, threads_of_rank(options), [&] {
      ThreadCommunicator comm(world, "world", rank, options.ranks, "world",
                              std::make_shared<Journal>(start, options.trace));
      body(comm);
    });
  });
}

}  // namespace tessera
