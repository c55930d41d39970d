// Rank 0 gathers what the ranks have found: values, bytes, memory, timelines.
#include <algorithm>
#include <sstream>

#include "app/proof.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

/// A rank sends its parts to rank 0 as one row of numbers:
/// rows and columns of the whole, ranges, then the elements.
void pack(std::vector<double>& row, const Slice& slice, const Tensor& local) {
  const auto put = [&](std::int64_t value) { row.push_back(static_cast<double>(value)); };
  put(slice.whole_rows);
  put(slice.whole_cols);
  for (const auto* ranges : {&slice.row_ranges, &slice.col_ranges}) {
    put(static_cast<std::int64_t>(ranges->size()));
    for (const Range& range : *ranges) put(range.begin), put(range.end);
  }
  const std::vector<double> values = local.values();
  row.insert(row.end(), values.begin(), values.end());
}

RankResult unpack(std::vector<double>::const_iterator& at) {
  const auto take = [&] { return static_cast<std::int64_t>(*at++); };
  RankResult part;
  part.slice.whole_rows = take();
  part.slice.whole_cols = take();
  for (auto* ranges : {&part.slice.row_ranges, &part.slice.col_ranges}) {
    ranges->resize(static_cast<std::size_t>(take()));
    for (Range& range : *ranges) range.begin = take(), range.end = take();
  }
  part.local = {part.slice.local_rows(), part.slice.local_cols(), {}};
  part.local.values.assign(at, at + part.local.rows * part.local.cols);
  at += part.local.rows * part.local.cols;
  return part;
}

}  // namespace

double sum_over(Communicator& group, double mine) {
  const CheckScope scope(group);
  return group.all_reduce(Tensor::of(1, 1, {mine})).values()[0];
}

std::vector<RankResult> gather_parts(Communicator& comm, const Slice& slice, const Tensor& local) {
  const CheckScope scope(comm);
  std::vector<double> mine;
  pack(mine, slice, local);
  std::vector<RankResult> parts;
  for (const Tensor& row :
       gather_to_first(comm, Tensor::of(1, static_cast<std::int64_t>(mine.size()), mine))) {
    const std::vector<double> values = row.values();
    auto at = values.begin();
    parts.push_back(unpack(at));
  }
  return parts;
}

Outcome Proof::finish() {
  const auto busy = comm_.rank() == 0 ? comm_.busy("computes the unsplit reference") : nullptr;
  Outcome outcome;
  outcome.tier = options_.tier;
  gather_traffic(outcome);
  gather_memory(outcome);
  const CheckScope scope(comm_);

  std::vector<double> mine;
  for (const Result& result : results_) pack(mine, result.slice, result.local);
  if (options_.dump)
    for (const auto& [name, input] : inputs_) pack(mine, input.slice, input.local);
  std::vector<std::vector<RankResult>> results(results_.size()), inputs(options_.dump ? inputs_.size() : 0);
  for (const Tensor& packed :
       gather_to_first(comm_, Tensor::of(1, static_cast<std::int64_t>(mine.size()), mine, DType::f64))) {
    const std::vector<double> values = packed.values();
    auto at = values.begin();
    for (auto* parts : {&results, &inputs})
      for (auto& ranks : *parts) ranks.push_back(unpack(at));
  }
  if (comm_.rank() != 0) return {};
  if (options_.dump) make_dump(outcome, results, inputs);
  if (options_.baseline)
    compare(outcome, results);
  else
    compare_samples(outcome, results);
  outcome.checks.insert(outcome.checks.end(), claims_.begin(), claims_.end());
  outcome.extra = extra_;
  return outcome;
}

