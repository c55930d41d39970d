// Faults of a World: how a stall or a circle of waits is found, what the message says, and how a fault ends
// the launch.
#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "comm/world.hpp"
#include "tensor/error.hpp"

namespace tessera {

void World::failed(int world_rank, const std::exception_ptr& thrown) {
  const std::lock_guard lock(mutex_);
  if (fault_) return;
  const auto stop = [&](const char* what) {
    fault(format("stopped, because rank {} threw: {}", world_rank, what));
    return ranks_.size() == 1 ? std::string(what) : said_by(world_rank, what);
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
