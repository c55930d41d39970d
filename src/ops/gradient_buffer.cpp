// One row that holds the gradients of all parameters that are made while it lives.
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

GradientBuffer::GradientBuffer(std::int64_t elements, DType dtype) : outer_(std::exchange(current, this)) {
  const MemoryScope scope(MemoryKind::gradient);
  all_ = Tensor::zeros(1, elements, arithmetic(dtype));
}
GradientBuffer::~GradientBuffer() { current = outer_; }

Tensor GradientBuffer::take(const Tensor& like) {
  if (all_.size() == 0) return {};
  const std::int64_t begin = taken_;
  taken_ += like.size();
  return all_.column_range(begin, taken_).reshape(like.rows(), like.cols());
}

}  // namespace tessera
