// World is what N rank threads know of each other. A call becomes an Operation on which all its ranks meet.
// It runs in steps; in each step every rank touches only its own outputs and may read the others' inputs, and
// the next step begins when all ranks have finished the one before. No data is buffered: an operation
// completes when every rank has taken what it needs.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "comm/launch.hpp"

namespace tessera {

struct Operation {
  struct Seat {                // one rank's part in it
    std::optional<Call> call;  // empty: the rank has yet to come
    Tensor in, out;
    int steps_done = 0;
    Event last;          // the end of this rank's work so far, for the others' streams
    Event began, ended;  // of its work, with their times; where the run is traced
    Journal* journal = nullptr;
    TrafficKey row;
  };
  std::vector<Seat> seats;  // by rank in the group; a send and its recv: sender, receiver
  int steps = 0;

  bool all_posted() const;
  bool complete() const;                  // every seat has done every step
  bool can_step(const Seat& mine) const;  // all others have finished the step before
  /// Copies and sums, outside of any lock, after `events`. Returns the event that ends this work.
  Event run_step(std::size_t mine, const std::vector<Event>& events);
};

/// One rank's view of an operation.
struct Entry {
  std::shared_ptr<Operation> operation;
  std::size_t seat;
  Operation::Seat& mine() const { return operation->seats[seat]; }
  const Call& call() const { return *mine().call; }
  bool operator==(const Entry&) const = default;
};

class World {
 public:
  explicit World(const LaunchOptions& options);

  /// Runs body(rank) in one thread a rank, and returns when all have ended. Rethrows the first fault. Where a
  /// rank does not stop within a grace after a fault, the process prints the fault and ends.
  void run(const std::function<void(int rank)>& body);

  // The calls of a rank, whatever the transport.
  /// Numbers a call and logs it, before it is made. Throws Error where there is a fault.
  void enter(Call& call);
  void begin_wait(const Call& call);  ///< Its request is being waited for.
  void abandon(const Call& call);     ///< Its request died before.
  /// Communicator::busy of this rank: no call times out before its end, and the time-out after it.
  std::shared_ptr<void> busy(int world_rank, const std::string& what);
  /// The rank's function is at its end. A request that was not waited for is a fault.
  void returned(int world_rank);
  void failed(int world_rank);  ///< The rank's function threw what is handled now: every other rank stops.
  void check() const;           ///< Throws Error where there is a fault.
  void rethrow_first_fault() const;
  Failure first_failure() const;

  // For threads.
  /// Takes a seat of operation `id`, which the first rank to come creates with that many seats and steps.
  /// Throws Error where the calls do not match.
  Entry post(const std::string& id, std::size_t seats, int steps, std::size_t seat, Operation::Seat mine);
  /// Works on this rank's operations until this one is complete. Throws Error where it never will be.
  void wait(const Entry& entry);

  // For a transport whose ranks meet elsewhere.
  void only(int world_rank);  ///< The other ranks are in other processes.
  /// Says where the rank is until its next call: "waits in barrier in group world (call 2)".
  void back_at(int world_rank, const std::string& where);
  std::string doing(int world_rank) const;
  void report(const std::string& message);  ///< A fault.
  void report_stall();  ///< The same for a call that ran into the time-out, unless a rank is busy.

 private:
  using Time = std::chrono::time_point<std::chrono::steady_clock, std::chrono::duration<double>>;
  enum class State { running, waiting, finished, elsewhere };
  struct Rank {
    State state = State::running;
    long calls = 0;
    std::optional<Call> call;       // its latest, or the one that it waits for
    std::string where;              // what the rank does, if it meets the others elsewhere
    std::vector<std::string> busy;  // "computes the unsplit reference", innermost last
    std::map<long, Call> unwaited;  // by number
    std::vector<Entry> pending;     // its operations under way, where ranks are threads
    std::shared_ptr<Operation> awaited;
    std::condition_variable changed;  // one of its operations has changed, or there is a fault
    std::atomic<long> changes = 0;    // how often `changed` has been notified
    void wake() { ++changes, changed.notify_one(); }
    bool waits() const { return state == State::waiting || where.starts_with("waits in"); }
    std::string doing() const;
  };

  /// Takes the lock. Each thread holds it for less time than it takes to sleep and to be woken.
  std::unique_lock<std::mutex> take() const;
  void pause() const;  ///< Between two looks at what another rank is about to do.
  // The caller of these functions holds the lock.
  Rank& at(int world_rank) { return ranks_[static_cast<std::size_t>(world_rank)]; }
  const Rank& at(int world_rank) const { return ranks_[static_cast<std::size_t>(world_rank)]; }
  static const Entry* steppable(const Rank& rank);
  void wake(const Operation& operation);  // its ranks only, since each waking costs a context switch
  std::string everyone() const;
  Time busy_until() const;  // when a rank was last busy: now, where one is
  bool any(State state) const;
  bool all_ended() const { return !any(State::running) && !any(State::waiting); }
  void fault(const std::string& message);
  void never_waited(const Call& call);
  void stall();
  void throw_if_faulty() const;
  void check_for_deadlock();
  void finished(int world_rank);

  mutable std::mutex mutex_;
  std::condition_variable ended_;  // a rank has ended, or there is a fault
  LaunchOptions options_;
  Time moved_;  // when a rank last made a call or returned
  Time last_busy_;
  const bool core_each_;  // no rank that computes needs the core of one that waits
  std::vector<Rank> ranks_;
  /// By id, those operations at which not all ranks have arrived.
  std::map<std::string, std::shared_ptr<Operation>> open_;
  std::optional<std::string> fault_;
  std::exception_ptr first_thrown_;
  std::string first_what_;
  int first_thrower_ = 0;
};

}  // namespace tessera
