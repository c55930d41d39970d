// A run on text: what it needs, where it begins, and the batches that every cut sees alike.
#pragma once

#include "08_three_d/tokens.hpp"
#include "08_three_d/trainer.hpp"
#include "08_three_d/weights.hpp"

namespace tessera::three_d {

struct Config {
  ParallelSizes sizes{2, 2, 2};
  Training training;
  std::int64_t batch = 16, steps = 20;  // sequences of a step
  Corpus text;
  std::shared_ptr<const WeightsFile> weights;  // where the model begins; null: at random
  std::string save, resume;                    // folders, "" for none
  std::int64_t every = 0;                      // steps between checkpoints; 0: one at the end
  bool eval = false;                           // no training: the loss over the whole text
  std::int64_t sample = 0;                     // tokens to write in the end
  double temperature = 1;

  std::int64_t seq() const { return training.model.attention.options.seq; }
};

/// The sequences that begin at these places of the text, and the tokens that follow.
/// (places seq, 1), on the host.
inline Tokens sequences_at(const Config& s, const std::vector<std::size_t>& places) {
  const MemoryScope data(MemoryKind::check);
  const Device::Scope host(Device::host());
  std::vector<double> ids, targets;
  for (const std::size_t begin : places)
    for (std::size_t i = begin; i < begin + static_cast<std::size_t>(s.seq()); ++i) {
      ids.push_back(s.text.ids.at(i));
      targets.push_back(s.text.ids.at(i + 1));
    }
  const auto count = static_cast<std::int64_t>(ids.size());
  return {Tensor::of(count, 1, ids, DType::i32), Tensor::of(count, 1, targets, DType::i32)};
}

/// The sequences of step `step`, from places in the text that only seed and step decide.
inline Tokens batch_of(const Config& s, std::uint64_t seed, std::int64_t step) {
  const Random random(seed, "batches");
  const auto room = static_cast<std::uint64_t>(s.text.size() - s.seq());
  std::vector<std::size_t> places;
  for (std::int64_t b = 0; b < s.batch; ++b)
    places.push_back(random.bits(static_cast<std::uint64_t>(step * s.batch + b)) % room);
  return sequences_at(s, places);
}

/// With ids counted from the rank's first, on its device.
inline Tokens local(const Tokens& tokens, const Model& model, const Mesh& mesh) {
  const Range own = own_ids(model.vocabulary, mesh.tp->rank(), mesh.sizes.tp);
  return {local_ids(tokens.ids, own), local_ids(tokens.targets, own)};
}

/// This rank's microbatches of a batch.
inline std::vector<Tokens> own_microbatches(const Tokens& batch, const Config& s, const Mesh& mesh) {
  const int m = s.training.microbatches, first = mesh.dp->rank() * m;
  const auto all = pipeline::cut_tokens(batch, m * mesh.sizes.dp);
  std::vector<Tokens> mine;
  for (int i = first; i < first + m; ++i)
    mine.push_back(local(all.at(static_cast<std::size_t>(i)), s.training.model, mesh));
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

/// Where the model begins: as the file says, or at random.
inline pipeline::MakeWeight initial_weights(const Config& s, DType dtype, std::uint64_t seed) {
  if (s.weights)
    return [file = s.weights, dtype](const std::string& name, const Slice& slice) {
      return file->read(name, slice, dtype);
    };
  std::map<std::string, double> scales;
  for (const auto& info : pipeline::weights_of(s.training.model)) scales[info.name] = 0.5 * info.scale;
  return [scales, dtype, seed](const std::string& name, const Slice& slice) {
    return initial(name, slice, dtype, seed, scales.at(name));
  };
}

/// What the last stages have found, summed over the replicas, on every rank. The other stages give 0.
inline double sum_over_dp_and_pp(double own, const Mesh& mesh) {
  const MemoryScope scope(MemoryKind::check);
  for (Communicator* group : {mesh.dp.get(), mesh.pp.get()}) {
    const Phase phase = group->phase("check");
    own = group->all_reduce(Tensor::of(1, 1, {own})).values()[0];
  }
  return own;
}

}  // namespace tessera::three_d
