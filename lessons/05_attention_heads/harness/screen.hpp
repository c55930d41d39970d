// What lesson 05 shows: an example by hand, the table of its trap, and the picture of the heads and of what
// is sent.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::attention_heads {

/// An example with two heads of one column (d = 1) over three tokens, one head on each of two ranks, with a
/// causal mask and without biases.
inline std::string by_hand() {
  const Tensor x = Tensor::of(3, 2, {1, 0, 0, 1, 1, 2}), wo = Tensor::of(2, 2, {1, 2, 3, -1});
  const Tensor wqkv = Tensor::of(2, 6, {1, 0, 1, 1, 2, -1, 0, 1, -1, 0, 1, 1}), qkv = matmul(x, wqkv);
  std::string text =
      "  By hand (causal; two heads of one column each: rank 0 has columns 0, 2, 4, rank 1 has 1, 3, 5)\n" +
      side_by_side({"X", "Wqkv = [Wq | Wk | Wv]", "X Wqkv = [Q | K | V]"}, {x, wqkv, qkv});
  AttentionOptions one_head;
  one_head.seq = 3;
  std::vector<Tensor> terms;
  for (const int head : {0, 1}) {
    const Tensor q = qkv.column_range(head, head + 1), k = qkv.column_range(2 + head, 3 + head),
                 v = qkv.column_range(4 + head, 5 + head), rows = wo.row_range(head, head + 1);
    AttentionSaved saved;
    const Tensor o = attention(q, k, v, one_head, saved);
    terms.push_back(matmul(o, rows));
    const std::string i = std::to_string(head + 1);
    text +=
        side_by_side({"q" + i, "k" + i, "v" + i, format("q{} k{}'", i, i), format("P{}, no later token", i),
                      format("o{} = P{} v{}", i, i, i), "Wo" + i, format("o{} Wo{}", i, i)},
                     {q, k, v, matmul(q, t(k)), saved.p, o, rows, terms.back()});
  }
  return text + side_by_side({"Y, the sum"}, {add(terms[0], terms[1])});
}

/// Which columns of [Q | K | V] each rank takes for its q, k and v in the trap, and which belong to its
/// heads.
inline std::string trap_table(const Sizes& s, int p) {
  const std::int64_t w = s.w(), kv = s.shape.kv_width(), q_own = w / p, kv_own = kv / p;
  const auto name = [&](std::int64_t col) {
    return col < w        ? format("Q {}", col)
           : col < w + kv ? format("K {}", col - w)
                          : format("V {}", col - w - kv);
  };
  const auto words = [&](Range r) { return format("{}..{}", name(r.begin), name(r.end - 1)); };
  Cells rows = {{"The trap: a rank's", "q are", "k are", "v are", "instead of"}};
  for (int r = 0; r < p; ++r) {
    const std::int64_t q = part(s.qkv(), r, p).begin, k = q + q_own, v = k + kv_own;
    const auto own = qkv_slice(1, s.shape, r, p).col_ranges;
    rows.push_back({format("  rank {}", r), words({q, k}), words({k, v}), words({v, v + kv_own}),
                    format("{}, {}, {}", words(own[0]), words(own[1]), words(own[2]))});
  }
  return table(rows, "lllll", 2);
}

inline std::vector<Equation> picture(const Sizes& s, int ranks) {
  const std::int64_t kv = s.shape.kv_width();
  const auto strips = [&](std::int64_t heads) {  // a rank's heads side by side, where they are few
    return s.shape.heads > 16 ? 1 : static_cast<int>(heads / ranks);
  };
  const bool shared = s.shares_keys(ranks);
  std::vector<std::pair<std::string, std::string>> lines = {
      {"Q, K and V: the columns of each rank's heads",
       format("X(N,W) [ Wq(W,W/p) Wk(W,{0}) Wv(W,{0}) ] = Q(N,W/p) K(N,{0}) V(N,{0})", shared ? "K" : "K/p")},
      {"each head by itself, then its rows of Wo: one all-reduce",
       "softmax(Q K') V = O(N,W/p) Wo(W/p,W) = +terms(N,W) all-reduce -> Y(N,W)"},
      {shared ? "backward: every rank's heads used K and V, one more all-reduce"
              : "backward, the mirror image",
       format("dY(N,W) Wo'(W,W/p) = dO(N,W/p) then head by head: dQ(N,W/p) {}",
              shared ? "+dK(N,K) +dV(N,K) all-reduce -> dK(N,K) dV(N,K)" : "dK(N,K/p) dV(N,K/p)")}};
  if (!shared)
    lines.push_back({"every rank's heads used X: one all-reduce",
                     "dQ(N,W/p) Wq'(W/p,W) + dK(N,K/p) Wk'(K/p,W) + dV(N,K/p) Wv'(K/p,W) = "
                     "+terms(N,W) all-reduce -> dX(N,W)"});
  return equations({{'N', {std::to_string(s.n()), 44}},
                    {'W', {std::to_string(s.w()), 56, strips(s.shape.heads)}},
                    {'K', {std::to_string(kv), kv == s.w() ? 56.0 : 38.0, strips(s.shape.kv_heads)}}},
                   lines);
}

}  // namespace tessera::attention_heads
