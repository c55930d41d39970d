// What a lab runs: a task called on inputs that a seed decides, and what came out, written down. Nothing here
// knows the right answer. Whoever judges has the same file from the master's solution (judge.hpp).
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "comm/launch.hpp"
#include "placement/placed_ops.hpp"
#include "tensor/error.hpp"

namespace tessera::labs {

/// One call of a task. Trials 0, 1, 2, ... have 2, 3, 4, 1, 2, ... ranks. Where ranks run, each has a copy of
/// the trial, which draws the same sizes and writes to the same record.
class Trial {
 public:
  enum class Mode { plain, reference, silent };
  Trial(std::uint64_t seed, int number, Mode mode);

  int ranks() const { return ranks_; }
  int rank() const { return comm_ == nullptr ? 0 : comm_->rank(); }
  Communicator& comm() const { return *comm_; }
  TensorParallel tp() const { return TensorParallel(*comm_); }
  int size(int least = 2, int most = 6);  ///< The next size, drawn from the seed.
  std::pair<int, int> unequal();  ///< Two sizes, of which the first is smaller on an even number of ranks.
  int cut(int most = 4);          ///< A size that the ranks divide.
  /// This slice of the input `name`, f64, uniform in [-1, 1); the whole of it; or this rank's part.
  Tensor in(const std::string& name, const Slice& slice) const;
  Tensor in(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    return in(name, Slice::whole(rows, cols));
  }
  template <class P>
  Placed<P> in(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    return Placed<P>(in(name, slice<P>(rows, cols)));
  }

  /// The task on every rank; bytes that cross between ranks are counted.
  void on_ranks(const std::function<void(Trial&)>& body) { on_ranks(ranks_, body); }
  void on_ranks(int ranks, const std::function<void(Trial&)>& body);
  /// What this rank has of the result `name`, and where in the whole it belongs. `identity`: what it should
  /// be, in words.
  void out(const std::string& name, const std::string& identity, const Tensor& local, const Slice& slice);
  template <class P = Replicated>
  void out(const std::string& name, const std::string& identity, const Tensor& local) {
    out(name, identity, local, slice_around<P>(local));
  }
  template <class P>
  void out(const std::string& name, const std::string& identity, const Placed<P>& x) {
    out<P>(name, identity, x.local());
  }
  /// A result that is a list of words; or what `say` makes of each value.
  void words(const std::string& name, const std::vector<std::string>& words);
  template <class Values, class Say>
  void words(const std::string& name, const Values& values, const Say& say) {
    std::vector<std::string> said;
    for (const auto& value : values) said.push_back(say(value));
    words(name, said);
  }
  /// A number that is judged where all values and the bytes are right. In `what` the # stands for it: "rank 0
  /// keeps # B after its forward".
  void count(const std::string& what, std::int64_t number);
  /// Records the result that a known mistake would give on this rank, so that the judge can name the mistake.
  /// Only the master's run makes it.
  template <class P = Replicated>
  void mistake(const std::string& name, const std::string& says, const std::function<Tensor()>& make) {
    if (mode_ != Mode::reference) return;
    const Tensor local = make();
    mistake(name, says, local, slice_around<P>(local));
  }
  const nlohmann::json& record() const;

 private:
  void mistake(const std::string& name, const std::string& says, const Tensor& local, const Slice& slice);
  /// This rank's part of a whole, and the whole in which `local` is this rank's part.
  template <class P>
  Slice slice(std::int64_t rows, std::int64_t cols) const {
    if constexpr (is<P, Replicated>)
      return Slice::whole(rows, cols);
    else
      return slice_of<P>(rows, cols, *comm_);
  }
  template <class P>
  Slice slice_around(const Tensor& local) const {
    if (!local.defined()) return Slice::whole(0, 0);
    return slice<P>(local.rows() * (is<P, Shard<0>> ? ranks_ : 1),
                    local.cols() * (is<P, Shard<1>> ? ranks_ : 1));
  }

  std::uint64_t seed_;
  int number_, ranks_, drawn_ = 0;
  Mode mode_;
  Communicator* comm_ = nullptr;  // where ranks run
  struct Record;
  std::shared_ptr<Record> record_;
};

/// Names what a task is run with: `const Task simulate("06.simulate", [](Trial& t) { ... });`
struct Task {
  Task(const std::string& name, const std::function<void(Trial&)>& run);
};

/// A task that every rank calls.
struct RankTask : Task {
  RankTask(const std::string& name, const std::function<void(Trial&)>& run)
      : Task(name, [run](Trial& t) { t.on_ranks(run); }) {}
};

/// Bytes of activations that this rank holds.
inline std::int64_t held() { return Device::current()->memory.now(MemoryKind::activation); }

}  // namespace tessera::labs

// This header is for the labs alone, which name these in each task.
using tessera::labs::held, tessera::labs::RankTask, tessera::labs::Task, tessera::labs::Trial;
