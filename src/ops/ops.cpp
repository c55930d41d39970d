#include "ops/ops.hpp"

#include <initializer_list>

#include "tensor/error.hpp"

namespace tessera {

const Kernels& kernels_of(const Tensor& tensor) {
  return tensor.device()->kind() == DeviceKind::cuda ? cuda_kernels() : cpu_kernels();
}

namespace {
void same_place(const char* op, const Tensor& a, const Tensor& b) {
  expect(a.device() == b.device(),
         [&] { return format("{}: {} and {} live on different devices", op, shape(a), shape(b)); });
}

void same(const char* op, const Tensor& a, const Tensor& b) {
  same_place(op, a, b);
  expect(a.rows() == b.rows() && a.cols() == b.cols() && a.dtype() == b.dtype(),
         [&] { return format("{}: {} and {} are not of one shape and dtype", op, shape(a), shape(b)); });
}

/// `sums`: the row adds up the rows of x, in the dtype that x is computed in.
void row_of(const char* op, const Tensor& row, const Tensor& x, bool sums = false) {
  same_place(op, row, x);
  expect(
      row.rows() == 1 && row.cols() == x.cols() && row.dtype() == (sums ? arithmetic(x.dtype()) : x.dtype()),
      [&] { return format("{}: {} is not a row for {}", op, shape(row), shape(x)); });
}
/// (N, 1)  a number for each row of x, in the dtype that x is computed in
Tensor column(const Tensor& x) { return Tensor::empty(x.rows(), 1, arithmetic(x.dtype()), x.device()); }

void floating(const char* op, std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* tensor : tensors)
    expect(tensor->dtype() != DType::i32,
           [&] { return format("{}: {}: i32 is for ids, not for arithmetic", op, shape(*tensor)); });
}

void ids_for(const char* op, const Tensor& ids, const Tensor& rows) {
  same_place(op, ids, rows);
  expect(ids.dtype() == DType::i32 && ids.cols() == 1 && ids.rows() == rows.rows() && ids.is_contiguous(),
         [&] { return format("{}: ids {} do not fit {}", op, shape(ids), shape(rows)); });
}

struct Operand {
  const Tensor& of;
  bool transposed;
  std::int64_t rows() const { return transposed ? of.cols() : of.rows(); }
  std::int64_t cols() const { return transposed ? of.rows() : of.cols(); }
};

void gemm(const Tensor& c, double beta, Operand a, Operand b) {
  floating("matmul", {&a.of, &b.of, &c});
  for (const Tensor& x : {b.of, c}) same_place("matmul", a.of, x);
  expect(a.of.dtype() == b.of.dtype() &&
             (c.dtype() == a.of.dtype() || c.dtype() == arithmetic(a.of.dtype())) && a.cols() == b.rows() &&
             a.rows() == c.rows() && b.cols() == c.cols(),
         [&] {
           return format("matmul: {}{} times {}{} is not {}", shape(a.of), a.transposed ? "^T" : "",
                         shape(b.of), b.transposed ? "^T" : "", shape(c));
         });
  const auto whole = [](const Tensor& x) { return Stack{x, x.rows(), x.cols()}; };
  kernels_of(c).gemm(whole(c), beta, whole(a.of), a.transposed, whole(b.of), b.transposed);
}

Tensor product(Operand a, Operand b) {
  const DType dtype = a.transposed ? arithmetic(a.of.dtype()) : a.of.dtype();
  Tensor c = Tensor::empty(a.rows(), b.cols(), dtype, a.of.device());
  gemm(c, 0, a, b);
  return c;
}

/// y = f(x) and dx = f'(dy, x), element by element.
using Unary = void (Kernels::*)(const Tensor&, const Tensor&) const;
using Binary = void (Kernels::*)(const Tensor&, const Tensor&, const Tensor&) const;

Tensor element_wise(const char* op, Unary f, const Tensor& x) {
  floating(op, {&x});
  Tensor y = empty_like(x);
  (kernels_of(x).*f)(y, x);
  return y;
}

Tensor element_wise(const char* op, Binary f, const Tensor& a, const Tensor& b) {
  floating(op, {&a});
  same(op, a, b);
  Tensor y = empty_like(a);
  (kernels_of(a).*f)(y, a, b);
  return y;
}

}  // namespace

