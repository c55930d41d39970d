// Job is this process's side of an MPI job. A call becomes a Transfer: first a header that says what the rank
// is about to do, which is compared on arrival, then the payload. Nothing here blocks except the calls that a
// watchdog guards: every wait polls all transfers under way, so that ranks may wait in different orders.
// Beside the calls the ranks exchange notices: a rank gives up, is busy, or answers what it is doing.
#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/world.hpp"
#include "tensor/error.hpp"

namespace tessera::mpi {

/// Throws Error with the place, the call's text and MPI's own words unless the call succeeded. The lock is
/// MPI_THREAD_SERIALIZED: the thread of a busy rank's heartbeat calls MPI as well.
#define MPI_CHECK(call)                                              \
  ::tessera::mpi::check(                                             \
      [&] {                                                          \
        const std::lock_guard lock(::tessera::mpi::one_at_a_time()); \
        return (call);                                               \
      }(),                                                           \
      #call)
std::recursive_mutex& one_at_a_time();
void check(int code, const char* call, Where where = Where::here());

bool test(MPI_Request& request);  ///< Whether it is complete, as MPI_REQUEST_NULL is. Drives MPI's progress.
/// A pause after `idle` polls in vain. The first ones offer the core to others; as ranks may outnumber cores,
/// later ones sleep.
void pause(int idle);
/// While it lives, calls `then` whenever `time` has passed, on a thread of its own. A std::jthread with a
/// stop token would be shorter: in libstdc++ 12 a stop that comes as the thread begins to wait reads as a
/// time-out.
class Timer {
 public:
  Timer(std::chrono::duration<double> time, std::function<void()> then);
  ~Timer();
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  bool ended_ = false;
  std::thread thread_;
};

/// The tags of messages between processes: what the ranks tell each other beside their calls, and the ids of
/// NCCL. They go over MPI_COMM_WORLD, which no call of a program uses.
enum Tag { notice_tag = 1, store_tag = 2 };
void post_message(const std::string& bytes, int to, Tag tag);  ///< Does not wait; any thread may call it.
std::optional<std::string> next_message(Tag tag);              ///< Of any process, or nothing yet.

/// Guards a call of MPI that cannot be polled: if the result lives longer than `timeout`, the process ends
/// with code 3.
[[nodiscard]] Timer watchdog(std::string call, std::chrono::duration<double> timeout);

/// A group's two MPI communicators. Both see their collectives in call order, as MPI demands. On a single one
/// a rank whose header completes early would post its payload where another rank still posts a later header.
struct Group {
  explicit Group(MPI_Comm owned);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  MPI_Comm data, control = MPI_COMM_NULL;
};

class Job;

/// A call that has begun. MPI holds pointers into it and into its tensors, so it stays where it is, and lives
/// until MPI is done with it, even where its Request died.
struct Transfer final : Work {
  Transfer(Job& of, const Call& call, std::shared_ptr<Group> over, Tensor from, Tensor to)
      : job(of), mine(call), group(std::move(over)), in(std::move(from)), out(std::move(to)) {}
  void wait() override;
  void abandon() override;
  void exchange_headers(bool verify);
  void start();  ///< The payload.
  /// Payloads of a channel start in call order on every rank. A channel is a group's collectives, its
  /// messages to one peer, or those from one.
  bool shares_channel(const Transfer& other) const;

  Job& job;
  Call mine;
  std::vector<Call> theirs;  // empty: there is nothing to compare with
  std::shared_ptr<Group> group;
  Tensor in, out;
  std::vector<int> counts;  // of elements, for an all_to_all: sent, their places, received, their places
  MPI_Request header = MPI_REQUEST_NULL, payload = MPI_REQUEST_NULL;
  bool started = false, done = false;
};

/// What a rank tells another one beside its calls.
struct Notice {
  enum Kind { failed, timed_out, answer, question, busy } kind;  // the first two end the job
  int rank, code;                                                // code: the exit code of the job
  char doing[192];                                               // "waits in barrier in group world (call 3)"
  /// Of the ranks that give up, the first in this order speaks: the cause before those that waited for it.
  auto order() const { return std::pair<int, int>(kind, rank); }
};

class Job {
 public:
  explicit Job(const LaunchOptions& options);

  /// Numbers the call, starts its header exchange and moves all transfers on. Throws Error where calls do not
  /// match, as wait does.
  std::shared_ptr<Transfer> post(Call call, std::shared_ptr<Group> group, Tensor in, Tensor out);
  void wait(Transfer& transfer);  ///< Ends the job at the time-out.
  void abandon(const Transfer& transfer) { world_.abandon(transfer.mine); }
  /// Until the result dies, a thread tells all ranks again and again that this rank is busy, except while the
  /// rank waits for others.
  std::shared_ptr<void> busy(const std::string& what);
  /// The body returned: waits for the other ranks as long as each makes calls or is busy. Throws Error where
  /// a request was not waited for.
  void finish();
  /// The body threw what is handled now: ends all processes with its code. One rank, the first that failed,
  /// prints a message.
  [[noreturn]] void fail();

  int rank() const { return rank_; }
  int size() const { return size_; }
  std::chrono::duration<double> timeout() const { return options_.timeout; }

 private:
  using Time = std::chrono::time_point<std::chrono::steady_clock, std::chrono::duration<double>>;
  bool held_back(const Transfer& transfer) const;
  bool advance();
  void poll(const bool& done);
  Notice notice(Notice::Kind kind, int code = 0) const;
  void tell_all(const Notice& notice) const;
  std::optional<Notice> hear();
  // NOLINTNEXTLINE(bugprone-exception-escape): an exception here is std::terminate, as meant
  [[noreturn]] void stop(const Notice& mine, const std::optional<Notice>& heard,
                         const std::string& message) const noexcept;

  int rank_ = 0, size_ = 0;
  LaunchOptions options_;
  World world_;                                   // what this rank does
  std::list<std::shared_ptr<Transfer>> pending_;  // in call order
  bool returned_ = false;                         // the body has returned
  std::atomic<bool> waits_ = false;               // in a call: then a busy rank's heartbeat pauses
  Time last_busy_;                                // when another rank last said that it is busy
  std::vector<Time> last_heard_;                  // when each rank last sent a notice
};

}  // namespace tessera::mpi
