// Lesson 05: attention cut by heads, and the transformer block.
#include <functional>

#include "05_attention_heads/harness/block_proof.hpp"
#include "05_attention_heads/harness/screen.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;
using attention_heads::Sizes;

namespace {

/// What the command line says in arguments.
struct Arguments {
  std::string mask = "causal", part = "attention", trap, form = "auto";
  int ranks = 1;
};

/// Two heads of one column (d = 1) over three tokens, a rank each; causal, no biases.
std::string by_hand() {
  const Tensor x = Tensor::of(3, 2, {1, 0, 0, 1, 1, 2}), wo = Tensor::of(2, 2, {1, 2, 3, -1});
  const Tensor wqkv = Tensor::of(2, 6, {1, 0, 1, 1, 2, -1, 0, 1, -1, 0, 1, 1}), qkv = matmul(x, wqkv);
  std::string text =
      "  By hand (causal; two heads of one column each: rank 0 has columns 0, 2, 4, rank 1 has 1, 3, 5)\n" +
      side_by_side({{"X", Matrix::from(x)},
                    {"Wqkv = [Wq | Wk | Wv]", Matrix::from(wqkv)},
                    {"X Wqkv = [Q | K | V]", Matrix::from(qkv)}},
                   4);
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
    text += side_by_side({{"q" + i, Matrix::from(q)},
                          {"k" + i, Matrix::from(k)},
                          {"v" + i, Matrix::from(v)},
                          {format("q{} k{}'", i, i), Matrix::from(matmul(q, t(k)))},
                          {format("P{}, no later token", i), Matrix::from(saved.p)},
                          {format("o{} = P{} v{}", i, i, i), Matrix::from(o)},
                          {"Wo" + i, Matrix::from(rows)},
                          {format("o{} Wo{}", i, i), Matrix::from(terms.back())}},
                         4);
  }
  return text + side_by_side({{"Y, the sum", Matrix::from(add(terms[0], terms[1]))}}, 4);
}

/// Which columns of [Q | K | V] each rank takes for its q, k and v, and which are its heads'.
std::string trap_table(const Sizes& s, int p) {
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
    const auto own = attention_heads::qkv_slice(1, s.shape, r, p).col_ranges;
    rows.push_back({format("  rank {}", r), words({q, k}), words({k, v}), words({v, v + kv_own}),
                    format("{}, {}, {}", words(own[0]), words(own[1]), words(own[2]))});
  }
  return table(rows, "lllll", 2);
}

void check_heads(const Sizes& s, int p, const Options& options) {
  const std::int64_t w = s.w(), a = s.shape.heads, kv = s.shape.kv_heads;
  if (options.no_baseline)
    throw UsageError("--no-baseline is for lessons 01 to 04: without it this lesson would work");
  if (s.n() > 1 << 20)
    throw UsageError(format("--batch {} and --seq {} make {} tokens: up to 1048576 would work",
                            s.shape.options.batch, s.shape.options.seq, s.n()));
  if (w % a != 0)
    throw UsageError(
        format("--heads {} does not divide --width {}: --width {} would work", a, w, (w / a + 1) * a));
  if (s.trap_qkv && (p == 1 || s.shares_keys(p) || s.part == attention_heads::Part::block))
    throw UsageError(
        "--trap qkv cuts K and V over several ranks: --part attention --kv-heads 0 --ranks 4 would work");
  if (a % kv == 0 && (kv == 1 || kv % p == 0)) return;
  std::string fitting;
  for (std::int64_t n = 1; n <= a; ++n)
    if (a % n == 0 && (n == 1 || n % p == 0)) fitting += format("{}{}", fitting.empty() ? "" : ", ", n);
  throw UsageError(
      format("--kv-heads {} on {}{}: 1, or a number that {} divides and that divides the {} heads: "
             "--kv-heads {} would work",
             kv, p, p == 1 ? " rank" : " ranks", p, a, fitting));
}

void set_sizes(Sizes& s, Arguments& arguments, const Options& options, int ranks) {
  arguments.ranks = ranks;
  attention_heads::apply_arguments(s, arguments.mask, arguments.part, arguments.form);
  s.shape.options.seed = static_cast<std::uint64_t>(options.seed);
  s.trap_qkv = arguments.trap == "qkv";
  check_heads(s, ranks, options);
}

}  // namespace

int main(int argc, char** argv) {
  Sizes s;
  AttentionOptions& o = s.shape.options;
  o.batch = 2, o.seq = 24, s.shape.kv_heads = 0;
  Arguments arguments;
  App app({"05", "attention by head",
           "Y = [head_1 head_2 ...] Wo + c    head = softmax(q k' / sqrt(d)) v    [Q K V] = X Wqkv + b",
           "Why heads: a head needs its own columns of Q, K and V only, as f needed one column. The rest is "
           "lesson 04.",
           format("attention_heads.hpp:{}", attention_heads::code_line)});
  app.size("--batch", o.batch, "sequences");
  app.size("--seq", o.seq, "tokens of a sequence; N = batch seq");
  app.size("--width", s.shape.width, "W, columns of X");
  app.size("--heads", s.shape.heads, "heads, of W / heads columns each");
  app.flags().number("--kv-heads", s.shape.kv_heads, 0, 1 << 20, "heads of K and V; 0: as many as heads");
  app.flags().choice("--mask", arguments.mask, {"causal", "none", "padding"},
                     "padding: sequence b ends after seq - b seq/(2 batch)");
  app.flags().real("--dropout", o.dropout, 0, 0.99, "of the probabilities, and of a block's two halves");
  app.flags().choice("--part", arguments.part, {"attention", "block"},
                     "attention alone, or the transformer block");
  app.flags().choice("--trap", arguments.trap, {"qkv"}, "cut [Q|K|V] as if it were one matrix, and see");
  app.flags().choice("--form", arguments.form, {"auto", "plain", "streaming"},
                     "attention in tiles of keys: auto from seq 256 up");
  app.ranks_divide("--heads", s.shape.heads);
  const char* const inexact = "a layer norm is exact nowhere; --part attention covers the projections";
  return app.run(
      argc, argv,
      {.check = std::bind_front(set_sizes, std::ref(s), std::ref(arguments), std::cref(app.options())),
       .prove = [&](Proof& proof, Communicator& comm) { attention_heads::prove(proof, comm, s); },
       .by_hand = by_hand,
       .picture = [&](int p) { return attention_heads::picture(s, p); },
       .more = [&] { return s.trap_qkv ? trap_table(s, arguments.ranks) : ""; },
       .inexact = [&] { return arguments.part == "block" ? inexact : ""; }});
}
