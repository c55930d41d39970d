// What a step is fed with, and what it leaves behind for rank 0 to read.
#pragma once

#include "06_pipeline/build.hpp"
#include "06_pipeline/partition.hpp"
#include "06_pipeline/simulate.hpp"
#include "06_pipeline/worker.hpp"

namespace tessera::pipeline {

/// What rank 0 knows of a measured run: the step with the median bubble.
struct Measured {
  Timeline timeline;
  std::vector<int> in_flight;
  std::vector<std::int64_t> activation_bytes;
};

/// Made-up text: ids, and the next one as the target. (n, 1) i32 of all microbatches, on the host.
inline Tokens make_tokens(const Model& model, std::uint64_t seed) {
  const MemoryScope data(MemoryKind::check);
  const Device::Scope host(Device::host());
  const Random random(seed, "tokens");
  std::vector<double> ids;
  for (std::int64_t i = 0; i <= model.tokens; ++i)
    ids.push_back(static_cast<double>(random.bits(static_cast<std::uint64_t>(i)) %
                                      static_cast<std::uint64_t>(model.vocabulary)));
  const auto from = [&](std::int64_t begin) {
    return Tensor::of(model.tokens, 1, {ids.begin() + begin, ids.begin() + begin + model.tokens}, DType::i32);
  };
  return {from(0), from(1)};
}

/// Rows of `batch` for each of m microbatches, on this rank's device.
inline std::vector<Tokens> cut_tokens(const Tokens& batch, int microbatches) {
  const MemoryScope data(MemoryKind::check);
  std::vector<Tokens> parts;
  for (int i = 0; i < microbatches; ++i) {
    const Range rows = part(batch.ids.rows(), i, microbatches);
    const auto own = [&](const Tensor& x) {
      return x.row_range(rows.begin, rows.end).copy().to(Device::current());
    };
    parts.push_back({own(batch.ids), own(batch.targets)});
  }
  return parts;
}

/// Every rank's steps, on rank 0.
inline Measured gather(Communicator& comm, const Trace& trace) {
  const Phase phase = comm.phase("check");
  const MemoryScope scope(MemoryKind::check);
  std::vector<double> mine = {static_cast<double>(trace.in_flight),
                              static_cast<double>(trace.activation_bytes)};
  for (const Step& s : trace.steps)
    for (const double value : {static_cast<double>(s.op), static_cast<double>(s.microbatch),
                               static_cast<double>(s.chunk), s.begin, s.end})
      mine.push_back(value);
  Measured all;
  for (const Tensor& one :
       gather_to_first(comm, Tensor::of(1, static_cast<std::int64_t>(mine.size()), mine, DType::f64))) {
    const std::vector<double> v = one.values();
    all.in_flight.push_back(static_cast<int>(v[0]));
    all.activation_bytes.push_back(static_cast<std::int64_t>(v[1]));
    auto& steps = all.timeline.stages.emplace_back();
    for (std::size_t i = 2; i < v.size(); i += 5)
      steps.push_back({{static_cast<Op>(v[i]), static_cast<int>(v[i + 1]), static_cast<int>(v[i + 2])},
                       v[i + 3],
                       v[i + 4]});
  }
  return all;
}

/// What an embedding, a block and a head cost this device:
/// forward and backward of a microbatch, the median of 7.
inline LayerCosts measure_costs(const Model& model, const TensorParallel& alone, DType dtype,
                                const Tokens& batch) {
  const MemoryScope scope(MemoryKind::check);
  Builder builder(model, alone, [&](const std::string& name, const Slice& slice) {
    return generate(1, name, slice, dtype, Fill::uniform, 0.1);
  });
  const Placed<Replicated> x(
      generate(1, "X", Slice::whole(model.rows(), model.width()), dtype, Fill::uniform, 1));
  const auto time = [&](const Chunk<>& chunk) {
    std::vector<double> seconds;
    for (int i = 0; i < 7; ++i) {
      typename Chunk<>::Saved saved;
      const Event begin = Device::current()->mark();
      chunk.forward(x, batch, saved, alone);
      chunk.backward_input(x, saved, alone);
      chunk.backward_weight(saved);
      seconds.push_back(Device::current()->seconds_between(begin, Device::current()->mark()));
    }
    std::sort(seconds.begin(), seconds.end());
    return seconds[seconds.size() / 2];
  };
  return {time(builder.chunk({0, 0}, true, false)), time(builder.chunk({0, 1}, false, false)),
          time(builder.chunk({0, 0}, false, true))};
}

/// What each virtual stage took in a measured run: medians over the microbatches.
/// Predicts that run's timeline.
inline Costs costs_of(const Timeline& timeline, int virtual_stages) {
  Costs costs = Costs::equal(virtual_stages, 0, 0, 0);
  const int stages = static_cast<int>(timeline.stages.size());
  for (int at = 0; at < virtual_stages; ++at) {
    const auto median = [&](Op op) {
      std::vector<double> seconds = {};
      for (const Step& s : timeline.stages[static_cast<std::size_t>(at % stages)])
        if (s.op == op && s.chunk == at / stages) seconds.push_back(s.end - s.begin);
      std::sort(seconds.begin(), seconds.end());
      return seconds.empty() ? 0 : seconds[seconds.size() / 2];
    };
    const auto i = static_cast<std::size_t>(at);
    costs.forward[i] = median(Op::forward);
    costs.backward_input[i] = median(Op::backward_input) + median(Op::backward);
    costs.backward_weight[i] = median(Op::backward_weight);
  }
  return costs;
}

/// The rank's timeline for --trace: a bar an instruction, an arrow from each send to its receive.
inline void journal_steps(Journal& journal, const Trace& trace, int stage, int stages) {
  for (const Step& s : trace.steps) {
    const int at = virtual_stage(s.chunk, stage, stages);
    const bool to_next = s.op == Op::send || s.op == Op::receive_gradient;
    const bool gradient = s.op == Op::send_gradient || s.op == Op::receive_gradient;
    const std::string message = format("{}{}.{}", gradient ? "g" : "a", s.microbatch, to_next ? at : at - 1);
    const std::string flow = is_send(s.op) ? "out:" + message : is_receive(s.op) ? "in:" + message : "";
    journal.span({text(s), "pipeline", s.begin, s.end, flow});
  }
}

}  // namespace tessera::pipeline
