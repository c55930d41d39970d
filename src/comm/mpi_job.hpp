// Job: this process's side of an MPI job. A call becomes a Transfer: a header that says what the rank is
// about to do, compared on arrival, then the payload. Nothing here blocks but Watchdog's calls: every wait
// polls all transfers under way, so that ranks may wait in different orders,
// and hears when another rank gives up.
#pragma once

#include <mpi.h>

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "comm/launch.hpp"
#include "tensor/error.hpp"

namespace tessera::mpi {

/// Throws Error with the place, the call's text and MPI's own words unless the call succeeded.
#define MPI_CHECK(call) ::tessera::mpi::check((call), #call)
void check(int code, const char* call, Where where = Where::here());

bool test(MPI_Request& request);  ///< Complete? Drives MPI's progress. True for MPI_REQUEST_NULL.

/// Between polls: first the core is offered to others, then, as ranks may outnumber cores, given up.
class Backoff {
 public:
  void pause();

 private:
  int idle_ = 0;
};

/// Ends the process with code 3 where a call of MPI that cannot be polled does not return in time.
class Watchdog {
 public:
  Watchdog(std::string call, std::chrono::duration<double> timeout);

 private:
  std::jthread thread_;  // its destructor asks it to stop, and joins
};

/// A group's two MPI communicators. Both see their collectives in call order, as MPI demands. On a single one
/// a rank whose header completes early would post its payload where another rank still posts a later header.
struct Group {
  explicit Group(MPI_Comm owned);
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  MPI_Comm data, control = MPI_COMM_NULL;
};

/// A call as it crosses the wire: plain bytes, all processes run one binary.
struct Header {
  char op[16] = {};
  std::int64_t elements = 0, number = 0;  // the rank's calls so far
  DType dtype = DType::f32;
  Reduce reduce = Reduce::sum;
  int peer = -1, world_rank = 0;
  Call call() const { return {op, elements, dtype, reduce, peer}; }
  bool point_to_point() const { return call().op == "send" || call().op == "recv"; }
  std::string text() const;  ///< "all_reduce of 8 f32 (call 1)"
};

/// A call under way. MPI holds pointers into it and into its tensors: it stays where it is, and it lives
/// until MPI is done with it, even where its Request died.
struct Transfer {
  Header mine;
  std::vector<Header> theirs;  // empty: nothing to compare with
  std::shared_ptr<Group> group;
  Tensor in, out;
  using Start = std::function<void(MPI_Comm, MPI_Request*)>;
  Start start;  // of the payload
  MPI_Request header = MPI_REQUEST_NULL, payload = MPI_REQUEST_NULL;
  bool started = false, done = false;
};

class Job {
 public:
  explicit Job(const LaunchOptions& options);

  /// Numbers the call, starts its header exchange and gives a chance to all that is under way. Throws where
  /// calls do not match, here and in wait.
  std::shared_ptr<Transfer> post(const Call& call, std::shared_ptr<Group> group, Tensor in, Tensor out,
                                 Transfer::Start start);
  void wait(const std::shared_ptr<Transfer>& transfer);  ///< Ends the job at the time-out.
  void abandon(const Transfer& transfer);
  /// The body returned: waits for the other ranks, for as long as they take.
  void finish();
  /// The body threw: ends all processes with `code`, and stderr gets one message,
  /// of the first rank that failed.
  [[noreturn]] void fail(int code, const std::string& what);

  int rank() const { return rank_; }
  int size() const { return size_; }
  std::chrono::duration<double> timeout() const { return timeout_; }

 private:
  struct Alarm {
    bool timed_out;
    int code, rank;
    auto order() const { return std::pair(timed_out, rank); }  // the cause before those that waited for it
  };
  void exchange_headers(Transfer& transfer) const;
  bool held_back(const Transfer& transfer) const;
  bool advance();
  void poll(const bool& done, std::optional<std::chrono::steady_clock::time_point> deadline);
  std::optional<Alarm> hear() const;
  // NOLINTNEXTLINE(bugprone-exception-escape): an exception here is std::terminate, as meant
  [[noreturn]] void stop(const Alarm& mine, const std::string& message) const noexcept;

  int rank_ = 0, size_ = 0;
  std::chrono::duration<double> timeout_;
  bool verify_;
  long calls_ = 0;
  std::string doing_;                             // "waits in recv from 1 of 8 f32 (call 7)"
  std::list<std::shared_ptr<Transfer>> pending_;  // in call order
  std::optional<std::string> fault_;              // after one, every call throws it
};

}  // namespace tessera::mpi
