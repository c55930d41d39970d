// One suite for the mathematics of every device: each function against a plain loop in double, on ugly shapes
// and on views. The same lines run on the CPU and on a GPU.
#include "every_function.hpp"
#include "ops/blas.hpp"
#include "ops/functions.hpp"
#include "reference.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

double gelu_inner(double x) { return std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x); }
double gelu_reference(double x) { return x / 2 * (1 + std::tanh(gelu_inner(x))); }
double gelu_slope_reference(double x) {
  const double inner = gelu_inner(x), sech = 1 / std::cosh(std::min(std::abs(inner), 300.0));
  const double inner_slope = std::sqrt(2 / std::acos(-1.0)) * (1 + 3 * 0.044715 * x * x);
  return (1 + std::tanh(inner)) / 2 + x / 2 * sech * sech * inner_slope;
}

/// A relative error of two units.
Bounded near(double value, double u) { return {value, 2 * u * std::abs(value)}; }

/// A function of each element x, of y at its place and of c in its column, with its right value in double.
struct ElementWise {
  const char* name;
  Tensor (*compute)(const Tensor& x, const Tensor& y, const Tensor& c);
  Bounded (*truth)(double x, double y, double c, double u);
};
using T = const Tensor&;

// 1 + tanh cancels in the left tail, 1 - tanh^2 in both: what is left has an error of some u times the
// factors that stand before them.
constexpr ElementWise element_wise[] = {
    {"add", [](T x, T y, T) { return add(x, y); },
     [](double x, double y, double, double u) { return near(x + y, u); }},
    {"scale", [](T x, T, T) { return scale(x, -0.3); },
     [](double x, double, double, double u) { return near(-0.3 * x, u); }},
    {"add_bias", [](T x, T, T c) { return add_bias(x, c); },
     [](double x, double, double c, double u) { return near(x + c, u); }},
    {"relu", [](T x, T, T) { return relu(x); },
     [](double x, double, double, double) {
       return Bounded{std::max(0.0, x), 0};
     }},
    {"relu_backward", [](T x, T dy, T) { return relu_backward(dy, x); },
     [](double x, double dy, double, double) {
       return Bounded{x > 0 ? dy : 0, 0};
     }},
    {"gelu", [](T x, T, T) { return gelu(x); },
     [](double x, double, double, double u) {
       return Bounded{gelu_reference(x), 8 * u * std::abs(x)};
     }},
    {"gelu_backward", [](T x, T dy, T) { return gelu_backward(dy, x); },
     [](double x, double dy, double, double u) {
       const double factor = std::abs(x) < 20 ? std::abs(x) * (1 + 3 * 0.044715 * x * x) : 0;
       return Bounded{dy * gelu_slope_reference(x), 8 * u * std::abs(dy) * (1 + factor)};
     }}};

/// Five steps of an optimiser over its state: the weight, and what it keeps of it. formula(state, i, g, step)
/// is the step of element i in double; after n steps an element of state[k] may be off by n u bound(k,
/// element).
template <class Run, class Formula, class Bound>
void check_optimiser(const Case& c, const std::vector<Matrix>& start, const Run& run, const Formula& formula,
                     const Bound& bound) {
  if (c.dtype == DType::bf16) return;  // its masters are in f32
  std::vector<Operand> state;
  std::vector<Matrix> expected;
  for (const Matrix& matrix : start) expected.push_back(state.emplace_back(matrix, c).values);
  const Index rows = start[0].rows, cols = start[0].cols;
  for (int step = 1; step <= 5; ++step) {
    const Operand g(uniform(format("g{}", step).c_str(), rows, cols), c);
    run(state, g, step);
    for (std::size_t i = 0; i < g.values.data.size(); ++i) formula(expected, i, g.values.data[i], step);
    for (std::size_t k = 0; k < state.size(); ++k)
      CHECK(wrong(state[k], rows, cols, [&](Index i, Index j) {
              return Bounded{expected[k](i, j), step * c.u() * bound(k, expected[k](i, j))};
            }) == "");
    CHECK(g.unchanged());
  }
}

}  // namespace

