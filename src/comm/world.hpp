// World: what N rank threads know of each other. A call becomes an Operation on which all its ranks meet. It
// runs in steps; in each step every rank touches only its own outputs and may read the others' inputs, and
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
  struct Seat {  // one participant's side
    int world_rank = -1;
    bool posted = false;
    Tensor in, out;
    int color = 0, key = 0;  // split
    int steps_done = 0;
    Event last;          // the end of this rank's work so far, for the others' streams
    Event began, ended;  // of its work, with their times; where the run is traced
    Journal* journal = nullptr;
    TrafficKey row;
    std::string doing;  // for messages: "send to 1 of 8 f32 (call 3)"
  };
  Call call;                // as the first rank to arrive made it
  std::vector<Seat> seats;  // by rank in the group; a send and its recv: sender, receiver
  int steps = 0;

  bool all_posted() const;
  bool complete() const;          // every seat has done every step
  bool can_step(int seat) const;  // all others have finished the step before
  /// The copies and sums themselves, outside of any lock, after `events`. Returns the event that ends them.
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

  // For a transport whose ranks meet elsewhere: World keeps what each is doing, and the first fault.
  void only(int world_rank);                            ///< The other ranks are in other processes.
  std::string enter(int world_rank, const Call& call);  ///< Logs a call before it is made. Returns its text.
  /// Says where the rank is until its next call: "waits in recv from 1 (call 2)".
  void back_at(int world_rank, const std::string& where);
  void returned(int world_rank);            ///< The rank's function is at its end.
  void report(const std::string& message);  ///< A fault: check throws on every rank.
  void report_stall();                      ///< A fault: no progress for the time-out.
  void check() const;

  /// The rank's function threw: every other rank stops. `finished` follows.
  void failed(int world_rank, const std::exception_ptr& thrown);
  void finished(int world_rank);  ///< The rank's thread is at its end.
  /// Blocks until all threads have ended; rethrows the first fault. Ends the process with code 3 where after
  /// a fault some do not stop within two seconds.
  void join(std::vector<std::thread>& threads);
  void rethrow_first_fault();

 private:
  enum class State { running, waiting, finished, elsewhere };
  struct Rank {
    State state = State::running;
    long calls = 0;
    std::string doing = "has made no call";
    std::string where;  // of a rank that meets the others elsewhere, with its verb; in the place of `doing`
    std::vector<std::shared_ptr<Operation>> pending;
    std::shared_ptr<Operation> awaited;
    std::condition_variable changed;  // one of its operations, or a fault
  };

  // All below are called with the lock held.
  std::shared_ptr<Operation> steppable(int world_rank) const;
  void wake(const Operation& operation);  // its ranks, and no others: each waking costs a context switch
  int seat_of(const Operation& operation, int world_rank) const;
  std::string everyone() const;
  void fault(const std::string& message);
  void throw_if_faulty() const;
  void check_for_deadlock();
  bool all_ended() const;

  mutable std::mutex mutex_;
  std::condition_variable ended_;  // a rank has, or a fault
  std::chrono::duration<double> timeout_;
  std::vector<Rank> ranks_;
  std::map<std::string, std::shared_ptr<Operation>> open_;  // not all ranks have arrived
  std::optional<std::string> fault_;
  std::exception_ptr first_thrown_;
};

}  // namespace tessera
