#include "comm/world.hpp"

#include <algorithm>
#include <cstdlib>
#include <iostream>

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
void copy_in(Operation::Seat& me, const Tensor& to, const Tensor& from) {
  to.copy_from(from);
  me.journal->wire(me.row, from.bytes(), true);
}

/// Sums piece(in) over the inputs of all seats, in rank order. n-1 pieces come from other ranks.
template <class Piece>
void sum_in(Operation& operation, Operation::Seat& me, const Tensor& to, const Piece& piece) {
  std::vector<Tensor> inputs;
  for (const auto& seat : operation.seats) inputs.push_back(piece(seat.in));
  // A single rank that reduces in place has its sum already.
  const bool done = inputs.size() == 1 && inputs[0].raw() == to.raw();
  if (!done) kernels_of(to).reduce(to, inputs, operation.call.reduce);
  me.journal->wire(me.row, static_cast<std::int64_t>(inputs.size() - 1) * to.bytes(), true);
}

/// The message of what a rank threw, behind the rank's name unless it begins with that.
std::string said_by(int rank, std::size_t ranks, const std::string& what) {
  const std::string who = format("rank {}", rank);
  return ranks == 1 || what.rfind(who, 0) == 0 ? what : who + ": " + what;
}

}  // namespace

bool Operation::all_posted() const {
  return std::all_of(seats.begin(), seats.end(), [](const Seat& seat) { return seat.posted; });
}

bool Operation::complete() const {
  return std::all_of(seats.begin(), seats.end(),
                     [&](const Seat& seat) { return seat.posted && seat.steps_done == steps; });
}

bool Operation::can_step(int seat) const {
  const int done = seats[static_cast<std::size_t>(seat)].steps_done;
  return done < steps && all_posted() &&
         std::all_of(seats.begin(), seats.end(), [&](const Seat& other) { return other.steps_done >= done; });
}

Event Operation::run_step(int seat, const std::vector<Event>& events) {
  const std::size_t n = seats.size(), mine = static_cast<std::size_t>(seat);
  Seat& me = seats[mine];
  const Tensor& any = me.in.defined() ? me.in : me.out;
  if (!any.defined()) return nullptr;  // a barrier, a split
  Device& device = *any.device();
  const StreamScope scope(device, Stream::communication);
  for (const Event& event : events) device.wait(event);  // all are recorded, so no kernel waits for a rank
  const bool traced = me.journal->traced();
  if (traced && !me.began) me.began = device.mark();

  if (call.op == "all_reduce" && me.steps_done == 0) {
    sum_in(*this, me, chunk(me.out, mine, n), [&](const Tensor& in) { return chunk(in, mine, n); });
  } else if (call.op == "all_reduce") {
    for (std::size_t i = 0; i < n; ++i)
      if (i != mine) copy_in(me, chunk(me.out, i, n), chunk(seats[i].out, i, n));
  } else if (call.op == "reduce_scatter") {
    sum_in(*this, me, me.out.reshape(1, me.out.size()), [&](const Tensor& in) { return chunk(in, mine, n); });
  } else if (call.op == "all_gather") {
    chunk(me.out, mine, n).copy_from(me.in.reshape(1, me.in.size()));
    for (std::size_t i = 0; i < n; ++i)
      if (i != mine) copy_in(me, chunk(me.out, i, n), seats[i].in.reshape(1, seats[i].in.size()));
  } else if (call.op == "broadcast") {
    const auto root = static_cast<std::size_t>(call.peer);
    if (mine != root) copy_in(me, me.out, seats[root].in);
  } else if (call.point_to_point()) {  // the receiver's step, the only one
    copy_in(me, me.out, seats[0].in);
  }
  if (traced) me.ended = device.mark();
  return device.record();
}

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