Tensor matmul(const Tensor& a, const Tensor& b) { return product({a, false}, {b, false}); }
Tensor matmul(const Transposed& a, const Tensor& b) { return product({a.of, true}, {b, false}); }
Tensor matmul(const Tensor& a, const Transposed& b) { return product({a, false}, {b.of, true}); }
void add_matmul(const Tensor& sum, const Tensor& a, const Tensor& b) { gemm(sum, 1, {a, false}, {b, false}); }
void add_matmul(const Tensor& sum, const Transposed& a, const Tensor& b) {
  gemm(sum, 1, {a.of, true}, {b, false});
}

Tensor add_bias(const Tensor& x, const Tensor& c) {
  floating("add_bias", {&x});
  row_of("add_bias", c, x);
  Tensor y = empty_like(x);
  kernels_of(x).add_bias(y, x, c);
  return y;
}

Tensor sum_rows(const Tensor& x) {
  floating("sum_rows", {&x});
  Tensor out = Tensor::empty(1, x.cols(), arithmetic(x.dtype()), x.device());
  kernels_of(x).sum_rows(out, 0, x);
  return out;
}

void add_sum_rows(const Tensor& sum, const Tensor& x) {
  floating("add_sum_rows", {&x});
  row_of("add_sum_rows", sum, x, true);
  kernels_of(x).sum_rows(sum, 1, x);
}

Tensor add(const Tensor& a, const Tensor& b) { return element_wise("add", &Kernels::add, a, b); }

void add_to(const Tensor& sum, const Tensor& x) {
  floating("add_to", {&x});
  same("add_to", sum, x);
  kernels_of(x).add(sum, sum, x);
}

Tensor scale(const Tensor& x, double factor) {
  floating("scale", {&x});
  Tensor y = empty_like(x);
  kernels_of(x).scale(y, x, factor);
  return y;
}

Tensor cast(const Tensor& x, DType dtype) {
  expect(x.dtype() != DType::i32 && dtype != DType::i32,
         [&] { return format("cast: {} to {}: i32 is for ids, not for arithmetic", shape(x), name(dtype)); });
  if (x.dtype() == dtype) return x;
  Tensor y = Tensor::empty(x.rows(), x.cols(), dtype, x.device());
  kernels_of(x).cast(y, x);
  return y;
}

double sum_of_squares(const std::vector<Tensor>& parts) {
  for (const Tensor& part : parts) {
    floating("sum_of_squares", {&part});
    same_place("sum_of_squares", part, parts[0]);
    const auto say = [&] { return format("sum_of_squares: {} beside {}", shape(part), shape(parts[0])); };
    expect(part.is_contiguous() && part.dtype() == parts[0].dtype(), say);
  }
  return parts.empty() ? 0 : kernels_of(parts[0]).sum_of_squares(parts);
}

Tensor gelu(const Tensor& x) { return element_wise("gelu", &Kernels::gelu, x); }
Tensor gelu_backward(const Tensor& dy, const Tensor& x) {
  return element_wise("gelu_backward", &Kernels::gelu_backward, dy, x);
}
Tensor relu(const Tensor& x) { return element_wise("relu", &Kernels::relu, x); }
Tensor relu_backward(const Tensor& dy, const Tensor& x) {
  return element_wise("relu_backward", &Kernels::relu_backward, dy, x);
}

Tensor embedding(const Tensor& ids, const Tensor& table) {
  floating("embedding", {&table});
  Tensor y = Tensor::empty(ids.rows(), table.cols(), table.dtype(), table.device());
  ids_for("embedding", ids, y);
  kernels_of(table).embedding(y, ids, table);
  return y;
}

void add_embedding_backward(const Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  floating("embedding_backward", {&dtable});
  ids_for("embedding_backward", ids, dy);
  same_place("embedding_backward", dtable, dy);
  expect(dtable.cols() == dy.cols() && dtable.dtype() == arithmetic(dy.dtype()), [&] {
    return format("embedding_backward: {} does not fit the table {}", shape(dy), shape(dtable));
  });
  kernels_of(dy).embedding_backward(dtable, dy, ids);
}

Tensor scale_rows(const Tensor& x, const Tensor& factors) {
  floating("scale_rows", {&x});
  same("scale_rows", factors, column(x));
  Tensor y = empty_like(x);
  kernels_of(x).scale_rows(y, x, factors);
  return y;
}

Tensor row_dots(const Tensor& a, const Tensor& b) {
  floating("row_dots", {&a});
  same("row_dots", a, b);
  Tensor dots = column(a);
  kernels_of(a).row_dots(dots, a, b);
  return dots;
}

