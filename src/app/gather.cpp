// Rank 0 gathers what the ranks have found: values, bytes, memory, timelines.
#include <nlohmann/json.hpp>

#include "app/proof.hpp"
#include "tensor/error.hpp"

namespace tessera {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Range, begin, end)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Slice, whole_rows, whole_cols, row_ranges, col_ranges)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Traffic, calls, payload, wire, counted)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrafficKey, phase, group, op)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Span, name, category, begin, end, flow)

namespace {

/// The bytes that a rank holds of a row of the table of memory.
struct Bytes {
  std::int64_t predicted = 0, measured = 0;
};
/// What a rank tells rank 0 beside its matrices.
struct Story {
  std::map<TrafficKey, Traffic> traffic;
  std::vector<Span> spans;
  std::int64_t peak = 0;
  std::vector<Bytes> memory;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Bytes, predicted, measured)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Story, traffic, spans, peak, memory)

/// Rank 0 gets every rank's value.
template <class Value>
std::vector<Value> gather_values(Communicator& comm, const Value& mine) {
  std::vector<Value> all;
  for (const std::string& text : gather_to_first(comm, nlohmann::json(mine).dump()))
    all.push_back(nlohmann::json::parse(text).get<Value>());
  return all;
}

}  // namespace

double sum_over(Communicator& group, double mine) {
  const CheckScope scope(group);
  return group.all_reduce(Tensor::of(1, 1, {mine})).values()[0];
}

std::vector<double> gather_over(Communicator& group, double mine) {
  const CheckScope scope(group);
  return group.all_gather(Tensor::of(1, 1, {mine}), 0).values();
}

std::vector<std::vector<Held>> gather_held(Communicator& comm, const std::vector<Held>& mine) {
  const CheckScope scope(comm);
  std::vector<Slice> slices;
  std::int64_t size = 0, at = 0;
  DType dtype = mine.empty() ? DType::f64 : mine[0].local.dtype();
  for (const Held& one : mine) {
    slices.push_back(one.slice);
    size += one.local.size();
    if (one.local.dtype() != dtype) dtype = DType::f64;  // which holds the others
  }
  const Tensor row = Tensor::empty(1, size, dtype);  // all elements, one matrix after the other
  for (const Held& one : mine) {
    const std::int64_t n = one.local.size();
    if (n > 0) row.column_range(at, at + n).copy_from(cast(one.local.contiguous().reshape(1, n), dtype));
    at += n;
  }
  const std::vector<std::vector<Slice>> theirs = gather_values(comm, slices);
  const std::vector<Tensor> rows = gather_to_first(comm, row);
  std::vector<std::vector<Held>> all(comm.rank() == 0 ? mine.size() : 0);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const Tensor host = rows[r].to(Device::host());
    at = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const Slice& slice = theirs[r][i];
      const std::int64_t height = slice.local_rows(), width = slice.local_cols();
      all[i].push_back({slice, host.column_range(at, at + height * width).reshape(height, width)});
      at += height * width;
    }
  }
  return all;
}

void trim_memory() {
  for (const auto& device : {Device::current(), Device::host()})
    if (device->kind() == DeviceKind::cpu) device->trim();
}

Outcome Proof::finish() {
  const auto busy = comm_.rank() == 0 ? comm_.busy("computes the unsplit reference") : nullptr;
  Outcome outcome;
  outcome.tier = options_.tier;
  Story mine{comm_.journal().traffic(), comm_.journal().spans(), Device::current()->memory.peak(), {}};
  for (const MemoryRow& row : memory_) mine.memory.push_back({row.predicted.at(0), row.measured.at(0)});
  const CheckScope scope(comm_);
  std::map<TrafficKey, Traffic> total;
  outcome.memory = memory_;
  for (MemoryRow& row : outcome.memory) row.predicted.clear(), row.measured.clear();
  for (const Story& story : gather_values(comm_, mine)) {
    for (const auto& [key, row] : story.traffic) {
      if (key.phase == "check") continue;
      Traffic& sum = total[{key.phase.empty() ? "-" : key.phase, key.group, key.op}];
      sum.calls += row.calls, sum.payload += row.payload, sum.wire += row.wire;
      sum.counted = sum.counted && row.counted;
    }
    outcome.spans.push_back(story.spans);
    outcome.peak.push_back(story.peak);
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      outcome.memory[i].predicted.push_back(story.memory[i].predicted);
      outcome.memory[i].measured.push_back(story.memory[i].measured);
    }
  }
  check_traffic(outcome, std::move(total));
  check_memory(outcome);
  trim_memory();  // gives back what the run needed
  if (options_.dump) make_dump(outcome);
  compare(outcome);
  if (comm_.rank() != 0) return {};
  outcome.checks.insert(outcome.checks.end(), claims_.begin(), claims_.end());
  outcome.extra = extra_;
  return outcome;
}

