// bf16: the conversion of every pattern, what is stored in it and what is not, attention against its own f32
// form, sums that bf16 could not hold, and masters of weights. Each function stands in test_ops.cpp.
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
  Pair(const char* name, Index rows, Index cols)
      : narrow(tensor_of(uniform(name, rows, cols), DType::bf16)), wide(cast(narrow, DType::f32)) {}
};

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
    // What lies between this number and the next of its sign is rounded down below the middle, up above it,
    // and in the middle to the even one.
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

TEST_CASE_ON_EVERY_DEVICE(
    "bf16: what adds up stays in f32, what is stored is rounded") {  // the values: test_ops.cpp
  const Tensor x = tensor_of(uniform("x", 4, 3, 4), DType::bf16), row = x.row_range(0, 1),
               ids = ids_of({2, 0, 1, 1});
  const LayerNorm norm = layer_norm(x, row, row);
  const CrossEntropy loss = cross_entropy(x, ids);
  for (const Tensor& sum : {matmul(t(x), x), sum_rows(x), zero_gradient(x), norm.mean, norm.inverse_deviation,
                            loss.loss, row_largest(x), row_dots(x, x)})
    CHECK(sum.dtype() == DType::f32);
  for (const Tensor& y :
       {matmul(x, t(x)), add(x, x), gelu(x), dropout(x, 0.3, 5), norm.y, layer_norm_backward(x, norm, row),
        softmax(x), loss.probabilities, cross_entropy_backward(loss, ids, 7), embedding(ids, x)})
    CHECK(y.dtype() == DType::bf16);
  CHECK(row_largest(x).values() == row_largest(cast(x, DType::f32)).values());
  CHECK(cross_entropy_of(cross_entropy_terms(x, row_largest(x), ids)).loss.values() == loss.loss.values());
}

TEST_CASE_ON_EVERY_DEVICE("bf16: attention in both forms is near its f32 form") {
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
          const Matrix truth = elements_of(wide[i]);
          double most = 0;
          for (const double value : truth.data) most = std::max(most, std::abs(value));
          CHECK(wrong(cast(narrow[i], DType::f32), truth.rows, truth.cols, [&](Index row, Index col) {
                  return Bounded{truth(row, col), 4 * u * most};
                }) == "");
        }
      }
}

TEST_CASE_ON_EVERY_DEVICE("bf16: long sums, of which bf16 itself would lose most terms") {
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
}

TEST_CASE_ON_EVERY_DEVICE("bf16: attention on a GPU keeps its sums in f32 from tile to tile") {
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
}

TEST_CASE_ON_EVERY_DEVICE("bf16: what is beyond its numbers is infinite") {
  const Tensor huge = tensor_of(filled(1, 4, 3e38), DType::bf16);
  for (const double value : add(huge, huge).values()) CHECK(value == INFINITY);
  CHECK(relu(scale(huge, -10)).values() == std::vector<double>(4, 0));
}

TEST_CASE_ON_EVERY_DEVICE("bf16: masters keep the steps that a weight would lose") {
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
  const Tensor turned = Tensor::zeros(3, 2, DType::f32);
  refuses([&] { sgd(w, velocity, g, 1, 0); }, "sgd: (2, 3) bf16 and (2, 3) f32");
  refuses([&] { sgd(w, w, w, 1, 0); }, "bf16 is for storage: a master in f32 would work");
  refuses([&] { adamw(w, w, w, w, {}, 1); }, "a master in f32 would work");
  refuses([&] { store(w, turned); }, "store: (3, 2) f32 is no master of (2, 3) bf16");
  refuses([&] { add_sum_rows(w.row_range(0, 1), w); }, "(1, 3) bf16");
}