TEST_CASE("matmul: all transposes, sums and views") {
  on_every_case([](const Case& c) {
    const std::array<Index, 3> shapes[] = {{1, 1, 1}, {1, 7, 1}, {7, 1, 5}, {1, 5, 9},    {0, 3, 4},
                                           {3, 4, 0}, {3, 0, 4}, {2, 3, 4}, {17, 61, 23}, {65, 257, 33}};
    for (const auto& [n, k, m] : shapes)
      for (const bool exact : {false, true}) {
        INFO(n, " x ", k, " x ", m, exact ? ", integers" : "");
        // Integers up to 8 make every sum exact in any order: then the difference is 0.
        const auto make = [&](const char* name, Index rows, Index cols, bool sums = false) {
          Matrix matrix = uniform(name, rows, cols, exact ? 8 : 1);
          for (double& value : matrix.data) value = exact ? std::round(value) : value;
          return Operand(matrix, sums ? c.sums() : c);
        };
        const Operand a = make("a", n, k), at = make("at", k, n), b = make("b", k, m), bt = make("bt", m, k);
        const auto product = [&](const Matrix& start, bool ta, bool tb) {
          return [&, ta, tb](Index i, Index j) {
            Bounded result = dot(
                k, c.u(), start(i, j), [&](Index p) { return ta ? at.values(p, i) : a.values(i, p); },
                [&](Index p) { return tb ? bt.values(j, p) : b.values(p, j); });
            if (exact) result.bound = c.dtype == DType::bf16 ? 1e-300 : 0;
            return result;
          };
        };
        const Matrix zero = filled(n, m, 0);
        poison(n, m, c.dtype);
        CHECK(wrong(matmul(a, b), n, m, product(zero, false, false)) == "");
        poison(n, m, c.sums().dtype);
        CHECK(wrong(matmul(t(at), b), n, m, product(zero, true, false)) == "");
        poison(n, m, c.dtype);
        CHECK(wrong(matmul(a, t(bt)), n, m, product(zero, false, true)) == "");

        const Operand sum = make("sum", n, m), other = make("other", n, m, true);
        add_matmul(sum, a, b);
        CHECK(wrong(sum, n, m, product(sum.values, false, false)) == "");
        add_matmul(other, t(at), b);
        CHECK(wrong(other, n, m, product(other.values, true, false)) == "");
      }
  });
}

TEST_CASE("functions of one element: add, scale, add_bias, relu, gelu and their gradients") {
  on_every_shape([](const Case& c, Index rows, Index cols) {
    Matrix values = uniform("x", rows, cols, 12);
    if (rows * cols > 100) {
      const double special[] = {0, -0.0, 1, -1, 1e-20, -1e-20, 30, -30, 1e10, -1e10};
      std::copy(std::begin(special), std::end(special), values.data.begin());
    }
    const Operand x(values, c), y(uniform("y", rows, cols), c), row(uniform("c", 1, cols), c);
    for (const ElementWise& function : element_wise) {
      INFO(function.name);
      CHECK(wrong(function.compute(x, y, row), rows, cols, [&](Index i, Index j) {
              return function.truth(x.values(i, j), y.values(i, j), row.values(0, j), c.u());
            }) == "");
    }
    add_to(y, x);
    CHECK(wrong(y, rows, cols,
                [&](Index i, Index j) { return near(x.values(i, j) + y.values(i, j), c.u()); }) == "");
  });
}

TEST_CASE("sum_rows") {
  on_every_shape([](const Case& c, Index rows, Index cols) {
    const Operand x(uniform("x", rows, cols), c), sum(uniform("sum", 1, cols), c.sums());
    const auto column = [&](double start, Index j) {
      return dot(
          rows, c.u(), start, [&](Index i) { return x.values(i, j); }, one);
    };
    poison(1, cols, c.sums().dtype);
    CHECK(wrong(sum_rows(x), 1, cols, [&](Index, Index j) { return column(0, j); }) == "");
    add_sum_rows(sum, x);
    CHECK(wrong(sum, 1, cols, [&](Index, Index j) { return column(sum.values(0, j), j); }) == "");
  });
}

TEST_CASE("cast: from every dtype to every other, rounded once") {
  const auto rounded = [](double value, DType to) {
    const double single = static_cast<float>(value);
    return to == DType::f64 ? value : to == DType::f32 ? single : static_cast<float>(bf16(single));
  };
  on_every_shape([&](const Case& c, Index rows, Index cols) {
    const Operand x(uniform("x", rows, cols), c);
    for (const DType to : {DType::f32, DType::f64, DType::bf16}) {
      const Tensor y = cast(x, to);
      CHECK(y.dtype() == to);
      CHECK(y.bytes() == rows * cols * static_cast<Index>(size_of(to)));
      if (to == c.dtype) CHECK(y.raw() == static_cast<const Tensor&>(x).raw());
      CHECK(wrong(y, rows, cols, [&](Index i, Index j) {
              return Bounded{rounded(x.values(i, j), to), 0};
            }) == "");
    }
  });
}

TEST_CASE("exponential: two units in the last place, 0 below, NaN for NaN") {
  const auto check = [](auto type, double from, double to) {
    using T = decltype(type);
    const Random random(1, "exponents");
    for (std::uint64_t i = 0; i < 20000; ++i) {
      const T x = static_cast<T>(from + (to - from) * (random.uniform(i) + 1) / 2);
      const long double truth = std::exp(static_cast<long double>(x));
      CAPTURE(x);
      CHECK_FALSE(!(std::abs(static_cast<long double>(exponential(x)) - truth) <=
                    4 * unit_roundoff(dtype_of<T>) * truth));
    }
    const T infinity = std::numeric_limits<T>::infinity();
    CHECK(exponential(T(0)) == 1);
    CHECK(exponential(-infinity) == 0);
    CHECK(exponential(std::numeric_limits<T>::lowest()) == 0);
    CHECK(std::isnan(exponential(T(not_a_number))));
  };
  check(float{}, -86.9, 87);
  check(double{}, -707.9, 700);
  check(double{}, -1, 1);
}

