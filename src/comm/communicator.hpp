// Communicator: one rank's side of a group of ranks. The public functions check their arguments and write the
// journal; the private do_* are the transport's. Every rank of the group must make the same calls in the same
// order. Where a rank does not, an error names the two calls that do not match, or says what every rank waits
// for. Messages number the ranks as in the world, and name the group.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/call.hpp"
#include "report/journal.hpp"
#include "tensor/slice.hpp"

namespace tessera {

/// A call that a transport has begun. It keeps its tensors alive until it has been waited for.
struct Work {
  virtual ~Work() = default;
  virtual void wait() = 0;  ///< Returns when the buffers may be used again. Throws Error where the run broke.
  virtual void abandon() = 0;  ///< The request died before its wait. This must not throw.
  /// Marks of a GPU's own time around the transfer, where the run is traced; else empty.
  virtual std::pair<Event, Event> marks() const { return {}; }
};

/// A non-blocking call. It is move-only, and must be waited for before the launch ends: a later wait throws
/// Error.
class Request {
 public:
  using Finish = std::function<void(const Work&, Journal&)>;
  Request() = default;
  /// `finish` runs after a wait. `launch` expires with the communicators of the rank.
  Request(std::shared_ptr<Work> work, Finish finish, std::weak_ptr<Journal> launch)
      : call_(new Begun{std::move(work), std::move(finish), std::move(launch)}) {}
  void wait();
  bool pending() const { return call_ != nullptr; }

 private:
  struct Begun {
    std::shared_ptr<Work> work;
    Finish finish;
    std::weak_ptr<Journal> launch;
  };
  struct Abandon {
    void operator()(Begun* call) const;
  };
  std::unique_ptr<Begun, Abandon> call_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Where a rank of this group stands in the world.
  int world_rank(int rank) const {
    return members_.empty() ? rank : members_[static_cast<std::size_t>(rank)];
  }
  const std::string& name() const { return name_; }
  Journal& journal() const { return *journal_; }
  Phase phase(std::string name) const { return {*journal_, std::move(name)}; }

  /// The sum (or maximum) over all ranks' x, on every rank. Bytes over the group: 2(n-1)S. In a group of one
  /// rank nothing is copied: the result shares the memory of x, where x is contiguous.
  Tensor all_reduce(const Tensor& x, Reduce reduce = Reduce::sum);
  /// All ranks' x, one below the other (axis 0) or side by side (axis 1). Bytes: (n-1)S, S the gathered size.
  Tensor all_gather(const Tensor& x, int axis);
  /// This rank's part of the sum: its rows (axis 0) or columns (axis 1) of n equal parts. Bytes: (n-1)S.
  Tensor reduce_scatter(const Tensor& x, int axis);
  /// Part i of n equal parts of every rank's rows, on rank i, one below the other in the order of the ranks.
  /// Bytes: (n-1)/n S, S all ranks' x together.
  Tensor all_to_all(const Tensor& x);
  /// The same with parts of sent[i] rows for rank i; received[i] rows come from rank i. Any count may be 0.
  /// Bytes: those of all parts but each rank's own. Throws Error for groups of more than 64 ranks.
  Tensor all_to_all(const Tensor& x, const std::vector<std::int64_t>& sent,
                    const std::vector<std::int64_t>& received);
  /// Root's x on every rank; x is (rows, cols) of the right dtype everywhere. Bytes: (n-1)S.
  void broadcast(const Tensor& x, int root);
  /// x to or from one rank. A send completes when its receive has taken the data. Bytes: S.
  void send(const Tensor& x, int to) { isend(x, to).wait(); }
  void recv(const Tensor& x, int from) { irecv(x, from).wait(); }
  void barrier();
  /// For as long as the result lives, this rank computes, reads or writes by itself what other ranks wait
  /// for, e.g. "computes the unsplit reference". Their calls do not run into the time-out meanwhile, and
  /// messages say what this rank does. It is no collective call. NCCL in several processes cannot tell the
  /// others; there --timeout must be longer than the work.
  [[nodiscard]] std::shared_ptr<void> busy(const std::string& what) { return do_busy(what); }
  /// This rank's rows (axis 0) or columns (axis 1) of n equal parts of x: a copy, no bytes sent.
  Tensor take_shard(const Tensor& x, int axis) const;

