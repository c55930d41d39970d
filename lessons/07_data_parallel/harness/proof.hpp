// What lesson 07 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "07_data_parallel/replica.hpp"
#include "app/proof.hpp"
#include "gpt/harness/reference.hpp"
#include "gpt/tokens.hpp"
#include "tensor/error.hpp"

namespace tessera::data_parallel {

/// The gradient if each rank took the mean over its own rows, and then the ranks the mean of these.
inline Tensor mean_of_means(const Inputs<Tensor>& in, const std::string& name, int p, std::int64_t seq) {
  const Tensor x = in("X"), dy = in("dY");
  Tensor sum;
  for (int r = 0; r < p; ++r) {
    const Range own = own_rows(x.rows(), r, p, seq);
    const Tensor rows = dy.row_range(own.begin, own.end);
    const Tensor term = name == "dc" ? sum_rows(rows) : matmul(t(x.row_range(own.begin, own.end)), rows);
    const Tensor mean = scale(term, static_cast<double>(x.rows()) / static_cast<double>(own.size() * p));
    sum = r == 0 ? mean : add(sum, mean);
  }
  return sum;
}

/// One linear layer, its n rows cut between sequences: the identity by itself.
inline void prove_linear(Proof& proof, Communicator& comm, std::int64_t n, std::int64_t seq, std::int64_t k,
                         std::int64_t f) {
  const Range own = own_rows(n, comm.rank(), comm.size(), seq);
  const auto rows = [&](std::int64_t cols) { return Slice{n, cols, {own}, {{0, cols}}}; };
  const Slice a_slice = Slice::whole(k, f), c_slice = Slice::whole(1, f);
  const MemoryScope beside(MemoryKind::check);  // the memory shown is the model's
  const auto input = [&](const char* name, const char* axes, const Slice& slice) {
    return proof.input(name, axes, slice, 1, MemoryKind::check);
  };
  const Rows x(input("X", "NK", rows(k))), dy(input("dY", "NF", rows(f)));
  const Linear layer{Placed<Replicated>(input("A", "KF", a_slice)),
                     Placed<Replicated>(input("c", "1F", c_slice))};
  const Rows y = layer.forward(x), dx = layer.backward_input(dy);
  std::pair<Placed<Replicated>, Placed<Replicated>> gradients;
  {
    const auto phase = comm.phase("linear");
    layer.backward_weight(x, dy);
    gradients = layer.finish(DataParallel(comm));
  }
  proof.result("Y", "NF", "[X1; X2] A + c = [X1 A + c; X2 A + c]", y.local(), rows(f));
  proof.result("dX", "NK", "dX = [dY1 A'; dY2 A']", dx.local(), rows(k));
  proof.result("dA", "KF", "dA = X1' dY1 + X2' dY2", gradients.first.local(), a_slice);
  proof.result("dc", "1F", "dc = sum dY1 + sum dY2", gradients.second.local(), c_slice);
  const std::int64_t p = comm.size(), e = proof.element_bytes();
  proof.expect_traffic("linear", "all_reduce", "dA, dc", 2, 2 * (p - 1) * (k + 1) * f * e,
                       format("2 (p-1) {} (K + 1) F", e));
  for (const char* result : {"dA", "dc"})
    proof.mistake(
        result, format("{} is the mean of the ranks' means: a rank with fewer rows counted as much.", result),
        [=, name = std::string(result)](const auto& in, int) {
          return mean_of_means(in, name, static_cast<int>(p), seq);
        });
}

struct Config {
  ModelConfig model;  // its options.batch and tokens are of the whole batch
  std::int64_t bucket = 64 << 10, steps = 20;
  double lr = 0.1;
};

/// What rank 0 knows at the end.
struct Trained {
  std::vector<double> losses;
  std::size_t buckets = 0;
};

inline MeasuredReference reference(const Inputs<Tensor>& in, const ModelConfig& config, const Tokens& batch) {
  MeasuredReference whole = gpt::reference_step(in, config, batch);
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
  ModelConfig own = s.model;
  own.attention.options.batch = sequences.size();
  std::map<std::string, double> scales;
  for (const auto& info : gpt::weights_of(own)) scales[info.name] = info.scale;
  Replica replica(own, alone, proof.dtype(), s.bucket, [&](const std::string& name, const Slice& slice) {
    return proof.weight(name, "??", slice, scales.at(name));
  });
  const Tokens batch = gpt::random_tokens(s.model, proof.seed());
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
  proof.measured_baseline([batch, model = s.model](const auto& in) { return reference(in, model, batch); });

  for (std::int64_t step = 0; step < s.steps; ++step) {
    replica.step(s.lr, 0.9);
    trained.losses.push_back(global(replica.gradients(mine, comm)));
  }
  double apart = 0;
  for (const Parameter& one : replica.parameters())
    apart = std::max(apart, attention_heads::ranks_apart(comm, one.value));
  if (s.steps > 0)  // a check over 0 steps is no check
    proof.claim(format("replicas after {} steps: equal bits", s.steps), apart, 0,
                "a replica went its own way: was a gradient not summed?");
  const double rise = std::max(trained.losses.back() - trained.losses.front(), 0.0);  // NaN stays NaN
  if (s.steps > 0) proof.claim("the loss has not risen", rise, 0, "smaller --lr?");

  for (const Parameter& one : replica.parameters())  // as a dump should show them
    one.value.copy_from(proof.other_slice(one.name, one.slice));

  const std::int64_t weights = gpt::elements_of(s.model), steps = s.steps + 1,
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
