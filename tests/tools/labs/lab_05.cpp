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
  t.out("slices", words);
});

template <class Attention>
struct Setup {
  AttentionShape shape;
  int rank;
  Slice all, own;  // (N, W), and this rank's columns of it
  Attention layer;
  typename Attention::Saved saved;
  TensorParallel tp;
};

/// A rank's own weights are any: together they are some whole.
template <class Attention, class Body>
void on_ranks(Trial& t, const AttentionShape& s, const Body& body) {
  t.on_ranks([&](Communicator& comm) {
    const int r = comm.rank(), p = comm.size();
    const AttentionOptions heads = own_heads(s, r, p);
    const std::int64_t w = s.width, qkv = w / p + 2 * heads.kv_heads * s.head_width();
    const auto own = [&](const char* name) { return format("{} of rank {}", name, s.kv_heads == 1 ? 0 : r); };
    const Attention layer{t.in(own("QKV"), w, qkv), t.in(own("b"), 1, qkv),
                          t.in("Wo", slice_of<Shard<0>>(w, w, comm)), t.in("c", 1, w), heads};
    const Slice all = Slice::whole(s.tokens(), w), columns = slice_of<Shard<1>>(s.tokens(), w, comm);
    Setup<Attention> setup{s, r, all, columns, layer, {}, TensorParallel(comm)};
    body(setup);
  });
}

template <class Attention>
void out_weights(Trial& t, const Setup<Attention>& s) {
  const std::string rank = format(" of rank {}", s.rank);
  const Tensor dqkv = s.layer.dqkv(), dc = s.layer.dc_qkv();
  t.out(0, "dWqkv" + rank, "dWqkv = X' [dQ dK dV]_i", dqkv, Slice::whole(dqkv.rows(), dqkv.cols()));
  t.out(0, "db" + rank, "db = sum [dQ dK dV]_i", dc, Slice::whole(1, dc.cols()));
}

const Task forward("05.forward", [](Trial& t) {
  on_ranks<ParallelAttention>(t, shape_of(t), [&](auto& s) {
    const auto y = s.layer.forward(Placed<Replicated>(t.in("X", s.all)), s.saved, s.tp);
    t.out(s.rank, "y", "Y = O1 Wo1 + O2 Wo2 + c", y.local(), s.all);
    t.out(s.rank, "o", "O = [heads_1, heads_2], what c_proj keeps", s.saved.c_proj.x.local(), s.own);
  });
});

const Task backward("05.backward", [](Trial& t) {
  on_ranks<ParallelAttention>(t, shape_of(t), [&](auto& s) {
    const Tensor x = t.in("X", s.all),
                 qkv = t.in(format("activations of rank {}", s.rank), x.rows(), s.layer.dqkv().cols());
    const auto [q, k, v] = q_k_v(qkv, s.layer.heads);
    const Tensor o = s.layer.core.forward(q, k, v, s.layer.heads, s.saved.heads);
    s.saved.c_attn.x = Placed<Replicated>(x);
    s.saved.c_proj.x = Placed<Shard<1>>(o);
    const auto dx = s.layer.backward_input(Placed<Replicated>(t.in("dY", s.all)), s.saved, s.tp);
    t.out(s.rank, "dx", "dX = dQKV1 Wqkv1' + dQKV2 Wqkv2'", dx.local(), s.all);
    s.layer.backward_weight(s.saved);
    out_weights(t, s);
  });
});

