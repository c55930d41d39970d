// Which experts compute a token. A layer has E experts, each an MLP of its own, and a router chooses top_k of
// them for each token: P = softmax(X W_r), and the top_k largest p_i. So a model has E times the weights of
// one MLP and computes with top_k of them. One is Switch (Fedus et al. 2021), y = p_i E_i(x); from two on the
// chosen probabilities are made to sum to 1, as in Mixtral and GShard (Lepikhin et al. 2020).
//
// Nothing makes the choices even, and an expert that is chosen more learns more and is chosen more. So an
// auxiliary loss is added to the loss (Fedus et al., equation 4): with share_i of all choices those of
// expert i, and mean_i that of p_i over all tokens,
//
//   aux = alpha E sum_i share_i mean_i     alpha where all are even, up to alpha E where one expert gets all
//
// A share is a count, and has no gradient: dp_i = alpha E share_i / N for each of the N tokens. "All" means
// those of all ranks. A rank that counted its own tokens would have another loss, and so would another number
// of ranks. The microbatches of a batch come one after the other, and each has such a loss: the batch has
// their mean.
#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/communicator.hpp"
#include "ops/ops.hpp"

namespace tessera::experts {

using Groups = std::vector<Communicator*>;

/// Numbers of rows, as embedding takes them.
inline Tensor ids(const std::vector<std::int64_t>& numbers) {
  return Tensor::of(std::ssize(numbers), 1, {numbers.begin(), numbers.end()}, DType::i32);
}

// begin top_k
// task 12.top_k (function, 2 points, 20 min): the k most probable experts of each token, the most probable
// one first: p (n, E) -> n k numbers, those of token 0 first. Of experts with equal p the one with the lower
// index comes first, on every device. Hint: the table is small, and p.values() brings it to the host.
inline std::vector<std::int64_t> top_k(const Tensor& p, std::int64_t k) {
  const std::vector<double> all = p.values();
  std::vector<std::int64_t> order(p.cols()), chosen;
  for (std::int64_t token = 0; token < p.rows(); ++token) {
    const double* of = all.data() + token * p.cols();
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [of](auto a, auto b) { return of[a] > of[b]; });
    chosen.insert(chosen.end(), order.begin(), order.begin() + k);
  }
  return chosen;
}
// end task
// end top_k

/// This rank's choices that an expert takes, sorted by expert. C = n top_k, or fewer where some are dropped.
struct Routing {
  std::vector<std::int64_t> counts;  // of each of the E experts
  Tensor token;                      // (C, 1) i32  the row of x
  Tensor place;                      // (C, 1) i32  token E + expert: the place of the gate in a table (n, E)
};

// begin route
/// With a capacity > 0 an expert takes ceil(capacity n top_k / E) of this rank's choices: first choices
/// come before second ones, and then the tokens in their order. What is over is dropped: its output is 0, and
/// the residual sum carries the token past the layer. Capacity 0 drops nothing.
inline Routing route(const std::vector<std::int64_t>& chosen, std::int64_t experts, std::int64_t k,
                     double capacity) {
  const std::int64_t n = std::ssize(chosen) / k;
  const double most = capacity > 0 ? std::ceil(capacity * double(k * n) / double(experts)) : double(n);
  Routing routing;
  std::vector<std::int64_t> rows, places;
  for (std::int64_t expert = 0; expert < experts; ++expert) {
    std::int64_t& count = routing.counts.emplace_back(0);
    for (std::int64_t choice = 0; choice < k; ++choice)
      for (std::int64_t token = 0; token < n; ++token)
        if (chosen[token * k + choice] == expert && double(count) < most)
          rows.push_back(token), places.push_back(token * experts + expert), ++count;
  }
  routing.token = ids(rows), routing.place = ids(places);
  return routing;
}
// end route

// begin router
struct Router {
  Tensor w;  // (W, E)  whole on every rank
  std::int64_t k = 1;
  double capacity = 0, alpha = 0;
  Tensor dw = zero_gradient(w);

