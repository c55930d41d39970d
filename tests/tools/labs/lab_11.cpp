#include "11_context_parallel/ulysses.hpp"
#include "lab.hpp"
#include "relay.hpp"

using namespace tessera;
using namespace tessera::context_parallel;

namespace {

const Task zigzag("11.zigzag", [](Trial& t) {
  const Layout layout{1, 48, t.size(1, 8), true};
  std::vector<std::string> words;
  for (int rank = 0; rank < layout.ranks; ++rank)
    words.push_back(format("rank {}: chunks {} and {}", rank, layout.chunk(rank, 0), layout.chunk(rank, 1)));
  t.words(format("{} ranks", layout.ranks), words);
});

const RankTask ring_forward("11.ring_forward", [](Trial& t) {
  const int rows = t.size(), cols = t.size();
  const Tensor own = t.in(format("K V of rank {}", t.rank()), rows, cols);
  int visits = 0;
  Watched watched(t.comm(), [&] { return visits; });
  Ring{watched}.bring(own, [&](int rank, const Tensor& kv) {
    t.out(format("visit {}", visits++), "[K | V] of the rank that is visited", kv,
          Slice::rows(t.ranks() * rows, cols, rank, t.ranks()));
  });
  t.count(format("rank {} has # sends and receives under way while it visits", t.rank()), watched.hidden);
});

const RankTask ring_backward("11.ring_backward", [](Trial& t) {
  const int rows = t.size(), cols = t.size();
  const Tensor own = t.in(format("K V of rank {}", t.rank()), rows, cols);
  // The term depends on the keys that the visit has, so stale ones are seen.
  const auto term = [&](int rank, const Tensor& kv) {
    return add(t.in(format("term of rank {} for rank {}", t.rank(), rank), rows, cols), kv);
  };
  t.out<Shard<0>>("[dK | dV]", "the sum of all ranks' terms for this rank's keys",
                  Ring{t.comm()}.bring_and_sum(own, term));
  t.mistake<Shard<0>>("[dK | dV]", "this rank's own term: did the gradients come home?",
                      [&] { return term(t.rank(), own); });
});

const RankTask to_tokens("11.to_tokens", [](Trial& t) {
  const int d = t.size(1, 3), batch = t.size(1, 2), length = t.size(1, 3), group = t.size(1, 2),
            c = t.ranks();
  AttentionOptions whole;
  whole.batch = batch, whole.seq = 2 * c * length;
  whole.heads = 2 * c,
  whole.kv_heads = group == 1 ? 2 * c : 1;  // one, on all ranks: their columns are summed
  const Layout layout{batch, whole.seq, c, true};
  const std::int64_t cols = (whole.heads + 2 * whole.kv_heads) * d,
                     width = (2 + 2 * (group == 1 ? 2 : 1)) * d;
  const Tensor all = t.in(format("columns of rank {}", t.rank()), batch * whole.seq, width);
  t.out("[Q | K | V]", "this rank's tokens of all heads",
        Ulysses{t.comm(), layout, whole, {}}.to_tokens(all, cols, true), layout.slice(cols, t.rank()));
});

}  // namespace
