// bf16: the conversion of every pattern, each function against its own f32 form on the same rounded numbers,
// sums that bf16 could not hold, and masters of weights.
#include <algorithm>
#include <array>
#include <cstring>

#include "ops/attention.hpp"
#include "reference.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr double u = 0x1p-8;

bf16 of_bits(std::uint32_t bits) {
  bf16 x;
  x.bits = static_cast<std::uint16_t>(bits);
  return x;
}

/// Numbers that bf16 holds, as a tensor in bf16 and as the same in f32.
struct Pair {
  Tensor narrow, wide;
  Pair(const char* name, Index rows, Index cols, double size = 1)
      : narrow(tensor_of(uniform(name, rows, cols, size), DType::bf16)), wide(cast(narrow, DType::f32)) {}
};

/// "" where `found` is what f32 computes. In bf16 it may be off by `roundings` roundings of the element, in
/// f32 by a few units of the largest: the two forms may add in another order.
std::string apart(const Tensor& found, const Tensor& f32, double roundings = 1) {
  const Matrix truth = elements_of(f32);
  double most = 0;
  for (const double value : truth.data) most = std::max(most, std::abs(value));
  if (f32.dtype() != DType::f32) return "the form to compare with is not in f32";
  return wrong(found, truth.rows, truth.cols, [&](Index i, Index j) {
    const double rounded = found.dtype() == DType::bf16 ? roundings * u * std::abs(truth(i, j)) : 0;
    return Bounded{truth(i, j), rounded + 0x1p-19 * most};
  });
}

/// The same for a result that stays in f32.
std::string apart_in_f32(const Tensor& found, const Tensor& f32) {
  return found.dtype() == DType::f32 ? apart(found, f32) : "it is in " + std::string(name(found.dtype()));
}

}  // namespace

TEST_CASE("bf16: all 65536 patterns, their halves, NaN and the infinities") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const bf16 x = of_bits(bits);
    const float value = x;
    if (std::isnan(value)) {
      CHECK_FALSE(!std::isnan(static_cast<float>(bf16(value))));
      continue;
    }
    CHECK_FALSE(bf16(value).bits != bits);  // the sign of 0 as well
    const std::uint32_t magnitude = bits & 0x7FFF;
    if (magnitude >= 0x7F80) continue;
    // Between this number and the next one of its sign: below the half down, above it up, at it to the even.
    const auto between = [&](std::uint32_t low) {
      const std::uint32_t word = bits << 16 | low;
      float f;
      std::memcpy(&f, &word, sizeof(f));
      return bf16(f).bits;
    };
    CHECK_FALSE(between(0x7FFF) != bits);
    CHECK_FALSE(between(0x8001) != bits + 1);  // beyond the largest number lies infinity
    CHECK_FALSE(between(0x8000) != bits + (bits & 1));
  }
  const float quiet = std::numeric_limits<float>::quiet_NaN();
  std::uint32_t word = 0x7F800001;  // a NaN whose upper half alone would be infinity
  float signalling;
  std::memcpy(&signalling, &word, sizeof(signalling));
  for (const float nan : {quiet, -quiet, signalling}) CHECK(std::isnan(static_cast<float>(bf16(nan))));
  CHECK(std::isinf(static_cast<float>(bf16(1e39))));
  CHECK(static_cast<float>(bf16(257)) == 256);
  CHECK(static_cast<float>(bf16(-259)) == -260);
}

TEST_CASE("bf16: casts and values, from every dtype and on views") {
  on_every_device([] {
    for (const bool view : {false, true}) {
      const Operand x(uniform("x", 17, 61), {DType::bf16, view});
      const Tensor& narrow = x;
      CHECK(narrow.bytes() == 17 * 61 * 2);
      for (const DType dtype : {DType::f32, DType::f64}) {
        const Tensor wide = cast(narrow, dtype);
        CHECK(wide.values() == x.values.data);
        CHECK(cast(wide, DType::bf16).values() == x.values.data);
      }
      const Operand many(uniform("many", 17, 61), {DType::f32, view});
      CHECK(wrong(cast(many, DType::bf16), 17, 61, [&](Index i, Index j) {
              return Bounded{static_cast<float>(bf16(many.values(i, j))), 0};
            }) == "");
    }
  });
}