  struct Saved {
    Tensor x, p, gates;                // (n, W), (n, E), (n, E)  a gate is used where it is chosen
    Tensor dz;                         // (n, E)
    std::vector<double> aux_gradient;  // alpha E share_i / N, the gradient of the auxiliary loss by each p_i
    double aux = 0;
  };

  /// x (n, W). `batch` are the ranks of all tokens: a group, or the axes of a grid. The router computes in
  /// f32 at least, since a rounding error may change a choice.
  Routing forward(const Tensor& x, Saved& saved, const Groups& batch) const {
    const std::int64_t experts = w.cols();
    const Tensor z = matmul(wide(x), wide(w));  // (n, E)
    saved.x = x, saved.p = softmax(z);
    const auto chosen = top_k(saved.p, k);
    saved.gates = k == 1 ? saved.p : softmax(add(z, only(chosen, k, z)));
    if (alpha > 0) balance(chosen, saved, batch);
    return route(chosen, experts, k, capacity);
  }

  /// dgates (n, E) is 0 where nothing was chosen. Returns what the router adds to dX.
  Tensor backward_input(const Tensor& dgates, Saved& saved) const {
    saved.dz = softmax_backward(dgates, saved.gates);
    if (alpha > 0) {
      const Tensor zeros = Tensor::zeros(saved.p.rows(), saved.p.cols(), saved.p.dtype());
      const Tensor dp = add_bias(zeros, Tensor::of(1, zeros.cols(), saved.aux_gradient, zeros.dtype()));
      add_to(saved.dz, softmax_backward(dp, saved.p));
    }
    return cast(matmul(saved.dz, t(wide(w))), saved.x.dtype());
  }
  void backward_weight(const Saved& saved) const { add_matmul(dw, t(wide(saved.x)), saved.dz); }

  // task 12.aux (function, 3 points, 30 min): the auxiliary loss of all ranks' tokens into saved.aux, and its
  // gradient into saved.aux_gradient, both the same on every rank. Hint: which two rows of E numbers are sums
  // over tokens? One all-reduce brings both, and their sums say how many tokens there are.
  void balance(const std::vector<std::int64_t>& chosen, Saved& saved, const Groups& batch) const {
    const std::int64_t experts = w.cols();
    std::vector<double> counts(experts);
    for (const std::int64_t expert : chosen) ++counts[expert];
    Tensor sums = Tensor::empty(2, experts, saved.p.dtype());
    sums.row_range(0, 1).copy_from(Tensor::of(1, experts, counts, sums.dtype()));
    sums.row_range(1, 2).copy_from(sum_rows(saved.p));
    for (Communicator* group : batch) sums = group->all_reduce(sums);  // 2(p-1) 2 E elements
    const auto all = sums.values();
    const double choices = std::accumulate(all.begin(), all.begin() + experts, 0.0), tokens = choices / k;
    saved.aux_gradient.clear(), saved.aux = 0;
    for (std::int64_t i = 0; i < experts; ++i) {
      saved.aux_gradient.push_back(alpha * experts * all[i] / choices / tokens);
      saved.aux += saved.aux_gradient[i] * all[experts + i];  // times N mean_i
    }
  }
  // end task

 private:
  static Tensor wide(const Tensor& x) { return cast(x, arithmetic(x.dtype())); }
  /// 0 where an expert is chosen, else minus infinity: a softmax after it knows the chosen experts alone.
  static Tensor only(const std::vector<std::int64_t>& chosen, std::int64_t k, const Tensor& z) {
    std::vector<double> mask(z.size(), -INFINITY);
    for (std::size_t i = 0; i < chosen.size(); ++i) mask[i / k * z.cols() + chosen[i]] = 0;
    return Tensor::of(z.rows(), z.cols(), mask, z.dtype());
  }
};
// end router

}  // namespace tessera::experts