void World::failed(int world_rank, const std::exception_ptr& thrown) {
  const std::lock_guard lock(mutex_);
  if (fault_) return;
  const auto stop = [&](const char* what) {
    fault(format("stopped, because rank {} threw: {}", world_rank, what));
    return said_by(world_rank, ranks_.size(), what);
  };
  try {
    std::rethrow_exception(thrown);
  } catch (const UsageError& error) {
    first_thrown_ = std::make_exception_ptr(UsageError(stop(error.what())));
  } catch (const Error& error) {
    first_thrown_ = std::make_exception_ptr(Error(stop(error.what())));
  } catch (const std::exception& error) {
    stop(error.what());
    first_thrown_ = thrown;
  } catch (...) {
    stop("an object that is no std::exception");
    first_thrown_ = thrown;
  }
}

bool World::all_ended() const {
  return std::none_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) {
    return rank.state == State::running || rank.state == State::waiting;
  });
}

void World::join(std::vector<std::thread>& threads, DeviceKind device) {
  std::unique_lock lock(mutex_);
  const auto over = [&] { return fault_ || all_ended(); };
  for (Time now = moved_; !ended_.wait_until(lock, now + timeout_, over);) {
    const Time since = std::max(moved_, busy_until());
    now = std::chrono::steady_clock::now();
    if (one_keeps_the_rest_waiting() && now - since >= timeout_) stall();
    if (now - since < timeout_) now = since;  // the next look is when the time-out may have passed
  }
  const std::chrono::seconds grace(device == DeviceKind::cuda ? 30 : 2);
  const bool stopped = ended_.wait_for(lock, grace, [&] { return all_ended(); });
  lock.unlock();
  if (!stopped) {
    // Nothing can stop a rank that computes for ever. Say what is known, and end the process.
    int code = 3;
    try {
      rethrow_first_fault();
    } catch (const UsageError& error) {
      std::cerr << "error: " << error.what() << std::endl;
      code = 2;
    } catch (const std::exception& error) {
      std::cerr << "error: " << error.what() << std::endl;
    }
    std::_Exit(code);
  }
  for (auto& thread : threads) thread.join();
  rethrow_first_fault();
}

/// True where some ranks have returned and no other rank waits, so that the time-out of no call runs.
bool World::one_keeps_the_rest_waiting() const {
  const auto some = [&](State state) {
    return std::any_of(ranks_.begin(), ranks_.end(), [&](const Rank& rank) { return rank.state == state; });
  };
  return some(State::finished) && some(State::running) && !some(State::waiting);
}

World::Time World::busy_until() const {
  const bool now = std::any_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) {
    return !rank.busy.empty() && rank.state == State::running && rank.where.rfind("waits in", 0) != 0;
  });
  return now ? Time(std::chrono::steady_clock::now()) : last_busy_;
}

void World::rethrow_first_fault() {
  const std::lock_guard lock(mutex_);
  if (first_thrown_) std::rethrow_exception(first_thrown_);
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

std::string World::everyone() const {
  std::string text;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const Rank& rank = ranks_[i];
    if (rank.state == State::elsewhere) continue;
    text += format("{}rank {} ", text.empty() ? "" : "; ", i);
    if (rank.state == State::finished)
      text += format("has returned after {} calls", rank.calls);
    else if (rank.state == State::waiting)
      text += "waits in " + rank.doing;
    else if (!rank.busy.empty() && rank.where.rfind("waits in", 0) != 0)
      text += rank.busy.back();
    else if (!rank.where.empty())
      text += rank.where;
    else
      text += rank.calls == 0 ? "has made no call" : "is outside any call, after " + rank.doing;
  }
  return text;
}

void World::stall() { fault(format("no progress for {:g} s: {}", timeout_.count(), everyone())); }

void World::fault(const std::string& message) {
  if (!fault_) fault_ = message;
  for (Rank& rank : ranks_) rank.changed.notify_one();
  ended_.notify_all();
}

void World::throw_if_faulty() const {
  if (fault_) throw Error(*fault_);
}

void World::check_for_deadlock() {
  bool someone_waits = false;
  for (std::size_t i = 0; i < ranks_.size(); ++i) {
    const Rank& rank = ranks_[i];
    if (rank.state == State::finished || rank.state == State::elsewhere) continue;
    if (rank.state == State::running || rank.awaited->complete() || steppable(static_cast<int>(i))) return;
    someone_waits = true;
  }
  if (someone_waits) fault(format("no rank can go on: {}", everyone()));
}

}  // namespace tessera