TEST_CASE("bf16: each function is its f32 form on the same numbers, rounded once") {
  on_every_device([] {
    for (const auto& [n, k, m] : {std::array<Index, 3>{1, 1, 1}, {3, 4, 2}, {17, 61, 23}, {65, 257, 33}}) {
      CAPTURE(n);
      const Pair x("x", n, k, 4), y("y", n, k, 4), w("w", k, m), c("c", 1, k), dy("dy", n, m), wt("wt", m, k);
      const Pair gamma("gamma", 1, k), sum("sum", n, m);
      CHECK(apart(matmul(x.narrow, w.narrow), matmul(x.wide, w.wide)) == "");
      CHECK(apart(matmul(x.narrow, t(wt.narrow)), matmul(x.wide, t(wt.wide))) == "");
      CHECK(apart_in_f32(matmul(t(x.narrow), dy.narrow), matmul(t(x.wide), dy.wide)) == "");
      add_matmul(sum.narrow, x.narrow, w.narrow);
      add_matmul(sum.wide, x.wide, w.wide);
      CHECK(apart(sum.narrow, sum.wide) == "");
      const Tensor gradient = Tensor::zeros(k, m, DType::f32), expected = gradient.copy();
      for (int microbatch = 0; microbatch < 3; ++microbatch) {
        add_matmul(gradient, t(x.narrow), dy.narrow);
        add_matmul(expected, t(x.wide), dy.wide);
      }
      CHECK(apart_in_f32(gradient, expected) == "");

      CHECK(apart(add(x.narrow, y.narrow), add(x.wide, y.wide)) == "");
      CHECK(apart(scale(x.narrow, -0.3), scale(x.wide, -0.3)) == "");
      CHECK(apart(add_bias(x.narrow, c.narrow), add_bias(x.wide, c.wide)) == "");
      CHECK(apart(gelu(x.narrow), gelu(x.wide)) == "");
      CHECK(apart(relu(x.narrow), relu(x.wide)) == "");
      CHECK(apart(gelu_backward(y.narrow, x.narrow), gelu_backward(y.wide, x.wide)) == "");
      CHECK(apart(relu_backward(y.narrow, x.narrow), relu_backward(y.wide, x.wide)) == "");
      CHECK(apart(dropout(x.narrow, 0.3, 5), dropout(x.wide, 0.3, 5)) == "");
      CHECK(apart_in_f32(sum_rows(x.narrow), sum_rows(x.wide)) == "");

      const LayerNorm a = layer_norm(x.narrow, gamma.narrow, c.narrow),
                      b = layer_norm(x.wide, gamma.wide, c.wide);
      CHECK(apart(a.y, b.y) == "");
      CHECK(apart_in_f32(a.mean, b.mean) == "");
      CHECK(apart_in_f32(a.inverse_deviation, b.inverse_deviation) == "");
      CHECK(apart(layer_norm_backward(y.narrow, a, gamma.narrow),
                  layer_norm_backward(y.wide, b, gamma.wide)) == "");
      const Tensor dgamma = zero_gradient(gamma.narrow), dbeta = zero_gradient(gamma.narrow),
                   dgamma_wide = zero_gradient(gamma.wide), dbeta_wide = zero_gradient(gamma.wide);
      add_layer_norm_weights(dgamma, dbeta, y.narrow, a);
      add_layer_norm_weights(dgamma_wide, dbeta_wide, y.wide, b);
      CHECK(apart_in_f32(dgamma, dgamma_wide) == "");
      CHECK(apart_in_f32(dbeta, dbeta_wide) == "");

      // The exponentials of a row are stored before they are divided: two roundings.
      const Tensor p = softmax(x.narrow);
      CHECK(apart(p, softmax(x.wide), 2.1) == "");
      CHECK(apart(softmax_backward(y.narrow, p), softmax_backward(y.wide, cast(p, DType::f32))) == "");
      std::vector<double> ids;
      for (Index i = 0; i < n; ++i) ids.push_back(static_cast<double>(i * 7 % k));
      const CrossEntropy e = cross_entropy(x.narrow, ids_of(ids)), f = cross_entropy(x.wide, ids_of(ids));
      CHECK(apart(e.probabilities, f.probabilities, 2.1) == "");
      CHECK(e.loss.dtype() == DType::f32);
      CHECK(wrong(e.loss, n, 1, [&, truth = f.loss.values()](Index i, Index) {
              return Bounded{truth[static_cast<std::size_t>(i)], u};  // the log of a sum of rounded terms
            }) == "");
      const CrossEntropyTerms terms = cross_entropy_terms(x.narrow, row_largest(x.narrow), ids_of(ids));
      CHECK(cross_entropy_of(terms).loss.values() == e.loss.values());
      CHECK(apart_in_f32(row_largest(x.narrow), row_largest(x.wide)) == "");
      const CrossEntropy same{f.loss, cast(e.probabilities, DType::f32)};
      CHECK(apart(cross_entropy_backward(e, ids_of(ids), 7), cross_entropy_backward(same, ids_of(ids), 7)) ==
            "");

      const Pair table("table", k, m);
      CHECK(embedding(ids_of(ids), table.narrow).values() == embedding(ids_of(ids), table.wide).values());
      const Tensor dtable = zero_gradient(table.narrow), dtable_wide = zero_gradient(table.wide);
      add_embedding_backward(dtable, dy.narrow, ids_of(ids));
      add_embedding_backward(dtable_wide, dy.wide, ids_of(ids));
      CHECK(apart_in_f32(dtable, dtable_wide) == "");
      const Tensor factors = row_dots(x.wide, x.wide);
      CHECK(apart_in_f32(row_dots(x.narrow, x.narrow), factors) == "");
      CHECK(apart(scale_rows(x.narrow, factors), scale_rows(x.wide, factors)) == "");
    }
  });
}

