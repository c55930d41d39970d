// What lesson 08 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "08_three_d/activations.hpp"
#include "08_three_d/harness/layouts.hpp"
#include "gpt/harness/proof.hpp"

namespace tessera::three_d {

/// What rank 0 knows at the end: the run's results, and those of the unsplit run in the same dtype.
struct Compared {
  Results run, reference;
};

/// The elements of a rank's own weights, in a formula behind their bytes.
inline constexpr const char* own_formula = "x own ((12 W W + 7 W)/tp + 6 W a layer, embedding, head)";

/// The elements, padded, of each part of the model that lies on this rank, chunk by chunk with a 0 between:
/// the embedding, each block, the head. A tied head has its matrix here, whoever holds it.
inline std::vector<std::int64_t> padded_parts(const TrainingConfig& t, const Mesh& mesh) {
  const int stages = mesh.sizes.pp, d = mesh.sizes.dp;
  const std::int64_t w = t.model.width();
  const std::int64_t matrix =
      padded(attention_heads::own_ids(t.model.vocabulary, mesh.tp->rank(), mesh.sizes.tp).size() * w, d);
  std::vector<std::int64_t> parts;
  for (int c = 0; c < t.chunks; ++c) {
    const int at = pipeline::virtual_stage(c, mesh.pp->rank(), stages);
    const std::int64_t layers = pipeline::layers_of(t.partition(stages), at).size();
    if (at == 0) parts.push_back(matrix + padded(t.model.wpe_rows() * w, d));
    parts.insert(parts.end(), static_cast<std::size_t>(layers),
                 padded(gpt::own_elements(t.model, 1, false, false, mesh.tp->rank(), mesh.sizes.tp), d));
    if (at == stages * t.chunks - 1) parts.push_back(padded(2 * w, d) + matrix);
    parts.push_back(0);
  }
  return parts;
}

/// The weights, gradients and optimiser's state of a rank. Under ZeRO each row of weights is padded, so that
/// the replicas share it out equally, and what a part needs lies there whole while it computes.
inline void expect_state(Proof& proof, const Mesh& mesh, const Config& s) {
  const TrainingConfig& t = s.training;
  const std::int64_t whole = gpt::elements_of(t.model), e = proof.element_bytes(), g = proof.wide_bytes(),
                     masters = proof.wide() > 1 ? g : 0, state = masters + (t.adamw ? 2 : 1) * g;
  std::int64_t own = 0, kept = 0, gathered = 0, opened = 0;
  for (const std::int64_t row : own_rows(t, mesh))
    own += row, kept += padded(row, t.zero > 0 ? mesh.sizes.dp : 1);
  const std::vector<std::int64_t> parts = padded_parts(t, mesh);
  const std::int64_t matrix = parts.front() - padded(t.model.wpe_rows() * t.model.width(), mesh.sizes.dp);
  for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
    gathered = std::max(gathered, parts[i] + parts[i + 1]);
    const bool block = i > 0 && i + 2 < parts.size();  // its gradients lie beside those of the tied matrix
    opened = std::max(opened, parts[i] + (mesh.sizes.pp == 1 && t.model.tied && block ? matrix : 0));
  }
  const std::string padding = kept == own ? "" : format(", {} of padding", kept - own);
  const auto expect = [&](MemoryKind kind, const std::string& label, std::int64_t bytes,
                          const std::string& count, int from, std::int64_t arrived) {
    const bool cut = t.zero >= from;
    const std::int64_t mine = (cut ? kept / mesh.sizes.dp : kept) * bytes;
    const std::string formula = format("{} {}{}{}", count, cut ? "/dp " : "", own_formula, padding);
    proof.expect_memory(kind, label, whole * bytes, mine, formula);
    if (!cut || arrived == 0) return;
    proof.measure_memory(kind, Device::current()->memory.peak(kind));
    proof.expect_memory(
        kind, label + " at the peak", whole * bytes, mine + arrived * bytes,
        format("and {} x {}", count,
               kind == MemoryKind::weight ? "two parts that follow one another"
                                          : "the largest part, and wte until both ends are through"));
  };
  expect(MemoryKind::weight, "weights", e, format("{}", e), 3, gathered);
  expect(MemoryKind::gradient, "gradients", g, format("{}", g), 2, opened);
  expect(MemoryKind::optimizer, "optimiser", state,
         masters > 0 ? format("({} + {})", masters, state - masters) : format("{}", state), 1, 0);
}

