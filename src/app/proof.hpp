// Proof compares one run of a lesson with its baseline. The lesson makes its inputs here, computes with them
// on the ranks, and hands back each result with the slice of the whole that it should be. It says once, as a
// formula over unsplit matrices, what the whole is. The truth, the bounds, the checks and the dump follow
// from that.
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
#include "placement/placed_ops.hpp"
#include "report/check.hpp"

namespace tessera {

enum class Tier {
  exact,    ///< small integers: every sum is exact in any order, so that the difference must be 0
  floating  ///< random numbers: the truth is computed in f64, and the bound is derived
};

struct ProofOptions {
  Tier tier = Tier::floating;
  DType dtype = DType::f32;
  std::uint64_t seed = 1;
  bool dump = false;     // keeps every tensor for --dump
  bool baseline = true;  // false: computes only samples of the truth, for sizes that no device could hold
  bool tf32 = false;     // products round their operands to TF32
};

/// Matrices by name.
template <class M>
using Named = std::map<std::string, M>;
/// in("X") is the whole X, or the part of it that a part of the truth needs.
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

/// The results of an unsplit run whose rounding no formula bounds. Beside each stands the largest sum of
/// absolute terms in its last reduction: it scales the change that another order of summation may make.
/// `room` is how much farther a result may be off where operands are rounded to few bits, since what is
/// rounded decides something, such as a token's expert.
struct MeasuredReference {
  Named<Tensor> results;
  /// That of every result by name, and all other sums that must be exact under --exact.
  std::map<std::string, double> largest_sum;
  std::map<std::string, double> room;
  void note(const std::string& name, const Tensor& result, double sum, double more = 0) {
    results[name] = result;
    largest_sum[name] = sum;
    room[name] = more;
  }
};
/// The largest sum of absolute terms |a_i1 b_1j| + |a_i2 b_2j| + ... of the product.
template <class A, class B>
double largest_terms(const A& a, const B& b) {
  return largest(matmul(absolute(a), absolute(b)));
}

/// A value of the JSON.
using Recorded =
    std::variant<std::int64_t, double, std::string, std::vector<std::int64_t>, std::vector<double>,
                 std::vector<std::vector<std::int64_t>>, std::vector<std::vector<std::string>>>;

/// What rank 0 knows at the end. Empty on the other ranks.
struct Outcome {
  Tier tier = Tier::floating;
  std::vector<Check> checks;
  std::vector<TrafficRow> traffic;
  std::vector<MemoryRow> memory;
  std::vector<std::int64_t> peak;         // bytes, by rank
  std::vector<std::vector<Span>> spans;   // by rank
  Named<Tensor> dump;                     // whole.*, split.*, rankN.*
  std::map<std::string, Recorded> extra;  // the lesson's own keys of the JSON
  std::vector<std::string> notes;         // a sentence for each mistake in bytes or memory
  bool ok() const;
};

class Proof {
 public:
  Proof(Communicator& comm, const ProofOptions& options);

  /// This rank's slice of the input `name`: uniform in [-scale, scale), or integers of [-2, 2] in the exact
  /// tier. `axes` names both axes of the whole, as "NW" does: equal letters are equal sizes.
  Tensor input(const std::string& name, const std::string& axes, const Slice& slice, double scale = 1,
               MemoryKind kind = MemoryKind::activation);
  Tensor weight(const std::string& name, const std::string& axes, const Slice& slice, double scale = 1) {
    return input(name, axes, slice, scale, MemoryKind::weight);
  }

