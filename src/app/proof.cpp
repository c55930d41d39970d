#include "app/proof.hpp"

#include <algorithm>
#include <cmath>

#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

Matrix constant(std::int64_t rows, std::int64_t cols, double value) {
  return {rows, cols, std::vector<double>(static_cast<std::size_t>(rows * cols), value)};
}

double unit_roundoff(DType dtype) {
  return dtype == DType::f32 ? 0x1p-24 : dtype == DType::bf16 ? 0x1p-8 : 0x1p-53;
}
constexpr double unit_tf32 = 0x1p-11;

/// The largest distance between an element and its truth; NaN where an element is NaN.
double distance(const Tensor& x, const Matrix& truth) {
  const std::vector<double> values = x.values();
  double most = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double error = std::abs(values[i] - truth.values[i]);
    if (std::isnan(error)) return error;
    most = std::max(most, error);
  }
  return most;
}

}  // namespace

bool Outcome::ok() const {
  const auto holds = [](const auto& row) { return row.ok; };
  return !checks.empty() && std::all_of(checks.begin(), checks.end(), holds) &&
         std::all_of(traffic.begin(), traffic.end(), holds) &&
         std::all_of(memory.begin(), memory.end(), holds);
}

Proof::Proof(Communicator& comm, const ProofOptions& options) : comm_(comm), options_(options) {
  comm_.journal().clear();
  Device::current()->memory.reset_peak();
}

Tensor Proof::generate_input(const std::string& name, const Input& input, const Slice& slice,
                             DType dtype) const {
  return exact() ? generate(options_.seed, name, slice, dtype, Fill::integer, 2)
                 : generate(options_.seed, name, slice, dtype, Fill::uniform, input.scale);
}

Tensor Proof::input(const std::string& name, const std::string& axes, const Slice& slice, double scale,
                    MemoryKind kind) {
  const MemoryScope scope(kind);
  Input& entry = inputs_[name] = {axes, slice, scale, {}};
  const Tensor local = generate_input(name, entry, slice, options_.dtype);
  if (options_.dump) entry.local = local;
  return local;
}

void Proof::result(const std::string& name, const std::string& axes, const std::string& identity,
                   const Tensor& local, const Slice& slice, const std::string& group) {
  results_.push_back({name, axes, identity, local, slice, group});
}

void Proof::mistake(const std::string& result, const std::string& name, MistakeFormula formula) {
  mistakes_.push_back({result, name, std::move(formula)});
}

void Proof::expect_traffic(const std::string& phase, const std::string& op, const std::string& label,
                           std::int64_t calls, std::int64_t wire, const std::string& formula,
                           const std::string& group) {
  traffic_.push_back({.phase = phase,
                      .group = group.empty() ? comm_.name() : group,
                      .op = op,
                      .label = label,
                      .formula = formula,
                      .predicted_calls = calls,
                      .predicted = wire});
}

void Proof::measure_memory() {
  for (int kind = 0; kind < memory_kinds; ++kind)
    measured_[static_cast<MemoryKind>(kind)] = Device::current()->memory.now(static_cast<MemoryKind>(kind));
}

void Proof::expect_memory(MemoryKind kind, const std::string& label, std::int64_t whole, std::int64_t rank,
                          const std::string& formula) {
  memory_.push_back({label, formula, kind, whole, {rank}, {measured_[kind]}, false});
}

void Proof::expect_weights(const std::string& weights, const std::string& gradients, std::int64_t whole,
                           std::int64_t rank, const std::string& formula) {
  for (const auto& [kind, label, bytes] : {std::tuple{MemoryKind::weight, weights, element_bytes()},
                                           {MemoryKind::gradient, gradients, wide_bytes()}})
    expect_memory(kind, label, whole * bytes, rank * bytes, format("{} {}", bytes, formula));
}

void Proof::expect_optimizer(const std::string& label, int numbers, std::int64_t whole, std::int64_t rank,
                             const std::string& formula) {
  const std::int64_t master = wide() > 1 ? wide_bytes() : 0, bytes = master + numbers * wide_bytes();
  expect_memory(MemoryKind::optimizer, label, whole * bytes, rank * bytes,
                (master > 0 ? format("({} + {}) ", master, bytes - master) : format("{} ", bytes)) + formula);
}