// begin first_step
/// The loss and every gradient of one step against the unsplit model's, and the memory of a rank. The model
/// begins away from the symmetric start, where the gradients of norms and biases would be small.
inline void check_first_step(Proof& proof, const Mesh& mesh, const Config& s) {
  const ModelConfig& model = s.training.model;
  Trainer trainer(mesh, s.training, proof.dtype(), gpt::make_weights(proof, model, 0.5));
  const Tokens batch = batch_of(s, proof.seed(), 0);
  proof.dump("ids", batch.ids), proof.dump("targets", batch.targets);
  std::int64_t activation_bytes = 0;
  if (s.training.zero > 1) Device::current()->memory.reset_peak();  // of what arrives
  pipeline::WorkerHooks hooks;
  hooks.after = [&](const pipeline::Instruction&) {
    activation_bytes = std::max(activation_bytes, Device::current()->memory.now(MemoryKind::activation));
  };
  const double loss = mean_loss(trainer.gradients(own_microbatches(batch, s, trainer), hooks), s, mesh);
  proof.measure_memory();
  proof.measure_memory(MemoryKind::activation, activation_bytes);
  gpt::check_step(proof, model, trainer.with_gradients(), loss, "loss of the first step");
  proof.measured_baseline([batch, model](const auto& in) { return gpt::reference_step(in, model, batch); });

  expect_state(proof, mesh, s);
  const std::int64_t e = proof.element_bytes();
  TrainingConfig unsplit = s.training;
  unsplit.chunks = 1, unsplit.schedule = pipeline::Schedule::one_f_one_b;
  unsplit.model.sequence_parallel = unsplit.model.regather = false;
  proof.expect_memory(
      MemoryKind::activation, "activations",
      activations_predicted(unsplit, {1, 1, 1}, 0, 0, proof.wide()) * e,
      activations_predicted(s.training, s.sizes, mesh.tp->rank(), mesh.pp->rank(), proof.wide()) * e,
      "in flight x what a block keeps (activations.hpp)");
}
// end first_step

/// The memory of a model that does not learn: weights alone. Its run's results are all else that is checked.
inline void check_weights(Proof& proof, const Trainer& trainer, const Config& s) {
  proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
  proof.measure_memory();
  const std::int64_t e = proof.element_bytes();
  proof.expect_memory(MemoryKind::weight, "weights", gpt::elements_of(s.training.model) * e,
                      gpt::elements_of(trainer.parameters()) * e, format("{} {}", e, own_formula));
}

// What every axis sends, from the sizes alone.