TEST_CASE("layer norm, with the gradients of its weights") {
  const auto check = [](const Case& c, Index rows, Index cols) {
    for (const double offset : {0.0, 10.0}) {
      CAPTURE(offset);
      Matrix values = uniform("x", rows, cols);
      for (double& value : values.data) value += offset;
      const Operand x(values, c), gamma(uniform("gamma", 1, cols), c), beta(uniform("beta", 1, cols), c);
      const Operand dy(uniform("dy", rows, cols), c);
      const double epsilon = 1e-3, n = static_cast<double>(cols);
      Matrix mean = filled(rows, 1, 0), inverse = mean, g = mean, gh = mean, g_size = mean, gh_size = mean;
      for (Index i = 0; i < rows; ++i) {
        double variance = 0;
        for (Index j = 0; j < cols; ++j) mean(i, 0) += x.values(i, j) / n;
        for (Index j = 0; j < cols; ++j) variance += std::pow(x.values(i, j) - mean(i, 0), 2) / n;
        inverse(i, 0) = 1 / std::sqrt(variance + epsilon);
        for (Index j = 0; j < cols; ++j) {
          const double t = dy.values(i, j) * gamma.values(0, j);
          g(i, 0) += t / n;
          g_size(i, 0) += std::abs(t) / n;
          gh(i, 0) += t * (x.values(i, j) - mean(i, 0)) * inverse(i, 0) / n;
          gh_size(i, 0) += std::abs(t * (x.values(i, j) - mean(i, 0)) * inverse(i, 0)) / n;
        }
      }
      const auto h = [&](Index i, Index j) { return (x.values(i, j) - mean(i, 0)) * inverse(i, 0); };
      // The mean is off by terms u max|x|, which x - mean inherits; the variance and its root add terms u.
      const double terms = std::min(n, 4 * std::sqrt(n)) + 8, u = terms * c.u();
      const auto h_error = [&](Index i, Index j) {
        const double shift = (offset + 1) * inverse(i, 0);
        return u * (shift + std::abs(h(i, j)) * (2 + shift));
      };
      poison(rows, cols, c.dtype);
      const LayerNorm norm = layer_norm(x, gamma, beta, epsilon);
      CHECK(wrong(norm.y, rows, cols, [&](Index i, Index j) {
              const double weight = gamma.values(0, j), shift = beta.values(0, j);
              return Bounded{h(i, j) * weight + shift,
                             std::abs(weight) * h_error(i, j) + 4 * c.u() * (1 + std::abs(h(i, j)))};
            }) == "");
      CHECK(wrong(layer_norm_backward(dy, norm, gamma), rows, cols, [&](Index i, Index j) {
              const double t = dy.values(i, j) * gamma.values(0, j), s = inverse(i, 0);
              const double size = std::abs(t) + g_size(i, 0) + (1 + std::abs(h(i, j))) * gh_size(i, 0);
              return Bounded{s * (t - g(i, 0) - h(i, j) * gh(i, 0)),
                             s * size * (4 * u * (1 + (offset + 1) * s) + 4 * h_error(i, j))};
            }) == "");
      const Operand dgamma(uniform("dgamma", 1, cols), c.sums()), dbeta(uniform("dbeta", 1, cols), c.sums());
      add_layer_norm_weights(dgamma, dbeta, dy, norm);
      CHECK(wrong(dgamma, 1, cols, [&](Index, Index j) {
              Bounded sum = dot(
                  rows, c.u(), dgamma.values(0, j), [&](Index i) { return dy.values(i, j); },
                  [&](Index i) { return h(i, j); });
              for (Index i = 0; i < rows; ++i) sum.bound += std::abs(dy.values(i, j)) * h_error(i, j);
              return sum;
            }) == "");
      CHECK(wrong(dbeta, 1, cols, [&](Index, Index j) {
              return dot(
                  rows, c.u(), dbeta.values(0, j), [&](Index i) { return dy.values(i, j); }, one);
            }) == "");
    }
  };
  on_every_shape(check, 1);
}

TEST_CASE("softmax and its gradient") {
  const auto check = [](const Case& c, Index rows, Index cols) {
    const Operand x(uniform("x", rows, cols, 30), c), dp(uniform("dp", rows, cols), c);
    const double terms = static_cast<double>(cols) + 8;
    Matrix sum = filled(rows, 1, 0);
    for (Index i = 0; i < rows; ++i)
      for (Index j = 0; j < cols; ++j) sum(i, 0) += std::exp(x.values(i, j));
    const Tensor p = softmax(x);
    CHECK(wrong(p, rows, cols, [&](Index i, Index j) {
            const double value = std::exp(x.values(i, j)) / sum(i, 0);
            // The argument of exp is off by 60 u. In bf16 the exponentials are stored before they are
            // divided.
            return Bounded{value, value * (2 * c.u() * (terms + 60) + 1.1 * c.stored())};
          }) == "");
    const Matrix q = elements_of(p);
    CHECK(wrong(softmax_backward(dp, p), rows, cols, [&](Index i, Index j) {
            const Bounded mean = dot(
                cols, c.u(), 0, [&](Index k) { return q(i, k); }, [&](Index k) { return dp.values(i, k); });
            const double g = dp.values(i, j);
            return Bounded{q(i, j) * (g - mean.value),
                           q(i, j) * (mean.bound + 4 * c.u() * (std::abs(g) + std::abs(mean.value)))};
          }) == "");
  };
  on_every_shape(check, 1);
}

