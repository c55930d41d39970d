// A model that does not learn: its loss over the whole text, and what it writes, are the unsplit model's.
#pragma once

#include "08_three_d/traffic_proof.hpp"

namespace tessera::three_d {

/// What rank 0 knows at the end; each beside the unsplit model's in the same dtype.
struct Trained {
  std::vector<double> losses, unsplit;              // by step
  double loss = 0, reference_loss = 0;              // --eval
  std::vector<std::uint16_t> text, reference_text;  // --sample
  double tokens_per_second = 0;
};

/// In f32 another order of sums may draw another token now and then,
/// and from there on another text: f64 decides.
inline void claim_same_text(Proof& proof, const Trained& t) {
  if (proof.dtype() != DType::f64 || t.text.empty()) return;
  double differ = 0;
  for (std::size_t i = 0; i < t.text.size() && i < t.reference_text.size(); ++i)
    differ += t.text[i] != t.reference_text[i];
  proof.claim(str(t.text.size() - 1, " sampled tokens = the unsplit model's"), differ, 0,
              "did each rank draw from its own columns alone?");
}

inline std::int64_t buckets_of_all(Communicator& world, const Trainer& trainer) {
  const Phase phase = world.phase("check");
  const MemoryScope scope(MemoryKind::check);
  const bool first = trainer.mesh().dp->rank() == 0;
  const auto own = first ? static_cast<double>(trainer.buckets().count()) : 0;
  return static_cast<std::int64_t>(world.all_reduce(Tensor::of(1, 1, {own})).values()[0]);
}

inline Trained prove_eval(Proof& proof, Communicator& world, const Config& asked,
                          const std::function<void(std::int64_t done)>& on_progress) {
  Config s = asked;
  s.training.learns = false;  // no gradients, no optimiser: neither here nor in the unsplit run
  proof.measured_baseline(
      [](const auto&) { return MeasuredReference{}; });  // the claims below are all there is
  const auto start = initial_weights(s, proof.dtype(), proof.seed());
  Mesh mesh(world, s.sizes);
  const auto alone = world.split(world.rank(), 0, "alone");
  Trainer model(mesh, s.training, proof.dtype(), [&](const std::string& name, const Slice& slice) {
    const MemoryScope scope(MemoryKind::weight);
    return start(name, slice);
  });
  if (!s.resume.empty()) resume(model, s.training, s.resume);
  proof.measure_memory();
  std::int64_t mine = 0;
  for (const Parameter& one : model.parameters()) mine += one.value.size();
  const std::int64_t e = proof.element_bytes();
  proof.expect_memory(MemoryKind::weight, "weights", pipeline::elements_of(s.training.model) * e, mine * e,
                      str(e, " x own ((12 W W + 7 W)/tp + 6 W a layer, ends)"));

  Trained found;
  found.loss = evaluate(model, s, [&](std::int64_t done) {
    if (world.rank() == 0) on_progress(done);
  });
  std::int64_t forwards = 0;
  for (int replica = 0; replica < s.sizes.dp; ++replica) forwards += own_forwards(s, replica);
  expect_forward_traffic(proof, s, "eval", forwards, str(forwards));
  if (s.sample > 0) {
    found.text = sample(model, s, proof.seed());
    expect_sampling_traffic(proof, s);
  }
  if (world.rank() != 0) return found;
  const auto busy = world.busy("reads the text with the unsplit reference");
  double truth = NAN;
  for (const DType dtype : {DType::f64, proof.dtype()})
    if (dtype != DType::f64 || std::isnan(truth))
      run_with_layout(*alone, s, {1, 1, 1}, dtype, proof.seed(),
                      [&](Mesh&, Trainer& whole, const Config& own) {
                        found.reference_loss = evaluate(whole, own);
                        if (dtype == DType::f64) truth = found.reference_loss;
                        if (dtype == proof.dtype()) found.reference_text = sample(whole, own, proof.seed());
                      });
  const double own_error = std::abs(found.reference_loss - truth);
  proof.claim(str("loss over ", whole_sequences(s), " sequences = the unsplit model's"),
              std::abs(found.loss - truth), 3 * own_error + (e == 8 ? 1e-10 : 1e-5));
  claim_same_text(proof, found);
  return found;
}

}  // namespace tessera::three_d