  /// The non-blocking forms. Nobody may change x before the wait.
  Request isend(const Tensor& x, int to);
  Request irecv(const Tensor& x, int from);
  Request iall_reduce(const Tensor& x, Reduce reduce = Reduce::sum);  ///< The result replaces x.
  /// All ranks' x (rows, cols), one below the other, arrive in `all` (n rows, cols). Both must live until the
  /// wait.
  Request iall_gather(const Tensor& x, const Tensor& all);
  /// This rank's rows of the sum of all ranks' x (n rows, cols), in n equal parts, arrive in `part` (rows,
  /// cols). Both must live until the wait.
  Request ireduce_scatter(const Tensor& x, const Tensor& part);

  /// Ranks of one color form a new group, ordered by (key, rank). A negative color gives null. It is a
  /// collective call.
  std::unique_ptr<Communicator> split(int color, int key, const std::string& name);

  virtual std::string transport() const = 0;  ///< "threads", "mpi", "nccl"

 protected:
  /// `members` are the group's ranks in the world, in group order. Without them the group is the world.
  Communicator(int rank, int size, std::string name, std::shared_ptr<Journal> journal,
               std::vector<int> members = {});
  const std::shared_ptr<Journal>& shared_journal() const { return journal_; }
  /// The journal's row for a call that is made now. A send and its recv are one transfer, with one row.
  TrafficKey row_of(const Call& call) const;
  /// The group that a split makes of the ranks with this rank's color.
  struct Part {
    std::vector<int> members;  // in the world
    int rank = 0;              // this rank's number among them
  };
  Part part_of(std::vector<Call> calls) const;  ///< `calls` are the split of every rank of this group.

 private:
  /// Starts a call of any op but split. The tensors are contiguous and on one device:
  ///   all_reduce      out = the sum or maximum of the ranks' in; out may be in
  ///   all_gather      out = the ranks' in, one after the other
  ///   reduce_scatter  out = part `rank` of the sum of in, whose n parts lie one after the other
  ///   broadcast       in and out are both x
  ///   all_to_all      rows part_received(i) of out = rows part_sent(rank) of rank i's in
  ///   send, recv      x is in or out; the other one is undefined, as both are for a barrier
  virtual std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) = 0;
  virtual std::unique_ptr<Communicator> do_split(const Call& call, const std::string& name) = 0;
  virtual std::shared_ptr<void> do_busy(const std::string&) { return nullptr; }
  /// Whether the transport enters the bytes that it moves in the journal. For those that cannot, model_wire
  /// enters this rank's share of the bytes that a ring algorithm would send.
  virtual bool counts_bytes() const { return false; }

  /// Throws Error where the group has no rank `peer`, or where `peer` is this rank and the call is no
  /// broadcast.
  Call call_of(OpType op, const Tensor& x = {}, std::optional<int> peer = {}) const;
  Request start(const Call& call, const Tensor& in, const Tensor& out);
  void model_wire(const Call& call, std::int64_t full_bytes) const;

  int rank_, size_;
  std::string name_, name_in_messages_;  // "tp", "tp {0, 2}"
  std::shared_ptr<Journal> journal_;
  std::vector<int> members_;
};

/// Rank 0 gets every rank's tensor, and the shapes may differ; the other ranks get nothing. The bytes belong
/// to the phase "check".
std::vector<Tensor> gather_to_first(Communicator& comm, const Tensor& x);
std::vector<std::string> gather_to_first(Communicator& comm, const std::string& text);

}  // namespace tessera
