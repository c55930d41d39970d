// What lesson 08 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "06_pipeline/unsplit.hpp"
#include "08_three_d/run.hpp"
#include "app/proof.hpp"

namespace tessera::three_d {

/// What rank 0 knows at the end.
struct Trained {
  std::vector<double> losses, unsplit,
      truth;                    // of the cut model, the whole one in the same dtype, and in f64
  std::int64_t first_step = 0;  // not 0 where a checkpoint was resumed
  double seconds = 0, tokens_per_second = 0;
};

/// All sums over tp, pp, ends and dp of `steps` steps. n: tokens of a microbatch.
inline void expect_traffic_by_axis(Proof& proof, const Setup& s, std::int64_t steps) {
  const Model& m = s.training.model;
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, d = s.sizes.dp, v = s.training.chunks,
                     e = proof.element_bytes();
  const std::int64_t all = steps * s.training.microbatches * d, n = m.rows(),
                     w = m.width();  // microbatches of all replicas
  const std::int64_t sums = 2 * m.layers + 1;
  const std::string each = str(steps, " x ");
  proof.expect_traffic("fwd", "all_reduce", "blocks, embedding, loss", all * (sums + 3),
                       all * 2 * (t - 1) * (sums * n * w + 3 * n) * e,
                       str(each, "2 (tp-1) ", e, " dp m ((2 L + 1) n W + 3 n)"), "tp");
  proof.expect_traffic("bwd", "all_reduce", "blocks, head", all * sums, all * 2 * (t - 1) * sums * n * w * e,
                       str(each, "2 (tp-1) ", e, " dp m (2 L + 1) n W"), "tp");
  for (const char* phase : {"fwd", "bwd"})
    if (p > 1)
      proof.expect_traffic(phase, "send", phase[0] == 'f' ? "activations" : "gradients",
                           all * t * (p * v - 1), all * t * (p * v - 1) * n * w * e,
                           str(each, "tp (", v > 1 ? "v " : "", "pp-1) ", e, " dp m n W"), "pp");
  if (p > 1)
    proof.expect_traffic("bwd", "all_reduce", "tied embedding", steps * t * d,
                         steps * d * 2 * m.vocabulary * w * e, str(each, "2 dp ", e, " V W"), "ends");
  std::int64_t owned = 0;
  for (int rank = 0; rank < t; ++rank)
    owned += own_elements(m, m.layers, true, true, rank, static_cast<int>(t)) +
             (p > 1 ? own_ids(m.vocabulary, rank, static_cast<int>(t)).size() * w : 0);
  proof.expect_traffic("bwd", "all_reduce", "all gradients", steps * t * p, steps * 2 * (d - 1) * owned * e,
                       str(each, "2 (dp-1) ", e, " (tp pp ranks' own)"), "dp");
  if (s.training.clip > 0)
    for (const auto& [group, size, count] : {std::tuple{"tp", t, p * d}, {"pp", p, t * d}})
      proof.expect_traffic("norm", "all_reduce", "the norm", (steps - 1) * count,
                           (steps - 1) * count * 2 * (size - 1) * 8, "2 (n-1) 8", group);
}

/// One step's loss and gradients against the whole model's; then `steps` steps against the unsplit run's
/// losses.
inline Trained prove(Proof& proof, Communicator& world, const Setup& s,
                     const std::function<void(std::int64_t step)>& tell) {
  const Model& model = s.training.model;
  Mesh mesh(world, s.sizes);
  const auto alone = world.split(world.rank(), 0, "alone");
  std::map<std::string, double> scales;
  const auto infos = pipeline::weights_of(model);
  for (const auto& info : infos) scales[info.name] = 0.5 * info.scale;
  const auto weight_in = [&](DType dtype) {
    return [&, dtype](const std::string& name, const Slice& slice) {
      return initial(name, slice, dtype, proof.seed(), scales.at(name));
    };
  };
  // Begins away from the symmetric start, where the gradients of norms and biases would be small.
  const auto tested = [&](const std::string& name, const Slice& slice) {
    return proof.weight(name, "??", slice, scales.at(name));
  };
  Trainer trainer(mesh, s.training, proof.dtype(), tested);
  const Tokens first = batch_of(s, proof.seed(), 0);
  const double loss = mean_loss(trainer.gradients(own_microbatches(first, s, mesh)), s, mesh);
  proof.measure_memory();
  const std::int64_t e = proof.element_bytes(), whole = pipeline::elements_of(model);
  proof.result("loss", "11", "loss of the first step", Tensor::of(1, 1, {loss}), Slice::whole(1, 1));
  std::int64_t mine = 0;
  for (const auto& [name, rows, cols, scale] : infos) {
    const Parameter* own = nullptr;
    for (const Parameter& one : trainer.parameters())
      if (one.name == name) own = &one;
    if (own != nullptr) mine += own->value.size();
    if (own == nullptr)
      proof.weight(name, "??", Slice::nothing_of(rows, cols), scales.at(name));  // rank 0 must know of it
    const MemoryScope scope(MemoryKind::check);
    const Slice slice = own != nullptr ? own->slice : Slice::nothing_of(rows, cols);
    proof.result("d" + name, "??", "d" + name,
                 own != nullptr ? own->gradient.copy() : Tensor::empty(0, 0, proof.dtype()), slice,
                 "gradients");
  }
  proof.measured_baseline(
      [first, model](const auto& in) { return pipeline::unsplit_step(in, model, first, "wte.weight"); });
  for (const auto& [kind, label, times] : {std::tuple{MemoryKind::weight, "weights", 1},
                                           {MemoryKind::gradient, "gradients", 1},
                                           {MemoryKind::optimizer, "optimiser", s.training.adamw ? 2 : 1}})
    proof.expect_memory(kind, label, times * whole * e, times * mine * e,
                        str(times * e, " x own ((12 W W + 7 W)/tp + 6 W a layer, ends)"));

  Trained trained;
  for (const Parameter& one : trainer.parameters())
    one.value.copy_from(weight_in(proof.dtype())(one.name, one.slice));
  const double began = world.journal().now();
  if (!s.resume.empty()) resume(trainer, s.training, s.resume);
  trained.first_step = trainer.steps();
  trained.losses = train(world, mesh, trainer, s, proof.seed(), [&](std::int64_t step) {
    if (world.rank() == 0) tell(step);
  });
  const auto steps = static_cast<std::int64_t>(trained.losses.size());
  trained.seconds = world.journal().now() - began;
  trained.tokens_per_second = static_cast<double>(steps * model.tokens) / trained.seconds;
  expect_traffic_by_axis(proof, s, steps + 1);
  for (const Parameter& one : trainer.parameters())
    one.value.copy_from(proof.other_slice(one.name, one.slice));  // for the dump
  if (world.rank() != 0) return {};
  trained.truth = unsplit_losses(*alone, s, DType::f64, proof.seed(), weight_in(DType::f64));
  trained.unsplit = proof.dtype() == DType::f64
                        ? trained.truth
                        : unsplit_losses(*alone, s, proof.dtype(), proof.seed(), weight_in(proof.dtype()));
  double own_error = 0, error = 0;
  for (std::size_t i = 0; i < trained.losses.size(); ++i) {
    own_error = std::max(own_error, std::abs(trained.unsplit[i] - trained.truth[i]));
    const double off = std::abs(trained.losses[i] - trained.truth[i]);
    error = std::isnan(off) ? INFINITY : std::max(error, off);
  }
  proof.claim(str("loss of each of ", steps, " steps = the unsplit run's"), error,
              proof.dtype() == DType::f64 ? 1e-10 : 3 * own_error + 1e-5,
              "the cut model learns something else: run with --tp, --pp or --dp alone to see which axis");
  return trained;
}

}  // namespace tessera::three_d
