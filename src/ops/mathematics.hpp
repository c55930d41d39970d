// Kernels in terms of a Machine, which runs loops: the one in cpu.cpp with threads, the one in cuda.cu with
// blocks.
//
//   Machine::each(y, f, views...)          f(y_ij, x_ij...) for all elements of y, in any order
//   Machine::rows(y, n, cols, f)           f(team, i) for each row i of n; cols says how much work a row is
//   Machine::columns(out, beta, rows, f)   out_j = beta out_j + sum over i of f(i, j)
// Products, and sums over ranks and ids, differ between the machines, and stand in cpu.cpp and cuda.cu.
#pragma once

#include "ops/attention_functions.hpp"
#include "ops/row_functions.hpp"

namespace tessera {

template <class Machine>
struct Mathematics : Kernels {
  void add(const Tensor& y, const Tensor& a, const Tensor& b) const override { each(Plus{}, y, a, b); }
  void scale(const Tensor& y, const Tensor& x, double factor) const override { each(Times{factor}, y, x); }
  void gelu(const Tensor& y, const Tensor& x) const override { each(Gelu{}, y, x); }
  void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    each(Gelu{}, dx, dy, x);
  }
  void relu(const Tensor& y, const Tensor& x) const override { each(Relu{}, y, x); }
  void relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    each(Relu{}, dx, dy, x);
  }
  void add_bias(const Tensor& y, const Tensor& x, const Tensor& c) const override {
    floating(y.dtype(), [&]<class T>(T) {
      View<T> every_row(c);
      every_row.ld = 0;
      Machine::each(y, Plus{}, View<T>(y), View<T>(x), every_row);
    });
  }
  void cast(const Tensor& y, const Tensor& x) const override {
    floating(y.dtype(), [&]<class To>(To) {
      floating(x.dtype(), [&]<class From>(From) { Machine::each(y, Cast{}, View<To>(y), View<From>(x)); });
    });
  }
  void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr,
           double momentum) const override {
    arithmetic(w.dtype(), [&]<class T>(T) {
      Machine::each(w, Sgd<T>{T(lr), T(momentum)}, View<T>(w), View<T>(velocity), View<T>(g));
    });
  }
  void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, const AdamW& options,
             std::int64_t step) const override {
    arithmetic(w.dtype(), [&]<class T>(T) {
      Machine::each(w, AdamWStep<T>(options, step), View<T>(w), View<T>(m), View<T>(v), View<T>(g));
    });
  }

  void sum_rows(const Tensor& out, double beta, const Tensor& x) const override {
    floating(x.dtype(),
             [&]<class T>(T) { Machine::columns(out, Arithmetic<T>(beta), x.rows(), Term<T>{x}); });
  }
  void layer_norm_gamma(const Tensor& dgamma, const Tensor& dy, const Tensor& x, const Tensor& mean,
                        const Tensor& inverse_deviation) const override {
    floating(dy.dtype(), [&]<class T>(T) {
      Machine::columns(dgamma, Arithmetic<T>(1), x.rows(), GammaTerm<T>{dy, x, mean, inverse_deviation});
    });
  }

  void dropout(const Tensor& y, const Tensor& x, const Dropout& dropout) const override {
    rows<DropoutRow>(y, y, x, dropout);
  }
  void embedding(const Tensor& y, const Tensor& ids, const Tensor& table) const override {
    rows<EmbeddingRow>(y, y, table, ids);
  }
  void scale_rows(const Tensor& y, const Tensor& x, const Tensor& factors) const override {
    rows<ScaledRow>(y, y, x, factors);
  }
  void row_dots(const Tensor& dots, const Tensor& a, const Tensor& b) const override {
    rows<DotRow>(a, dots, a, b);
  }
  void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                     const Tensor& targets) const override {
    rows<CrossEntropyRow>(logits, loss, probabilities, logits, targets);
  }
  void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities, const Tensor& targets,
                              double factor) const override {
    rows<CrossEntropyBackwardRow>(dlogits, dlogits, probabilities, targets, factor);
  }
  void row_largest(const Tensor& largest, const Tensor& x) const override { rows<LargestRow>(x, largest, x); }
  void cross_entropy_terms(const CrossEntropyTerms& terms, const Tensor& logits, const Tensor& largest,
                           const Tensor& targets) const override {
    rows<CrossEntropyTermsRow>(logits, terms.exponentials, terms.sum, terms.target, logits, largest, targets);
  }
  void cross_entropy_of(const Tensor& loss, const CrossEntropyTerms& terms) const override {
    rows<CrossEntropyOfRow>(terms.exponentials, loss, terms.exponentials, terms.sum, terms.target);
  }
  void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& inverse_deviation, const Tensor& x,
                  const Tensor& gamma, const Tensor& beta, double epsilon) const override {
    rows<LayerNormRow>(y, y, mean, inverse_deviation, x, gamma, beta, epsilon);
  }
  void layer_norm_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& mean,
                           const Tensor& inverse_deviation, const Tensor& gamma) const override {
    rows<LayerNormBackwardRow>(dx, dx, dy, x, mean, inverse_deviation, gamma);
  }
  void softmax_backward(const Tensor& dx, const Tensor& dp, const Tensor& p, double factor) const override {
    rows<SoftmaxBackwardRow>(dx, dx, dp, p, factor);
  }

  void merge_attention(const Tensor& o, const Tensor& more, const Tensor& log_sum, const Tensor& more_log_sum,
                       const Tensor& merged, const AttentionTile& tile) const override {
    floating(o.dtype(), [&]<class T>(T) {
      Machine::rows(o, log_sum.rows(), o.cols() / tile.heads,
                    MergeRow<T>{tile, o, more, log_sum, more_log_sum, merged});
    });
  }
  void softmax(const Tensor& p, const Tensor& x, const AttentionTile& tile) const override {
    floating(p.dtype(), [&]<class T>(T) {
      Machine::rows(p, p.rows(), tile.keys, SoftmaxRow<T>{tile, p, x});
    });
  }

 private:
  template <class F, class... In>
  static void each(const F& f, const Tensor& y, const In&... x) {
    floating(y.dtype(), [&]<class T>(T) { Machine::each(y, f, View<T>(y), View<T>(x)...); });
  }
  template <template <class> class Row, class... Members>
  static void rows(const Tensor& y, const Members&... members) {
    floating(y.dtype(), [&]<class T>(T) { Machine::rows(y, y.rows(), y.cols(), Row<T>{members...}); });
  }
};

}  // namespace tessera
