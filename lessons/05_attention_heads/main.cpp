// Lesson 05: attention cut by heads, and the transformer block.
#include "05_attention_heads/block_proof.hpp"
#include "app/app.hpp"
#include "report/table.hpp"

using namespace tessera;
using attention_heads::Sizes;

namespace {

/// Two heads of one column over three tokens, a rank each; causal, no biases, Wq = Wk = Wv = I.
std::string by_hand() {
  const Tensor x = Tensor::of(3, 2, {1, 0, 0, 1, 1, 2}), wo = Tensor::of(2, 2, {1, 2, 3, -1});
  AttentionOptions one_head;
  one_head.seq = 3;
  std::string text = "  By hand (causal; two heads of one column, a rank each; Q = K = V = X)\n";
  std::vector<Tensor> terms;
  for (const int head : {0, 1}) {
    const Tensor q = x.column_range(head, head + 1);
    AttentionSaved saved;
    const Tensor o = attention(q, q, q, one_head, saved);
    terms.push_back(matmul(o, wo.row_range(head, head + 1)));
    const std::string i = std::to_string(head + 1);
    text += side_by_side({{"q" + i + "=k" + i + "=v" + i, Matrix::from(q)},
                          {"q k'", Matrix::from(matmul(q, t(q)))},
                          {"P = softmax, no later token", Matrix::from(saved.p)},
                          {"o" + i + " = P v", Matrix::from(o)},
                          {"Wo" + i, Matrix::from(wo.row_range(head, head + 1))},
                          {"o" + i + " Wo" + i, Matrix::from(terms.back())}},
                         4);
  }
  return text + side_by_side({{"Y, the sum", Matrix::from(add(terms[0], terms[1]))}}, 4);
}

std::vector<Equation> picture(const Sizes& s, int ranks) {
  using enum Block::Cut;
  const std::string n = std::to_string(s.n()), w = std::to_string(s.w()),
                    kv = std::to_string(s.shape.kv_width());
  const std::string d = std::to_string(s.shape.head_width());
  const auto keys = s.shares_keys(ranks) ? replicated : columns;
  const double thin = s.shares_keys(ranks) ? 20 : 64;
  Equation project{"Q, K and V: the columns of each rank's heads, " + d + " a head", {}},
      heads{"each head by itself, then the rows of Wo: one all-reduce", {}};
  project.add({"X", n, w, replicated, 50, 64})
      .add({"Wq", w, w, columns, 64, 64})
      .add({"Wk", w, kv, keys, 64, thin});
  project.add({"Wv", w, kv, keys, 64, thin}).say("=").add({"Q", n, w, columns, 50, 64});
  project.add({"K", n, kv, keys, 50, thin}).add({"V", n, kv, keys, 50, thin});
  heads.say("softmax(Q K') V =").add({"O", n, w, columns, 50, 64}).add({"Wo", w, w, rows, 64, 64}).say("=");
  heads.add({"terms", n, w, partial, 50, 64}).send("all-reduce").add({"Y", n, w, replicated, 50, 64});
  return {project, heads};
}

/// Columns [begin, end) of [Q | K | V] in words: "Q 72..95, K 0..23".
std::string names_of(const Sizes& s, Range range) {
  std::string text;
  const std::int64_t w = s.w(), kv = s.shape.kv_width();
  for (const auto& [name, own] :
       {std::pair{"Q", Range{0, w}}, {"K", {w, w + kv}}, {"V", {w + kv, w + 2 * kv}}}) {
    const std::int64_t begin = std::max(range.begin, own.begin), end = std::min(range.end, own.end);
    if (begin >= end) continue;
    text += str(text.empty() ? "" : ", ", name, " ", begin - own.begin, "..", end - 1 - own.begin);
  }
  return text;
}

std::string trap_table(const Sizes& s, int p) {
  std::vector<std::vector<std::string>> rows = {
      {"The trap: a rank's", "q are", "k are", "v are", "instead of"}};
  const std::int64_t q = s.w() / p, kv = s.shape.kv_width() / p;
  for (int r = 0; r < p; ++r) {
    const std::int64_t at = part(s.qkv(), r, p).begin;
    const auto own = attention_heads::qkv_slice(1, s.shape, r, p).col_ranges;
    rows.push_back({str("  rank ", r), names_of(s, {at, at + q}), names_of(s, {at + q, at + q + kv}),
                    names_of(s, {at + q + kv, at + q + 2 * kv}),
                    str(names_of(s, own[0]), "; ", names_of(s, own[1]), "; ", names_of(s, own[2]))});
  }
  return table(rows, "lllll", 2);
}

void check_heads(const Sizes& s, int p) {
  const std::int64_t w = s.w(), a = s.shape.heads, kv = s.shape.kv_heads;
  if (w % a != 0)
    throw UsageError(
        str("--heads ", a, " does not divide --width ", w, ": --width ", (w / a + 1) * a, " would work"));
  if (s.trap_qkv && s.shares_keys(p))
    throw UsageError("--trap qkv needs kv heads that are cut: leave --kv-heads out");
  if (a % kv == 0 && (kv == 1 || kv % p == 0)) return;
  std::string fitting;
  for (std::int64_t n = 1; n <= a; ++n)
    if (a % n == 0 && (n == 1 || n % p == 0)) fitting += str(fitting.empty() ? "" : ", ", n);
  throw UsageError(str("--kv-heads ", kv, " on ", p, " ranks: 1, or a number that ", p,
                       " divides and that divides the ", a, " heads: --kv-heads ", fitting, " would work"));
}

}  // namespace