TEST_CASE("bf16: attention in both forms is near its f32 form") {
  on_every_device([] {
    for (const auto form : {AttentionOptions::Form::plain, AttentionOptions::Form::streaming})
      for (const Index seq : {5, 70, thinned > 1 ? 150 : 400})
        for (const double dropped : {0.0, 0.2}) {
          CAPTURE(seq);
          AttentionOptions o;
          o.batch = 2, o.seq = seq, o.heads = 4, o.kv_heads = 2, o.form = form, o.dropout = dropped;
          const Pair q("q", 2 * seq, 4 * 8), k("k", 2 * seq, 2 * 8), v("v", 2 * seq, 2 * 8),
              dy("dy", 2 * seq, 4 * 8);
          const auto all = [&](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& dy) {
            AttentionSaved saved;
            std::vector<Tensor> out = {attention(q, k, v, o, saved), empty_like(q), empty_like(k),
                                       empty_like(v)};
            attention_backward(dy, saved, o, out[1], out[2], out[3]);
            if (saved.log_sum.defined()) CHECK(saved.log_sum.dtype() == DType::f32);
            return out;
          };
          const auto narrow = all(q.narrow, k.narrow, v.narrow, dy.narrow),
                     wide = all(q.wide, k.wide, v.wide, dy.wide);
          // Scores, probabilities and sums are stored in bf16 on the way. Their roundings are independent.
          for (std::size_t i = 0; i < wide.size(); ++i) {
            CAPTURE(i);
            double most = 0;
            for (const double value : wide[i].values()) most = std::max(most, std::abs(value));
            const Matrix truth = elements_of(wide[i]);
            CHECK(wrong(narrow[i], truth.rows, truth.cols, [&](Index row, Index col) {
                    return Bounded{truth(row, col), 4 * u * most};
                  }) == "");
          }
        }
  });
}

TEST_CASE("bf16: long sums, of which bf16 itself would lose most terms") {
  on_every_device([] {
    const Index n = 4096;
    const Tensor ones = tensor_of(filled(n, 3, 1), DType::bf16);
    const auto all = [&](const Tensor& x, double value) {
      for (const double found : x.values()) CHECK(found == value);
    };
    all(sum_rows(ones), n);  // adding 1 in bf16 ends at 256
    all(matmul(t(ones), ones), n);
    all(matmul(ones.reshape(3, n), ones.reshape(n, 3)), n);  // rounded once, to a power of two
    const Tensor gradient = zero_gradient(Tensor::zeros(1, 3, DType::bf16));
    for (int microbatch = 0; microbatch < 1000; ++microbatch) add_sum_rows(gradient, ones.row_range(0, 1));
    all(gradient, 1000);

    std::vector<Tensor> inputs(64, tensor_of({1, 5, std::vector<double>(5, 0x1p-8)}, DType::bf16));
    inputs[0] = tensor_of({1, 5, std::vector<double>(5, 1)}, DType::bf16);
    const Tensor out = Tensor::empty(1, 5, DType::bf16);
    kernels_of(out).reduce(out, inputs, Reduce::sum);
    all(out, 1.25);  // 1 + 63/256 to the nearest; added one by one in bf16 it would stay 1
    kernels_of(out).reduce(out, inputs, Reduce::max);
    all(out, 1);

    const Tensor large = tensor_of(filled(200, 40, 100), DType::bf16),
                 row = tensor_of(filled(1, 40, 1), DType::bf16);
    all(layer_norm(large, row, row).mean, 100);
  });
}

