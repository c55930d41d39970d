// What lesson 11 shows: an example by hand, the work of the ranks, which way sends least, and the picture.
#pragma once

#include "11_context_parallel/harness/proof.hpp"
#include "report/picture.hpp"
#include "report/table.hpp"

namespace tessera::context_parallel {

/// One query and three keys: rank 0 has the first two of them, rank 1 the third.
inline std::string by_hand() {
  const Tensor q = Tensor::of(1, 1, {1}), k = Tensor::of(3, 1, {1, 0, 2}), v = Tensor::of(3, 1, {4, 0, 8});
  AttentionOptions one;
  one.form = AttentionOptions::Form::streaming;
  const auto over = [&](std::int64_t begin, std::int64_t end) {
    const Tensor o = Tensor::zeros(1, 1, DType::f64), lse = Tensor::of(1, 1, {-INFINITY});
    for (std::int64_t i = begin; i < end; ++i) {
      AttentionSaved more;
      attention(q, k.row_range(i, i + 1), v.row_range(i, i + 1), one, more);
      merge_attention(o, lse, more.o, more.log_sum, one);
    }
    return std::pair(o, lse);
  };
  const auto [o0, lse0] = over(0, 2);
  const auto [o1, lse1] = over(2, 3);
  const auto [o, lse] = over(0, 3);
  return "  By hand (one query, one column; rank 0 has the first two keys, rank 1 the third)\n" +
         side_by_side(
             {"q", "k", "v", "q k'", "rank0's o", "lse", "|", "rank1's o", "lse", "|", "merged", "lse"},
             {q, k, v, matmul(k, t(q)), o0, lse0, {}, o1, lse1, {}, o, lse});
}

/// The chunks and the multiply-adds of each rank.
inline std::string work_table(const std::vector<std::int64_t>& work, const Config& c) {
  const int ranks = work.size();
  const Layout layout = c.layout(ranks);
  Cells rows = {{"Work", "chunks", "multiply-adds", "of the mean"}};
  double sum = 0;
  for (const std::int64_t one : work) sum += one;
  for (int r = 0; r < ranks; ++r) {
    const std::int64_t own = work[r];
    rows.push_back({format("  rank {}", r),
                    format("{}{}", layout.chunk(r, 0), c.zigzag ? format(", {}", layout.chunk(r, 1)) : ""),
                    std::to_string(own), format("{:.2f}", double(own) * ranks / sum)});
  }
  const std::int64_t kv = c.shape().kv_heads;
  return table(rows, "llrr", 2) +
         (c.way == Way::ulysses && kv < ranks
              ? format("  {} kv heads on {} ranks: each goes to {} of them.\n", kv, ranks, ranks / kv)
              : "");
}

/// Bytes of a forward and a backward by the formulas that a run checks, for other numbers of ranks and of kv
/// heads.
inline std::string compare(Config c, std::int64_t e) {
  Cells rows = {{"All ranks send, by formula", "ring", "gather", "ulysses", "least"}};
  c.shape().width = 16 * c.shape().head_width(), c.shape().heads = 16;
  for (const int ranks : {2, 4, 8, 16})
    for (const std::int64_t kv_heads : {16, 4, 1}) {
      c.shape().kv_heads = kv_heads;
      std::vector<std::string>& row = rows.emplace_back();
      row.push_back(format("  {} ranks, {} of 16 heads have K and V", ranks, kv_heads));
      std::pair<std::int64_t, std::string> least = {INT64_MAX, ""};
      for (const auto& [way, name] : way_names) {
        const std::int64_t elements = sent(c, way, ranks);
        row.push_back(bytes(elements * e));
        least = std::min(least, {elements, name});
      }
      row.push_back(least.second);
    }
  return table(rows, "lrrrl", 2) +
         "  All of them grow with the tokens alike: the sequence's length chooses none.\n";
}

/// Queries down, keys across: a cell has the colour of the rank that computes it, and the number of hops
/// after which the ring has its keys there.
inline std::string drawing(Config c, int ranks) {
  constexpr double edge = 24, top = 56, all = 288;
  std::string text = svg_open(3 * edge + 2 * all, top + all + edge,
                              "which rank computes which pair of chunks, contiguous and zigzag");
  for (const bool zigzag : {false, true}) {
    c.zigzag = zigzag;
    const Layout layout = c.layout(ranks);
    const double side = all / layout.chunks(), left = edge + (zigzag ? all + edge : 0);
    text += svg_text(left + all / 2, 24, zigzag ? "zigzag" : "contiguous");
    text += svg_text(left + all / 2, 46, "queries down, keys across");
    for (int r = 0; r < ranks; ++r)
      for (int cell = 0; cell < layout.chunks() * layout.own_chunks(); ++cell) {
        const int from = cell % ranks, queries = layout.chunk(r, cell / ranks % layout.own_chunks()),
                  keys = layout.chunk(from, cell / ranks / layout.own_chunks());
        if (c.shape().options.mask == Mask::causal && keys > queries) continue;
        text += svg_rectangle(left + keys * side, top + queries * side, side, side, colour(r));
        if (side > 14)
          text += svg_text(left + (keys + 0.5) * side, top + (queries + 0.5) * side + 5,
                           std::to_string((r + ranks - from) % ranks), format(" style=\"fill:{}\"", ink(r)));
      }
  }
  return text + "</svg>\n";
}

}  // namespace tessera::context_parallel
