// Ranks as threads of one process, on the CPU or all on one GPU. A rank reads what another one sends from the
// other one's own memory: the copies and sums of each call are here, and world.hpp says when they are made.
#include <algorithm>

#include "comm/world.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

/// Part i of n of a contiguous tensor, which counts as one row of elements. Parts differ by one element at
/// most.
Tensor chunk(const Tensor& x, std::size_t i, std::size_t n) {
  const auto size = x.size(), count = static_cast<std::int64_t>(n), index = static_cast<std::int64_t>(i);
  return x.reshape(1, size).column_range(size * index / count, size * (index + 1) / count);
}

/// Copies another rank's buffer, and counts it. Bytes cross between ranks here and in sum_in, nowhere else.
void copy_in(const Operation::Seat& me, const Tensor& to, const Tensor& from) {
  to.copy_from(from);
  me.journal->wire(me.row, from.bytes(), true);
}

/// Sums part `mine` of the inputs of all seats, in rank order. n-1 of them come from other ranks.
void sum_in(const std::vector<Operation::Seat>& seats, std::size_t mine, const Tensor& to) {
  std::vector<Tensor> inputs;
  for (const auto& seat : seats) inputs.push_back(chunk(seat.in, mine, seats.size()));
  const Operation::Seat& me = seats[mine];
  // A single rank that reduces in place has its sum already.
  const bool done = inputs.size() == 1 && inputs[0].raw() == to.raw();
  if (!done) kernels_of(to).reduce(to, inputs, me.call->reduce);
  me.journal->wire(me.row, static_cast<std::int64_t>(inputs.size() - 1) * to.bytes(), true);
}

}  // namespace

bool Operation::all_posted() const {
  return std::ranges::all_of(seats, [](const Seat& seat) { return seat.call.has_value(); });
}

bool Operation::complete() const {
  return std::ranges::all_of(seats, [&](const Seat& seat) { return seat.call && seat.steps_done == steps; });
}

bool Operation::can_step(const Seat& mine) const {
  return mine.steps_done < steps && std::ranges::all_of(seats, [&](const Seat& other) {
           return other.call && other.steps_done >= mine.steps_done;
         });
}

Event Operation::run_step(std::size_t mine, const std::vector<Event>& events) {
  const std::size_t n = seats.size();
  Seat& me = seats[mine];
  Device& device = *(me.in.defined() ? me.in : me.out).device();
  const StreamScope scope(device, Stream::communication);
  for (const Event& event : events) device.wait(event);  // all are recorded, so no kernel waits for a rank
  const bool traced = me.journal->traced();
  if (traced && !me.began) me.began = device.mark();
  const auto from_others = [&](const auto& copy) {
    for (std::size_t i = 0; i < n; ++i)
      if (i != mine) copy(i);
  };

  switch (me.call->op) {
    case OpType::all_reduce:
      if (me.steps_done == 0)
        sum_in(seats, mine, chunk(me.out, mine, n));
      else
        from_others([&](std::size_t i) { copy_in(me, chunk(me.out, i, n), chunk(seats[i].out, i, n)); });
      break;
    case OpType::reduce_scatter:
      sum_in(seats, mine, chunk(me.out, 0, 1));
      break;
    case OpType::all_gather:
      chunk(me.out, mine, n).copy_from(chunk(me.in, 0, 1));
      from_others([&](std::size_t i) { copy_in(me, chunk(me.out, i, n), chunk(seats[i].in, 0, 1)); });
      break;
    case OpType::broadcast:
      if (const auto root = static_cast<std::size_t>(me.call->peer); root != mine)
        copy_in(me, me.out, seats[root].in);
      break;
    case OpType::all_to_all:
      for (std::size_t i = 0; i < n; ++i) {
        const Range from = seats[i].call->part_sent(static_cast<int>(mine), static_cast<int>(n)),
                    to = me.call->part_received(static_cast<int>(i), static_cast<int>(n));
        const Tensor theirs = seats[i].in.row_range(from.begin, from.end),
                     here = me.out.row_range(to.begin, to.end);
        i == mine ? here.copy_from(theirs) : copy_in(me, here, theirs);
      }
      break;
    case OpType::recv:  // the only step of a message
      copy_in(me, me.out, seats[0].in);
      break;
    case OpType::send:
    case OpType::barrier:
    case OpType::split:
      break;
  }
  if (traced) me.ended = device.mark();
  return device.record();
}

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
