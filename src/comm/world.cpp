#include "comm/world.hpp"

#include <algorithm>
#include <thread>

#include "tensor/error.hpp"

namespace tessera {

namespace {
std::chrono::steady_clock::time_point now() { return std::chrono::steady_clock::now(); }
constexpr std::chrono::microseconds spin_time(50);
}  // namespace

World::World(const LaunchOptions& options)
    : options_(options),
      moved_(now()),
      last_busy_(moved_),
      core_each_(options.ranks <= static_cast<int>(std::thread::hardware_concurrency())),
      ranks_(static_cast<std::size_t>(options.ranks)) {}

std::unique_lock<std::mutex> World::take() const {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (!lock)
    for (const Time end = now() + spin_time; !lock.try_lock() && now() < end;) pause();
  if (!lock) lock.lock();
  return lock;
}

void World::pause() const {
  if (!core_each_) std::this_thread::yield();
}

void World::enter(Call& call) {
  const auto lock = take();
  Rank& me = at(call.world_rank);
  call.number = ++me.calls;
  me.call = call;
  me.where.clear();
  moved_ = now();
  throw_if_faulty();
  me.unwaited.emplace(call.number, call);
}

void World::begin_wait(const Call& call) {
  const auto lock = take();
  at(call.world_rank).unwaited.erase(call.number);
}

void World::abandon(const Call& call) {
  const std::lock_guard lock(mutex_);
  at(call.world_rank).unwaited.erase(call.number);
  // A rank that unwinds drops its requests. Any other rank forgot to wait.
  if (std::uncaught_exceptions() == 0) never_waited(call);
}

Entry World::post(const std::string& id, std::size_t seats, int steps, std::size_t seat,
                  Operation::Seat mine) {
  const auto lock = take();
  throw_if_faulty();
  auto& slot = open_[id];
  if (!slot) slot = std::make_shared<Operation>(Operation{std::vector<Operation::Seat>(seats), steps});
  const Entry entry{slot, seat};
  const Call call = *mine.call;
  const auto other = std::ranges::find_if(
      slot->seats, [&](const auto& one) { return one.call.has_value() && !one.call->matches(call); });
  if (other != slot->seats.end()) {
    fault(mismatch({*other->call, call}));
    throw_if_faulty();
  }
  if (call.op == OpType::send) mine.steps_done = steps;  // the receiver copies while the sender may compute
  entry.mine() = std::move(mine);
  at(call.world_rank).pending.push_back(entry);
  if (slot->all_posted()) {  // no rank can go on before that
    open_.erase(id);
    wake(*entry.operation);
  }
  return entry;
}

void World::wait(const Entry& entry) {
  const auto& operation = entry.operation;
  std::unique_lock lock = take();
  Rank& me = at(entry.call().world_rank);
  me.call = entry.call();
  me.unwaited.erase(me.call->number);
  const Time began = now();
  while (true) {
    throw_if_faulty();
    if (operation->complete()) break;
    if (const Entry* next = steppable(me)) {
      const Entry work = *next;
      std::vector<Event> events;
      for (const auto& other : work.operation->seats) events.push_back(other.last);
      lock.unlock();
      Event end = work.operation->run_step(work.seat, events);
      lock = take();
      work.mine().last = std::move(end);
      ++work.mine().steps_done;
      wake(*work.operation);
      continue;
    }
    me.state = State::waiting;
    me.awaited = operation;
    check_for_deadlock();
    const auto deadline = [&] { return std::max(began, busy_until()) + options_.timeout; };
    const Time until = deadline();
    const long seen = me.changes;
    lock.unlock();  // to be woken takes longer than a small call
    for (const Time end = now() + spin_time; me.changes == seen && now() < end;) pause();
    lock = take();
    if (!fault_ && me.changes == seen && me.changed.wait_until(lock, until) == std::cv_status::timeout &&
        !operation->complete() && deadline() <= until)
      stall();
    me.state = State::running;
    me.awaited = nullptr;
  }
  std::erase(me.pending, entry);
  // A slower rank still holds the operation, and must not keep this rank's memory.
  entry.mine().in = entry.mine().out = {};
  lock.unlock();
  // On CUDA the copies may not have ended. Later work on the compute stream starts after them.
  for (const auto& seat : operation->seats)
    if (seat.last) Device::current()->wait(seat.last);
}

std::shared_ptr<void> World::busy(int world_rank, const std::string& what) {
  const std::lock_guard lock(mutex_);
  at(world_rank).busy.push_back(what);
  return {nullptr, [this, world_rank](void*) {
            const std::lock_guard guard(mutex_);
            at(world_rank).busy.pop_back();
            last_busy_ = now();
          }};
}

void World::only(int world_rank) {
  const std::lock_guard lock(mutex_);
  for (Rank& rank : ranks_) rank.state = State::elsewhere;
  at(world_rank).state = State::running;
}

void World::back_at(int world_rank, const std::string& where) {
  const std::lock_guard lock(mutex_);
  at(world_rank).where = where;
}

std::string World::doing(int world_rank) const {
  const std::lock_guard lock(mutex_);
  return at(world_rank).doing();
}

void World::returned(int world_rank) {
  const std::lock_guard lock(mutex_);
  at(world_rank).where = format("has returned after {} calls", at(world_rank).calls);
  for (const auto& [_, call] : at(world_rank).unwaited) never_waited(call);
}

void World::report(const std::string& message) {
  const std::lock_guard lock(mutex_);
  fault(message);
}

void World::report_stall() {
  const std::lock_guard lock(mutex_);
  if (now() - busy_until() >= options_.timeout) stall();
}

void World::check() const {
  const std::lock_guard lock(mutex_);
  throw_if_faulty();
}

const Entry* World::steppable(const Rank& rank) {
  const auto found = std::ranges::find_if(
      rank.pending, [](const Entry& entry) { return entry.operation->can_step(entry.mine()); });
  return found == rank.pending.end() ? nullptr : &*found;
}

void World::wake(const Operation& operation) {
  for (const auto& seat : operation.seats) at(seat.call->world_rank).wake();
}

}  // namespace tessera
