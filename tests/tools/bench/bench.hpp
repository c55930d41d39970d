// ./tessera bench: times as ratios. A candidate and its reference run in turns in one process, so that
// whatever else the machine does meets both; each turn gives one ratio, of which the median, the least and
// the most are reported.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "comm/launch.hpp"
#include "models.hpp"
#include "ops/ops.hpp"

namespace tessera::bench {

using test::GptSizes;

struct Options {
  bool quick = false;  // tiny sizes, two turns: shows that everything runs, and measures nothing
  bool tf32 = false, bf16 = false;
  std::int64_t turns = 15;
  DeviceKind device = DeviceKind::cpu;
  std::string pytorch, program;  // a python with torch, and this program, for measurements by processes
  std::string serve = "no";      // what it serves to such a measurement

  bool cuda() const { return device == DeviceKind::cuda; }
  DType dtype() const { return bf16 ? DType::bf16 : DType::f32; }
  /// A size, or its stand-in under --quick.
  std::int64_t size(std::int64_t on_cpu, std::int64_t on_gpu, std::int64_t tiny) const {
    return quick ? tiny : cuda() ? on_gpu : on_cpu;
  }
  LaunchOptions ranks(int n) const;
};

struct Target {
  /// exactly: at any size and on any machine, else the bench fails.
  enum Side { at_most, at_least, exactly } side;
  double value;
  bool met_by(double x) const {
    return side == at_most ? x <= value : side == at_least ? x >= value : x == value;
  }
  const char* text() const { return side == at_most ? "at most" : side == at_least ? "at least" : "exactly"; }
};

class Report {
 public:
  void ratio(const std::string& name, std::vector<double> turns, std::optional<Target> target,
             const std::string& what);
  /// Rows of text, the first of them a heading; numbers for programs stand in the same cells.
  void table(const std::string& title, const std::vector<std::vector<std::string>>& rows);
  std::string text(bool judged) const;
  bool failed() const { return failed_; }
  const nlohmann::ordered_json& json() const { return json_; }

 private:
  bool failed_ = false;
  nlohmann::ordered_json json_ = {{"ratios", nlohmann::ordered_json::array()},
                                  {"tables", nlohmann::ordered_json::array()}};
};

using Job = std::function<void()>;

/// Seconds from when all ranks begin the job until all have ended it.
double seconds(Communicator& comm, const Job& job);
/// How much of the machine other processes took since it was made, as a share of its cores.
class Others {
 public:
  Others();
  double share() const;

 private:
  double busy_, own_, began_;
};
bool is_disturbed(Communicator& comm, const Others& others);  ///< The same on every rank.
/// `turns` results of `turn`, after one that fills pools and caches. A turn in which other processes took
/// more than a tenth of the cores says nothing: it is run again, up to twice as many times as there are
/// turns.
template <class T>
std::vector<T> undisturbed(Communicator& comm, std::int64_t turns, const std::function<T()>& turn) {
  std::vector<T> all;
  turn();
  for (std::int64_t spare = 2 * turns; static_cast<std::int64_t>(all.size()) < turns;) {
    const Others others;
    const T result = turn();
    if (is_disturbed(comm, others) && spare-- > 0) continue;
    all.push_back(result);
  }
  return all;
}

/// Seconds of a and b, turn by turn. A turn runs each of them twice, a b b a, so that a machine that slows
/// down or speeds up meets both alike.
struct Turns {
  std::vector<double> a, b;
  std::vector<double> a_over_b() const;
  std::vector<double> b_over_a() const { return Turns{b, a}.a_over_b(); }
  std::string both() const;  ///< "12.1 ms and 11.3 ms", the medians of a and b.
};
Turns in_turns(Communicator& comm, std::int64_t turns, const Job& a, const Job& b);
double median(std::vector<double> values);

/// Numbers of [-scale, scale) on this rank's device; every row is the same one, which is made on the host.
Tensor numbers(std::int64_t rows, std::int64_t cols, double scale = 1, DType dtype = DType::f32);

/// Products into memory that is there already: what a step costs at the least.
class Products {
 public:
  explicit Products(DType dtype) : dtype_(dtype) {}
  /// op(a) op(b), of matrices of the sizes that it says; contents do not matter to a product's time.
  void add(std::int64_t m, std::int64_t n, std::int64_t k, bool ta = false, bool tb = false);
  /// Forward and both gradients of a linear layer: (n, k) (k, f), dY A', X' dY.
  void linear(std::int64_t n, std::int64_t k, std::int64_t f) {
    add(n, f, k), add(n, k, f, false, true), add(k, f, n, true);
  }
  /// Of attention over heads of d columns, forward and backward: those of ops/attention.cpp.
  void attention(const GptSizes& s);
  void run() const;

 private:
  struct One {
    Stack c, a, b;
    bool ta, tb;
    double beta;
    std::int64_t outer, inner;
  };
  DType dtype_;
  std::vector<One> all_;
};

void mlp_block(Report&, const Options&);
void gpt(Report&, const Options&);
void gpt_beside_pytorch(Report&, const Options&);
void cut_beside_pytorch(Report&, const Options&);
/// Takes the step that o.serve names, one of served(), for each line of standard input, and prints its
/// seconds.
void serve_steps(const Options& o, Transport transport);
std::vector<std::string> served();
void tensor_parallel(Report&, const Options&);
void all_reduce(Report&, const Options&);
void pipeline_step(Report&, const Options&);
void three_d_step(Report&, const Options&);
void busy_machine(Report&, const Options&);
void growth(Report&, const Options&);
void streaming_attention(Report&, const Options&);
void planned_step(Report&, const Options&);
void bandwidth(Report&, const Options&);

}  // namespace tessera::bench