TEST_CASE("bf16: attention on a GPU keeps its sums in f32 from tile to tile") {
  on_every_device([] {
    if (Device::current()->kind() != DeviceKind::cuda) return;  // a CPU stores each tile's sums in bf16
    // With q = 0 every probability is 1/256. The rows of the first tile that are not 0 add up to 257, which
    // bf16 does not hold, and a row of the second tile takes 256 away.
    Matrix rows = filled(256, 4, 0);
    for (Index j = 0; j < 4; ++j) rows(0, j) = 256, rows(1, j) = 1, rows(100, j) = -256;
    const Tensor q = tensor_of(filled(256, 4, 0), DType::bf16), k = tensor_of(filled(256, 4, 1), DType::bf16),
                 v = tensor_of(rows, DType::bf16), dq = empty_like(q), dk = empty_like(q), dv = empty_like(q);
    AttentionOptions options;
    options.seq = 256, options.mask = Mask::none;
    AttentionSaved saved;
    for (const double o : attention(q, k, v, options, saved).values()) CHECK(o == 0x1p-8);
    attention_backward(v, saved, options, dq, dk, dv);
    for (const double g : dv.values()) CHECK(g == 0x1p-8);
    // dq sums the gradients of a softmax over equal keys. Those of row 1 have the size 1; rounded they leave
    // 0.006.
    for (const double g : dq.row_range(1, 2).values()) CHECK(std::abs(g) <= 1e-4);
  });
}

TEST_CASE("bf16: NaN and the infinities go through") {
  on_every_device([] {
    const Tensor bad = tensor_of({2, 2, {1, not_a_number, -1, 2}}, DType::bf16),
                 good = tensor_of({2, 2, {1, 2, 3, 4}}, DType::bf16),
                 row = tensor_of({1, 2, {1, 2}}, DType::bf16);
    for (const Tensor& y : {gelu(bad), relu(bad), add(good, bad), scale(bad, 0), add_bias(bad, row),
                            gelu_backward(bad, good), relu_backward(bad, good), cast(bad, DType::f32)}) {
      const auto values = y.values();
      CHECK(std::isnan(values[1]));
      CHECK_FALSE(std::isnan(values[0] + values[2] + values[3]));
    }
    CHECK(std::isnan(sum_rows(bad).values()[1]));
    CHECK(std::isnan(matmul(bad, good).values()[0]));
    CHECK(std::isnan(softmax(bad).values()[0]));
    CHECK(std::isnan(layer_norm(bad, row, row).y.values()[0]));
    CHECK(std::isnan(cross_entropy(bad, ids_of({0, 0})).loss.values()[0]));
    for (const Reduce how : {Reduce::sum, Reduce::max}) {
      const Tensor out = Tensor::empty(1, 4, DType::bf16);
      kernels_of(out).reduce(out, {good.reshape(1, 4), bad.reshape(1, 4), good.reshape(1, 4)}, how);
      CHECK(std::isnan(out.values()[1]));
      CHECK_FALSE(std::isnan(out.values()[0]));
    }
    const Tensor huge = tensor_of(filled(1, 4, 3e38), DType::bf16);
    for (const double value : add(huge, huge).values()) CHECK(value == INFINITY);
    CHECK(relu(scale(huge, -10)).values() == std::vector<double>(4, 0));
  });
}

TEST_CASE("bf16: masters keep the steps that a weight would lose") {
  on_every_device([] {
    const Tensor w = tensor_of(filled(2, 3, 1), DType::bf16), master = cast(w, DType::f32),
                 velocity = Tensor::zeros(2, 3, DType::f32), g = tensor_of(filled(2, 3, 1), DType::f32);
    for (int step = 0; step < 64; ++step) {
      sgd(master, velocity, g, 0x1p-12, 0);  // a sixteenth of the distance to the next bf16 below 1
      store(w, master);
    }
    for (const double value : w.values()) CHECK(value == 1 - 0x1p-6);
    for (const double value : master.values()) CHECK(value == 1 - 0x1p-6);
    const Tensor own = tensor_of(filled(2, 3, 1), DType::f32);
    CHECK(cast(own, arithmetic(own.dtype())).raw() == own.raw());  // a weight in f32 is its own master
    store(own, own);
    CHECK(contains(message_from([&] { sgd(w, velocity, g, 1, 0); }), "sgd: (2, 3) bf16 and (2, 3) f32"));
    CHECK(contains(message_from([&] { sgd(w, w, w, 1, 0); }),
                   "bf16 is for storage: a master in f32 would work"));
    CHECK(contains(message_from([&] { adamw(w, w, w, w, {}, 1); }), "a master in f32 would work"));
    CHECK(contains(message_from([&] { store(w, Tensor::zeros(3, 2, DType::f32)); }),
                   "store: (3, 2) f32 is no master of (2, 3) bf16"));
    CHECK(contains(message_from([&] { add_sum_rows(w.row_range(0, 1), w); }), "(1, 3) bf16"));
  });
}
