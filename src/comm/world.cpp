#include "comm/world.hpp"

#include <algorithm>

#include "tensor/error.hpp"

namespace tessera {

World::World(int ranks, std::chrono::duration<double> timeout)
    : timeout_(timeout),
      moved_(std::chrono::steady_clock::now()),
      last_busy_(moved_),
      ranks_(static_cast<std::size_t>(ranks)) {}

std::shared_ptr<Operation> World::post(const std::string& id, int seats, int steps, int seat,
                                       const Call& call, Operation::Seat entry) {
  const std::lock_guard lock(mutex_);
  const int world_rank = entry.world_rank;
  Rank& me = ranks_[static_cast<std::size_t>(world_rank)];
  me.doing = entry.doing = text_of(call, ++me.calls);
  moved_ = std::chrono::steady_clock::now();
  throw_if_faulty();

  auto& slot = open_[id];
  if (!slot) {
    slot = std::make_shared<Operation>();
    slot->call = call;
    slot->first_seat = seat;
    slot->steps = steps;
    slot->seats.resize(static_cast<std::size_t>(seats));
  }
  const std::shared_ptr<Operation> operation = slot;
  const Operation::Seat& first = operation->seats[static_cast<std::size_t>(operation->first_seat)];
  if (first.posted && !operation->call.matches(call)) {
    fault(mismatch(first.world_rank, first.doing, world_rank, entry.doing));
    throw_if_faulty();
  }
  entry.posted = true;
  if (call.op == "send") entry.steps_done = steps;  // the receiver copies while the sender may compute
  operation->seats[static_cast<std::size_t>(seat)] = std::move(entry);
  me.pending.push_back(operation);
  if (operation->all_posted()) {  // no rank can go on before that
    open_.erase(id);
    wake(*operation);
  }
  return operation;
}

void World::wait(int world_rank, const std::shared_ptr<Operation>& operation) {
  std::unique_lock lock(mutex_);
  Rank& me = ranks_[static_cast<std::size_t>(world_rank)];
  const auto own_seat = static_cast<std::size_t>(seat_of(*operation, world_rank));
  me.doing = operation->seats[own_seat].doing;
  const Time began = std::chrono::steady_clock::now();
  while (true) {
    throw_if_faulty();
    if (operation->complete()) break;
    if (const auto work = steppable(world_rank)) {
      const int seat = seat_of(*work, world_rank);
      std::vector<Event> events;
      for (const auto& other : work->seats) events.push_back(other.last);
      lock.unlock();
      Event end = work->run_step(seat, events);
      lock.lock();
      Operation::Seat& mine = work->seats[static_cast<std::size_t>(seat)];
      mine.last = std::move(end);
      ++mine.steps_done;
      wake(*work);
      continue;
    }
    me.state = State::waiting;
    me.awaited = operation;
    check_for_deadlock();
    const Time deadline = std::max(began, busy_until()) + timeout_;
    if (!fault_ && me.changed.wait_until(lock, deadline) == std::cv_status::timeout &&
        !operation->complete() && std::max(began, busy_until()) + timeout_ <= deadline)
      stall();
    me.state = State::running;
    me.awaited = nullptr;
  }
  std::erase(me.pending, operation);
  // A slower rank still holds the operation, and must not keep this rank's memory.
  operation->seats[own_seat].in = operation->seats[own_seat].out = {};
}

void World::abandon(int world_rank, const std::shared_ptr<Operation>& operation) {
  const std::lock_guard lock(mutex_);
  std::erase(ranks_[static_cast<std::size_t>(world_rank)].pending, operation);
  // A rank that unwinds drops its requests. Any other rank forgot to wait.
  if (std::uncaught_exceptions() == 0)
    fault(format("rank {} never waited for its {}", world_rank,
                 operation->seats[static_cast<std::size_t>(seat_of(*operation, world_rank))].doing));
}

void World::finished(int world_rank) {
  const std::lock_guard lock(mutex_);
  Rank& me = ranks_[static_cast<std::size_t>(world_rank)];
  me.state = State::finished;
  moved_ = std::chrono::steady_clock::now();
  for (const auto& operation : me.pending)
    fault(format("rank {} never waited for its {}", world_rank,
                 operation->seats[static_cast<std::size_t>(seat_of(*operation, world_rank))].doing));
  check_for_deadlock();
  ended_.notify_all();
}

void World::only(int world_rank) {
  const std::lock_guard lock(mutex_);
  for (std::size_t i = 0; i < ranks_.size(); ++i)
    if (static_cast<int>(i) != world_rank) ranks_[i].state = State::elsewhere;
}

std::string World::enter(int world_rank, const Call& call) {
  const std::lock_guard lock(mutex_);
  Rank& me = ranks_[static_cast<std::size_t>(world_rank)];
  me.doing = text_of(call, ++me.calls);
  me.where.clear();
  moved_ = std::chrono::steady_clock::now();
  throw_if_faulty();
  return me.doing;
}

void World::back_at(int world_rank, const std::string& where) {
  const std::lock_guard lock(mutex_);
  ranks_[static_cast<std::size_t>(world_rank)].where = where;
}

void World::returned(int world_rank) {
  const std::lock_guard lock(mutex_);
  Rank& me = ranks_[static_cast<std::size_t>(world_rank)];
  me.where = format("has returned after {} calls", me.calls);
}

long World::calls(int world_rank) const {
  const std::lock_guard lock(mutex_);
  return ranks_[static_cast<std::size_t>(world_rank)].calls;
}

void World::report(const std::string& message) {
  const std::lock_guard lock(mutex_);
  fault(message);
}

void World::report_stall() {
  const std::lock_guard lock(mutex_);
  if (std::chrono::steady_clock::now() - busy_until() >= timeout_) stall();
}

std::unique_ptr<Busy> World::busy(int world_rank, const std::string& what) {
  struct Scope final : Busy {
    Scope(World& world, int rank, const std::string& what) : world(world), rank(rank) {
      const std::lock_guard lock(world.mutex_);
      stack().push_back(what);
    }
    ~Scope() override {
      const std::lock_guard lock(world.mutex_);
      stack().pop_back();
      world.last_busy_ = std::chrono::steady_clock::now();
    }
    std::vector<std::string>& stack() const { return world.ranks_[static_cast<std::size_t>(rank)].busy; }
    World& world;
    int rank;
  };
  return std::make_unique<Scope>(*this, world_rank, what);
}

void World::check() const {
  const std::lock_guard lock(mutex_);
  throw_if_faulty();
}

std::shared_ptr<Operation> World::steppable(int world_rank) const {
  for (const auto& operation : ranks_[static_cast<std::size_t>(world_rank)].pending)
    if (operation->can_step(seat_of(*operation, world_rank))) return operation;
  return nullptr;
}

void World::wake(const Operation& operation) {
  for (const auto& seat : operation.seats)
    ranks_[static_cast<std::size_t>(seat.world_rank)].changed.notify_one();
}

int World::seat_of(const Operation& operation, int world_rank) const {
  int seat = 0;
  while (operation.seats[static_cast<std::size_t>(seat)].world_rank != world_rank) ++seat;
  return seat;
}

}  // namespace tessera
