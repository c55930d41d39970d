// Proof: one run of a lesson against its baseline. A lesson makes its inputs here, computes with them as the
// cut does, and hands back each result with the slice of the whole it should be; what the whole is, it says
// once as a formula over unsplit matrices. Everything else follows: truth, bounds, checks, dumps.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "app/bounded.hpp"
#include "app/gather.hpp"
#include "comm/communicator.hpp"
#include "ops/ops.hpp"
#include "report/check.hpp"

namespace tessera {

enum class Tier {
  exact,    ///< small integers: every sum is exact in any order, the difference must be 0
  floating  ///< random numbers: the truth is f64, the bound is derived
};

struct ProofOptions {
  Tier tier = Tier::floating;
  DType dtype = DType::f32;
  std::uint64_t seed = 1;
  bool dump = false;     // keep every tensor for --dump
  bool baseline = true;  // false: only samples of the truth, for sizes that no device could hold
};

/// Matrices by name.
template <class M>
using Named = std::map<std::string, M>;
/// in("X") is the whole X (or the samples of it that --no-baseline looks at).
template <class M>
using Inputs = std::function<M(const std::string&)>;

struct TrafficRow {
  std::string phase, group, op, label, formula;
  std::int64_t calls = 0, payload = 0, wire = 0, predicted_calls = 0, predicted = 0;
  bool counted = true, ok = false;
};
struct MemoryRow {
  std::string label, formula;
  MemoryKind kind = MemoryKind::weight;
  std::int64_t whole = 0;
  std::vector<std::int64_t> predicted, measured;  // by rank
  bool ok = false;
};

/// An unsplit run whose rounding no formula bounds: beside each result the largest sum of absolute terms in
/// its last reduction, which scales what another order of summation may change.
struct MeasuredReference {
  Named<Tensor> results;
  std::map<std::string, double> largest_sum;  // every result's, and of whatever else --exact must know exact
};
/// The largest sum of absolute terms |a_i1 b_1j| + |a_i2 b_2j| + ... of the product.
template <class A, class B>
double largest_terms(const A& a, const B& b) {
  return largest(matmul(absolute(a), absolute(b)));
}

/// A value of the JSON.
using Recorded = std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>,
                              std::vector<double>, std::vector<std::vector<std::int64_t>>>;

/// What rank 0 knows at the end. Empty on the other ranks.
struct Outcome {
  Tier tier = Tier::floating;
  std::vector<Check> checks;
  std::vector<TrafficRow> traffic;
  std::vector<MemoryRow> memory;
  std::vector<std::int64_t> peak;         // bytes, by rank
  std::vector<std::vector<Span>> spans;   // by rank
  Named<Tensor> dump;                     // whole.*, split.*, rankN.*
  std::map<std::string, Recorded> extra;  // a lesson's own keys of the JSON
  std::vector<std::string> notes;         // what the tables say of a mistake in bytes or memory
  bool ok() const;
};

class Proof {
 public:
  Proof(Communicator& comm, const ProofOptions& options);

  /// This rank's slice of the input `name`: uniform in [-scale, scale), or integers of [-2, 2] in the exact
  /// tier. `axes` names both axes of the whole, "NK": equal letters are equal sizes.
  Tensor input(const std::string& name, const std::string& axes, const Slice& slice, double scale = 1,
               MemoryKind kind = MemoryKind::activation);
  Tensor weight(const std::string& name, const std::string& axes, const Slice& slice, double scale = 1) {
    return input(name, axes, slice, scale, MemoryKind::weight);
  }

  /// Another slice of an input that has been made already: the same whole, cut otherwise.
  Tensor other_slice(const std::string& name, const Slice& slice) const {
    return generate_input(name, inputs_.at(name), slice, options_.dtype);
  }

  /// What this rank computed, and where in the whole `name` it belongs: nothing_of(rows, cols) where other
  /// ranks have it all. Results of one `group` share a line on the screen.
  /// Every rank names the same results in one order.
  void result(const std::string& name, const std::string& axes, const std::string& identity,
              const Tensor& local, const Slice& slice, const std::string& group = "");