void Proof::make_dump(Outcome& outcome, const Gathered& results, const Gathered& inputs) const {
  const Device::Scope host(Device::host());
  const auto add_ranks = [&](const std::string& name, const std::vector<RankResult>& parts) {
    for (std::size_t r = 0; r < parts.size(); ++r)
      if (!parts[r].local.values.empty())
        outcome.dump[format("rank{}.{}", r, name)] =
            Tensor::of(parts[r].local.rows, parts[r].local.cols, parts[r].local.values, options_.dtype);
  };
  std::size_t i = 0;
  for (const auto& [name, input] : inputs_) add_ranks(name, inputs[i++]);
  for (i = 0; i < results_.size(); ++i) {
    add_ranks(results_[i].name, results[i]);
    const Tensor whole =
        Tensor::zeros(results_[i].slice.whole_rows, results_[i].slice.whole_cols, options_.dtype);
    for (std::size_t r = 0; r < results[i].size(); ++r)
      if (!results[i][r].local.values.empty())
        results[i][r].slice.insert(whole, outcome.dump.at(format("rank{}.{}", r, results_[i].name)));
    outcome.dump["split." + results_[i].name] = whole;
  }
}

void Proof::gather_traffic(Outcome& outcome) {
  // Each rank sends one text: a line for each kind of call, an empty line, and a line for each span.
  std::ostringstream mine;
  mine.precision(12);  // keeps seconds to less than a microsecond
  for (const auto& [key, row] : comm_.journal().traffic())
    if (key.phase != "check")
      mine << (key.phase.empty() ? "-" : key.phase) << ' ' << key.group << ' ' << key.op << ' ' << row.calls
           << ' ' << row.payload << ' ' << row.wire << ' ' << row.counted << '\n';
  mine << '\n';
  for (const Span& span : comm_.journal().spans())
    mine << span.begin << ' ' << span.end << ' ' << span.category << ' '
         << (span.flow.empty() ? "-" : span.flow) << ' ' << span.name << '\n';

  std::map<TrafficKey, Traffic> total;
  for (const std::string& text : gather_to_first(comm_, mine.str())) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line) && !line.empty();) {
      TrafficKey key;
      Traffic row;
      std::istringstream(line) >> key.phase >> key.group >> key.op >> row.calls >> row.payload >> row.wire >>
          row.counted;
      Traffic& sum = total[key];
      sum.calls += row.calls;
      sum.payload += row.payload;
      sum.wire += row.wire;
      sum.counted = sum.counted && row.counted;
    }
    auto& spans = outcome.spans.emplace_back();
    for (Span span; lines >> span.begin >> span.end >> span.category >> span.flow &&
                    std::getline(lines >> std::ws, span.name);)
      spans.push_back(span);
  }
  for (TrafficRow row : traffic_) {
    const Traffic measured = total[{row.phase, row.group, row.op}];
    total.erase({row.phase, row.group, row.op});
    row.calls = measured.calls;
    row.payload = measured.payload;
    row.wire = measured.wire;
    row.counted = measured.counted;
    row.ok = row.calls == row.predicted_calls && (!row.counted || row.wire == row.predicted);
    const std::string what = format("{} {} {}", row.phase, row.op, row.label);
    if (row.calls == 0)
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

void Proof::gather_memory(Outcome& outcome) {
  std::vector<double> mine = {static_cast<double>(Device::current()->memory.peak())};
  for (const MemoryRow& row : memory_)
    for (const std::int64_t bytes : {row.predicted.at(0), row.measured.at(0)})
      mine.push_back(static_cast<double>(bytes));
  const MemoryScope scope(MemoryKind::check);
  const auto all =
      gather_to_first(comm_, Tensor::of(1, static_cast<std::int64_t>(mine.size()), mine, DType::f64));
  outcome.memory = memory_;
  for (MemoryRow& row : outcome.memory) row.predicted.clear(), row.measured.clear();
  for (const Tensor& tensor : all) {
    const auto values = tensor.values();
    outcome.peak.push_back(static_cast<std::int64_t>(values[0]));
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      outcome.memory[i].predicted.push_back(static_cast<std::int64_t>(values[2 * i + 1]));
      outcome.memory[i].measured.push_back(static_cast<std::int64_t>(values[2 * i + 2]));
    }
  }
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
