// Training on text: the batches that every run sees alike, a run of the cut model, and the unsplit runs
// beside it.
#pragma once

#include "01_mlp/text_model.hpp"
#include "08_three_d/checkpoint.hpp"

namespace tessera::three_d {

struct Setup {
  Sizes3 sizes{2, 2, 2};
  Training training;
  std::int64_t batch = 16, steps = 20;  // sequences of a step
  std::string text;                     // bytes as tokens
  std::string save, resume;             // folders, "" for none
  std::int64_t every = 0;               // steps between checkpoints; 0: one at the end

  std::int64_t seq() const { return training.model.attention.options.seq; }
};

/// The sequences of step `step`, from places in the text that only seed and step decide. (batch seq, 1), on
/// the host.
inline Tokens batch_of(const Setup& s, std::uint64_t seed, std::int64_t step) {
  const MemoryScope data(MemoryKind::check);
  const Device::Scope host(Device::host());
  const Random random(seed, "batches");
  std::vector<double> ids, targets;
  for (std::int64_t b = 0; b < s.batch; ++b) {
    const auto places = static_cast<std::uint64_t>(static_cast<std::int64_t>(s.text.size()) - s.seq());
    const std::size_t begin = random.bits(static_cast<std::uint64_t>(step * s.batch + b)) % places;
    for (std::size_t i = begin; i < begin + static_cast<std::size_t>(s.seq()); ++i) {
      ids.push_back(static_cast<unsigned char>(s.text[i]));
      targets.push_back(static_cast<unsigned char>(s.text[i + 1]));
    }
  }
  const auto count = static_cast<std::int64_t>(ids.size());
  return {Tensor::of(count, 1, ids, DType::i32), Tensor::of(count, 1, targets, DType::i32)};
}

/// This rank's microbatches of a batch, ids counted from the rank's first.
inline std::vector<Tokens> own_microbatches(const Tokens& batch, const Setup& s, const Mesh& mesh) {
  const Range own = own_ids(s.training.model.vocabulary, mesh.tp->rank(), mesh.sizes.tp);
  const int m = s.training.microbatches;
  std::vector<Tokens> mine;
  const auto all = pipeline::cut_tokens(batch, m * mesh.sizes.dp);
  for (int i = 0; i < m; ++i) {
    const Tokens& one = all.at(static_cast<std::size_t>(mesh.dp->rank()) * static_cast<std::size_t>(m) +
                               static_cast<std::size_t>(i));
    mine.push_back({local_ids(one.ids, own), local_ids(one.targets, own)});
  }
  return mine;
}

/// As GPT-2 begins, but uniform: norms are the identity, biases 0, everything else small.
inline Tensor initial(const std::string& name, const Slice& slice, DType dtype, std::uint64_t seed,
                      double scale) {
  const bool norm = name.find("ln_") != std::string::npos, bias = name.ends_with("bias");
  const Tensor w = generate(seed, name, slice, dtype, Fill::uniform, bias || norm ? 0 : scale);
  return norm && !bias
             ? add_bias(w, Tensor::of(1, w.cols(), std::vector<double>(static_cast<std::size_t>(w.cols()), 1),
                                      dtype))
             : w;
}

/// The mean loss over the whole batch, on every rank: the last stages' sums, over dp and back over pp.
inline double mean_loss(double own, const Setup& s, const Mesh& mesh) {
  double loss = own / static_cast<double>(s.training.model.tokens);
  const MemoryScope scope(MemoryKind::check);
  for (Communicator* group : {mesh.dp.get(), mesh.pp.get()}) {
    const Phase phase = group->phase("check");
    loss = group->all_reduce(Tensor::of(1, 1, {loss})).values()[0];
  }
  return loss;
}

/// Steps from where the trainer is up to `steps`: the losses, each before its step. Saves where the setup
/// says so.
inline std::vector<double> train(
    Communicator& world, const Mesh& mesh, Trainer& trainer, const Setup& s, std::uint64_t seed,
    const std::function<void(std::int64_t step)>& tell = [](std::int64_t) {}) {
  std::vector<double> losses;
  while (trainer.steps() < s.steps) {
    const std::int64_t step = trainer.steps();
    losses.push_back(
        mean_loss(trainer.gradients(own_microbatches(batch_of(s, seed, step), s, mesh)), s, mesh));
    if (!std::isfinite(losses.back()))
      throw Error(str("the loss of step ", step + 1, " is ", losses.back(),
                      ": a smaller --lr, or --clip 1, would help",
                      s.save.empty() ? "" : "; the last checkpoint in " + s.save + " stays"));
    trainer.step();
    const bool due = s.every > 0 ? trainer.steps() % s.every == 0 : trainer.steps() == s.steps;
    if (!s.save.empty() && due) save(world, mesh, trainer, s.training, s.save);
    tell(step);
  }
  return losses;
}

/// Losses of the same steps of a model of one's own: the unsplit run in some dtype. Nothing of it is booked.
inline std::vector<double> unsplit_losses(Communicator& alone, Setup s, DType dtype, std::uint64_t seed,
                                          const pipeline::MakeWeight& make) {
  const MemoryScope scope(MemoryKind::check);
  s.training.microbatches *= s.sizes.dp;
  s.training.chunks = 1;
  s.training.schedule = pipeline::Schedule::one_f_one_b;
  s.save.clear();
  Mesh mesh(alone, {1, 1, 1}, "unsplit-");
  Trainer trainer(mesh, s.training, dtype, make);
  if (!s.resume.empty()) resume(trainer, s.training, s.resume);
  return train(alone, mesh, trainer, s, seed);
}

}  // namespace tessera::three_d