void Proof::claim(const std::string& identity, double error, double bound, const std::string& advice) {
  claims_.push_back({.identity = identity,
                     .tier = tier_name(),
                     .error = error,
                     .bound = bound,
                     .used = error == 0 ? 0 : error / bound,
                     .ok = error <= bound,
                     .scalar = true,
                     .rank = -1});
  if (!claims_.back().ok) claims_.back().diagnosis = advice;
}

Inputs<Tensor> Proof::whole_inputs(DType dtype) const {
  return [this, dtype](const std::string& name) {
    const Input& input = inputs_.at(name);
    // The numbers are generated in the dtype of the run, so that the truth starts from the same ones.
    return cast(generate_input(name, input, Slice::whole(input.slice.whole_rows, input.slice.whole_cols),
                               options_.dtype),
                dtype);
  };
}

void Proof::add_check(Outcome& outcome, const Result& result, const Truth& truth,
                      const std::vector<RankResult>& parts, bool diagnose) {
  Check first = check(result.name, result.identity, tier_name(), truth, parts);
  if (!first.ok && diagnose) {
    const Device::Scope host(Device::host());
    std::vector<Mistake> mistakes;
    for (const Mistaken& mistaken : mistakes_)
      for (int rank = 0; mistaken.result == result.name && rank < comm_.size(); ++rank) {
        std::string name = mistaken.name;
        if (const auto at = name.find("{rank}"); at != std::string::npos)
          name.replace(at, 6, std::to_string(rank));
        mistakes.push_back({name, Matrix::from(mistaken.formula(whole_inputs(DType::f64), rank)), rank});
      }
    first = check(result.name, result.identity, tier_name(), truth, parts, mistakes);
  }
  first.group = result.group;
  outcome.checks.push_back(std::move(first));
}

void Proof::expect_exact(double largest_sum) const {
  const double unit = options_.tf32 ? unit_tf32 : unit_roundoff(options_.dtype);
  const double room = exact() ? 1 / unit : INFINITY;
  if (!(largest_sum < room))
    throw UsageError(
        format("--exact needs sums below {} in {}, and these sizes reach {}: smaller sizes or --dtype f64 "
               "would work",
               number(room), name(options_.dtype), number(largest_sum)));
}

double Proof::measured_bound(const Tensor& unsplit, double error, double largest_sum) const {
  if (exact()) return 0;
  const DType stored = unsplit.size() > 1 ? unsplit.dtype() : options_.dtype;  // one error may be luck
  return 8 * error + std::max(64 * unit_roundoff(arithmetic(stored)), unit_roundoff(stored)) * largest_sum;
}

Named<Truth> Proof::bounded_truth(Named<Tensor>& unsplit) const {
  // The truth is computed in f64, and has the rounding of f64 itself as well.
  const auto arithmetic = std::make_shared<Rounding>();
  arithmetic->unit = exact() ? 0 : unit_roundoff(options_.dtype) + unit_roundoff(DType::f64);
  Named<Bounded> bounded;
  {
    const Device::Scope host(Device::host());
    const auto in = whole_inputs(DType::f64);
    bounded =
        reference_bounded_([&](const std::string& input) { return bounded_input(in(input), arithmetic); });
  }
  expect_exact(arithmetic->largest_sum);
  unsplit = reference_tensor_(whole_inputs(options_.dtype));
  Named<Truth> truth;
  for (const auto& [name, m] : bounded) {
    Truth& one = truth[name] = {Matrix::from(m.value), Matrix::from(m.error)};
    one.baseline_error = distance(unsplit.at(name), one.value);
    if (coarse())
      one.bound = constant(one.value.rows, one.value.cols,
                           measured_bound(unsplit.at(name), one.baseline_error, m.largest_sum));
  }
  return truth;
}

Named<Truth> Proof::measured_truth(Named<Tensor>& unsplit) const {
  MeasuredReference reference;
  {
    const Device::Scope host(Device::host());
    reference = reference_measured_(whole_inputs(DType::f64));
  }
  for (const auto& [name, sum] : reference.largest_sum) expect_exact(sum);
  unsplit = reference_measured_(whole_inputs(options_.dtype)).results;
  Named<Truth> truth;
  for (const auto& [name, value] : reference.results) {
    const double error = distance(unsplit.at(name), Matrix::from(value));
    const double bound = measured_bound(unsplit.at(name), error, reference.largest_sum.at(name));
    truth[name] = {Matrix::from(value), constant(value.rows(), value.cols(), bound), error};
  }
  return truth;
}

