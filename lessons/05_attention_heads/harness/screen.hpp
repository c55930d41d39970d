// The picture of lesson 05: heads by colour, what is cut, what is sent.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "report/picture.hpp"

namespace tessera::attention_heads {

inline std::vector<Equation> picture(const Sizes& s, int ranks) {
  using enum tessera::Block::Cut;
  struct Side {
    std::int64_t size;
    double drawn;
    std::int64_t heads;  // side by side, a strip each while they are few
  };
  const std::int64_t kv = s.shape.kv_width();
  const Side n{s.n(), 44, 0}, w{s.w(), 56, s.shape.heads}, k{kv, kv == s.w() ? 56.0 : 38.0, s.shape.kv_heads};
  const auto block = [&](const char* name, const Side& down, const Side& across, tessera::Block::Cut cut) {
    const std::int64_t heads = cut == columns ? across.heads : cut == rows ? down.heads : ranks;
    return tessera::Block{name,
                          std::to_string(down.size),
                          std::to_string(across.size),
                          cut,
                          down.drawn,
                          across.drawn,
                          w.heads > 16 ? 1 : static_cast<int>(heads / ranks)};
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
