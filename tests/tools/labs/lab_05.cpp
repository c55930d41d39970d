#include <cmath>

#include "05_attention_heads/block.hpp"
#include "05_attention_heads/vocab_parallel.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::attention_heads;

namespace {

AttentionShape shape_of(Trial& t, bool one_key = false) {
  AttentionShape s;
  s.heads = t.cut(2);
  s.kv_heads = one_key ? 1 : s.heads % (2 * t.ranks()) == 0 ? s.heads / 2 : s.heads;
  s.width = s.heads * t.size(1, 3);
  s.options.batch = t.size(1, 2);
  s.options.seq = t.size(2, 4);
  return s;
}

const Task slice("05.qkv_slice", [](Trial& t) {
  const AttentionShape s = shape_of(t);
  std::vector<std::string> words;
  for (int r = 0; r < t.ranks(); ++r) {
    const Slice slice = qkv_slice(t.size(), s, r, t.ranks());
    words.push_back(format("rank {} of {}, W {}, KV {}: {} rows of {}, of {} columns", r, t.ranks(), s.width,
                           s.kv_width(), slice.local_rows(), slice.whole_rows, slice.whole_cols));
    for (const Range& range : slice.col_ranges) words.back() += format(" [{}, {})", range.begin, range.end);
  }
  t.words("slices", words);
});

/// A rank's own weights are any: together they are some whole.
template <class Attention>
struct Setup {
  Trial& t;
  AttentionShape shape = shape_of(t, is<Attention, MultiQueryAttention>);
  AttentionOptions heads = own_heads(shape, t.rank(), t.ranks());
  std::int64_t n = shape.tokens(), w = shape.width,
               qkv = w / t.ranks() + 2 * heads.kv_heads * shape.head_width();
  std::string of = format(" of rank {}", shape.kv_heads == 1 ? 0 : t.rank());
  Attention layer{t.in("QKV" + of, w, qkv), t.in("b" + of, 1, qkv), t.in<Shard<0>>("Wo", w, w).local(),
                  t.in("c", 1, w), heads};
  typename Attention::Saved saved;
  Placed<Replicated> x = t.in<Replicated>("X", n, w), dy = t.in<Replicated>("dY", n, w);

