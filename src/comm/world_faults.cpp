// Faults of a World: how a stall or a circle of waits is found, what the message says, and how a fault ends
// the launch.
#include <algorithm>
#include <thread>

#include "comm/world.hpp"
#include "tensor/error.hpp"

namespace tessera {

void World::run(const std::function<void(int rank)>& body) {
  const auto live = [this](int rank, const std::function<void(int)>& life) {
    try {
      life(rank);
      returned(rank);
    } catch (...) {
      failed(rank);
    }
    finished(rank);
  };
  std::vector<std::thread> threads;
  threads.reserve(ranks_.size());
  for (int rank = 0; rank < options_.ranks; ++rank) {
    try {
      threads.emplace_back(live, rank, std::cref(body));
    } catch (const std::exception& error) {  // the ranks that have begun must stop before this returns
      live(rank, [&](int) {
        throw UsageError("--ranks {}: no thread for rank {}: {}; fewer ranks would work", options_.ranks,
                         rank, error.what());
      });
    }
  }

  std::unique_lock lock(mutex_);
  const auto over = [&] { return fault_ || all_ended(); };
  for (Time now = moved_; !ended_.wait_until(lock, now + options_.timeout, over);) {
    const Time since = std::max(moved_, busy_until());
    now = std::chrono::steady_clock::now();
    // Where some ranks have returned and no other rank waits, the time-out of no call runs.
    const bool one_keeps_the_rest_waiting =
        any(State::finished) && any(State::running) && !any(State::waiting);
    if (one_keeps_the_rest_waiting && now - since >= options_.timeout) stall();
    if (now - since < options_.timeout) now = since;  // the next look is when the time-out may have passed
  }
  // A rank on a GPU stops only when the GPU has done what it was asked for.
  const std::chrono::seconds grace(options_.device == DeviceKind::cuda ? 30 : 2);
  const bool stopped = ended_.wait_for(lock, grace, [&] { return all_ended(); });
  lock.unlock();
  if (!stopped) end_process(first_failure());  // nothing can stop a rank that computes for ever
  for (auto& thread : threads) thread.join();
  rethrow_first_fault();
}

void World::failed(int world_rank) {
  const std::lock_guard lock(mutex_);
  const std::string what = Failure::current().what;
  // Of ranks that throw the same, the lowest is named, whichever came first.
  const bool lowest = first_thrown_ && what == first_what_ && world_rank < first_thrower_;
  if (fault_ && !lowest) return;
  first_what_ = what, first_thrower_ = world_rank;
  const std::string said = ranks_.size() == 1 ? what : said_by(world_rank, what);
  try {
    throw;
  } catch (const OutOfMemory&) {
    first_thrown_ = std::make_exception_ptr(OutOfMemory(said));
  } catch (const UsageError&) {
    first_thrown_ = std::make_exception_ptr(UsageError(said));
  } catch (const Error&) {
    first_thrown_ = std::make_exception_ptr(Error(said));
  } catch (...) {
    first_thrown_ = std::current_exception();
  }
  fault(format("stopped, because rank {} threw: {}", world_rank, what));
}

void World::finished(int world_rank) {
  const std::lock_guard lock(mutex_);
  at(world_rank).state = State::finished;
  moved_ = std::chrono::steady_clock::now();
  check_for_deadlock();
  ended_.notify_all();
}

bool World::any(State state) const {
  return std::ranges::any_of(ranks_, [&](const Rank& rank) { return rank.state == state; });
}

World::Time World::busy_until() const {
  const bool now = std::ranges::any_of(ranks_, [](const Rank& rank) {
    return !rank.busy.empty() && rank.state == State::running && !rank.waits();
  });
  return now ? Time(std::chrono::steady_clock::now()) : last_busy_;
}

void World::rethrow_first_fault() const {
  const std::lock_guard lock(mutex_);
  if (first_thrown_) std::rethrow_exception(first_thrown_);
  throw_if_faulty();
}

Failure World::first_failure() const {
  try {
    rethrow_first_fault();
  } catch (...) {
    return Failure::current();
  }
  return {};
}

std::string World::Rank::doing() const {
  if (state == State::finished) return format("has returned after {} calls", calls);
  if (state == State::waiting) return "waits in " + call->numbered();
  if (!busy.empty() && !waits()) return busy.back();
  if (!where.empty()) return where;
  return call ? "is outside any call, after " + call->numbered() : "has made no call";
}

std::string World::everyone() const {
  std::string text;
  for (std::size_t i = 0; i < ranks_.size(); ++i)
    if (ranks_[i].state != State::elsewhere)
      text += format("{}rank {} {}", text.empty() ? "" : "; ", i, ranks_[i].doing());
  return text;
}

void World::stall() { fault(format("no progress for {:g} s: {}", options_.timeout.count(), everyone())); }

void World::never_waited(const Call& call) {
  fault(format("rank {} never waited for its {}", call.world_rank, call.numbered()));
}

void World::fault(const std::string& message) {
  if (!fault_) fault_ = message;
  for (Rank& rank : ranks_) rank.wake();
  ended_.notify_all();
}

void World::throw_if_faulty() const {
  if (fault_) throw Error(*fault_);
}

void World::check_for_deadlock() {
  bool someone_waits = false;
  for (const Rank& rank : ranks_) {
    if (rank.state == State::finished || rank.state == State::elsewhere) continue;
    if (rank.state == State::running || rank.awaited->complete() || steppable(rank)) return;
    someone_waits = true;
  }
  if (someone_waits) fault(format("no rank can go on: {}", everyone()));
}

}  // namespace tessera
