// Which tokens a rank has, and who brings it the keys and values of the others. Each sequence is cut into
// chunks of L tokens. Under a causal mask the queries of chunk i see all keys before them, and cost i + 1/2
// chunks squared: if rank r had chunk r, the last rank would compute almost twice its share, and everyone
// would wait for it. Of 2 cp chunks each rank has an early and a late one, r and 2 cp - 1 - r ("zigzag"), and
// all have the same work. Without a causal mask every placement is even.
//
// How often all ranks together send K and V of all tokens (a rank has a cp-th):       forward    backward
//   ring    K and V go round, while the rank computes with those it has               cp - 1     2 cp - 1
//   gather  all of K and V come first, and a rank holds them at once                  cp - 1     2 (cp - 1)
#pragma once

#include "comm/communicator.hpp"
#include "ops/ops.hpp"

namespace tessera::context_parallel {

/// Block i of n equal blocks of rows: a view.
inline Tensor block(const Tensor& x, int i, int n) {
  return x.row_range(i * (x.rows() / n), (i + 1) * (x.rows() / n));
}

struct Layout {
  std::int64_t batch = 1, seq = 1;
  int ranks = 1;
  bool zigzag = false;
  int own_chunks() const { return zigzag ? 2 : 1; }
  int chunks() const { return own_chunks() * ranks; }
  std::int64_t length() const { return seq / chunks(); }  // L, the tokens of a chunk

  // task 11.zigzag (line, 1 point, 10 min): which chunk of the sequence, counted from the first, is a rank's
  // number k; number 0 is chunk `rank` in both placements. Hint: the costs of the two must add up to the
  // same.
  int chunk(int rank, int k) const { return k == 1 ? chunks() - 1 - rank : rank; }
  // end task

  /// A rank's rows of a whole (N, cols): chunk by chunk, and in a chunk sequence by sequence.
  Slice slice(std::int64_t cols, int rank) const {
    Slice own{batch * seq, cols, {}, {{0, cols}}};
    for (int k = 0; k < own_chunks(); ++k)
      for (std::int64_t begin = chunk(rank, k) * length(); begin < batch * seq; begin += seq)
        own.row_ranges.push_back({begin, begin + length()});
    return own;
  }
};

/// Whose keys a rank has after so many hops, if each rank sends to the next one.
inline int owner(const Communicator& cp, int hops) { return (cp.rank() + cp.size() - hops) % cp.size(); }

inline constexpr int code_line = __LINE__ + 3;
// begin ring
/// Liu et al. 2023, "Ring Attention".
struct Ring {
  Communicator& cp;

  /// A tensor on its way to the next rank, while one of its shape arrives from the rank before.
  struct Hop {
    Tensor sent, arriving;
    Request receive, send;
    Tensor wait() { return receive.wait(), send.wait(), arriving; }
  };
  Hop start(const Tensor& x) const {
    const Tensor arriving = empty_like(x);
    return {x, arriving, cp.irecv(arriving, owner(cp, 1)), cp.isend(x, owner(cp, -1))};
  }

  // task 11.ring_forward (function, 3 points, 30 min): call visit(rank, its [K | V]) for every rank, this one
  // first, while the next [K | V] travels: what is under way is counted. Hint: start a hop, visit, wait for
  // the hop; after which visit is there nothing to send?
  template <class Visit>
  void bring(Tensor kv, const Visit& visit) const {
    for (int hops = 0; hops < cp.size(); ++hops) {
      Hop hop;
      if (hops + 1 < cp.size()) hop = start(kv);  // travels while visit computes
      visit(owner(cp, hops), kv);
      if (hops + 1 < cp.size()) kv = hop.wait();
    }
  }
  // end task

  // task 11.ring_backward (design, 4 points, 45 min): the same, where visit(rank, its [K | V]) returns a term
  // of [dK | dV] for these keys and values. Return the sum of all ranks' terms for this rank's own. Hint: the
  // gradients travel one hop behind their K and V, each rank adds its term, and one more hop takes them home.
  template <class Visit>
  Tensor bring_and_sum(Tensor kv, const Visit& visit) const {
    Tensor terms;
    Hop gradients;
    for (int hops = 0; hops < cp.size(); ++hops) {
      Hop hop;
      if (hops + 1 < cp.size()) hop = start(kv);
      terms = visit(owner(cp, hops), kv);
      if (hops + 1 < cp.size()) kv = hop.wait();
      if (hops > 0) add_to(terms, gradients.wait());  // what the ranks before have summed for these keys
      if (cp.size() > 1) gradients = start(terms);
    }
    return cp.size() > 1 ? gradients.wait() : terms;  // hop number cp
  }
  // end task
};
// end ring

/// One all-gather; in the backward another one, and a reduce-scatter, its transpose. Llama 3 does it so.
struct Gather {
  Communicator& cp;

  template <class Visit>
  void bring(const Tensor& kv, const Visit& visit) const {  // in the ring's order: o has the same bits
    const Tensor all = cp.all_gather(kv, 0);
    for (int i = 0; i < cp.size(); ++i) visit(owner(cp, i), block(all, owner(cp, i), cp.size()));
  }
  template <class Visit>
  Tensor bring_and_sum(const Tensor& kv, const Visit& visit) const {
    const Tensor all = cp.all_gather(kv, 0), terms = empty_like(all);
    for (int rank = 0; rank < cp.size(); ++rank)
      block(terms, rank, cp.size()).copy_from(visit(rank, block(all, rank, cp.size())));
    return cp.reduce_scatter(terms, 0);
  }
};

}  // namespace tessera::context_parallel