  /// Says how long the axis of each letter is. Then a placement alone says which slice of an input or a
  /// result this rank holds. The axis '1' has one element.
  void axes(const std::map<char, std::int64_t>& sizes) { sizes_ = sizes; }
  template <class P>
  Slice slice(const std::string& axes) const {
    const auto size = [&](char letter) { return letter == '1' ? 1 : sizes_.at(letter); };
    return slice_of<P>(size(axes[0]), size(axes[1]), comm_);
  }
  template <class P>
  Placed<P> input(const std::string& name, const std::string& axes) {
    return Placed<P>(input(name, axes, slice<P>(axes)));
  }
  template <class P>
  Tensor weight(const std::string& name, const std::string& axes, double scale = 1) {  // as layers take it
    return weight(name, axes, slice<P>(axes), scale);
  }
  template <class P>
  void result(const std::string& name, const std::string& axes, const std::string& identity,
              const Placed<P>& placed) {
    result(name, axes, identity, placed.local(), slice<P>(axes));
  }

  /// Another slice of an input that has been made already: the same whole under another cut.
  Tensor other_slice(const std::string& name, const Slice& slice) const {
    return generate_input(name, inputs_.at(name), slice, options_.dtype);
  }

  /// What this rank has computed, and which slice of the whole `name` it is: nothing_of(rows, cols) where
  /// other ranks hold all of it. Results of one `group` share a line on the screen. Every rank must name the
  /// same results in the same order.
  void result(const std::string& name, const std::string& axes, const std::string& identity,
              const Tensor& local, const Slice& slice, const std::string& group = "");

  /// The unsplit formula: a generic function from Inputs<M> to Named<M>, called with Tensor and with Bounded.
  /// The truth of large results is computed in parts, so a row of a result with tokens (axis N) must need its
  /// own rows of the inputs alone, and a part of any other result its own part of the hidden axis F.
  template <class Reference>
  void baseline(const Reference& reference) {
    reference_tensor_ = reference;
    reference_bounded_ = reference;
  }
  /// The baseline from lesson 05 on. An element may be off by 8 times the largest error of the unsplit run in
  /// the same dtype plus 64 u largest_sum, where u is the unit round-off. In bf16 and in TF32 this holds for
  /// all lessons, and the second part is the larger of 64 f32's u and once their own: the unsplit error of a
  /// small result may be small by luck.
  void measured_baseline(std::function<MeasuredReference(const Inputs<Tensor>&)> reference) {
    reference_measured_ = std::move(reference);
  }
  /// What the whole `result` would be on `rank` after the mistake that `name` describes. The formula is
  /// called only when a check fails.
  using MistakeFormula = std::function<Tensor(const Inputs<Tensor>&, int rank)>;
  void mistake(const std::string& result, const std::string& name, MistakeFormula formula);

  /// A check of one number: error <= bound must hold, so NaN fails, and so does infinity. The numbers of rank
  /// 0 count. `advice` is printed where the check fails.
  void claim(const std::string& identity, double error, double bound, const std::string& advice = "");
  /// Writes a key of the lesson's own into the JSON; "a.b" is b in the object a. The value of rank 0 counts.
  void record(const std::string& key, const Recorded& value) { extra_[key] = value; }

  /// Puts a tensor into the dump as whole.NAME, e.g. the ids of a batch. That of rank 0 counts.
  void dump(const std::string& name, const Tensor& tensor) { dumped_["whole." + name] = tensor; }

  /// How often `op` is called in `phase`, and how many bytes the ranks of the group send in it all together,
  /// by a formula of the lesson's sizes. A call that no row expects is a failure. `group` names an axis, and
  /// means all groups of that axis together; "" is the group of this proof.
  void expect_traffic(const std::string& phase, const std::string& op, const std::string& label,
                      std::int64_t calls, std::int64_t wire, const std::string& formula,
                      const std::string& group = "");
  /// Takes note of the bytes that this rank holds now. The rows of expect_memory that follow are compared
  /// with them.
  void measure_memory();
  /// Takes note of the bytes of one kind at another moment.
  void measure_memory(MemoryKind kind, std::int64_t bytes) { measured_[kind] = bytes; }
  void measure_peak(MemoryKind kind) { measure_memory(kind, Device::current()->memory.peak(kind)); }
  /// A row of the table of memory: the bytes of `kind` that the whole model takes, and that this rank should
  /// hold, by a formula of the lesson's sizes.
  void expect_memory(MemoryKind kind, const std::string& label, std::int64_t whole, std::int64_t rank,
                     const std::string& formula);
  /// Two such rows, for weights of so many elements and for their gradients.
  void expect_weights(const std::string& weights, const std::string& gradients, std::int64_t whole,
                      std::int64_t rank, const std::string& formula);
  /// The same for the optimiser's state: f32 masters of weights in bf16, and `numbers` more for each weight.
  void expect_optimizer(const std::string& label, int numbers, std::int64_t whole, std::int64_t rank,
                        const std::string& formula);