void Proof::make_dump(Outcome& outcome) {
  std::vector<Held> mine;
  std::vector<std::string> names;
  for (const auto& [name, input] : inputs_) names.push_back(name), mine.push_back({input.slice, input.local});
  for (const Result& one : results_) names.push_back(one.name), mine.push_back({one.slice, one.local});
  const auto gathered = gather_held(comm_, mine);
  const Device::Scope host(Device::host());
  if (comm_.rank() == 0)
    for (const auto& [name, tensor] : dumped_) outcome.dump[name] = tensor.to(Device::host());
  for (std::size_t i = 0; i < gathered.size(); ++i) {
    const Slice& any = mine[i].slice;
    const Tensor whole = Tensor::zeros(any.whole_rows, any.whole_cols, options_.dtype);
    for (std::size_t r = 0; r < gathered[i].size(); ++r) {
      const Tensor local = cast(gathered[i][r].local, options_.dtype);
      if (local.size() == 0) continue;
      outcome.dump[format("rank{}.{}", r, names[i])] = local;
      gathered[i][r].slice.insert(whole, local);
    }
    if (i >= inputs_.size()) outcome.dump["split." + names[i]] = whole;
  }
}

void Proof::check_traffic(Outcome& outcome, std::map<TrafficKey, Traffic> total) const {
  for (TrafficRow row : traffic_) {
    const Traffic measured = total[{row.phase, row.group, row.op}];
    total.erase({row.phase, row.group, row.op});
    row.calls = measured.calls;
    row.payload = measured.payload;
    row.wire = measured.wire;
    row.counted = measured.counted;
    row.ok = row.calls == row.predicted_calls && (!row.counted || row.wire == row.predicted);
    const std::string what = format("{} {} {}", row.phase, row.op, row.label);
    if (!row.ok && row.calls == 0)
      outcome.notes.push_back(format("{} was never called: the sum is still owed", what));
    else if (!row.ok && row.predicted > 0 && row.wire == 2 * row.predicted)
      outcome.notes.push_back(
          format("{} sent twice what the formula says: was everything sent twice?", what));
    else if (!row.ok)
      outcome.notes.push_back(format("{}: {} calls, {} B; the formula says {} and {} B", what, row.calls,
                                     row.wire, row.predicted_calls, row.predicted));
    outcome.traffic.push_back(row);
  }
  for (const auto& [key, row] : total) {
    if (row.wire == 0) continue;  // a group of one rank, a barrier
    outcome.traffic.push_back({key.phase, key.group, key.op, "", "none expected", row.calls, row.payload,
                               row.wire, 0, 0, row.counted, false});
    outcome.notes.push_back(format("{} {}: {} calls that no formula expects", key.phase, key.op, row.calls));
  }
}

void Proof::check_memory(Outcome& outcome) const {
  for (MemoryRow& row : outcome.memory) {
    row.ok = row.measured == row.predicted;
    for (std::size_t r = 0; r < row.measured.size(); ++r)
      if (row.measured[r] != row.predicted[r]) {
        outcome.notes.push_back(format("rank {} holds {} B of {}; the formula says {} B", r, row.measured[r],
                                       row.label, row.predicted[r]));
        break;
      }
  }
}

}  // namespace tessera
