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
  t.out(format("{} ranks", layout.ranks), words);
});

const Task ring_forward("11.ring_forward", [](Trial& t) {
  const int rows = t.size(), cols = t.size();
  t.on_ranks([&](Communicator& cp) {
    const auto keys = [&](int rank) { return t.in(format("K V of rank {}", rank), rows, cols); };
    int visits = 0;
    Watched watched(cp, [&] { return visits; });
    Ring{watched}.bring(keys(cp.rank()), [&](int rank, const Tensor& kv) {
      t.out(cp.rank(), format("visit {}", visits++), "[K | V] of the rank that is visited", kv,
            Slice::rows(cp.size() * rows, cols, rank, cp.size()));
    });
    t.count(format("rank {} has # sends and receives under way while it visits", cp.rank()), watched.hidden);
  });
});

const Task ring_backward("11.ring_backward", [](Trial& t) {
  const int rows = t.size(), cols = t.size();
  t.on_ranks([&](Communicator& cp) {
    // The term depends on the keys that the visit has, so stale ones are seen.
    const auto keys = [&](int rank) { return t.in(format("K V of rank {}", rank), rows, cols); };
    const auto term = [&](int rank, const Tensor& kv) {
      return add(t.in(format("term of rank {} for rank {}", cp.rank(), rank), rows, cols), kv);
    };
    const Slice own = Slice::rows(cp.size() * rows, cols, cp.rank(), cp.size());
    t.out(cp.rank(), "[dK | dV]", "the sum of all ranks' terms for this rank's keys",
          Ring{cp}.bring_and_sum(keys(cp.rank()), term), own);
    t.mistake(cp.rank(), "[dK | dV]", "this rank's own term: did the gradients come home?",
              term(cp.rank(), keys(cp.rank())), own);
  });
});

const Task to_tokens("11.to_tokens", [](Trial& t) {
  const int d = t.size(1, 3), batch = t.size(1, 2), length = t.size(1, 3), group = t.size(1, 2);
  t.on_ranks([&](Communicator& cp) {
    const int c = cp.size();
    AttentionOptions whole;
    whole.batch = batch, whole.seq = 2 * c * length;
    whole.heads = 2 * c,
    whole.kv_heads = group == 1 ? 2 * c : 1;  // one, on all ranks: their columns are summed
    const Layout layout{batch, whole.seq, c, true};
    const Ulysses ulysses{cp, layout, whole, {}};
    const std::int64_t cols = (whole.heads + 2 * whole.kv_heads) * d,
                       width = (2 + 2 * (group == 1 ? 2 : 1)) * d;
    const Tensor all = t.in(format("columns of rank {}", cp.rank()), batch * whole.seq, width);
    t.out(cp.rank(), "[Q | K | V]", "this rank's tokens of all heads", ulysses.to_tokens(all, cols, true),
          layout.slice(cols, cp.rank()));
  });
});

}  // namespace
