// A mixture of experts over ranks: E experts on ep ranks, E / ep on each; every rank has tokens of its own
// and the whole router. Experts are not a placement of a matrix. As a stage of a pipeline owns layers, a rank
// owns experts, and the tokens travel to them:
//
//   Y = D' diag(g) E(D X)        D X    the rows of X, one for each choice, sorted by expert; all_to_all
//                                E      each rank's experts on the rows that came
//   dX = D' E'(diag(g) D dY)     D'     the all_to_all back, and the sum of each token's rows
//
// D is a gather of rows, and D' its transpose: forward and backward send the same rows the same ways. The
// gate g_i has the gradient <dy, E_i(x)>, which goes on through the softmax to W_r and x.
//
// Shapes: n tokens of this rank, W columns, C = n top_k choices, R rows that came to this rank's experts.
#pragma once

#include <optional>

#include "01_mlp/mlp.hpp"
#include "12_experts/router.hpp"
#include "tensor/error.hpp"

namespace tessera::experts {

// begin dispatch
/// Which rows travel between which ranks of ep, and their order there.
struct Dispatch {
  Communicator* ep = nullptr;
  std::vector<std::int64_t> sent, received;  // rows to and from each rank
  std::vector<std::int64_t> rows;            // of each of this rank's experts; their sum is R
  Tensor by_expert, by_rank;  // (R, 1) i32  the order that sorts the rows that came by expert; its inverse

  // task 12.dispatch (design, 5 points, 60 min): all of these, from counts[i], the rows of this rank for each
  // of the E experts; bytes are counted. Hint: no rank knows what the others have for it before it has asked.
  // The rows arrive rank by rank, those of a rank by expert, and an expert wants its own rows side by side.
  Dispatch(const std::vector<std::int64_t>& counts, Communicator& group) : ep(&group) {
    const std::int64_t p = group.size(), own = std::ssize(counts) / p;  // experts of a rank
    const auto come =
        group.all_to_all(ids(counts)).values();  // (p own)  from each rank; (p-1) E numbers in all
    std::vector<std::int64_t> begins, order;
    sent.resize(p), received.resize(p);
    for (std::int64_t i = 0, all = 0; i < p * own; ++i) {
      begins.push_back(all), all += come[i];
      sent[i / own] += counts[i], received[i / own] += come[i];
    }
    for (std::int64_t expert = 0; expert < own; ++expert) {
      const auto before = std::ssize(order);
      for (std::int64_t i = expert; i < p * own; i += own)
        for (std::int64_t row = 0; row < come[i]; ++row) order.push_back(begins[i] + row);
      rows.push_back(std::ssize(order) - before);
    }
    std::vector<std::int64_t> back(order.size());
    for (std::size_t i = 0; i < order.size(); ++i) back[order[i]] = i;
    by_expert = ids(order), by_rank = ids(back);
  }
  // end task

  /// "fwd: 17 rows leave, 23 come".
  std::string text() const {
    const auto all = std::reduce(sent.begin(), sent.end()), came = std::reduce(rows.begin(), rows.end());
    return format("{}: {} rows leave, {} come", ep->journal().phase(), all - sent[ep->rank()], came);
  }
  /// (C, W) sorted by expert -> (R, W) on the ranks that have the experts, and back.
  Tensor to_experts(const Tensor& x) const { return embedding(by_expert, ep->all_to_all(x, sent, received)); }
  Tensor home(const Tensor& y) const { return ep->all_to_all(embedding(by_rank, y), received, sent); }
};
// end dispatch

/// The weights of an expert of W and F columns, in their order, and the members of Mlp with their gradients.
struct Weight {
  const char* name;
  std::int64_t rows, cols;
  Tensor mlp::Mlp::*gradient;
};
inline std::vector<Weight> expert_weights(std::int64_t w, std::int64_t f) {
  return {{"c_fc.weight", w, f, &mlp::Mlp::da},
          {"c_fc.bias", 1, f, &mlp::Mlp::dc1},
          {"c_proj.weight", f, w, &mlp::Mlp::db},
          {"c_proj.bias", 1, w, &mlp::Mlp::dc2}};
}
inline std::string expert_name(std::int64_t i) { return format("experts.{}.", i); }

inline constexpr int code_line = __LINE__ + 2;
// begin experts
struct Experts {
  Router router;
  std::vector<mlp::Mlp> experts;  // this rank's: number `rank E / ep` and those that follow
  Communicator* ep = nullptr;     // the ranks that share the experts out
  Groups batch;                   // all ranks that have tokens

