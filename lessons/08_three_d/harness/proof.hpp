// What lesson 08 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "08_three_d/activations.hpp"
#include "08_three_d/harness/formulas.hpp"
#include "08_three_d/harness/layouts.hpp"
#include "gpt/harness/proof.hpp"

namespace tessera::three_d {

/// What rank 0 knows at the end: the run's results, and those of the unsplit run in the same dtype.
struct Compared {
  Results run, reference;
  std::vector<std::int64_t> before, after;  // rows of each rank's experts, in the first and the last step
};

// begin first_step
/// The loss and every gradient of one step against the unsplit model's, and the memory of a rank. Norms and
/// biases are random, too: with their usual first values some gradients would be small.
inline void check_first_step(Proof& proof, const Mesh& mesh, const Config& s) {
  const ModelConfig& model = s.training.model;
  Trainer trainer(mesh, s.training, proof.dtype(), gpt::make_weights(proof, model, 0.5));
  const Tokens batch = batch_of(s, proof.seed(), 0);
  proof.dump("ids", batch.ids), proof.dump("targets", batch.targets);
  std::int64_t activation_bytes = 0;
  if (s.training.zero > 1) Device::current()->memory.reset_peak();  // the peak of what is gathered
  pipeline::WorkerHooks hooks;
  hooks.after = [&](const pipeline::Instruction&) {
    activation_bytes = std::max(activation_bytes, Device::current()->memory.now(MemoryKind::activation));
  };
  const double loss = mean_loss(trainer.gradients(own_microbatches(batch, s, trainer), hooks), s, mesh);
  proof.measure_memory();
  proof.measure_memory(MemoryKind::activation, activation_bytes);
  gpt::check_step(proof, model, trainer.with_gradients(), loss, "loss of the first step");
  const auto reference = s.training.parts.reference ? s.training.parts.reference : gpt::reference_step<>;
  const int m = s.training.microbatches;
  proof.measured_baseline([=](const auto& in) { return reference(in, model, batch, m); });

  expect_state(proof, mesh.place(), s.training, own_formula);
  const std::int64_t e = proof.element_bytes();
  const TrainingConfig unsplit = with_layout(s, {1, 1, 1}).training;
  if (model.experts > 0) return;  // what experts keep depends on the router's choices: lesson 12
  proof.expect_memory(
      MemoryKind::activation, "activations",
      activations_predicted(unsplit, {1, 1, 1}, 0, 0, proof.wide()) * e,
      activations_predicted(s.training, s.sizes, mesh.tp->rank(), mesh.pp->rank(), proof.wide()) * e,
      "in flight x what a block keeps (activations.hpp)");
}
// end first_step

/// The memory of a model that does not learn: weights alone. Nothing else is checked before its run.
inline void check_weights(Proof& proof, const Trainer& trainer, const Config& s) {
  proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
  proof.measure_memory();
  const std::int64_t e = proof.element_bytes();
  proof.expect_memory(MemoryKind::weight, "weights", gpt::elements_of(s.training.model) * e,
                      gpt::elements_of(trainer.parameters()) * e, format("{} x {}", e, own_formula));
}

/// Under ZeRO no sum of gradients over dp, in `steps` steps of this rank, was waited for as soon as it had
/// begun: a part computed meanwhile, or what follows the last one.
inline void check_overlap(Proof& proof, const Trainer& trainer, const TrainingConfig& t, std::int64_t steps) {
  if (t.zero == 0 || trainer.mesh().sizes.replicas() == 1) return;
  const Mesh& mesh = trainer.mesh();
  double missed = 0;
  for (const bool experts : {false, true}) {
    const Communicator& group = experts ? *mesh.expert_dp : *mesh.dp_cp;
    if (group.size() == 1 || trainer.optimizer().sums(experts) == 0) continue;
    missed += steps * (t.zero > 1 ? t.microbatches : 1) * trainer.optimizer().sums(experts);
    if (experts && mesh.sizes.ep == 1) continue;  // the same group again
    for (const Span& span : group.journal().spans())
      missed -= span.category == "overlapped" && span.name.starts_with("reduce_scatter") &&
                span.name.find(format(" in group {} ", group.name())) != std::string::npos;
  }
  proof.claim("gradients are summed while other parts compute", std::abs(missed), 0,
              "a reduce_scatter was waited for at once: does a part compute between its begin and its wait?");
}

/// How many rows have left their ranks for experts in a phase, over all ranks. Collective.
inline std::int64_t rows_moved(Communicator& world, const std::string& phase) {
  const std::vector<std::int64_t> rows = routed(world.journal(), phase).leave;
  return sum_over(world, std::accumulate(rows.begin(), rows.end(), std::int64_t{0}));
}

/// The rows that travel to experts, as the ranks have counted them, and their bytes. Returns the rows that
/// came to each rank's experts in the first step of the training and in the last one. Collective.
inline std::array<std::vector<std::int64_t>, 2> expect_routing(Proof& proof, Communicator& world,
                                                               const Config& s, std::int64_t steps) {
  const Routed training = routed(world.journal(), "fwd");
  const std::int64_t all = std::int64_t{s.sizes.replicas()} * s.training.microbatches,
                     leave = rows_moved(world, "fwd");
  for (const bool forward : {true, false})
    expect_experts(proof, s, forward ? "fwd" : "bwd", steps * all, leave, forward);
  std::array<std::vector<std::int64_t>, 2> load;
  const std::int64_t each = std::ssize(training.come) / steps;  // forwards of a step
  for (const bool last : {false, true}) {                       // step 0 was the check's
    const auto begin =
        training.come.begin() + (last ? steps - 1 : std::min<std::int64_t>(1, steps - 1)) * each;
    const auto rows = gather_over(world, std::accumulate(begin, begin + each, std::int64_t{0}));
    load[last].assign(rows.begin(), rows.end());
  }
  return load;
}

/// The bytes of the run, and its losses and text against those of the unsplit run. Where they differ, each
/// axis runs alone, and the one that is broken is named.
inline Compared check_run(Proof& proof, Communicator& world, const Trainer& trainer, const Config& s,
                          const Results& found) {
  std::array<std::vector<std::int64_t>, 2> load;
  if (s.eval) {
    const std::int64_t forwards = s.sizes.replicas() * own_forwards(s);
    expect_pass(proof, s, "eval", forwards, std::to_string(forwards));
    if (s.training.model.experts > 0)
      expect_experts(proof, s, "eval", forwards, rows_moved(world, "eval"), true);
  } else {  // the first replica's ranks count the all-reduces that all replicas post together
    const auto sums = [&](const Mesh::Group& group, bool of_experts) {
      return sum_over(world, group->rank() == 0 ? trainer.optimizer().sums(of_experts) : 0);
    };
    const std::int64_t steps = std::ssize(found.losses) + 1;
    const double buckets = sums(trainer.mesh().dp_cp, false);
    expect_traffic_by_axis(proof, s, steps, buckets, sums(trainer.mesh().expert_dp, true));
    check_overlap(proof, trainer, s.training, steps);
    if (s.training.model.experts > 0) load = expect_routing(proof, world, s, steps);
  }
  if (s.sample > 0) expect_sampling_traffic(proof, s);
  if (s.sample > 0 && s.training.model.experts > 0)
    expect_experts(proof, s, "sample", s.sample * s.sizes.replicas(), rows_moved(world, "sample"), true);

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
  const auto bound_of = [&](const Results& one) {
    return 3 * error_of(one) + (proof.dtype() == DType::f64 ? 1e-10 : proof.coarse() ? 1e-2 : 1e-5);
  };
  double bound = bound_of(reference);
  const double error = error_of(found);
  if (world.rank() == 0 && !s.eval && !(error <= bound)) {
    // One run may be lucky. Other numbers of microbatches round the same sums in another order.
    const auto busy = world.busy("runs the unsplit reference with other microbatches");
    for (const int count : {1, 2, 4, 8}) {
      if (s.training.model.aux > 0) break;  // each number of them has another auxiliary loss
      const std::int64_t parts = std::int64_t{count} * s.sizes.dp;
      if (s.batch % parts != 0) continue;
      Config other = s;
      other.training.microbatches = count;
      other.training.model.attention.options.batch = s.batch / parts;
      bound =
          std::max(bound, bound_of(run_with_layout(*alone, other, {1, 1, 1}, proof.dtype(), proof.seed())));
    }
  }
  const bool differs = sum_over(world, world.rank() == 0 && !(error <= bound) ? 1 : 0) > 0;  // rank 0 knows
  std::string advice;
  if (!s.eval && differs)
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
  return {found, reference, load[0], load[1]};
}

/// The lesson's run with its checks, as main makes it.
inline Compared prove(Proof& proof, Communicator& world, const Config& s) {
  const Mesh mesh(world, s.sizes);
  if (!s.eval) check_first_step(proof, mesh, s);
  Trainer trainer = make_trainer(mesh, s, proof.dtype(), proof.seed());
  if (s.eval) check_weights(proof, trainer, s);
  return check_run(proof, world, trainer, s, run(world, trainer, s, proof.seed()));
}

}  // namespace tessera::three_d
