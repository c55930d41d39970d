#include "comm/world.hpp"

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "tensor/error.hpp"

namespace tessera {

namespace {

/// Part i of n of a contiguous tensor seen as one row of elements; the last parts may be one element shorter.
Tensor chunk(const Tensor& x, std::size_t i, std::size_t n) {
  const auto size = x.size(), count = static_cast<std::int64_t>(n), index = static_cast<std::int64_t>(i);
  return x.reshape(1, size).column_range(size * index / count, size * (index + 1) / count);
}

/// Copies another rank's buffer, and counts it: the only places
/// where bytes cross between ranks are this and sum_in.
void copy_in(Operation::Seat& me, const Tensor& to, const Tensor& from) {
  to.copy_from(from);
  me.journal->wire(me.row, from.bytes(), true);
}

/// The sum over all seats of piece(seat's in), in rank order; n-1 pieces come from other ranks.
template <class Piece>
void sum_in(Operation& operation, Operation::Seat& me, const Tensor& to, const Piece& piece) {
  std::vector<Tensor> inputs;
  for (const auto& seat : operation.seats) inputs.push_back(piece(seat.in));
  const bool done = inputs.size() == 1 && inputs[0].raw() == to.raw();  // alone, in place: the sum is there
  if (!done) kernels_of(to).reduce(to, inputs, operation.call.reduce);
  me.journal->wire(me.row, static_cast<std::int64_t>(inputs.size() - 1) * to.bytes(), true);
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
  for (const Event& event : events) device.wait(event);  // recorded already: no kernel waits for a rank
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
  } else if (call.op == "send") {  // the receiver's step, the only one
    copy_in(me, me.out, seats[0].in);
  }
  if (traced) me.ended = device.mark();
  return device.record();
}

World::World(int ranks, std::chrono::duration<double> timeout)
    : timeout_(timeout), ranks_(static_cast<std::size_t>(ranks)) {}

std::shared_ptr<Operation> World::post(const std::string& id, int seats, int steps, int seat,
                                       const Call& call, Operation::Seat entry) {
  const std::lock_guard lock(mutex_);
  const int world_rank = entry.world_rank;
  Rank& me = ranks_[static_cast<std::size_t>(world_rank)];
  me.doing = entry.doing = str(call.text(), " (call ", ++me.calls, ")");
  throw_if_faulty();

  auto& slot = open_[id];
  if (!slot) {
    slot = std::make_shared<Operation>();
    slot->call = call;
    if (call.op == "recv") slot->call.op = "send";
    slot->steps = steps;
    slot->seats.resize(static_cast<std::size_t>(seats));
  }
  const std::shared_ptr<Operation> operation = slot;
  const bool transfer = operation->call.op == "send";
  const Call& first = operation->call;
  if (first.elements != call.elements || first.dtype != call.dtype ||
      (!transfer && (first.op != call.op || first.reduce != call.reduce || first.peer != call.peer))) {
    fault(str("the calls do not match: ", everyone()));
    throw_if_faulty();
  }
  entry.posted = true;
  if (call.op == "send") entry.steps_done = steps;  // the receiver copies: the sender may be busy elsewhere
  operation->seats[static_cast<std::size_t>(seat)] = std::move(entry);
  me.pending.push_back(operation);
  if (operation->all_posted()) {  // before that nobody can go on
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
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
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
    if (!fault_ && me.changed.wait_until(lock, deadline) == std::cv_status::timeout && !operation->complete())
      fault(str("no progress for ", timeout_.count(), " s: ", everyone()));
    me.state = State::running;
    me.awaited = nullptr;
  }
  std::erase(me.pending, operation);
  // A slower rank still holds the operation; the memory of this one must not wait for it.
  operation->seats[own_seat].in = operation->seats[own_seat].out = {};
}

void World::abandon(int world_rank, const std::shared_ptr<Operation>& operation) {
  const std::lock_guard lock(mutex_);
  std::erase(ranks_[static_cast<std::size_t>(world_rank)].pending, operation);
  // A rank that unwinds drops its requests; a rank that does not forgot to wait.
  if (std::uncaught_exceptions() == 0)
    fault(str("rank ", world_rank, " never waited for its ",
              operation->seats[static_cast<std::size_t>(seat_of(*operation, world_rank))].doing));
}

void World::finished(int world_rank) {
  const std::lock_guard lock(mutex_);
  Rank& me = ranks_[static_cast<std::size_t>(world_rank)];
  me.state = State::finished;
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
  me.doing = str(call.text(), " (call ", ++me.calls, ")");
  me.where.clear();
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
  me.where = str("has returned after ", me.calls, " calls");
}

void World::report(const std::string& message) {
  const std::lock_guard lock(mutex_);
  fault(message);
}

void World::report_stall() {
  const std::lock_guard lock(mutex_);
  fault(str("no progress for ", timeout_.count(), " s: ", everyone()));
}

void World::check() const {
  const std::lock_guard lock(mutex_);
  throw_if_faulty();
}

void World::failed(int world_rank, const std::exception_ptr& thrown) {
  const std::lock_guard lock(mutex_);
  if (fault_) return;
  first_thrown_ = thrown;
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& error) {
    fault(str("stopped, because rank ", world_rank, " threw: ", error.what()));
  } catch (...) {
    fault(str("stopped, because rank ", world_rank, " threw"));
  }
}

bool World::all_ended() const {
  return std::none_of(ranks_.begin(), ranks_.end(), [](const Rank& rank) {
    return rank.state == State::running || rank.state == State::waiting;
  });
}

void World::join(std::vector<std::thread>& threads) {
  std::unique_lock lock(mutex_);
  ended_.wait(lock, [&] { return fault_ || all_ended(); });
  const bool stopped = ended_.wait_for(lock, std::chrono::seconds(2), [&] { return all_ended(); });
  lock.unlock();
  if (!stopped) {
    // A rank that computes for ever cannot be stopped from outside. Say what is known, and end the process.
    try {
      rethrow_first_fault();
    } catch (const std::exception& error) {
      std::cerr << "error: " << error.what() << std::endl;
    }
    std::_Exit(3);
  }
  for (auto& thread : threads) thread.join();
  rethrow_first_fault();
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
    const char* verb = rank.state == State::waiting   ? "waits in "
                       : rank.state == State::running ? "is at "
                                                      : "";
    text += str(text.empty() ? "" : "; ", "rank ", i, " ");
    if (!rank.where.empty())
      text += rank.where;
    else if (rank.state == State::finished)
      text += str("has returned after ", rank.calls, " calls");
    else
      text += rank.calls == 0 ? rank.doing : str(verb, rank.doing);
  }
  return text;
}

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
  if (someone_waits) fault(str("no rank can go on: ", everyone()));
}

}  // namespace tessera