void Proof::compare(Outcome& outcome, const Gathered& gathered) {
  Named<Tensor> whole;
  const Named<Truth> truth = reference_measured_ ? measured_truth(whole) : bounded_truth(whole);
  for (std::size_t i = 0; i < results_.size(); ++i)
    add_check(outcome, results_[i], truth.at(results_[i].name), gathered[i], true);
  if (!options_.dump) return;
  for (const auto& [name, input] : inputs_) whole[name] = whole_inputs(options_.dtype)(name);
  for (const auto& [name, tensor] : whole) outcome.dump["whole." + name] = tensor.to(Device::host());
}

void Proof::compare_samples(Outcome& outcome, const Gathered& gathered) {
  if (reference_measured_)
    throw UsageError("--no-baseline is for lessons 01 to 04: without it this lesson would work");
  // A result with tokens (axis N) needs only its own rows of X and dY; any other result needs only its own
  // columns of the hidden axis F. So the formula is evaluated twice, on thin slices of the inputs, and 64
  // elements of each result are compared.
  const auto arithmetic = std::make_shared<Rounding>();
  arithmetic->unit = exact() ? 0 : unit_roundoff(options_.dtype) + unit_roundoff(DType::f64);
  const Random random(options_.seed, "samples");
  std::uint64_t drawn = 0;
  const auto draw = [&](std::int64_t size) {
    return static_cast<std::int64_t>(random.bits(drawn++) % static_cast<std::uint64_t>(size));
  };
  const Device::Scope host(Device::host());
  for (const char axis : {'N', 'F'}) {
    Samples samples;
    const auto in = [&](const std::string& name) {
      const Input& input = inputs_.at(name);
      Slice slice = Slice::whole(input.slice.whole_rows, input.slice.whole_cols);
      for (const int side : {0, 1}) {
        auto& ranges = side == 0 ? slice.row_ranges : slice.col_ranges;
        const std::int64_t size = side == 0 ? slice.whole_rows : slice.whole_cols;
        if (input.axes[static_cast<std::size_t>(side)] != axis) continue;
        std::vector<Range>& chosen = samples[axis];
        if (chosen.empty())
          for (int i = 0; i < 8; ++i) {
            const std::int64_t index = draw(size);
            chosen.push_back({index, index + 1});
          }
        ranges = chosen;
      }
      return bounded_input(generate_input(name, input, slice, options_.dtype), arithmetic);
    };
    const Named<Bounded> truth = reference_bounded_(in);
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const Result& result = results_[i];
      const bool has_tokens = result.axes.find('N') != std::string::npos;
      if (has_tokens != (axis == 'N')) continue;
      // Element (row, col) of this truth is element (samples[row],
      // col) of the whole. Each rank's 64 are compared.
      const Matrix value = Matrix::from(truth.at(result.name).value),
                   bound = Matrix::from(truth.at(result.name).error);
      const bool by_rows = result.axes[0] == axis, by_cols = result.axes[1] == axis;
      Truth expected{constant(1, 64, 0), constant(1, 64, 0)};
      std::vector<RankResult> parts(gathered[i].size());
      for (std::size_t r = 0; r < parts.size(); ++r) parts[r] = {Slice::whole(1, 64), constant(1, 64, 0)};
      for (std::int64_t k = 0; k < 64; ++k) {
        const std::int64_t row = draw(value.rows), col = draw(value.cols);
        expected.value.at(0, k) = value.at(row, col);
        expected.bound.at(0, k) = bound.at(row, col);
        const std::int64_t whole_row = by_rows ? samples[axis][static_cast<std::size_t>(row)].begin : row;
        const std::int64_t whole_col = by_cols ? samples[axis][static_cast<std::size_t>(col)].begin : col;
        for (std::size_t r = 0; r < parts.size(); ++r) {
          const auto local = gathered[i][r].slice.find(whole_row, whole_col);
          parts[r].local.at(0, k) =
              local ? gathered[i][r].local.at(local->first, local->second) : value.at(row, col);
        }
      }
      add_check(outcome, result, expected, parts, false);
    }
  }
}

}  // namespace tessera
