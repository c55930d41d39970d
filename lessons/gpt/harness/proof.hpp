// What all lessons that cut a GPT share: the unsplit model's step, line by line on plain tensors, and the
// checks of a loss and of gradients against it.
#pragma once

#include <algorithm>
#include <map>

#include "05_attention_heads/harness/reference.hpp"
#include "gpt/builder.hpp"
#include "tensor/error.hpp"

namespace tessera::gpt {

/// The whole weights of a model by their names, as `make` makes them.
inline Inputs<Tensor> whole_weights(const ModelConfig& model, const MakeWeight& make) {
  return [model, make](const std::string& name) {
    for (const WeightInfo& info : weights_of(model))
      if (info.name == name) return make(name, Slice::whole(info.rows, info.cols));
    throw Error("no weight " + name);
  };
}

/// The loss and every gradient of one step over all tokens at once. `batch` lies on the host. Model says
/// what a block computes; it needs the microbatches where it has a loss of each microbatch (lesson 12).
template <class Model = attention_heads::Reference>
MeasuredReference reference_step(const Inputs<Tensor>& in, const ModelConfig& config, const Tokens& batch,
                                 int microbatches = 1) {
  const std::string head_name = config.tied ? "wte.weight" : "lm_head.weight";
  attention_heads::AttentionShape all = config.attention;
  const std::int64_t seq = all.options.seq, n = batch.ids.rows();
  all.options.batch = n / seq;
  Model u(in, all, attention_heads::reference_core);
  if constexpr (requires { u.config; }) u.config = config, u.microbatches = microbatches;
  u.epsilon = config.layer_norm_epsilon;
  std::vector<double> at;
  for (std::int64_t i = 0; i < n; ++i) at.push_back(i % seq);
  const Tensor positions = Tensor::of(n, 1, at, DType::i32);
  const Tensor ids = batch.ids.to(Device::current()), targets = batch.targets.to(Device::current());
  const Tensor wte = in("wte.weight"), wpe = in("wpe.weight"), w = in(head_name);

  Tensor x = add(embedding(ids, wte), embedding(positions, wpe));
  for (std::int64_t l = 0; l < config.layers; ++l) x = u.block(format("h.{}.", l), x);
  const Tensor y = u.norm("ln_f", x);
  const CrossEntropy entropy = cross_entropy(matmul(y, t(w)), targets);
  const auto weighted = [&](const Tensor& of_rows) {
    if (!batch.weights.defined()) return of_rows;
    return scale_rows(of_rows, cast(batch.weights.to(Device::current()), arithmetic(of_rows.dtype())));
  };
  const double tokens = n;
  u.note("loss", scale(sum_rows(weighted(entropy.loss)), 1 / tokens),
         largest(sum_rows(absolute(weighted(entropy.loss)))) / tokens);

  const Tensor dlogits = weighted(cross_entropy_backward(entropy, targets, n));
  const Tensor dw = matmul(t(dlogits), y);
  u.note("d" + head_name, dw, largest_terms(t(dlogits), y));
  Tensor dx = u.norm_backward("ln_f", matmul(dlogits, w));
  for (std::int64_t l = config.layers; l-- > 0;) dx = u.block_backward(format("h.{}.", l), dx);
  const double sum = largest(sum_rows(absolute(dx)));
  const Tensor dwte = zero_gradient(wte), dwpe = zero_gradient(wpe);
  add_embedding_backward(dwte, dx, ids);
  add_embedding_backward(dwpe, dx, positions);
  if (config.tied) add_to(dwte, dw);
  u.note("dwte.weight", dwte, sum + largest_terms(t(dlogits), y));
  u.note("dwpe.weight", dwpe, sum);
  if constexpr (requires { u.finish(); }) u.finish();
  return u.results;
}

/// Makes a rank's slices of the weights as inputs of the proof, `factor` times as large as suits their
/// fan-in. Rank 0 gets to know of every weight, also of those that lie on other ranks.
inline MakeWeight make_weights(Proof& proof, const ModelConfig& model, double factor = 1) {
  std::map<std::string, double> scales;
  for (const auto& [name, rows, cols, scale] : weights_of(model)) {
    scales[name] = factor * scale;
    proof.weight(name, "??", Slice::nothing_of(rows, cols), scales[name]);
  }
  return [&proof, scales](const std::string& name, const Slice& slice) {
    return proof.weight(name, "??", slice, scales.at(name));
  };
}

/// Hands to the proof what a step has found: the loss, which every rank knows, and this rank's slices of the
/// gradients. They are copied, since later steps write over them.
inline void check_step(Proof& proof, const ModelConfig& model, const std::vector<Parameter>& parameters,
                       double loss, const std::string& loss_name = "loss",
                       const std::string& gradients_name = "gradients") {
  const MemoryScope scope(MemoryKind::check);
  proof.result("loss", "11", loss_name, Tensor::of(1, 1, {loss}), Slice::whole(1, 1));
  for (const WeightInfo& info : weights_of(model)) {
    const auto own = std::ranges::find(parameters, info.name, &Parameter::name);
    const bool here = own != parameters.end();
    proof.result("d" + info.name, "??", "d" + info.name,
                 here ? own->gradient.copy() : Tensor::empty(0, 0, proof.dtype()),
                 here ? own->slice : Slice::nothing_of(info.rows, info.cols), gradients_name);
  }
}

}  // namespace tessera::gpt