  void out_weights() const {
    const std::string rank = format(" of rank {}", t.rank());
    t.out("dWqkv" + rank, "dWqkv = X' [dQ dK dV]_i", layer.dqkv());
    t.out("db" + rank, "db = sum [dQ dK dV]_i", layer.dc_qkv());
  }
};

const RankTask forward("05.forward", [](Trial& t) {
  Setup<ParallelAttention> s{t};
  t.out("y", "Y = O1 Wo1 + O2 Wo2 + c", s.layer.forward(s.x, s.saved, t.tp()));
  t.out("o", "O = [heads_1, heads_2], what c_proj keeps", s.saved.c_proj.x);
});

const RankTask backward("05.backward", [](Trial& t) {
  Setup<ParallelAttention> s{t};
  const auto [q, k, v] = q_k_v(t.in(format("activations of rank {}", t.rank()), s.n, s.qkv), s.heads);
  s.saved.c_attn.x = s.x;
  s.saved.c_proj.x = Placed<Shard<1>>(s.layer.core.forward(q, k, v, s.heads, s.saved.heads));
  t.out("dx", "dX = dQKV1 Wqkv1' + dQKV2 Wqkv2'", s.layer.backward_input(s.dy, s.saved, t.tp()));
  s.layer.backward_weight(s.saved);
  s.out_weights();
});

const RankTask multi_query("05.multi_query", [](Trial& t) {
  Setup<MultiQueryAttention> s{t};
  t.out("y", "Y = O1 Wo1 + O2 Wo2 + c", s.layer.forward(s.x, s.saved, t.tp()));
  t.out("dx", "dX = dQ1 Wq1' + dQ2 Wq2' + [dK dV] Wkv'", s.layer.backward_input(s.dy, s.saved, t.tp()));
  s.layer.backward_weight(s.saved);
  s.out_weights();
});

/// In the place of attention: f(x) = x gelu(1) + gelu(x), which sends nothing.
struct Stub {
  AttentionOptions heads;
  struct Saved {
    Placed<Replicated> x, dy;
  };
  Placed<Replicated> forward(const Placed<Replicated>& x, Saved& saved, const TensorParallel&) const {
    saved.x = x;
    return add(scale(x, 0.5), gelu(x));
  }
  Placed<Replicated> backward_input(const Placed<Replicated>& dy, Saved& saved, const TensorParallel&) const {
    saved.dy = dy;
    return add(scale(dy, 0.5), gelu_backward(dy, saved.x));
  }
};

const RankTask block("05.block", [](Trial& t) {
  AttentionShape s = shape_of(t);
  s.options.dropout = 0.3;
  s.options.seed = 7;
  const std::int64_t n = s.tokens(), w = s.width, f = 2 * w;
  const auto row = [&](const char* name) { return t.in<Replicated>(name, 1, w); };
  const TransformerBlock<Stub> layer{{row("g1"), row("b1")},
                                     {own_heads(s, t.rank(), t.ranks())},
                                     {row("g2"), row("b2")},
                                     {{t.in<Shard<1>>("A", w, f).local(), t.in<Shard<1>>("c1", 1, f).local()},
                                      {t.in<Shard<0>>("B", f, w).local(), row("c2").local()}}};
  TransformerBlock<Stub>::Saved saved;
  t.out("y", "Y = M + drop(mlp(ln_2(M))), M = X + drop(attn(ln_1(X)))",
        layer.forward(t.in<Replicated>("X", n, w), saved, t.tp()));
  t.out("dx", "dX, by the chain rule", layer.backward_input(t.in<Replicated>("dY", n, w), saved, t.tp()));
  layer.ln_1.backward_weight(saved.ln_1);
  layer.ln_2.backward_weight(saved.ln_2);
  t.out("dg1", "the gradient of ln_1's weight", layer.ln_1.dweight);
  t.out("dg2", "the gradient of ln_2's weight", layer.ln_2.dweight);
});

/// A vocabulary of which each rank has some ids, and its table; n tokens.
struct Vocabulary {
  Trial& t;
  int n, v = t.ranks() + t.size(), w = t.size();
  Range own = own_ids(v, t.rank(), t.ranks());
  Placed<Shard<0>> wte{t.in("wte", {v, w, {own}, {{0, w}}})};

  Tensor ids(const char* name, int most) const {
    std::vector<double> values = t.in(name, n, 1).values();
    for (double& value : values) value = std::floor((value + 1) / 2 * most);
    return Tensor::of(n, 1, values, DType::i32);
  }
};

const RankTask embedding_task("05.embedding", [](Trial& t) {
  const Vocabulary s{t, 12};
  const VocabParallelEmbedding layer{s.wte, t.in<Replicated>("wpe", s.n, s.w)};
  t.out("x", "wte[id] + wpe[position]",
        layer.forward(local_ids(s.ids("ids", s.v), s.own), s.ids("positions", s.n), t.tp()));
});

const RankTask cross_entropy_task("05.cross_entropy", [](Trial& t) {
  const Vocabulary s{t, 7};
  const Placed<Replicated> gamma(scale(t.in("gamma", 1, s.w), 800));  // logits so large that exp overflows
  const VocabParallelHead head{{gamma, t.in<Replicated>("beta", 1, s.w)}, s.wte, zero_gradient(s.wte)};
  VocabParallelHead::Saved saved;
  t.out(
      "loss", "log(sum_j exp(z_j - m)) - (z_target - m)",
      head.forward(t.in<Replicated>("X", s.n, s.w), local_ids(s.ids("targets", s.v), s.own), saved, t.tp()));
  t.out("probabilities", "softmax, the rank's own columns", saved.entropy.probabilities,
        {s.n, s.v, {{0, s.n}}, {s.own}});
});

}  // namespace