/// One direction of `all` microbatches of n tokens. `count`: how many, in letters. The forward has three more
/// all-reduces, of a number for each token that is as wide as `losses` elements together: the loss.
inline void expect_pass(Proof& proof, const Config& s, const std::string& phase, std::int64_t all,
                        const std::string& count, bool forward = true) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, v = s.training.chunks, e = proof.element_bytes(), n = m.rows(),
                     nw = n * m.width(), sums = 2 * m.layers + 1, calls = forward ? 3 : 0,
                     losses = calls * proof.wide(), sends = all * t * (s.sizes.pp * v - 1),
                     rows = m.own_rows(s.sizes.tp);
  if (s.sizes.pp > 1)
    proof.expect_traffic(
        phase, "send", forward ? "activations" : "gradients", sends, sends * rows * m.width() * e,
        format("{} x {}({}pp-1) {} n W", count, m.sequence_parallel ? "" : "tp ", v > 1 ? "v " : "", e),
        "pp");
  if (s.training.zero ==
      3) {  // a tied matrix comes to both ends, and the embedding's backward needs no weights
    std::int64_t elements = 0, calls = 0;
    for (int rank = 0; rank < t; ++rank) {
      auto own = gpt::own_parts(m, m.layers, forward, true, rank, s.sizes.tp);
      if (forward && m.tied) own.push_back(own.front());
      calls += std::ssize(own);
      for (const std::int64_t part : own) elements += padded(part, s.sizes.dp);
    }
    const std::int64_t times = all / s.sizes.dp;
    proof.expect_traffic(phase, "all_gather", "weights", times * calls,
                         times * (s.sizes.dp - 1) * elements * e,
                         format("{} x (1-1/dp) {} (the parts' own, padded)", count, e), "dp");
  }
  if (m.sequence_parallel) {  // each sum is a reduce-scatter, and a gather at the other end of its layers
    const std::int64_t again = m.regather && !forward ? 2 * m.layers : 0;
    for (const auto& [op, label, times] : {std::tuple{"all_gather", "in front of columns", sums + again},
                                           {"reduce_scatter", "behind rows", sums}})
      proof.expect_traffic(phase, op, label, all * times, all * times * (t - 1) * nw * e,
                           format("{} x (tp-1) {} ({} L + 1) n W", count, e, (times - 1) / m.layers), "tp");
    if (forward)
      proof.expect_traffic(phase, "all_reduce", "loss", all * calls, all * 2 * (t - 1) * losses * n * e,
                           format("{} x 2 (tp-1) {} {} n", count, e, losses), "tp");
    return;
  }
  proof.expect_traffic(phase, "all_reduce", forward ? "blocks, embedding, loss" : "blocks, head",
                       all * (sums + calls), all * 2 * (t - 1) * (sums * nw + losses * n) * e,
                       format("{} x 2 (tp-1) {} {}", count, e,
                              forward ? format("((2 L + 1) n W + {} n)", losses) : "(2 L + 1) n W"),
                       "tp");
}

/// All sums over tp, pp, the embedding group and dp of `steps` steps. `buckets`: of all groups of dp
/// together.
inline void expect_traffic_by_axis(Proof& proof, const Config& s, std::int64_t steps, std::int64_t buckets) {
  const ModelConfig& m = s.training.model;
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, d = s.sizes.dp, w = m.width(), g = proof.wide_bytes(),
                     all = steps * s.training.microbatches * d,  // microbatches of all replicas
      copies = s.training.zero > 0 ? 1 : d;                      // of a sum that is owed beside that over dp
  const std::string each = format("{} x ", steps), microbatches = format("{} dp m", steps);
  expect_pass(proof, s, "fwd", all, microbatches);
  expect_pass(proof, s, "bwd", all, microbatches, false);
  if (m.sequence_parallel)
    proof.expect_traffic("bwd", "all_reduce", "norms, late biases", steps * p * d,
                         steps * copies * 2 * (t - 1) * (6 * m.layers + 2) * w * g,
                         format("{}2 {}(tp-1) {} (6 L + 2) W", each, copies == d ? "dp " : "", g), "tp");
  if (p > 1)
    proof.expect_traffic("bwd", "all_reduce", "tied embedding", steps * t * d,
                         steps * copies * 2 * m.vocabulary * w * g,
                         format("{}2 {}{} V W", each, copies == d ? "dp " : "", g), "embedding");
  std::int64_t owned = 0, parts = 0, shared = 0;  // elements, and with the padding of each part
  for (int rank = 0; rank < t; ++rank) {
    auto own = gpt::own_parts(m, m.layers, true, true, rank, s.sizes.tp);
    if (p > 1) own.push_back(attention_heads::own_ids(m.vocabulary, rank, s.sizes.tp).size() * w);
    parts += std::ssize(own);
    for (const std::int64_t part : own) owned += part, shared += padded(part, s.sizes.dp);
  }
  if (s.training.zero == 0) {
    proof.expect_traffic("bwd", "all_reduce", "all gradients", steps * buckets,
                         steps * 2 * (d - 1) * owned * g, format("{}2 (dp-1) {} (tp pp ranks' own)", each, g),
                         "dp");
  } else {
    const std::int64_t times = s.training.zero > 1 ? steps * s.training.microbatches : steps;
    proof.expect_traffic(
        "bwd", "reduce_scatter", "all gradients", times * parts, times * (d - 1) * shared * g,
        format("{}{}(dp-1) {} (tp pp ranks' own, padded)", each, s.training.zero > 1 ? "m " : "", g), "dp");
    if (s.training.zero < 3)
      proof.expect_traffic(
          "step", "all_gather", "all weights", (steps - 1) * parts,
          (steps - 1) * (d - 1) * shared * proof.element_bytes(),
          format("{} x (dp-1) {} (tp pp ranks' own, padded)", steps - 1, proof.element_bytes()), "dp");
  }
  std::vector<std::tuple<const char*, std::int64_t, std::int64_t>> axes = {{"tp", t, p * d},
                                                                           {"pp", p, t * d}};
  if (s.training.zero > 0) axes.emplace_back("dp", d, t * p);
  if (s.training.clip > 0)
    for (const auto& [group, size, count] : axes)
      proof.expect_traffic("norm", "all_reduce", "the norm", (steps - 1) * count,
                           (steps - 1) * count * 2 * (size - 1) * 8, "2 (n-1) 8", group);
}