TEST_CASE("dropout: its rate, its scale, its seed, and one mask under any cut") {
  on_every_case([](const Case& c) {
    const Index rows = 48, cols = 46;
    const Operand x(uniform("x", rows, cols), c);
    for (const double rate : {0.0, 0.1, 0.7}) {
      CAPTURE(rate);
      const Matrix whole = elements_of(dropout(x, rate, 5));
      Index kept = 0;
      for (Index i = 0; i < rows; ++i)
        for (Index j = 0; j < cols; ++j) {
          const double value = x.values(i, j) / (1 - rate);
          if (whole(i, j) == 0) continue;
          ++kept;
          CHECK_FALSE(!(std::abs(whole(i, j) - value) <= (2 * c.u() + c.stored()) * std::abs(value)));
        }
      const double n = static_cast<double>(rows * cols);  // 5 standard deviations of a binomial
      CHECK(std::abs(static_cast<double>(kept) - n * (1 - rate)) <= 5 * std::sqrt(n * rate * (1 - rate)));
      if (rate > 0) {
        CHECK(dropout(x, rate, 6).values() != whole.data);
        CHECK(dropout(x, rate, 5).values() == whole.data);
      }

      const Tensor& all = x;
      const Matrix part = elements_of(dropout(all.row_range(7, 20).column_range(3, 33), rate, 5,
                                              {.first_row = 7, .first_col = 3, .cols = cols}));
      for (Index i = 0; i < part.rows; ++i)
        for (Index j = 0; j < part.cols; ++j) CHECK(part(i, j) == whole(7 + i, 3 + j));
    }
  });
}

TEST_CASE_ON_EVERY_DEVICE("NaN goes through every function") {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    CAPTURE(name(dtype));
    const Tensor bad = tensor_of({2, 2, {1, not_a_number, -1, 2}}, dtype);
    const Tensor good = tensor_of({2, 2, {1, 2, 3, 4}}, dtype), row = tensor_of({1, 2, {1, 2}}, dtype);
    for (const Tensor& y : {gelu(bad), relu(bad), add(good, bad), scale(bad, 0), add_bias(bad, row),
                            gelu_backward(bad, good), gelu_backward(good, bad), relu_backward(bad, good),
                            dropout(bad, 0.0, 1), cast(bad, DType::f32), cast(bad, DType::f64)}) {
      const auto values = y.values();
      CHECK(std::isnan(values[1]));
      CHECK_FALSE(std::isnan(values[0] + values[2] + values[3]));
    }
    CHECK(std::isnan(sum_rows(bad).values()[1]));
    const LayerNorm norm = layer_norm(bad, row, row), fine = layer_norm(good, row, row);
    for (const Tensor& y : {norm.y, softmax(bad), layer_norm_backward(bad, fine, row),
                            layer_norm_backward(good, norm, row), softmax_backward(bad, good)}) {
      const auto values = y.values();
      CHECK(std::isnan(values[0]));
      CHECK(std::isnan(values[1]));
      CHECK_FALSE(std::isnan(values[2] + values[3]));
    }
    CHECK_FALSE(std::isnan(sum_rows(bad).values()[0]));
    CHECK(std::isnan(matmul(bad, good).values()[0]));
    CHECK(std::isnan(matmul(good, t(bad)).values()[0]));
    const auto kept = matmul(bad, good).values();
    CHECK_FALSE(std::isnan(kept[2] + kept[3]));
  }
}