  /// Collective. Gathers and compares the results, and returns the outcome on rank 0.
  Outcome finish();

  bool exact() const { return options_.tier == Tier::exact; }
  /// Operands or results are rounded to fewer bits than sums have.
  bool coarse() const { return options_.tf32 || options_.dtype == DType::bf16; }
  DType dtype() const { return options_.dtype; }
  std::uint64_t seed() const { return options_.seed; }
  int ranks() const { return comm_.size(); }
  std::int64_t element_bytes() const { return static_cast<std::int64_t>(size_of(options_.dtype)); }
  /// The bytes of an element of a gradient, of a number that stands for a whole row, and of all that is f32
  /// beside bf16.
  std::int64_t wide_bytes() const { return static_cast<std::int64_t>(size_of(arithmetic(options_.dtype))); }
  /// How many elements take the bytes of such a number.
  std::int64_t wide() const { return wide_bytes() / element_bytes(); }

 private:
  struct Input {
    std::string axes;
    Slice slice;
    double scale;
    Tensor local;  // kept only for the dump
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
  /// A part of every matrix: these indices of the axis that has this letter, or everything without a letter.
  struct Part {
    char axis = 0;
    std::vector<Range> ranges = {};
    Slice slice(const std::string& axes, const Slice& of) const;  ///< This part of the whole that `of` is of.
  };
  using TruthOf = std::function<Truth(const Result& result)>;

  Tensor generate_input(const std::string& name, const Input& input, const Slice& slice, DType dtype) const;
  Inputs<Tensor> whole_inputs(DType dtype) const;
  std::vector<Part> parts() const;
  TruthOf bounded_truth(const Part& part) const;
  TruthOf measured_truth() const;
  void expect_exact(double largest_sum) const;
  double unit() const;  // the unit round-off of what is stored, or of the factors of products in TF32
  double measured_bound(double error, double largest_sum) const;
  void compare(Outcome& outcome);
  void add_part(Check& all, const Result& result, const Slice& part, const Truth& truth,
                const std::vector<Held>& held) const;
  void make_dump(Outcome& outcome);
  void check_traffic(Outcome& outcome, std::map<TrafficKey, Traffic> total) const;
  void check_memory(Outcome& outcome) const;
  std::string tier_name() const { return exact() ? "exact" : "float"; }

  Communicator& comm_;
  ProofOptions options_;
  std::map<char, std::int64_t> sizes_;  // of the axes, by letter
  std::map<std::string, Input> inputs_;
  std::vector<Result> results_;
  std::vector<Mistaken> mistakes_;
  std::vector<TrafficRow> traffic_;
  std::vector<MemoryRow> memory_;
  std::map<MemoryKind, std::int64_t> measured_;
  std::vector<Check> claims_;
  std::map<std::string, Recorded> extra_;
  Named<Tensor> dumped_;
  Named<Tensor> unsplit_;  // on rank 0: the results of the unsplit run in the dtype of the ranks
  std::function<Named<Tensor>(const Inputs<Tensor>&)> reference_tensor_;
  std::function<Named<Bounded>(const Inputs<Bounded>&)> reference_bounded_;
  std::function<MeasuredReference(const Inputs<Tensor>&)> reference_measured_;
};

}  // namespace tessera
