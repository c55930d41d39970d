// What lesson 09 shows: an example by hand, lesson 05's block beside this one, and the picture.
#pragma once

#include "09_sequence_parallel/harness/proof.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::sequence_parallel {

/// Two tokens on two ranks, computed here on one: f = relu, without a norm, and of the biases c2 alone.
inline std::string by_hand() {
  const Tensor x1 = Tensor::of(1, 2, {1, 2}), x2 = Tensor::of(1, 2, {3, -1}),
               x = Tensor::of(2, 2, {1, 2, 3, -1});
  const Tensor a = Tensor::of(2, 2, {2, 1, 1, -1}), b = Tensor::of(2, 2, {1, 3, 2, -1});
  const Tensor h1 = relu(matmul(x, a.column_range(0, 1))), h2 = relu(matmul(x, a.column_range(1, 2)));
  const Tensor term1 = matmul(h1, b.row_range(0, 1)), term2 = matmul(h2, b.row_range(1, 2));
  const Tensor sum = add(term1, term2), dy = Tensor::of(2, 2, {1, 0, 2, -1});
  const Tensor dc1 = sum_rows(dy.row_range(0, 1)), dc2 = sum_rows(dy.row_range(1, 2));
  return "  By hand (f = relu; rank 0 has the first token, A's first column and B's first row)\n" +
         side_by_side({"rank0's X1", "rank1's X2", "gathered", "H1", "|", "H2", "H1 B1", "H2 B2",
                       "rank0's row", "rank1's row"},
                      {x1, x2, x, h1, {}, h2, term1, term2, sum.row_range(0, 1), sum.row_range(1, 2)}) +
         side_by_side({"dY", "rank0's dc", "rank1's dc", "dc, the sum that is owed"},
                      {dy, dc1, dc2, add(dc1, dc2)});
}

/// Lesson 05's layer and this one, side by side.
inline std::string beside(const Compared& found, bool regather) {
  Cells rows = {{"Beside lesson 05", "whole", "cut by tokens", "ratio"}};
  const auto row = [&](const std::string& what, std::int64_t whole, std::int64_t cut) {
    rows.push_back(
        {"  " + what, bytes(whole), bytes(cut), whole > 0 ? format("{:.2f}", double(cut) / whole) : ""});
  };
  row("sent forward, all ranks", found.whole.forward, found.cut.forward);
  row(regather ? "sent backward, X gathered again" : "sent backward", found.whole.backward,
      found.cut.backward);
  row("sent once a step", 0, found.step);
  row("a rank keeps for the backward", found.whole.kept, found.cut.kept);
  row("a rank holds after it", found.whole.held, found.cut.held);
  return table(rows, "lrrr", 2) +
         (regather
              ? "  Without --regather the bytes are lesson 05's, and a rank keeps X of all tokens.\n"
              : "  With --regather a rank keeps its own tokens of X only, and gathers X again for dA.\n");
}

inline void record(Proof& proof, const Compared& found) {
  for (const auto& [name, one] : {std::pair{"lesson_05", found.whole}, {"cut_by_tokens", found.cut}})
    for (const auto& [what, value] : {std::pair{"forward_bytes", one.forward},
                                      {"backward_bytes", one.backward},
                                      {"kept_for_backward", one.kept},
                                      {"held_after_backward", one.held}})
      proof.record(format("{}.{}", name, what), value);
  proof.record("cut_by_tokens.step_bytes", found.step);
}

inline std::vector<Equation> picture(const Config& c) {
  return equations({{'N', {std::to_string(c.sizes.n()), 56}},
                    {'W', {std::to_string(c.sizes.w()), 56}},
                    {'F', {std::to_string(4 * c.sizes.w()), 96}},
                    {'1', {"1", 16}}},
                   {{"forward: norms and sums by tokens, matrices by columns and rows",
                     "norm( X(N/p,W) ) | all-gather -> (N,W) A(W,F/p) = H(N,F/p) B(F/p,W) = +terms(N,W) "
                     "reduce-scatter -> Y(N/p,W)"},
                    {"backward: the same collectives in the same places",
                     "dY(N/p,W) all-gather -> (N,W) B'(W,F/p) = dH(N,F/p) A'(F/p,W) = +terms(N,W) "
                     "reduce-scatter -> dX(N/p,W)"},
                    {"once a step: norms and late biases saw a rank's tokens only",
                     "sum of the rows of dY(N/p,W) = +terms(1,W) all-reduce -> dc(1,W)"}});
}

}  // namespace tessera::sequence_parallel