/// Of `steps` sampled tokens: the forwards, a pair of numbers from each rank of a last stage's tp, and the id
/// back to the stages before it.
inline void expect_sampling_traffic(Proof& proof, const Config& s) {
  const std::int64_t t = s.sizes.tp, p = s.sizes.pp, all = s.sample * s.sizes.dp;
  expect_pass(proof, s, "sample", all, format("{} dp", s.sample));
  proof.expect_traffic("draw", "all_gather", "who has the largest", all, all * (t - 1) * t * 16,
                       format("{} dp x (tp-1) tp 16", s.sample), "tp");
  proof.expect_traffic("sample", "broadcast", "the id", all * t, all * t * (p - 1) * 4,
                       format("{} dp x tp (pp-1) 4", s.sample), "pp");
}

/// The bytes of the run, and its losses and text against those of the unsplit run. Where they differ, each
/// axis runs alone, and the one that is broken is named.
inline Compared check_run(Proof& proof, Communicator& world, const Trainer& trainer, const Config& s,
                          const Results& found) {
  if (s.eval) {
    std::int64_t forwards = 0;
    for (int replica = 0; replica < s.sizes.dp; ++replica) forwards += own_forwards(s, replica);
    expect_pass(proof, s, "eval", forwards, std::to_string(forwards));
  } else {  // the first replica's ranks count the all-reduces that all replicas post together
    const bool first = trainer.mesh().dp->rank() == 0;
    const double buckets = sum_over(world, first ? static_cast<double>(trainer.optimizer().sums()) : 0);
    expect_traffic_by_axis(proof, s, std::ssize(found.losses) + 1, static_cast<std::int64_t>(buckets));
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
  const auto bound_of = [&](const Results& one) {
    return 3 * error_of(one) + (proof.dtype() == DType::f64 ? 1e-10 : proof.coarse() ? 1e-2 : 1e-5);
  };
  double bound = bound_of(reference);
  const double error = error_of(found);
  if (world.rank() == 0 && !s.eval && !(error <= bound)) {
    // One run may be lucky. Other numbers of microbatches round the same sums in another order.
    const auto busy = world.busy("runs the unsplit reference with other microbatches");
    for (const int count : {1, 2, 4, 8}) {
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
  return {found, reference};
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