TEST_CASE("embedding: repeated ids sum up, ids outside give zeros and no gradient") {
  on_every_case([](const Case& c) {
    for (const Index width : {1, 5, 257}) {
      CAPTURE(width);
      const Index vocabulary = 7;
      std::vector<double> ids{3, 0, 3, -1, 6, 7, 3, 2147483647, -2147483648.0, 0};
      for (int i = 0; i < 100; ++i) ids.push_back((i * i) % 9 - 1);
      const auto n = static_cast<Index>(ids.size());
      const auto id = [&](Index i) { return static_cast<Index>(ids[i]); };
      const Operand table(uniform("table", vocabulary, width), c), dy(uniform("dy", n, width), c);
      poison(n, width, c.dtype);
      CHECK(wrong(embedding(ids_of(ids), table), n, width, [&](Index i, Index j) {
              return Bounded{id(i) >= 0 && id(i) < vocabulary ? table.values(id(i), j) : 0, 0};
            }) == "");
      const Operand dtable(uniform("dtable", vocabulary, width), c.sums());
      add_embedding_backward(dtable, dy, ids_of(ids));
      CHECK(wrong(dtable, vocabulary, width, [&](Index row, Index j) {
              return dot(
                  n, c.u(), dtable.values(row, j), [&](Index i) { return dy.values(i, j); },
                  [&](Index i) { return id(i) == row ? 1.0 : 0.0; });
            }) == "");
      CHECK(embedding(ids_of({}), table).rows() == 0);
      const Operand untouched(uniform("dtable", vocabulary, width), c.sums());
      add_embedding_backward(untouched, Tensor::empty(0, width, c.dtype), ids_of({}));
      CHECK(untouched.unchanged());
    }
  });
}

TEST_CASE("scale_rows has a factor for each row, row_dots a product of each pair of rows") {
  on_every_case([](const Case& c) {
    for (const Index width : {1, 5, 257}) {
      CAPTURE(width);
      const Index n = 9;
      const Operand a(uniform("a", n, width), c), b(uniform("b", n, width), c);
      const Operand f(uniform("f", n, 1), c.sums());
      poison(n, width, c.dtype);
      CHECK(wrong(scale_rows(a, f), n, width,
                  [&](Index i, Index j) { return near(f.values(i, 0) * a.values(i, j), c.u()); }) == "");
      CHECK(wrong(row_dots(a, b), n, 1, [&](Index i, Index) {
              return dot(
                  width, c.u(), 0, [&](Index j) { return a.values(i, j); },
                  [&](Index j) { return b.values(i, j); });
            }) == "");
    }
  });
}

TEST_CASE("cross-entropy and its gradient") {
  const auto check = [](const Case& c, Index rows, Index cols) {
    for (const double size : {1.0, 30.0}) {
      CAPTURE(size);
      const Operand logits(uniform("logits", rows, cols, size), c);
      std::vector<double> targets;
      for (Index i = 0; i < rows; ++i) targets.push_back(static_cast<double>((i * 7 + 3) % cols));
      const auto target = [&](Index i) { return static_cast<Index>(targets[i]); };
      Matrix largest = filled(rows, 1, -1e9), sum = filled(rows, 1, 0);
      for (Index i = 0; i < rows; ++i) {
        for (Index j = 0; j < cols; ++j) largest(i, 0) = std::max(largest(i, 0), logits.values(i, j));
        for (Index j = 0; j < cols; ++j) sum(i, 0) += std::exp(logits.values(i, j) - largest(i, 0));
      }
      const CrossEntropy result = cross_entropy(logits, ids_of(targets));
      // exp turns the error u |x - max| of its argument into a relative one; the sum adds at most cols u.
      const double base = static_cast<double>(cols) + 8;
      CHECK(wrong(result.loss, rows, 1, [&](Index i, Index) {
              const double depth = largest(i, 0) - logits.values(i, target(i)),
                           loss = std::log(sum(i, 0)) + depth;
              return Bounded{loss, 2 * c.u() * (base + size * 2 + depth + loss) + c.stored()};
            }) == "");
      CHECK(wrong(result.probabilities, rows, cols, [&](Index i, Index j) {
              const double p = std::exp(logits.values(i, j) - largest(i, 0)) / sum(i, 0);
              return Bounded{p, p * (2 * c.u() * (base + size * 2) + 1.1 * c.stored())};
            }) == "");

      // The gradient from the probabilities as they are: their own errors were bounded above.
      const Matrix p = elements_of(result.probabilities);
      CHECK(wrong(cross_entropy_backward(result, ids_of(targets), 3 * rows + 1), rows, cols,
                  [&](Index i, Index j) {
                    const double value = (p(i, j) - (j == target(i) ? 1 : 0)) / (3.0 * rows + 1);
                    return Bounded{value, 4 * c.u() * std::abs(value)};
                  }) == "");
    }
  };
  on_every_shape(check, 1);
}

