// What lesson 07 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "05_attention_heads/sizes.hpp"
#include "06_pipeline/unsplit.hpp"
#include "07_data_parallel/linear_proof.hpp"
#include "07_data_parallel/replica.hpp"

namespace tessera::data_parallel {

struct Config {
  Model model;  // its options.batch and tokens are of the whole batch
  std::int64_t bucket = 64 << 10, steps = 20;
  double lr = 0.1;
};

/// What rank 0 knows at the end.
struct Trained {
  std::vector<double> losses;
  std::size_t buckets = 0;
};

inline MeasuredReference unsplit(const Inputs<Tensor>& in, const Model& model, const Tokens& batch) {
  MeasuredReference whole = pipeline::reference_step(in, model, batch);
  const Tensor x = in("X"), a = in("A"), dy = in("dY");
  const auto note = [&](const char* name, const Tensor& value, double sum) {
    whole.results[name] = value;
    whole.largest_sum[name] = sum;
  };
  note("Y", add_bias(matmul(x, a), in("c")), largest_terms(x, a) + largest(in("c")));
  note("dX", matmul(dy, t(a)), largest_terms(dy, t(a)));
  note("dA", matmul(t(x), dy), largest_terms(t(x), dy));
  note("dc", sum_rows(dy), largest(sum_rows(absolute(dy))));
  return whole;
}

/// The gradients of one step against the whole model's, then `steps` steps of SGD.
inline Trained prove(Proof& proof, Communicator& comm, const Config& s) {
  const int p = comm.size(), r = comm.rank();
  const std::int64_t seq = s.model.attention.options.seq, w = s.model.width(), e = proof.element_bytes();
  prove_linear(proof, comm, s.model.tokens, seq, w, 2 * w + 1);
  const auto group = comm.split(r, 0, "tp");
  const TensorParallel alone(*group);
  const Range sequences = own_rows(s.model.attention.options.batch, r, p);
  Model own = s.model;
  own.attention.options.batch = sequences.size();
  std::map<std::string, double> scales;
  for (const auto& info : pipeline::weights_of(own)) scales[info.name] = info.scale;
  Replica replica(own, alone, proof.dtype(), s.bucket, [&](const std::string& name, const Slice& slice) {
    return proof.weight(name, "??", slice, scales.at(name));
  });
  const Tokens batch = pipeline::make_tokens(s.model, proof.seed());
  Tokens mine;
  {
    const MemoryScope data(MemoryKind::check);
    const auto rows = [&](const Tensor& x) {
      return x.row_range(sequences.begin * seq, sequences.end * seq).copy().to(Device::current());
    };
    mine = {rows(batch.ids), rows(batch.targets)};
  }
  const auto global = [&](const Tensor& loss) {  // the mean over all tokens
    const Phase phase = comm.phase("check");
    const MemoryScope scope(MemoryKind::check);
    return comm.all_reduce(loss).values()[0] / static_cast<double>(s.model.tokens);
  };
  const auto keep = [](const Tensor& x) {
    const MemoryScope scope(MemoryKind::check);
    return x.copy();
  };
  Trained trained{{global(replica.gradients(mine, comm))}, replica.buckets().count()};
  proof.measure_memory();
  proof.result("loss", "11", "loss, the mean over all ranks' tokens", Tensor::of(1, 1, {trained.losses[0]}),
               Slice::whole(1, 1));
  for (const Parameter& one : replica.parameters())
    proof.result("d" + one.name, "??", "d" + one.name, keep(one.gradient), one.slice,
                 "gradients, each the sum over the ranks");
  proof.measured_baseline([batch, model = s.model](const auto& in) { return unsplit(in, model, batch); });

  for (std::int64_t step = 0; step < s.steps; ++step) {
    replica.step(s.lr, 0.9);
    trained.losses.push_back(global(replica.gradients(mine, comm)));
  }
  double apart = 0;
  for (const Parameter& one : replica.parameters())
    apart = std::max(apart, attention_heads::ranks_apart(comm, one.value));
  proof.claim(format("replicas after {} steps: equal bits", s.steps), apart, 0,
              "a replica went its own way: was a gradient not summed?");
  const double rise = std::max(trained.losses.back() - trained.losses.front(), 0.0);  // NaN stays NaN
  if (s.steps > 0) proof.claim("the loss has not risen", rise, 0, "smaller --lr?");

  for (const Parameter& one : replica.parameters())  // as a dump should show them
    one.value.copy_from(proof.other_slice(one.name, one.slice));

  const std::int64_t weights = pipeline::elements_of(s.model), steps = s.steps + 1,
                     buckets = static_cast<std::int64_t>(trained.buckets);
  proof.expect_traffic("bwd", "all_reduce", "gradients", steps * buckets, steps * 2 * (p - 1) * weights * e,
                       format("{} steps x 2 (p-1) {} P", steps, e));
  for (const auto& [kind, label] : {std::pair{MemoryKind::weight, "weights"},
                                    {MemoryKind::gradient, "gradients"},
                                    {MemoryKind::optimizer, "SGD's velocity"}})
    proof.expect_memory(kind, label, weights * e, weights * e,
                        format("{} P: the whole model on every rank", e));
  return trained;
}

}  // namespace tessera::data_parallel
