// What lesson 08 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "06_pipeline/unsplit.hpp"
#include "08_three_d/activations.hpp"
#include "08_three_d/axes_compare.hpp"
#include "08_three_d/forward_proof.hpp"

namespace tessera::three_d {

/// One step's loss and gradients against the whole model's; then `steps` steps against the unsplit run's
/// losses, and what the two models write.
inline Trained prove(Proof& proof, Communicator& world, const Config& s,
                     const std::function<void(std::int64_t done)>& on_progress) {
  if (s.eval) return prove_eval(proof, world, s, on_progress);
  const Model& model = s.training.model;
  Mesh mesh(world, s.sizes);
  const auto alone = world.split(world.rank(), 0, "alone");
  std::map<std::string, double> scales;
  const auto infos = pipeline::weights_of(model);
  for (const auto& info : infos) scales[info.name] = 0.5 * info.scale;
  // Begins away from the symmetric start, where the gradients of norms and biases would be small.
  const auto tested = [&](const std::string& name, const Slice& slice) {
    return proof.weight(name, "??", slice, scales.at(name));
  };
  Trainer trainer(mesh, s.training, proof.dtype(), tested);
  const Tokens first = batch_of(s, proof.seed(), 0);
  const double loss = sum_over_dp_and_pp(trainer.gradients(own_microbatches(first, s, mesh)), mesh) /
                      static_cast<double>(model.tokens);
  proof.measure_memory();
  proof.measure_memory(MemoryKind::activation, trainer.activation_bytes());
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
      [first, model](const auto& in) { return pipeline::reference_step(in, model, first, "wte.weight"); });
  for (const auto& [kind, label, times] : {std::tuple{MemoryKind::weight, "weights", 1},
                                           {MemoryKind::gradient, "gradients", 1},
                                           {MemoryKind::optimizer, "optimiser", s.training.adamw ? 2 : 1}})
    proof.expect_memory(kind, label, times * whole * e, times * mine * e,
                        str(times * e, " x own ((12 W W + 7 W)/tp + 6 W a layer, ends)"));
  Training unsplit = s.training;
  unsplit.chunks = 1, unsplit.schedule = pipeline::Schedule::one_f_one_b;
  proof.expect_memory(MemoryKind::activation, "activations",
                      activations_predicted(unsplit, {1, 1, 1}, 0, 0) * e,
                      activations_predicted(s.training, s.sizes, mesh.tp->rank(), mesh.pp->rank()) * e,
                      "in flight x what a block keeps (activations.hpp)");

  Trained trained;
  const auto start = initial_weights(s, proof.dtype(), proof.seed());
  for (const Parameter& one : trainer.parameters()) one.value.copy_from(start(one.name, one.slice));
  const double began = world.journal().now();
  if (!s.resume.empty()) resume(trainer, s.training, s.resume);
  trained.losses = train(world, mesh, trainer, s, proof.seed(), [&](std::int64_t step) {
    if (world.rank() == 0) on_progress(step + 1);
  });
  const auto steps = static_cast<std::int64_t>(trained.losses.size());
  trained.tokens_per_second = static_cast<double>(steps * model.tokens) / (world.journal().now() - began);
  const std::int64_t buckets = buckets_of_all(world, trainer);
  expect_traffic_by_axis(proof, s, steps + 1, buckets);
  if (s.sample > 0) {
    trained.text = sample(trainer, s, proof.seed());
    expect_sampling_traffic(proof, s);
  }
  for (const Parameter& one : trainer.parameters())
    one.value.copy_from(proof.other_slice(one.name, one.slice));  // for the dump

  std::vector<double> truth;
  auto busy = world.rank() == 0 ? world.busy("trains the unsplit reference") : nullptr;
  for (const DType dtype : {DType::f64, proof.dtype()})
    if (world.rank() == 0 && (dtype != DType::f64 || truth.empty()))
      run_with_layout(*alone, s, {1, 1, 1}, dtype, proof.seed(),
                      [&](Mesh& whole, Trainer& one, const Config& own) {
                        trained.unsplit = train(*alone, whole, one, own, proof.seed());
                        if (dtype == DType::f64) truth = trained.unsplit;
                        if (dtype == proof.dtype()) trained.reference_text = sample(one, own, proof.seed());
                      });
  busy = nullptr;
  const double bound =
      3 * largest_distance(trained.unsplit, truth) + (proof.dtype() == DType::f64 ? 1e-10 : 1e-5);
  const double error = largest_distance(trained.losses, truth);
  std::string advice;
  if (agreed(world, !(error <= bound)))
    advice = find_broken_axis(world, s, proof.dtype(), proof.seed(), truth, bound);
  proof.claim(str("loss of each of ", steps, " steps = the unsplit run's"), error, bound, advice);
  claim_same_text(proof, trained);
  return trained;
}

}  // namespace tessera::three_d
