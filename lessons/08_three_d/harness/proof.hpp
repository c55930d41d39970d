// What lesson 08 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "08_three_d/activations.hpp"
#include "08_three_d/harness/layouts.hpp"
#include "08_three_d/harness/traffic.hpp"
#include "app/proof.hpp"
#include "gpt/harness/reference.hpp"

namespace tessera::three_d {

/// What rank 0 knows at the end: the run's results, and those of the unsplit run in the same dtype.
struct Compared {
  Results run, reference;
};

/// The bytes of a rank's own weights, in a formula.
inline std::string own_formula(std::int64_t bytes) {
  return format("{} x own ((12 W W + 7 W)/tp + 6 W a layer, ends)", bytes);
}

// begin first_step
/// The loss and every gradient of one step against the unsplit model's, and the memory of a rank. The model
/// begins away from the symmetric start, where the gradients of norms and biases would be small.
inline void check_first_step(Proof& proof, const Mesh& mesh, const Config& s) {
  const ModelConfig& model = s.training.model;
  std::map<std::string, double> scales;
  const auto infos = gpt::weights_of(model);
  for (const auto& info : infos) scales[info.name] = 0.5 * info.scale;
  Trainer trainer(mesh, s.training, proof.dtype(), [&](const std::string& name, const Slice& slice) {
    return proof.weight(name, "??", slice, scales.at(name));
  });
  const Tokens batch = batch_of(s, proof.seed(), 0);
  std::int64_t activation_bytes = 0;
  pipeline::WorkerHooks hooks;
  hooks.after = [&](const pipeline::Instruction&) {
    activation_bytes = std::max(activation_bytes, Device::current()->memory.now(MemoryKind::activation));
  };
  const double loss = mean_loss(trainer.gradients(own_microbatches(batch, s, trainer), hooks), s, mesh);
  proof.measure_memory();
  proof.measure_memory(MemoryKind::activation, activation_bytes);

  proof.result("loss", "11", "loss of the first step", Tensor::of(1, 1, {loss}), Slice::whole(1, 1));
  std::int64_t mine = 0;
  for (const auto& [name, rows, cols, scale] : infos) {
    const Parameter* own = nullptr;
    for (const Parameter& one : trainer.parameters())
      if (one.name == name) own = &one;
    const MemoryScope scope(MemoryKind::check);
    if (own != nullptr) {
      mine += own->value.size();
      proof.result("d" + name, "??", "d" + name, own->gradient.copy(), own->slice, "gradients");
    } else {  // rank 0 must know of it
      const Slice nothing = Slice::nothing_of(rows, cols);
      proof.weight(name, "??", nothing, scales.at(name));
      proof.result("d" + name, "??", "d" + name, Tensor::empty(0, 0, proof.dtype()), nothing, "gradients");
    }
  }
  proof.measured_baseline([batch, model](const auto& in) { return gpt::reference_step(in, model, batch); });

  const std::int64_t e = proof.element_bytes(), whole = gpt::elements_of(model);
  for (const auto& [kind, label, times] : {std::tuple{MemoryKind::weight, "weights", 1},
                                           {MemoryKind::gradient, "gradients", 1},
                                           {MemoryKind::optimizer, "optimiser", s.training.adamw ? 2 : 1}})
    proof.expect_memory(kind, label, times * whole * e, times * mine * e, own_formula(times * e));
  TrainingConfig unsplit = s.training;
  unsplit.chunks = 1, unsplit.schedule = pipeline::Schedule::one_f_one_b;
  proof.expect_memory(MemoryKind::activation, "activations",
                      activations_predicted(unsplit, {1, 1, 1}, 0, 0) * e,
                      activations_predicted(s.training, s.sizes, mesh.tp->rank(), mesh.pp->rank()) * e,
                      "in flight x what a block keeps (activations.hpp)");
}
// end first_step

/// The memory of a model that does not learn: weights alone. Its run's results are all else that is checked.
inline void check_weights(Proof& proof, const Trainer& trainer, const Config& s) {
  proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
  proof.measure_memory();
  std::int64_t mine = 0;
  for (const Parameter& one : trainer.parameters()) mine += one.value.size();
  const std::int64_t e = proof.element_bytes();
  proof.expect_memory(MemoryKind::weight, "weights", gpt::elements_of(s.training.model) * e, mine * e,
                      own_formula(e));
}

/// The all-reduces over dp that the first replica's ranks post in a step, summed over these ranks.
inline std::int64_t buckets_of_all(Communicator& world, const Trainer& trainer) {
  const Phase phase = world.phase("check");
  const MemoryScope scope(MemoryKind::check);
  const bool first = trainer.mesh().dp->rank() == 0;
  const auto own = first ? static_cast<double>(trainer.buckets().count()) : 0;
  return static_cast<std::int64_t>(world.all_reduce(Tensor::of(1, 1, {own})).values()[0]);
}

/// The bytes of the run, and its losses and text against those of the unsplit run. Where they differ, each
/// axis runs alone, and the one that is broken is named.
inline Compared check_run(Proof& proof, Communicator& world, const Trainer& trainer, const Config& s,
                          const Results& found) {
  if (s.eval) {
    std::int64_t forwards = 0;
    for (int replica = 0; replica < s.sizes.dp; ++replica) forwards += own_forwards(s, replica);
    expect_forward_traffic(proof, s, "eval", forwards, std::to_string(forwards));
  } else {
    expect_traffic_by_axis(proof, s, static_cast<std::int64_t>(found.losses.size()) + 1,
                           buckets_of_all(world, trainer));
  }
  if (s.sample > 0) expect_sampling_traffic(proof, s);

  Results truth, reference;  // the unsplit run in f64, and in the dtype of this run
  const auto alone = world.split(world.rank(), 0, "alone");
  if (world.rank() == 0) {
    const auto busy = world.busy("runs the unsplit reference");
    truth = run_with_layout(*alone, s, {1, 1, 1}, DType::f64, proof.seed());
    reference = proof.dtype() == DType::f64
                    ? truth
                    : run_with_layout(*alone, s, {1, 1, 1}, proof.dtype(), proof.seed());
  }
  const auto error_of = [&](const Results& one) {
    return s.eval ? std::abs(one.loss - truth.loss) : largest_distance(one.losses, truth.losses);
  };
  const double bound = 3 * error_of(reference) + (proof.dtype() == DType::f64 ? 1e-10 : 1e-5);
  const double error = error_of(found);
  std::string advice;
  if (!s.eval && agreed(world, !(error <= bound)))
    advice = find_broken_axis(world, s, proof.dtype(), proof.seed(), truth.losses, bound);
  if (s.eval || s.steps > 0)  // a check over 0 steps is no check
    proof.claim(s.eval ? format("loss over {} sequences = the unsplit model's", whole_sequences(s))
                       : format("loss of each of {} steps = the unsplit run's", found.losses.size()),
                error, bound, advice);
  if (proof.dtype() == DType::f64 && !found.text.empty() && world.rank() == 0) {
    // In f32 another order of sums may draw another token now and then, and from there on another text.
    double differ = found.text.size() == reference.text.size() ? 0 : INFINITY;
    for (std::size_t i = 0; i < found.text.size() && i < reference.text.size(); ++i)
      differ += found.text[i] != reference.text[i];
    proof.claim(format("{} sampled tokens = the unsplit model's", found.text.size() - 1), differ, 0,
                "did each rank draw from its own columns alone?");
  }
  return {found, reference};
}

/// The lesson's run with its checks, as main has it.
inline Compared prove(
    Proof& proof, Communicator& world, const Config& s,
    const std::function<void(std::int64_t done)>& on_progress = [](std::int64_t) {}) {
  const Mesh mesh(world, s.sizes);
  if (!s.eval) check_first_step(proof, mesh, s);
  Trainer trainer = make_trainer(mesh, s, proof.dtype(), proof.seed());
  if (s.eval) check_weights(proof, trainer, s);
  return check_run(proof, world, trainer, s, run(world, trainer, s, proof.seed(), on_progress));
}

}  // namespace tessera::three_d