const Task multi_query("05.multi_query", [](Trial& t) {
  on_ranks<MultiQueryAttention>(t, shape_of(t, true), [&](auto& s) {
    const auto y = s.layer.forward(Placed<Replicated>(t.in("X", s.all)), s.saved, s.tp);
    const auto dx = s.layer.backward_input(Placed<Replicated>(t.in("dY", s.all)), s.saved, s.tp);
    s.layer.backward_weight(s.saved);
    t.out(s.rank, "y", "Y = O1 Wo1 + O2 Wo2 + c", y.local(), s.all);
    t.out(s.rank, "dx", "dX = dQ1 Wq1' + dQ2 Wq2' + [dK dV] Wkv'", dx.local(), s.all);
    out_weights(t, s);
  });
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

const Task block("05.block", [](Trial& t) {
  AttentionShape s = shape_of(t);
  s.options.dropout = 0.3;
  s.options.seed = 7;
  t.on_ranks([&](Communicator& comm) {
    const TensorParallel tp(comm);
    const std::int64_t n = s.tokens(), w = s.width, f = 2 * w;
    const auto row = [&](const char* name) { return Placed<Replicated>(t.in(name, 1, w)); };
    const TransformerBlock<Stub> layer{
        {row("g1"), row("b1")},
        {own_heads(s, comm.rank(), comm.size())},
        {row("g2"), row("b2")},
        {{t.in("A", slice_of<Shard<1>>(w, f, comm)), t.in("c1", slice_of<Shard<1>>(1, f, comm))},
         {t.in("B", slice_of<Shard<0>>(f, w, comm)), t.in("c2", 1, w)}}};
    TransformerBlock<Stub>::Saved saved;
    const auto y = layer.forward(Placed<Replicated>(t.in("X", n, w)), saved, tp);
    const auto dx = layer.backward_input(Placed<Replicated>(t.in("dY", n, w)), saved, tp);
    const Slice all = Slice::whole(n, w);
    t.out(comm.rank(), "y", "Y = M + drop(mlp(ln_2(M))), M = X + drop(attn(ln_1(X)))", y.local(), all);
    t.out(comm.rank(), "dx", "dX, by the chain rule", dx.local(), all);
    layer.ln_1.backward_weight(saved.ln_1);
    layer.ln_2.backward_weight(saved.ln_2);
    const Slice gain = Slice::whole(1, w);
    t.out(comm.rank(), "dg1", "the gradient of ln_1's weight", layer.ln_1.dweight.local(), gain);
    t.out(comm.rank(), "dg2", "the gradient of ln_2's weight", layer.ln_2.dweight.local(), gain);
  });
});

Tensor ids(Trial& t, const char* name, int n, int vocabulary) {
  std::vector<double> values = t.in(name, n, 1).values();
  for (double& value : values) value = std::floor((value + 1) / 2 * vocabulary);
  return Tensor::of(n, 1, values, DType::i32);
}

const Task embedding_task("05.embedding", [](Trial& t) {
  const int v = t.ranks() + t.size(), w = t.size(), n = 12;
  t.on_ranks([&](Communicator& comm) {
    const Range own = own_ids(v, comm.rank(), comm.size());
    const VocabParallelEmbedding layer{Placed<Shard<0>>(t.in("wte", {v, w, {own}, {{0, w}}})),
                                       Placed<Replicated>(t.in("wpe", n, w))};
    const auto x =
        layer.forward(local_ids(ids(t, "ids", n, v), own), ids(t, "positions", n, n), TensorParallel(comm));
    t.out(comm.rank(), "x", "wte[id] + wpe[position]", x.local(), Slice::whole(n, w));
  });
});

const Task cross_entropy_task("05.cross_entropy", [](Trial& t) {
  const int v = t.ranks() + t.size(), w = t.size(), n = 7;
  t.on_ranks([&](Communicator& comm) {
    const Range own = own_ids(v, comm.rank(), comm.size());
    const Placed<Replicated> gamma(scale(t.in("gamma", 1, w), 800));  // logits so large that exp overflows
    const Placed<Replicated> beta(t.in("beta", 1, w));
    const Placed<Shard<0>> wte(t.in("wte", {v, w, {own}, {{0, w}}}));
    const VocabParallelHead head{{gamma, beta}, wte, zero_gradient(wte)};
    VocabParallelHead::Saved saved;
    const auto loss = head.forward(Placed<Replicated>(t.in("X", n, w)),
                                   local_ids(ids(t, "targets", n, v), own), saved, TensorParallel(comm));
    t.out(comm.rank(), "loss", "log(sum_j exp(z_j - m)) - (z_target - m)", loss.local(), Slice::whole(n, 1));
    t.out(comm.rank(), "probabilities", "softmax, the rank's own columns", saved.entropy.probabilities,
          {n, v, {{0, n}}, {own}});
  });
});

}  // namespace
