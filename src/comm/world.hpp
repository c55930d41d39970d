// World is what N rank threads know of each other. A call becomes an Operation on which all its ranks meet.
// It runs in steps; in each step every rank touches only its own outputs and may read the others' inputs, and
// the next step begins when all ranks have finished the one before. No data is buffered: an operation
// completes when every rank has taken what it needs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/communicator.hpp"

namespace tessera {

struct Operation {
  struct Seat {  // one rank's part in it
    int world_rank = -1;
    bool posted = false;
    Tensor in, out;
    int color = 0, key = 0;  // of a split
    int steps_done = 0;
    Event last;          // the end of this rank's work so far, for the others' streams
    Event began, ended;  // of its work, with their times; where the run is traced
    Journal* journal = nullptr;
    TrafficKey row;
    std::string doing;  // for messages: "send of 1 x 8 f32 to rank 1 in group pp {0, 1} (call 3)"
  };
  Call call;  // of the rank that arrived first
  int first_seat = 0;
  std::vector<Seat> seats;  // by rank in the group; a send and its recv: sender, receiver
  int steps = 0;

  bool all_posted() const;
  bool complete() const;          // every seat has done every step
  bool can_step(int seat) const;  // all others have finished the step before
  /// Copies and sums, outside of any lock, after `events`. Returns the event that ends this work.
  Event run_step(int seat, const std::vector<Event>& events);
};

class World {
 public:
  World(int ranks, std::chrono::duration<double> timeout);

  /// Enters rank `world_rank` at `seat` of operation `id`, which the first rank to arrive creates. Throws
  /// where the calls do not match.
  std::shared_ptr<Operation> post(const std::string& id, int seats, int steps, int seat, const Call& call,
                                  Operation::Seat entry);
  /// Works on this rank's operations until `operation` is complete. Throws Error where it never will be.
  void wait(int world_rank, const std::shared_ptr<Operation>& operation);
  void abandon(int world_rank, const std::shared_ptr<Operation>& operation);

  // For a transport whose ranks meet elsewhere, World keeps what each rank is doing, and the first fault.
  void only(int world_rank);                            ///< The other ranks are in other processes.
  std::string enter(int world_rank, const Call& call);  ///< Logs a call before it is made. Returns its text.
  /// Says where the rank is until its next call: "waits in barrier in group world (call 2)".
  void back_at(int world_rank, const std::string& where);
  void returned(int world_rank);            ///< The rank's function is at its end.
  long calls(int world_rank) const;         ///< How many it has entered.
  void report(const std::string& message);  ///< A fault: check throws on every rank.
  void report_stall();  ///< The same for a call that ran into the time-out, unless a rank is busy.
  void check() const;

  /// Communicator::busy of this rank: no call times out before its end, and the time-out after it.
  std::unique_ptr<Busy> busy(int world_rank, const std::string& what);

  /// The rank's function threw: every other rank stops. `finished` follows.
  void failed(int world_rank, const std::exception_ptr& thrown);
  /// The rank's thread is at its end. A request that was not waited for is a fault.
  void finished(int world_rank);
  /// Blocks until all threads have ended; rethrows the first fault. Where a rank does not stop within a grace
  /// after a fault, the process prints the fault and ends with code 2 (UsageError) or 3. A rank on a GPU
  /// stops only when the GPU has done what it was asked for.
  void join(std::vector<std::thread>& threads, DeviceKind device);
  void rethrow_first_fault();

 private:
  using Time = std::chrono::time_point<std::chrono::steady_clock, std::chrono::duration<double>>;
  enum class State { running, waiting, finished, elsewhere };
  struct Rank {
    State state = State::running;
    long calls = 0;
    std::string doing;              // its latest call, or the one that it waits for
    std::string where;              // of a rank that meets the others elsewhere: what it does
    std::vector<std::string> busy;  // "computes the unsplit reference", innermost last
    std::vector<std::shared_ptr<Operation>> pending;
    std::shared_ptr<Operation> awaited;
    std::condition_variable changed;  // one of its operations has, or there is a fault
  };

  // The caller of these functions holds the lock.
  std::shared_ptr<Operation> steppable(int world_rank) const;
  void wake(const Operation& operation);  // its ranks only, since each waking costs a context switch
  int seat_of(const Operation& operation, int world_rank) const;
  std::string everyone() const;
  Time busy_until() const;  // when a rank was last busy: now, where one is
  bool one_keeps_the_rest_waiting() const;
  void fault(const std::string& message);
  void stall();
  void throw_if_faulty() const;
  void check_for_deadlock();
  bool all_ended() const;

  mutable std::mutex mutex_;
  std::condition_variable ended_;  // a rank has ended, or there is a fault
  std::chrono::duration<double> timeout_;
  Time moved_;  // when a rank last made a call or returned
  Time last_busy_;
  std::vector<Rank> ranks_;
  std::map<std::string, std::shared_ptr<Operation>>
      open_;  // by id, those at which not all ranks have arrived
  std::optional<std::string> fault_;
  std::exception_ptr first_thrown_;
};

}  // namespace tessera
