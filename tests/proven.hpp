// Shared by the tests of lessons: a proof on rank threads, and what it finds wrong.
#pragma once

#include "app/proof.hpp"
#include "support.hpp"

namespace tessera::test {

/// What rank 0 has in hand after prove(proof, comm) on n rank threads.
inline Outcome proven(int n, const ProofOptions& options,
                      const std::function<void(Proof&, Communicator&)>& prove) {
  Outcome outcome;
  on_ranks(n, [&](Communicator& comm) {
    Proof proof(comm, options);
    prove(proof, comm);
    Outcome mine = proof.finish();
    if (comm.rank() == 0) outcome = std::move(mine);
  });
  return outcome;
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

/// By hand and typed, a layer gives the same bits.
inline void expect_equal(const Tensor& typed, const Tensor& by_hand) {
  expect(typed.values() == by_hand.values(), "other bits");
}

}  // namespace tessera::test
