// Kernels in terms of a Machine, which knows how to run a loop: cpu.cpp's by threads, cuda.cu's by blocks.
//   Machine::each(y, f, views...)          f(y_ij, x_ij...) for all elements of y, in any order
//   Machine::rows(y, n, cols, f)           f(team, i) for each row i of n; cols tells the work
//   Machine::columns(out, beta, rows, f)   out_j = beta out_j + sum over i of f(i, j)
// What differs stays there: products, and sums over ranks and ids.
#pragma once

#include "ops/attention_functions.hpp"
#include "ops/row_functions.hpp"

namespace tessera {

template <class Machine>
struct Mathematics : Kernels {
  void add(const Tensor& y, const Tensor& a, const Tensor& b) const override { each(Plus{}, y, a, b); }
  void gelu(const Tensor& y, const Tensor& x) const override { each(Gelu{}, y, x); }
  void gelu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    each(Gelu{}, dx, dy, x);
  }
  void relu(const Tensor& y, const Tensor& x) const override { each(Relu{}, y, x); }
  void relu_backward(const Tensor& dx, const Tensor& dy, const Tensor& x) const override {
    each(Relu{}, dx, dy, x);
  }
  void scale(const Tensor& y, const Tensor& x, double factor) const override {
    floating(y.dtype(), [&]<class T>(T) { Machine::each(y, Times<T>{T(factor)}, View<T>(y), View<T>(x)); });
  }
  void add_bias(const Tensor& y, const Tensor& x, const Tensor& c) const override {
    floating(y.dtype(), [&]<class T>(T) {  // every row of c's view is c
      Machine::each(y, Plus{}, View<T>(y), View<T>(x), View<T>(c.data<T>(), 0));
    });
  }
  void cast(const Tensor& y, const Tensor& x) const override {
    if (y.dtype() == DType::f32)
      Machine::each(y, Cast{}, View<float>(y), View<double>(x));
    else
      Machine::each(y, Cast{}, View<double>(y), View<float>(x));
  }
  void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr,
           double momentum) const override {
    floating(w.dtype(), [&]<class T>(T) {
      Machine::each(w, Sgd<T>{T(lr), T(momentum)}, View<T>(w), View<T>(velocity), View<T>(g));
    });
  }
  void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, const AdamW& options,
             std::int64_t step) const override {
    floating(w.dtype(), [&]<class T>(T) {
      Machine::each(w, AdamWStep<T>(options, step), View<T>(w), View<T>(m), View<T>(v), View<T>(g));
    });
  }

  void sum_rows(const Tensor& out, double beta, const Tensor& x) const override {
    floating(out.dtype(), [&]<class T>(T) { Machine::columns(out, T(beta), x.rows(), Term<T>{x}); });
  }
  void layer_norm_gamma(const Tensor& dgamma, const Tensor& dy, const Tensor& x, const Tensor& mean,
                        const Tensor& inverse_deviation) const override {
    floating(dy.dtype(), [&]<class T>(T) {
      Machine::columns(dgamma, T(1), x.rows(), GammaTerm<T>{dy, x, mean, inverse_deviation});
    });
  }

  void dropout(const Tensor& y, const Tensor& x, const Dropout& dropout) const override {
    floating(y.dtype(), [&]<class T>(T) { rows(y, DropoutRow<T>{y, x, y.cols(), dropout}); });
  }
  void embedding(const Tensor& y, const Tensor& ids, const Tensor& table) const override {
    floating(y.dtype(), [&]<class T>(T) { rows(y, EmbeddingRow<T>{y, table, ids, table.rows(), y.cols()}); });
  }
  void cross_entropy(const Tensor& loss, const Tensor& probabilities, const Tensor& logits,
                     const Tensor& targets) const override {
    floating(logits.dtype(), [&]<class T>(T) {
      rows(logits, CrossEntropyRow<T>{loss, probabilities, logits, targets, logits.cols()});
    });
  }
  void cross_entropy_backward(const Tensor& dlogits, const Tensor& probabilities, const Tensor& targets,
                              double factor) const override {
    floating(dlogits.dtype(), [&]<class T>(T) {
      rows(dlogits, CrossEntropyBackwardRow<T>{dlogits, probabilities, targets, dlogits.cols(), T(factor)});
    });
  }
  void layer_norm(const Tensor& y, const Tensor& mean, const Tensor& inverse_deviation, const Tensor& x,
                  const Tensor& gamma, const Tensor& beta, double epsilon) const override {
    floating(y.dtype(), [&]<class T>(T) {
      rows(y, LayerNormRow<T>{y, mean, inverse_deviation, x, gamma, beta, y.cols(), T(epsilon)});
    });
  }
  void layer_norm_backward(const Tensor& dx, const Tensor& dy, const Tensor& x, const Tensor& mean,
                           const Tensor& inverse_deviation, const Tensor& gamma) const override {
    floating(dx.dtype(), [&]<class T>(T) {
      rows(dx, LayerNormBackwardRow<T>{dx, dy, x, mean, inverse_deviation, gamma, dx.cols()});
    });
  }
  void softmax_backward(const Tensor& dx, const Tensor& dp, const Tensor& p, double factor) const override {
    floating(dx.dtype(), [&]<class T>(T) {
      rows(dx, SoftmaxBackwardRow<T>{dx, dp, p, dx.cols(), T(factor)});
    });
  }

  void softmax(const Tensor& p, const Tensor& x, const AttentionTile& tile) const override {
    floating(p.dtype(), [&]<class T>(T) { rows(p, tile, SoftmaxRow<T>{tile, p, x}); });
  }
  void online_softmax(const Tensor& scores, const Tensor& o, const Tensor& largest, const Tensor& sum,
                      const AttentionTile& tile) const override {
    floating(scores.dtype(), [&]<class T>(T) {
      rows(scores, tile, OnlineSoftmaxRow<T>{tile, scores, o, largest, sum, o.cols() / tile.heads});
    });
  }
  void online_softmax_end(const Tensor& o, const Tensor& largest, const Tensor& sum,
                          const AttentionTile& tile) const override {
    floating(o.dtype(), [&]<class T>(T) {
      rows(largest, tile, OnlineSoftmaxEndRow<T>{tile, o, largest, sum, o.cols() / tile.heads});
    });
  }
  void attention_delta(const Tensor& delta, const Tensor& dy, const Tensor& o,
                       const AttentionTile& tile) const override {
    floating(o.dtype(), [&]<class T>(T) {
      rows(delta, tile, DeltaRow<T>{tile, delta, dy, o, o.cols() / tile.heads});
    });
  }
  void attention_backward(const Tensor& scores, const Tensor& dp, const Tensor& log_sum, const Tensor& delta,
                          const AttentionTile& tile) const override {
    floating(scores.dtype(), [&]<class T>(T) {
      rows(scores, tile, AttentionBackwardRow<T>{tile, scores, dp, log_sum, delta});
    });
  }

 private:
  template <class F, class... In>
  static void each(const F& f, const Tensor& y, const In&... x) {
    floating(y.dtype(), [&]<class T>(T) { Machine::each(y, f, View<T>(y), View<T>(x)...); });
  }
  template <class F>
  static void rows(const Tensor& y, const F& f) {
    Machine::rows(y, y.rows(), y.cols(), f);
  }
  /// Those rows of all heads' that see keys of the tile.
  template <class F>
  static void rows(const Tensor& y, const AttentionTile& tile, const F& f) {
    Machine::rows(y, y.rows() / tile.seq * (tile.seq - tile.first_query), tile.keys, f);
  }
};

}  // namespace tessera
