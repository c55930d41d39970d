// The checks that all lessons share which cut a GPT: its loss and its gradients against the unsplit model's.
#pragma once

#include <algorithm>
#include <map>

#include "app/proof.hpp"
#include "gpt/builder.hpp"
#include "gpt/harness/reference.hpp"

namespace tessera::gpt {

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