TEST_CASE_ON_EVERY_DEVICE("cross-entropy: huge logits do not overflow, NaN is not hidden") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    CAPTURE(name(dtype));
    const Tensor logits =
        tensor_of({4, 3, {1e4, 0, -1e4, 1e4, 0, -1e4, 1e30, 1e30, -1e30, -1e4, -1e4, -1e4}}, dtype);
    const CrossEntropy result = cross_entropy(logits, ids_of({0, 2, 1, 0}));
    const auto loss = result.loss.values(), p = result.probabilities.values();
    CHECK(loss[0] == 0);
    CHECK(loss[1] == 2e4);
    CHECK(std::abs(loss[2] - std::log(2.0)) <= 4 * unit_roundoff(dtype));
    CHECK(std::abs(loss[3] - std::log(3.0)) <= 4 * unit_roundoff(dtype));
    CHECK(p[0] == 1);
    CHECK(p[2] == 0);
    CHECK(p[6] == 0.5);
    for (const double g : cross_entropy_backward(result, ids_of({0, 2, 1, 0}), 4).values())
      CHECK(std::abs(g) <= 0.25);
  }
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const Index bad : {0, 1, 2}) {  // a comparison with NaN is false: the place matters
      CAPTURE(bad);
      Matrix values = filled(3, 3, 1);
      values(1, bad) = not_a_number;
      const CrossEntropy broken = cross_entropy(tensor_of(values, dtype), ids_of({0, 0, 0}));
      const auto losses = broken.loss.values();
      CHECK(std::isnan(losses[1]));
      CHECK_FALSE(std::isnan(losses[0] + losses[2]));
      const Matrix q = elements_of(broken.probabilities);
      for (const Index j : {0, 1, 2}) {
        CHECK(std::isnan(q(1, j)));
        CHECK_FALSE(std::isnan(q(0, j) + q(2, j)));
      }
      CHECK(std::isnan(cross_entropy_backward(broken, ids_of({0, 0, 0}), 3).values()[4]));
    }
}

TEST_CASE("SGD with momentum against its formula, five steps") {
  on_every_shape([](const Case& c, Index rows, Index cols) {
    check_optimiser(
        c, {uniform("w", rows, cols), uniform("v", rows, cols)},
        [](const auto& state, T g, int) { sgd(state[0], state[1], g, 0.1, 0.9); },
        [](auto& state, std::size_t i, double g, int) {
          state[1].data[i] = 0.9 * state[1].data[i] + g;
          state[0].data[i] -= 0.1 * state[1].data[i];
        },
        [](std::size_t, double) {
          return 40;
        });  // values stay below 5, and each step rounds a handful of times
  });
}

TEST_CASE_ON_EVERY_DEVICE("an optimiser gives a shard the bits of the whole, wherever the shard begins") {
  const Index size = 1003;  // on a GPU, elements in fours and single ones are kernels of their own
  for (const bool adaptive : {true, false})
    for (const DType dtype : {DType::f32, DType::f64}) {
      std::vector<Tensor> whole, cut;
      for (const char* name : {"w", "m", "v", "g"}) {
        whole.push_back(generate(1, name, Slice::whole(1, size), dtype, Fill::uniform, 1));
        if (*name == 'v') whole.back() = relu(whole.back());
        cut.push_back(whole.back().copy());
      }
      const auto step = [&](const std::vector<Tensor>& x, Range at, int number) {
        const auto part = [&](std::size_t k) { return x[k].column_range(at.begin, at.end); };
        if (adaptive)
          adamw(part(0), part(1), part(2), part(3), {}, number);
        else
          sgd(part(0), part(1), part(3), 0.1, 0.9);
      };
      for (int number = 1; number <= 3; ++number) {
        step(whole, {0, 1000}, number), step(whole, {1000, size}, number);
        for (Index begin = 0; begin < size; begin += 335)
          step(cut, {begin, std::min(begin + 335, size)}, number);
      }
      for (std::size_t k = 0; k < 3; ++k) CHECK(whole[k].values() == cut[k].values());
    }
}

TEST_CASE("AdamW against its formula, five steps") {
  for (const AdamW& o :
       {AdamW{}, AdamW{.lr = 0.05, .beta1 = 0.8, .beta2 = 0.95, .epsilon = 0.1, .decay = 0.3}})
    on_every_shape([&](const Case& c, Index rows, Index cols) {
      check_optimiser(
          c, {uniform("w", rows, cols), filled(rows, cols, 0), filled(rows, cols, 0)},
          [&](const auto& state, T g, int step) { adamw(state[0], state[1], state[2], g, o, step); },
          [&](auto& state, std::size_t i, double g, int step) {
            double &w = state[0].data[i], &m = state[1].data[i], &v = state[2].data[i];
            m = o.beta1 * m + (1 - o.beta1) * g;
            v = o.beta2 * v + (1 - o.beta2) * g * g;
            const double m_hat = m / (1 - std::pow(o.beta1, step)), v_hat = v / (1 - std::pow(o.beta2, step));
            w -= o.lr * (m_hat / (std::sqrt(v_hat) + o.epsilon) + o.decay * w);
          },
          // m is below 1, and w moves by some lr a step. v is a sum of positive terms, so its bound is
          // relative: 1 - beta2 must be right to the last digits even where it is 0.001.
          [](std::size_t k, double value) { return k == 2 ? 8 * value : 8; });
    });
}