  /// The unsplit formula: a generic function from Inputs<M> to Named<M>, called with Tensor and with Bounded.
  template <class Whole>
  void baseline(Whole whole) {
    reference_tensor_ = [whole](const Inputs<Tensor>& in) -> Named<Tensor> { return whole(in); };
    reference_bounded_ = [whole](const Inputs<Bounded>& in) -> Named<Bounded> { return whole(in); };
  }
  /// From lesson 05 on: an element may be off by 8 times the unsplit run's own largest error in the same
  /// dtype plus 64 u largest_sum, u the unit round-off.
  void measured_baseline(std::function<MeasuredReference(const Inputs<Tensor>&)> whole) {
    reference_measured_ = std::move(whole);
  }
  /// What the whole `result` would be on `rank` after the mistake that `name` describes;
  /// asked only when a check fails.
  using MistakeFormula = std::function<Tensor(const Inputs<Tensor>&, int rank)>;
  void mistake(const std::string& result, const std::string& name, MistakeFormula formula);

  /// A check that is no comparison with the whole: error <= bound must hold, so NaN fails. Rank 0's counts.
  /// `advice`: printed where it fails.
  void claim(const std::string& identity, double error, double bound, const std::string& advice = "");
  /// A key of the lesson's own in the JSON; "a.b" is b in the object a. Rank 0's counts.
  void record(const std::string& key, const Recorded& value) { extra_[key] = value; }

  /// Bytes over the group from the lesson's sizes alone. A call that no row expects fails. `group`: of the
  /// axis by that name, all its groups together; "": this proof's own.
  void expect_traffic(const std::string& phase, const std::string& op, const std::string& label,
                      std::int64_t calls, std::int64_t wire, const std::string& formula,
                      const std::string& group = "");
  /// Books what this rank holds now; the rows of expect_memory that follow are compared with that.
  void measure_memory();
  /// The same for one kind, of another moment.
  void measure_memory(MemoryKind kind, std::int64_t bytes) { measured_[kind] = bytes; }
  void expect_memory(MemoryKind kind, const std::string& label, std::int64_t whole, std::int64_t rank,
                     const std::string& formula);

  /// Collective. Gathers, compares, and returns rank 0's outcome.
  Outcome finish();

  bool exact() const { return options_.tier == Tier::exact; }
  DType dtype() const { return options_.dtype; }
  std::uint64_t seed() const { return options_.seed; }
  std::int64_t element_bytes() const { return static_cast<std::int64_t>(size_of(options_.dtype)); }

 private:
  struct Input {
    std::string axes;
    Slice slice;
    double scale;
    Tensor local;  // kept for the dump alone
  };
  struct Result {
    std::string name, axes, identity;
    Tensor local;
    Slice slice;
    std::string group;
  };
  struct Mistaken {
    std::string result, name;
    MistakeFormula formula;
  };
  using Samples = std::map<char, std::vector<Range>>;  // by axis letter: which indices to look at

  Tensor generate_input(const std::string& name, const Input& input, const Slice& slice, DType dtype) const;
  Inputs<Tensor> whole_inputs(DType dtype) const;
  using Gathered = std::vector<std::vector<RankResult>>;  // by result or input, then by rank
  Named<Truth> bounded_truth(Named<Tensor>& unsplit) const;
  Named<Truth> measured_truth(Named<Tensor>& unsplit) const;
  void expect_exact(double largest_sum) const;
  void compare(Outcome& outcome, const Gathered& gathered);
  void compare_samples(Outcome& outcome, const Gathered& gathered);
  void add_check(Outcome& outcome, const Result& result, const Truth& truth,
                 const std::vector<RankResult>& parts, bool diagnose);
  void make_dump(Outcome& outcome, const Gathered& results, const Gathered& inputs) const;
  void gather_traffic(Outcome& outcome);
  void gather_memory(Outcome& outcome);
  std::string tier_name() const { return exact() ? "exact" : "float"; }

  Communicator& comm_;
  ProofOptions options_;
  std::map<std::string, Input> inputs_;
  std::vector<Result> results_;
  std::vector<Mistaken> mistakes_;
  std::vector<TrafficRow> traffic_;
  std::vector<MemoryRow> memory_;
  std::map<MemoryKind, std::int64_t> measured_;
  std::vector<Check> claims_;
  std::map<std::string, Recorded> extra_;
  std::function<Named<Tensor>(const Inputs<Tensor>&)> reference_tensor_;
  std::function<Named<Bounded>(const Inputs<Bounded>&)> reference_bounded_;
  std::function<MeasuredReference(const Inputs<Tensor>&)> reference_measured_;
};

}  // namespace tessera
