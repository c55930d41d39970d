// Communicator: one rank's side of a group of ranks. The public functions check their arguments and write the
// journal; the private do_* are the transport's. Every rank of the group must make the same calls in the same
// order; a rank that does not is found, and the error says what every rank was doing.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ops/kernels.hpp"
#include "report/journal.hpp"
#include "tensor/slice.hpp"

namespace tessera {

/// A call as its ranks must agree on it. `op` and the fields that do not apply stay at their defaults.
struct Call {
  std::string op;  // "all_reduce"
  std::int64_t elements = 0;
  DType dtype = DType::f32;
  Reduce reduce = Reduce::sum;
  int peer = -1;             // root, destination or source
  std::string text() const;  ///< "all_reduce of 4096 f32", "recv from 1"
};

/// A transport's work under way.
struct Work {
  virtual ~Work() = default;
  virtual void wait() = 0;  ///< Returns when the buffers may be used again. Throws Error where the run broke.
  virtual void abandon() = 0;  ///< The request died unwaited: tells the transport, must not throw.
  /// Marks of a GPU's own time around the transfer, where the run is traced; else empty.
  virtual std::pair<Event, Event> marks() const { return {}; }
};

/// A non-blocking call. Move-only; it keeps its tensors alive, and must be waited for.
class Request {
 public:
  Request() = default;
  using Finish = std::function<void(const Work&)>;
  Request(std::unique_ptr<Work> work, Tensor buffer, Finish finish);
  Request(Request&&) noexcept = default;
  Request& operator=(Request&& other) noexcept;
  ~Request();
  void wait();
  bool pending() const { return work_ != nullptr; }

 private:
  std::unique_ptr<Work> work_;
  Tensor buffer_;
  Finish finish_;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& name() const { return name_; }
  Journal& journal() const { return *journal_; }
  Phase phase(std::string name) const { return {*journal_, std::move(name)}; }

  /// The sum (or maximum) over all ranks' x, on every rank. Bytes over the group: 2(n-1)S.
  Tensor all_reduce(const Tensor& x, Reduce reduce = Reduce::sum);
  /// All ranks' x, one below the other (axis 0) or side by side (axis 1). Bytes: (n-1)S, S the gathered size.
  Tensor all_gather(const Tensor& x, int axis);
  /// This rank's part of the sum: its rows (axis 0) or columns (axis 1) of n equal parts. Bytes: (n-1)S.
  Tensor reduce_scatter(const Tensor& x, int axis);
  /// Root's x on every rank; x is (rows, cols) of the right dtype everywhere. Bytes: (n-1)S.
  void broadcast(const Tensor& x, int root);
  /// x to or from one rank. A send completes when its receive has taken the data. Bytes: S.
  void send(const Tensor& x, int to) { isend(x, to).wait(); }
  void recv(const Tensor& x, int from) { irecv(x, from).wait(); }
  void barrier();
  /// This rank's rows (axis 0) or columns (axis 1) of n equal parts of x: a copy, no bytes sent.
  Tensor take_shard(const Tensor& x, int axis) const;

  /// The non-blocking forms. x must stay as it is until the wait.
  Request isend(const Tensor& x, int to);
  Request irecv(const Tensor& x, int from);
  Request iall_reduce(const Tensor& x, Reduce reduce = Reduce::sum);  ///< In place.

  /// Ranks of one color form a new group, ordered by (key, rank). Collective. A negative color gives null.
  std::unique_ptr<Communicator> split(int color, int key, const std::string& name);

  virtual std::string transport() const = 0;  ///< "threads", "mpi", "nccl"

 protected:
  Communicator(int rank, int size, std::string name, std::shared_ptr<Journal> journal)
      : rank_(rank), size_(size), name_(std::move(name)), journal_(std::move(journal)) {}
  const std::shared_ptr<Journal>& shared_journal() const { return journal_; }
  /// For transports that cannot count: this rank's share of the group's bytes as a ring algorithm sends them.
  void model_wire(const Call& call, std::int64_t full_bytes) const;

 private:
  // All tensors are contiguous, on one device. `call` is checked between ranks and printed in errors; `key`
  // is the journal row that counted bytes belong to.
  virtual std::unique_ptr<Work> do_all_reduce(const Call&, const TrafficKey&, const Tensor& in,
                                              const Tensor& out) = 0;
  /// out = the ranks' in, one after the other.
  virtual std::unique_ptr<Work> do_all_gather(const Call&, const TrafficKey&, const Tensor& in,
                                              const Tensor& out) = 0;
  /// out = part `rank` of the sum of in, whose n parts lie one after the other.
  virtual std::unique_ptr<Work> do_reduce_scatter(const Call&, const TrafficKey&, const Tensor& in,
                                                  const Tensor& out) = 0;
  virtual std::unique_ptr<Work> do_broadcast(const Call&, const TrafficKey&, const Tensor& x) = 0;
  virtual std::unique_ptr<Work> do_send(const Call&, const TrafficKey&, const Tensor& x) = 0;
  virtual std::unique_ptr<Work> do_recv(const Call&, const TrafficKey&, const Tensor& x) = 0;
  virtual std::unique_ptr<Work> do_barrier(const Call&) = 0;
  virtual std::unique_ptr<Communicator> do_split(const Call&, int color, int key,
                                                 const std::string& name) = 0;

  Request start(const Call& call, std::int64_t payload, const Tensor& keep,
                const std::function<std::unique_ptr<Work>(const TrafficKey&)>& post);
  void check_peer(const Call& call) const;

  int rank_, size_;
  std::string name_;
  std::shared_ptr<Journal> journal_;
};

/// Rank 0 gets every rank's tensor, shapes may differ; the others get nothing.
/// For checks and dumps (phase "check").
std::vector<Tensor> gather_to_first(Communicator& comm, const Tensor& x);
std::vector<std::string> gather_to_first(Communicator& comm, const std::string& text);

}  // namespace tessera