TEST_CASE_ON_EVERY_DEVICE("reduce: in the order of its inputs, into any of them, and a NaN stays") {
  for (const DType dtype : {DType::f32, DType::f64, DType::i32})
    for (const Index n : {1, 5, 5000})
      for (const Index ranks : {1, 2, 3, 7}) {
        INFO(name(dtype), ", ", ranks, " ranks, ", n, " elements");
        for (const Reduce how : {Reduce::sum, Reduce::max}) {
          std::vector<Tensor> inputs;
          for (Index r = 0; r < ranks; ++r)
            inputs.push_back(tensor_of(uniform(format("x{}", r).c_str(), 1, n, 100), dtype));
          std::vector<double> expected = inputs[0].values();
          for (std::size_t r = 1; r < inputs.size(); ++r) {
            const std::vector<double> x = inputs[r].values();
            for (std::size_t i = 0; i < expected.size(); ++i) {
              expected[i] = how == Reduce::sum ? expected[i] + x[i] : std::max(expected[i], x[i]);
              if (dtype == DType::f32) expected[i] = static_cast<float>(expected[i]);
            }
          }
          const Tensor out = Tensor::empty(1, n, dtype);
          kernels_of(out).reduce(out, inputs, how);
          CHECK(out.values() == expected);
          kernels_of(out).reduce(inputs.back(), inputs, how);
          CHECK(inputs.back().values() == expected);
        }
      }
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Reduce how : {Reduce::sum, Reduce::max})
      for (const std::size_t bad : {0, 1, 2}) {
        CAPTURE(bad);
        std::vector<Tensor> inputs(3, Tensor::zeros(1, 2, dtype));
        inputs[bad] = tensor_of({1, 2, {1, not_a_number}}, dtype);
        const Tensor out = Tensor::empty(1, 2, dtype);
        kernels_of(out).reduce(out, inputs, how);
        CHECK(std::isnan(out.values()[1]));
        CHECK_FALSE(std::isnan(out.values()[0]));
      }
}

TEST_CASE_ON_EVERY_DEVICE("sum_of_squares sums in f64, whatever the dtype of the parts") {
  const auto all = [](double value, DType dtype) {
    const std::vector<double> ones(257, value);
    return std::vector{Tensor::of(1, 257, ones, dtype), Tensor::zeros(3, 0, dtype),
                       Tensor::of(257, 1, ones, dtype)};
  };
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    INFO("parts in ", name(dtype));
    CHECK(sum_of_squares(all(1, dtype)) == 514);
    CHECK(sum_of_squares(all(0x1p100, dtype)) == 514 * 0x1p200);  // no f32 holds these two
    CHECK(sum_of_squares(all(0x1p-100, dtype)) == 514 * 0x1p-200);
  }
}

TEST_CASE("a product whose sizes no BLAS can count is refused, or right") {
  const float a = 2, b = 3;
  float c = 7;
  const auto multiply = [&](Index m, Index lda) {
    blas::gemm(false, false, m, 1, 1, &a, lda, &b, 1, 0, &c, 1);
  };
  if (!blas_name().starts_with("OpenBLAS")) {
    multiply(1, (Index{1} << 31) + 1);
    CHECK(c == 6);
    return;
  }
  refuses([&] { multiply(1, (Index{1} << 31) + 1); }, "BLAS counts to 2147483647");
  refuses([&] { multiply((Index{1} << 32) + 1, 1); }, "BLAS counts to 2147483647");
}

TEST_CASE("one thread and two give the same bits, in everything but products") {
  const Device::Scope scope(Device::make(DeviceKind::cpu));
  for (const DType dtype : {DType::f32, DType::f64}) {
    const auto all = [&](int threads) {
      set_math_threads(threads);
      const Results results = every_function(301, 257, [&](const char* name, Index rows, Index cols) {
        return tensor_of(uniform(name, rows, cols, 3), dtype);  // above the size where threads start
      });
      set_math_threads(1);
      return results;
    };
    const Results single = all(1), two = all(2);
    for (std::size_t i = 0; i < single.size(); ++i) CHECK_MESSAGE(single[i] == two[i], i);
  }
}