  struct Saved {
    Router::Saved router;
    std::optional<Dispatch> dispatch;
    Routing routing;
    std::vector<mlp::Mlp::Saved> experts;
    Tensor y, gates;  // (C, W), (C, 1)  of each choice
  };

  // begin layer
  // task 12.layer (design, 5 points, 60 min): forward and backward_input, (n, W) -> (n, W). Hint: embedding
  // takes rows by their numbers, add_embedding_backward sums them back; the backward sends its rows the ways
  // of the forward. A gate is one of the elements of saved.router.gates, at routing.place, and so is its
  // gradient in dgates; what is not chosen has the gradient 0.
  Tensor forward(const Tensor& x, Saved& s) const {
    const Moment began = ep->journal().moment();
    s.routing = router.forward(x, s.router, batch);
    s.dispatch.emplace(s.routing.counts, *ep);
    ep->journal().span(s.dispatch->text(), "routing", began);
    s.experts.resize(experts.size());
    const Tensor rows = s.dispatch->to_experts(embedding(s.routing.token, x));  // (R, W)
    s.y = s.dispatch->home(each(rows, s, &mlp::Mlp::forward));                  // (C, W)
    s.gates = embedding(s.routing.place, column(s.router.gates));               // (C, 1)
    return sum(scale_rows(s.y, s.gates), s.routing, x);                         // (n, W)
  }

  Tensor backward_input(const Tensor& dy, Saved& s) const {
    const Tensor dys = embedding(s.routing.token, dy);  // (C, W)  a token's dY for each of its choices
    const Tensor dgates = Tensor::zeros(s.router.p.rows(), s.router.p.cols(), s.router.p.dtype());
    add_embedding_backward(column(dgates), row_dots(dys, s.y), s.routing.place);
    const Tensor rows = s.dispatch->to_experts(scale_rows(dys, s.gates));  // (R, W)
    const Tensor dx = s.dispatch->home(each(rows, s, &mlp::Mlp::backward_input));
    return add(sum(dx, s.routing, dy), router.backward_input(dgates, s.router));
  }
  // end task
  // end layer

  void backward_weight(const Saved& s) const {
    router.backward_weight(s.router);
    for (std::size_t i = 0; i < experts.size(); ++i)
      if (s.dispatch->rows[i] > 0) experts[i].backward_weight(s.experts[i]);
  }

 private:
  /// (n, E) -> (n E, 1)
  static Tensor column(const Tensor& x) { return x.reshape(x.size(), 1); }
  /// The sum of each token's rows, in the order of the experts. (C, W) -> (n, W)
  static Tensor sum(const Tensor& rows, const Routing& routing, const Tensor& like) {
    const Tensor all = Tensor::zeros(like.rows(), like.cols(), arithmetic(like.dtype()));
    add_embedding_backward(all, rows, routing.token);
    return cast(all, like.dtype());
  }
  /// A pass of each expert over its own rows. (R, W) -> (R, W)
  Tensor each(const Tensor& rows, Saved& s,
              Tensor (mlp::Mlp::*pass)(const Tensor&, mlp::Mlp::Saved&) const) const {
    const Tensor out = empty_like(rows);
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < experts.size(); ++i) {
      const std::int64_t end = begin + s.dispatch->rows[i];
      if (end > begin)
        out.row_range(begin, end).copy_from((experts[i].*pass)(rows.row_range(begin, end), s.experts[i]));
      begin = end;
    }
    return out;
  }
};
// end experts

// begin sums
/// The sums that gradients are owed once a step. Every rank that has tokens has a term of the router's
/// gradient. An expert has seen the tokens of its whole ep group; the other terms are with the ranks that
/// hold the same expert, one in each such group: `expert_dp`. `experts` are the gradients of this rank's
/// experts in one row.
// task 12.sums (line, 2 points, 15 min): replace each by its sum over the right ranks. Hint: which ranks
// have computed with a router's weights, and which with those of an expert?
inline void sum_gradients(const Tensor& router, const Tensor& experts, Communicator& batch,
                          Communicator& expert_dp) {
  batch.iall_reduce(router).wait();
  expert_dp.iall_reduce(experts).wait();
}
// end task
// end sums

}  // namespace tessera::experts
