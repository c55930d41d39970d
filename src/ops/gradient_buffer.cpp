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

TensorRow::TensorRow(const std::vector<std::int64_t>& elements, int ranks, DType dtype, MemoryKind kind,
                     bool held)
    : elements_(elements) {
  const MemoryScope scope(kind);
  for (const std::int64_t row : elements) {
    rows_.push_back(Tensor::zeros(1, padded(row, ranks), dtype));
    if (!held) rows_.back().release();
  }
}

GradientBuffer::GradientBuffer(const std::vector<std::int64_t>& elements, int ranks, DType dtype, bool held)
    : TensorRow(elements, ranks, arithmetic(dtype), MemoryKind::gradient, held),
      outer_(std::exchange(current, this)) {}
GradientBuffer::~GradientBuffer() { current = outer_; }

Tensor TensorRow::take(const Tensor& like) {
  if (rows_.empty()) return {};
  if (taken_ == elements_[row_] && row_ + 1 < rows_.size()) ++row_, taken_ = 0;
  const std::int64_t begin = taken_;
  taken_ += like.size();
  return all(row_)
      .column_range(0, elements_[row_])
      .column_range(begin, taken_)
      .reshape(like.rows(), like.cols());
}

}  // namespace tessera