TEST_CASE_ON_EVERY_DEVICE("operands that do not fit are refused, and the message names both") {
  const auto zeros = [](Index rows, Index cols, DType dtype = DType::f32) {
    return Tensor::zeros(rows, cols, dtype);
  };
  const Tensor x = zeros(5, 3), wide = zeros(5, 3, DType::f64), turned = zeros(3, 5), row = zeros(1, 3);
  const Tensor ids = zeros(5, 1, DType::i32), few = zeros(4, 1, DType::i32);
  const std::string mine = "(5, 3) f32";

  refuses([&] { matmul(x, x); }, "matmul: (5, 3) f32 times (5, 3) f32");
  refuses([&] { matmul(t(x), turned); }, "matmul: (5, 3) f32^T times (3, 5) f32");
  refuses([&] { matmul(x, t(turned)); }, "matmul: (5, 3) f32 times (3, 5) f32^T");
  refuses([&] { matmul(x, zeros(3, 5, DType::f64)); }, mine, "(3, 5) f64");
  refuses([&] { matmul(ids, t(ids)); }, "matmul", "i32");
  refuses([&] { add_matmul(row, x, turned); }, "(3, 5) f32", "is not (1, 3) f32");
  refuses([&] { add_matmul(turned, t(x), turned); }, "(5, 3) f32^T", "is not (3, 5) f32");
  refuses([&] { add(x, turned); }, "add: (5, 3) f32", "(3, 5) f32");
  refuses([&] { add(x, row); }, mine, "(1, 3) f32");
  refuses([&] { add(x, wide); }, mine, "(5, 3) f64");
  refuses([&] { add(ids, ids); }, "add: (5, 1) i32", "not for arithmetic");
  refuses([&] { add_to(x, turned); }, "add_to: (5, 3) f32", "(3, 5) f32");
  refuses([&] { scale(ids, 2); }, "scale: (5, 1) i32");
  refuses([&] { add_bias(x, turned); }, "add_bias: (3, 5) f32", mine);
  refuses([&] { add_bias(x, zeros(1, 5)); }, "(1, 5) f32", mine);
  refuses([&] { add_bias(x, zeros(1, 3, DType::f64)); }, "(1, 3) f64", mine);
  refuses([&] { sum_rows(ids); }, "sum_rows: (5, 1) i32");
  refuses([&] { add_sum_rows(zeros(1, 5), x); }, "add_sum_rows: (1, 5) f32", mine);
  refuses([&] { cast(ids, DType::f32); }, "cast: (5, 1) i32 to f32");
  refuses([&] { cast(x, DType::i32); }, "cast: (5, 3) f32 to i32");
  refuses([&] { gelu(ids); }, "gelu: (5, 1) i32");
  refuses([&] { relu(ids); }, "relu: (5, 1) i32");
  refuses([&] { gelu_backward(x, turned); }, "gelu_backward: (5, 3) f32", "(3, 5) f32");
  refuses([&] { relu_backward(wide, x); }, "relu_backward: (5, 3) f64", mine);
  refuses([&] { scale_rows(x, few); }, "scale_rows: (4, 1) i32", "(5, 1) f32");
  refuses([&] { row_dots(x, turned); }, "row_dots: (5, 3) f32", "(3, 5) f32");
  refuses([&] { embedding(x, x); }, "embedding: ids (5, 3) f32");
  refuses([&] { embedding(zeros(5, 2, DType::i32), x); }, "embedding: ids (5, 2) i32", mine);
  refuses([&] { embedding(ids, ids); }, "embedding: (5, 1) i32");
  refuses([&] { add_embedding_backward(turned, x, ids); }, mine, "the table (3, 5) f32");
  refuses([&] { add_embedding_backward(wide, x, ids); }, mine, "the table (5, 3) f64");
  refuses([&] { add_embedding_backward(x, x, few); }, "ids (4, 1) i32", mine);
  refuses([&] { cross_entropy(x, few); }, "cross_entropy: ids (4, 1) i32", mine);
  refuses([&] { cross_entropy(ids, ids); }, "cross_entropy: (5, 1) i32");
  const CrossEntropy saved = cross_entropy(x, ids);
  refuses([&] { cross_entropy_backward(saved, few, 5); }, "ids (4, 1) i32", mine);
  refuses([&] { cross_entropy_backward(saved, ids, 0); }, "number of tokens");
  refuses([&] { sgd(x, turned, x, 0.1, 0.9); }, "sgd: (5, 3) f32", "(3, 5) f32");
  refuses([&] { sgd(x, x, wide, 0.1, 0.9); }, "sgd: (5, 3) f32", "(5, 3) f64");
  refuses([&] { adamw(x, turned, x, x, {}, 1); }, "adamw: (5, 3) f32", "(3, 5) f32");
  refuses([&] { adamw(x, x, turned, x, {}, 1); }, "adamw: (5, 3) f32", "(3, 5) f32");
  refuses([&] { adamw(x, x, x, turned, {}, 1); }, "adamw: (5, 3) f32", "(3, 5) f32");
  refuses([&] { adamw(x, x, x, x, {}, 0); }, "steps count from 1");
  refuses([&] { gelu(Tensor()); }, "the tensor is undefined");
  refuses([&] { matmul(x, Tensor()); }, "the tensor is undefined");

  const Device::Scope elsewhere(Device::make(DeviceKind::cpu));
  const Tensor far = zeros(5, 3), far_ids = zeros(5, 1, DType::i32);
  refuses([&] { matmul(t(x), far); }, "matmul: (5, 3) f32 and (5, 3) f32", "different devices");
  refuses([&] { add_matmul(zeros(3, 3), t(x), x); }, "(5, 3) f32 and (3, 3) f32", "different devices");
  refuses([&] { add(x, far); }, "add: (5, 3) f32 and", "different devices");
  refuses([&] { add_bias(x, zeros(1, 3)); }, "(1, 3) f32 and (5, 3) f32", "different devices");
  refuses([&] { embedding(far_ids, x); }, "(5, 1) i32 and (5, 3) f32", "different devices");
  refuses([&] { cross_entropy(x, far_ids); }, "(5, 1) i32 and (5, 3) f32", "different devices");
  refuses([&] { sgd(x, x, far, 0.1, 0); }, "sgd:", "different devices");
}