int main(int argc, char** argv) {
  Sizes s;
  AttentionOptions& o = s.shape.options;
  o.batch = 2, o.seq = 24, s.shape.kv_heads = 0;
  std::string mask = "causal", part = "attention", trap, form = "auto";
  App app({"05", "attention by head",
           "Y = [head_1 head_2 ...] Wo + c    head = softmax(q k' / sqrt(d)) v    [Q K V] = X Wqkv + b",
           "Why heads: a head needs its own columns of Q, K and V only, as f needed one column. The rest is "
           "lesson 04.",
           str("attention_heads.hpp:", attention_heads::code_line)});
  app.size("--batch", o.batch, "sequences");
  app.size("--seq", o.seq, "tokens of a sequence; N = batch seq");
  app.size("--width", s.shape.width, "W, columns of X");
  app.size("--heads", s.shape.heads, "heads, of W / heads columns each");
  app.flags().number("--kv-heads", s.shape.kv_heads, 0, 1 << 20, "heads of K and V; 0: as many as heads");
  app.flags().choice("--mask", mask, {"causal", "none", "padding"},
                     "padding: sequence b ends after seq - b seq/(2 batch)");
  app.flags().real("--dropout", o.dropout, 0, 0.99, "of the probabilities, and of a block's two halves");
  app.flags().choice("--part", part, {"attention", "block"}, "attention alone, or the transformer block");
  app.flags().choice("--trap", trap, {"qkv"}, "cut [Q|K|V] as if it were one matrix, and see");
  app.flags().choice("--form", form, {"auto", "plain", "streaming"},
                     "attention in tiles of keys: auto from seq 256 up");
  app.ranks_divide("--heads", s.shape.heads);
  int ranks = 1;
  return app.run(argc, argv,
                 {.check =
                      [&](int p) {
                        ranks = p;
                        attention_heads::choose(s, mask, part, form);
                        o.seed = static_cast<std::uint64_t>(app.options().seed);
                        s.trap_qkv = trap == "qkv";
                        check_heads(s, p);
                      },
                  .prove = [&](Proof& proof, Communicator& comm) { attention_heads::prove(proof, comm, s); },
                  .by_hand = by_hand,
                  .picture = [&](int p) { return picture(s, p); },
                  .more = [&] { return s.trap_qkv ? trap_table(s, ranks) : ""; },
                  .inexact =
                      [&] {
                        return part == "block"
                                   ? "a layer norm is exact nowhere; --part attention covers the projections"
                                   : "";
                      }});
}
