// Rows of tensors, and the one that takes the gradients of all parameters that are made while it lives.
#include <utility>

#include "ops/ops.hpp"

namespace tessera {

namespace {
thread_local GradientBuffer* current = nullptr;
}  // namespace

Tensor zero_gradient(const Tensor& x) {
  if (current != nullptr) return current->take(x);
  const MemoryScope scope(MemoryKind::gradient);
  return Tensor::zeros(x.rows(), x.cols(), arithmetic(x.dtype()));
}

TensorRow::TensorRow(std::int64_t elements, DType dtype, MemoryKind kind) {
  const MemoryScope scope(kind);
  all_ = Tensor::zeros(1, elements, dtype);
}

GradientBuffer::GradientBuffer(std::int64_t elements, DType dtype)
    : TensorRow(elements, arithmetic(dtype), MemoryKind::gradient), outer_(std::exchange(current, this)) {}
GradientBuffer::~GradientBuffer() { current = outer_; }

Tensor TensorRow::take(const Tensor& like) {
  if (all_.size() == 0) return {};
  const std::int64_t begin = taken_;
  taken_ += like.size();
  return all_.column_range(begin, taken_).reshape(like.rows(), like.cols());
}

}  // namespace tessera
