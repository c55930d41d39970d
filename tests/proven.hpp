// Shared by the tests of lessons: a proof on rank threads, and what it finds wrong.
#pragma once

#include <optional>

#include "app/proof.hpp"
#include "support.hpp"

namespace tessera::test {

/// Makes any slice of a matrix by its name.
inline auto generator(DType dtype, double size = 1, Fill fill = Fill::uniform) {
  return [=](const std::string& name, const Slice& slice) {
    return generate(3, name, slice, dtype, fill, size);
  };
}

inline ProofOptions floating(DType dtype) { return {Tier::floating, dtype, 3}; }

/// What the proof has found on rank 0 after prove(proof, comm) on n rank threads.
inline Outcome proven(int n, const ProofOptions& options,
                      const std::function<void(Proof&, Communicator&)>& prove) {
  return on_rank_0(n, [&](Communicator& comm) {
    Proof proof(comm, options);
    prove(proof, comm);
    return proof.finish();
  });
}

/// The same for a lesson's prove(proof, comm, config).
template <class Config>
Outcome outcome_of(int n, const Config& config, const ProofOptions& options = floating(DType::f64)) {
  return proven(n, options, [&](Proof& proof, Communicator& comm) { prove(proof, comm, config); });
}

/// The same, and what prove returns on rank 0.
template <class Config>
auto outcome_and_found(int n, const Config& config, const ProofOptions& options = floating(DType::f64)) {
  std::optional<decltype(prove(std::declval<Proof&>(), std::declval<Communicator&>(), config))> found;
  const Outcome outcome = proven(n, options, [&](Proof& proof, Communicator& comm) {
    auto mine = prove(proof, comm, config);
    if (comm.rank() == 0) found = std::move(mine);
  });
  return std::pair(outcome, *found);
}

/// A line for each check that fails, then the notes; "" where everything holds, and something was checked.
inline std::string faults(const Outcome& outcome) {
  std::string text;
  for (const Check& check : outcome.checks)
    if (!check.ok)
      text += format("{}: rank {} ({}, {}) {:g} > {:g}. {}\n", check.identity, check.rank, check.row,
                     check.col, check.error, check.bound, check.diagnosis);
  for (const std::string& note : outcome.notes) text += note + "\n";
  return text.empty() && !outcome.ok() ? "nothing was checked, or a fault has no note" : text;
}

/// Throws unless a layer by hand and the typed layer give the same bits.
inline void expect_equal(const Tensor& typed, const Tensor& by_hand) {
  expect(typed.values() == by_hand.values(), "other bits");
}

}  // namespace tessera::test
