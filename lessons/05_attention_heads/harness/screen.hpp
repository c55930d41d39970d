// What lesson 05 shows: an example by hand, the table of its trap,
// and the picture of the heads and of what is sent.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::attention_heads {

/// An example with two heads of one column (d = 1) over three tokens, one head on each of two ranks;
/// causal, no biases.
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

/// Which columns of [Q | K | V] each rank takes for its q,
/// k and v in the trap, and which belong to its heads.
inline std::string trap_table(const Sizes& s, int p) {
  const std::int64_t w = s.w(), kv = s.shape.kv_width(), q_own = w / p, kv_own = kv / p;
  const auto name = [&](std::int64_t col) {
    return col < w        ? format("Q {}", col)
           : col < w + kv ? format("K {}", col - w)
                          : format("V {}", col - w - kv);
  };
  const auto words = [&](Range r) { return format("{}..{}", name(r.begin), name(r.end - 1)); };
  std::vector<std::vector<std::string>> rows = {
      {"The trap: a rank's", "q are", "k are", "v are", "instead of"}};
  for (int r = 0; r < p; ++r) {
    const std::int64_t q = part(s.qkv(), r, p).begin, k = q + q_own, v = k + kv_own;
    const auto own = qkv_slice(1, s.shape, r, p).col_ranges;
    rows.push_back({format("  rank {}", r), words({q, k}), words({k, v}), words({v, v + kv_own}),
                    format("{}, {}, {}", words(own[0]), words(own[1]), words(own[2]))});
  }
  return table(rows, "lllll", 2);
}

inline std::vector<Equation> picture(const Sizes& s, int ranks) {
  using enum Block::Cut;
  struct Side {
    std::int64_t size;
    double drawn;
    std::int64_t heads;  // drawn side by side as strips, where they are few
  };
  const std::int64_t kv = s.shape.kv_width();
  const Side n{s.n(), 44, 0}, w{s.w(), 56, s.shape.heads}, k{kv, kv == s.w() ? 56.0 : 38.0, s.shape.kv_heads};
  const auto block = [&](const char* name, const Side& down, const Side& across, Block::Cut cut) {
    const std::int64_t heads = cut == columns ? across.heads : cut == rows ? down.heads : ranks;
    const int strips = w.heads > 16 ? 1 : static_cast<int>(heads / ranks);
    const std::string height = std::to_string(down.size), width = std::to_string(across.size);
    return Block{name, height, width, cut, down.drawn, across.drawn, strips};
  };
  const bool shared = s.shares_keys(ranks);
  const auto keys = shared ? replicated : columns;
  const auto terms = block("terms", n, w, partial);
  Equation project{"Q, K and V: the columns of each rank's heads", {}},
      mix{"each head by itself, then its rows of Wo: one all-reduce", {}},
      back{shared ? "backward: every rank's heads used K and V, one more all-reduce"
                  : "backward, the mirror image",
           {}},
      sum{"every rank's heads used X: one all-reduce", {}};
  project.add(block("X", n, w, replicated)).say("[").add(block("Wq", w, w, columns));
  project.add(block("Wk", w, k, keys)).add(block("Wv", w, k, keys)).say("] =");
  project.add(block("Q", n, w, columns)).add(block("K", n, k, keys)).add(block("V", n, k, keys));
  mix.say("softmax(Q K') V =").add(block("O", n, w, columns)).add(block("Wo", w, w, rows)).say("=");
  mix.add(terms).send("all-reduce").add(block("Y", n, w, replicated));
  back.add(block("dY", n, w, replicated)).add(block("Wo'", w, w, columns)).say("=");
  back.add(block("dO", n, w, columns)).say("then head by head:").add(block("dQ", n, w, columns));
  for (const char* name : {"dK", "dV"}) back.add(block(name, n, k, shared ? partial : columns));
  if (shared) {
    back.send("all-reduce").add(block("dK", n, k, replicated)).add(block("dV", n, k, replicated));
    return {project, mix, back};
  }
  sum.add(block("dQ", n, w, columns)).add(block("Wq'", w, w, rows)).say("+");
  sum.add(block("dK", n, k, columns)).add(block("Wk'", k, w, rows)).say("+");
  sum.add(block("dV", n, k, columns)).add(block("Wv'", k, w, rows)).say("=");
  sum.add(terms).send("all-reduce").add(block("dX", n, w, replicated));
  return {project, mix, back, sum};
}

}  // namespace tessera::attention_heads