LayerNorm layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) {
  floating("layer_norm", {&x});
  for (const Tensor& row : {gamma, beta}) row_of("layer_norm", row, x);
  LayerNorm result{empty_like(x), x, column(x), column(x)};
  kernels_of(x).layer_norm(result.y, result.mean, result.inverse_deviation, x, gamma, beta, epsilon);
  return result;
}

Tensor layer_norm_backward(const Tensor& dy, const LayerNorm& saved, const Tensor& gamma) {
  same("layer_norm_backward", dy, saved.x);
  row_of("layer_norm_backward", gamma, dy);
  Tensor dx = empty_like(dy);
  kernels_of(dy).layer_norm_backward(dx, dy, saved.x, saved.mean, saved.inverse_deviation, gamma);
  return dx;
}

void add_layer_norm_weights(const Tensor& dgamma, const Tensor& dbeta, const Tensor& dy,
                            const LayerNorm& saved) {
  same("layer_norm_weights", dy, saved.x);
  for (const Tensor& sum : {dgamma, dbeta}) row_of("layer_norm_weights", sum, dy, true);
  kernels_of(dy).layer_norm_gamma(dgamma, dy, saved.x, saved.mean, saved.inverse_deviation);
  kernels_of(dy).sum_rows(dbeta, 1, dy);
}

Tensor softmax(const Tensor& x) {
  floating("softmax", {&x});
  Tensor p = empty_like(x);
  kernels_of(x).softmax(p, x, {.mask = Mask::none, .keys = x.cols()});
  return p;
}

Tensor softmax_backward(const Tensor& dp, const Tensor& p) {
  floating("softmax_backward", {&p});
  same("softmax_backward", dp, p);
  Tensor dx = empty_like(p);
  kernels_of(p).softmax_backward(dx, dp, p, 1);
  return dx;
}

CrossEntropy cross_entropy(const Tensor& logits, const Tensor& targets) {
  floating("cross_entropy", {&logits});
  ids_for("cross_entropy", targets, logits);
  CrossEntropy result{column(logits), empty_like(logits)};
  kernels_of(logits).cross_entropy(result.loss, result.probabilities, logits, targets);
  return result;
}

Tensor row_largest(const Tensor& x) {
  floating("row_largest", {&x});
  Tensor largest = column(x);
  kernels_of(x).row_largest(largest, x);
  return largest;
}

CrossEntropyTerms cross_entropy_terms(const Tensor& logits, const Tensor& largest, const Tensor& targets) {
  floating("cross_entropy_terms", {&logits});
  ids_for("cross_entropy_terms", targets, logits);
  CrossEntropyTerms terms{empty_like(logits), column(logits), column(logits)};
  same("cross_entropy_terms", largest, terms.sum);
  kernels_of(logits).cross_entropy_terms(terms, logits, largest, targets);
  return terms;
}

CrossEntropy cross_entropy_of(const CrossEntropyTerms& terms) {
  same("cross_entropy_of", terms.sum, terms.target);
  const CrossEntropy result{empty_like(terms.sum), terms.exponentials};
  kernels_of(terms.sum).cross_entropy_of(result.loss, terms);
  return result;
}

Tensor cross_entropy_backward(const CrossEntropy& saved, const Tensor& targets, std::int64_t tokens) {
  ids_for("cross_entropy_backward", targets, saved.probabilities);
  expect(tokens > 0, "cross_entropy_backward: the global number of tokens is positive");
  Tensor dlogits = empty_like(saved.probabilities);
  kernels_of(dlogits).cross_entropy_backward(dlogits, saved.probabilities, targets,
                                             1.0 / static_cast<double>(tokens));
  return dlogits;
}

void store(const Tensor& w, const Tensor& master) {
  floating("store", {&w, &master});
  expect(w.rows() == master.rows() && w.cols() == master.cols() && w.device() == master.device(),
         [&] { return format("store: {} is no master of {}", shape(master), shape(w)); });
  if (w.raw() != master.raw()) kernels_of(w).cast(w, master);
}

void sgd(const Tensor& w, const Tensor& velocity, const Tensor& g, double lr, double momentum) {
  for (const Tensor& x : {g, velocity}) same("sgd", w, x);
  kernels_of(w).sgd(w, velocity, g, lr, momentum);
}

void adamw(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& g, const AdamW& options,
           std::int64_t step) {
  for (const Tensor& x : {g, m, v}) same("adamw", w, x);
  expect(step >= 1, "adamw: steps count from 1");
  kernels_of(w).adamw(w, m, v, g, options, step);
}

}  // namespace tessera
