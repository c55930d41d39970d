// What a lab runs: a task called on inputs that a seed decides, and what came out, written down. Nothing here
// knows the right answer. Whoever judges has the same file from the master's solution (judge.hpp).
#pragma once

#include <functional>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "comm/launch.hpp"
#include "tensor/error.hpp"

namespace tessera::labs {

/// One call of a task. Trials 0, 1, 2, ... have 2, 3, 4, 1, 2, ... ranks.
class Trial {
 public:
  enum class Mode { plain, reference, silent };
  Trial(std::uint64_t seed, int number, Mode mode);
  ~Trial();
  Trial(const Trial&) = delete;
  Trial& operator=(const Trial&) = delete;

  int ranks() const { return ranks_; }
  void set_ranks(int ranks) { ranks_ = ranks; }
  bool reference() const { return mode_ == Mode::reference; }  ///< The master's run: mistakes are asked for.
  int size(int least = 2, int most = 6);                       ///< The next size, drawn from the seed.
  std::pair<int, int> unequal();  ///< Two sizes, of which the first is smaller on an even number of ranks.
  int cut(int most = 4);          ///< One that the ranks divide.
  /// This slice of the input `name`, f64, uniform in [-1, 1).
  Tensor in(const std::string& name, const Slice& slice) const;
  Tensor in(const std::string& name, std::int64_t rows, std::int64_t cols) const {
    return in(name, Slice::whole(rows, cols));
  }

  /// The task on every rank; bytes that cross between ranks are counted.
  void on_ranks(const std::function<void(Communicator&)>& body);
  /// What rank `rank` has of the result `name`, and where in the whole it belongs. `identity`: what it should
  /// be, in words. Any thread.
  void out(int rank, const std::string& name, const std::string& identity, const Tensor& local,
           const Slice& slice);
  /// A result that is a list of words.
  void out(const std::string& name, const std::vector<std::string>& words);
  /// A number that is judged when all values are right, after the bytes. `what` has # in its place: "rank 0
  /// keeps # B after its forward". Any thread.
  void count(const std::string& what, std::int64_t number);
  /// A wrong answer to know again: the result that a known mistake would give, on this rank.
  void mistake(int rank, const std::string& name, const std::string& says, const Tensor& local,
               const Slice& slice);
  const nlohmann::json& record() const { return *record_; }

 private:
  std::uint64_t seed_;
  int number_, ranks_, drawn_ = 0;
  Mode mode_;
  std::mutex mutex_;
  std::unique_ptr<nlohmann::json> record_;
};

/// Names what a task is run with: `const Task forward("02.forward", [](Trial& t) { ... });`
struct Task {
  Task(const std::string& name, std::function<void(Trial&)> run, int trials = 4);
};

/// Bytes of activations that this rank holds.
inline std::int64_t held() { return Device::current()->memory.now(MemoryKind::activation); }
/// The calls of this rank so far; rank 0 counts the collectives.
inline std::int64_t calls(const Communicator& comm) {
  std::int64_t all = 0;
  for (const auto& [key, traffic] : comm.journal().traffic()) all += traffic.calls;
  return all;
}

}  // namespace tessera::labs

// This header is for the labs alone, which name both in each task.
using tessera::labs::calls, tessera::labs::held, tessera::labs::Task, tessera::labs::Trial;
