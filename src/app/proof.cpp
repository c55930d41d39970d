#include "app/proof.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>

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
  if (options_.dump) {
    const MemoryScope beside(MemoryKind::check);
    entry.local = local.copy();  // a step may change it, or move it to another place
  }
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
  const double used = error == 0 ? 0 : error / bound;
  claims_.push_back({.identity = identity,
                     .tier = tier_name(),
                     .error = error,
                     .bound = bound,
                     .used = std::isnan(used) ? INFINITY : used,
                     .ok = error <= bound && std::isfinite(error),
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

void Proof::add_part(Check& all, const Result& result, const Slice& part, const Truth& truth,
                     const std::vector<Held>& held) const {
  std::vector<RankResult> ranks;
  for (const Held& one : held) ranks.push_back({one.slice, Matrix::from(one.local)});
  Check here = check(result.name, result.identity, tier_name(), truth, ranks);
  const bool first = all.identity.empty();
  if (!here.ok && (first || all.ok) && options_.baseline) {
    const Device::Scope host(Device::host());
    std::vector<Mistake> mistakes;
    for (const Mistaken& mistaken : mistakes_)
      for (int rank = 0; mistaken.result == result.name && rank < comm_.size(); ++rank) {
        std::string name = mistaken.name;
        if (const auto at = name.find("{rank}"); at != std::string::npos)
          name.replace(at, 6, std::to_string(rank));
        const Tensor whole = mistaken.formula(whole_inputs(DType::f64), rank);
        mistakes.push_back({name, Matrix::from(part.extract(whole)), rank});
      }
    here.diagnosis = check(result.name, result.identity, tier_name(), truth, ranks, mistakes).diagnosis;
  }
  if (here.unheld > 0) {
    here.ok = false, here.rank = -1, here.error = here.used = INFINITY;
    here.diagnosis = format("no rank holds {} elements of it.", here.unheld);
  }
  std::tie(here.row, here.col) = part.locate(here.row, here.col);
  here.group = result.group;
  const double baseline_error = std::max(here.baseline_error, all.baseline_error);
  if (first || !(here.used <= all.used)) {  // the worst part speaks for all
    if (here.diagnosis.empty()) here.diagnosis = all.diagnosis;
    all = here;
  }
  all.baseline_error = baseline_error;
}

void Proof::expect_exact(double largest_sum) const {
  const double room = exact() ? 1 / unit() : INFINITY;
  if (!(largest_sum < room))
    throw UsageError(
        "--exact needs sums below {} in {}, and these sizes reach {}: {} would work, or smaller sizes",
        number(room), name(options_.dtype), number(largest_sum),
        options_.dtype == DType::f64 ? "without --exact it" : "--dtype f64");
}

double Proof::unit() const { return options_.tf32 ? unit_tf32 : unit_roundoff(options_.dtype); }

double Proof::measured_bound(double error, double largest_sum) const {
  const double of_sums = unit_roundoff(arithmetic(options_.dtype));
  return exact() ? 0 : 8 * error + std::max(64 * of_sums, unit()) * largest_sum;
}

Slice Proof::Part::slice(const std::string& axes, const Slice& of) const {
  Slice slice = Slice::whole(of.whole_rows, of.whole_cols);
  if (axes[0] == axis) slice.row_ranges = ranges;
  if (axes[1] == axis) slice.col_ranges = ranges;
  return slice;
}

std::vector<Proof::Part> Proof::parts() const {
  constexpr std::int64_t little = 1 << 18;  // elements of a matrix that nobody needs to compute in parts
  std::map<char, std::int64_t> sizes = {{'N', 1}, {'F', 1}};
  for (const auto& [name, input] : inputs_) {
    sizes[input.axes[0]] = input.slice.whole_rows;
    sizes[input.axes[1]] = input.slice.whole_cols;
  }
  std::int64_t longest = 1;
  for (const auto& [letter, size] : sizes) longest = std::max(longest, size);
  const auto step = [&](char axis) { return std::max((sizes[axis] + 7) / 8, little / longest); };
  const bool small = sizes['N'] <= step('N') && sizes['F'] <= step('F');
  if (options_.baseline && (small || options_.dump || reference_measured_ || coarse())) return {{}};
  std::vector<Part> parts;
  const Random random(options_.seed, "samples");
  for (const char axis : {'N', 'F'}) {
    if (!options_.baseline) {  // samples: 8 rows of what has tokens, and 8 of the hidden axis of the rest
      Part& samples = parts.emplace_back(Part{axis});
      for (std::uint64_t i = 0; i < 8; ++i) {
        const auto index = static_cast<std::int64_t>(random.bits(8 * parts.size() + i) %
                                                     static_cast<std::uint64_t>(sizes[axis]));
        samples.ranges.push_back({index, index + 1});
      }
      continue;
    }
    for (std::int64_t begin = 0; begin < sizes[axis]; begin += step(axis))
      parts.push_back({axis, {{begin, std::min(begin + step(axis), sizes[axis])}}});
  }
  return parts;
}

Proof::TruthOf Proof::bounded_truth(const Part& part) const {
  // The truth is computed in f64, and has the rounding of f64 itself as well.
  const auto arithmetic = std::make_shared<Rounding>();
  arithmetic->unit = exact() ? 0 : unit_roundoff(options_.dtype) + unit_roundoff(DType::f64);
  arithmetic->sums = exact() || coarse();
  const Named<Bounded> truth = reference_bounded_([this, part, arithmetic](const std::string& name) {
    const Input& input = inputs_.at(name);
    const Slice slice = part.slice(input.axes, input.slice);
    return bounded_input([=, this, &input] { return generate_input(name, input, slice, options_.dtype); },
                         arithmetic);
  });
  return [=, this](const Result& result) {
    const Device::Scope host(Device::host());
    const Bounded& value = truth.at(result.name);
    Truth one{Matrix::from(value->value), Matrix::from(value.error())};
    expect_exact(arithmetic->largest_sum);
    if (!coarse()) return one;
    const double bound = measured_bound(distance(unsplit_.at(result.name), one.value), value->largest_sum);
    one.bound = constant(one.value.rows, one.value.cols, bound);
    return one;
  };
}

Proof::TruthOf Proof::measured_truth() const {
  const Device::Scope host(Device::host());
  const MeasuredReference reference = reference_measured_(whole_inputs(DType::f64));
  for (const auto& [name, sum] : reference.largest_sum) expect_exact(sum);
  return [=, this](const Result& result) {
    const Matrix value = Matrix::from(reference.results.at(result.name));
    const double error = distance(unsplit_.at(result.name), value);
    const double bound = measured_bound(error, reference.largest_sum.at(result.name)) +
                         (coarse() ? reference.room.at(result.name) : 0);
    return Truth{value, constant(value.rows, value.cols, bound)};
  };
}

void Proof::compare(Outcome& outcome) {
  std::vector<Check> checks(results_.size());
  if (comm_.rank() == 0 && options_.baseline)
    unsplit_ = reference_measured_ ? reference_measured_(whole_inputs(options_.dtype)).results
                                   : reference_tensor_(whole_inputs(options_.dtype));
  for (const Part& part : parts()) {
    std::vector<std::size_t> here;  // the results that this part is of
    std::vector<Slice> slices;
    std::vector<Held> mine;
    for (std::size_t i = 0; i < results_.size(); ++i) {
      const Result& result = results_[i];
      const bool has_tokens = result.axes.find('N') != std::string::npos;
      if (part.axis != 0 && has_tokens != (part.axis == 'N')) continue;
      here.push_back(i);
      slices.push_back(part.slice(result.axes, result.slice));
      const auto [own, place] = Slice::overlap(result.slice, slices.back());
      mine.push_back({place, part.axis == 0 ? result.local : own.extract(result.local)});
    }
    const auto gathered = gather_held(comm_, mine);
    if (comm_.rank() != 0) continue;
    if (part.axis != 0) trim_memory();  // blocks of another part are of other sizes
    const TruthOf truth = reference_measured_ ? measured_truth() : bounded_truth(part);
    for (std::size_t k = 0; k < here.size(); ++k) {
      const Result& result = results_[here[k]];
      Truth one = truth(result);
      if (options_.baseline)
        one.baseline_error = distance(slices[k].extract(unsplit_.at(result.name)), one.value);
      add_part(checks[here[k]], result, slices[k], one, gathered[k]);
    }
  }
  if (comm_.rank() != 0) return;
  outcome.checks = std::move(checks);
  if (options_.dump && options_.baseline) {
    for (const auto& [name, input] : inputs_) unsplit_[name] = whole_inputs(options_.dtype)(name);
    for (const auto& [name, tensor] : unsplit_) outcome.dump["whole." + name] = tensor.to(Device::host());
  }
  unsplit_.clear();
}

}  // namespace tessera
