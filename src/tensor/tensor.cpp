#include "tensor/tensor.hpp"

#include <algorithm>

#include "tensor/error.hpp"

namespace tessera {

std::size_t size_of(DType dtype) {
  static constexpr std::size_t sizes[] = {4, 8, 4, 2};
  return sizes[static_cast<int>(dtype)];
}

const char* name(DType dtype) {
  static constexpr const char* names[] = {"f32", "f64", "i32", "bf16"};
  return names[static_cast<int>(dtype)];
}

Storage::Storage(std::shared_ptr<Device> device, std::size_t bytes, MemoryKind kind)
    : device_(std::move(device)), bytes_(bytes), kind_(kind) {
  restore();
}

Storage::~Storage() { release(); }

void Storage::restore() {
  if (there_) return;
  device_->memory.add(kind_, static_cast<std::int64_t>(bytes_));
  try {
    data_ = static_cast<char*>(device_->allocate(bytes_));
  } catch (...) {
    device_->memory.remove(kind_, static_cast<std::int64_t>(bytes_));
    throw;
  }
  there_ = true;
}

void Storage::release() {
  if (!there_) return;
  there_ = false;
  device_->memory.remove(kind_, static_cast<std::int64_t>(bytes_));
  device_->release(data_, bytes_);
}

void Storage::refuse() {
  throw Error("the memory of this tensor was released, and not restored before its use");
}

Tensor Tensor::empty(std::int64_t rows, std::int64_t cols, DType dtype, std::shared_ptr<Device> device) {
  expect(rows >= 0 && cols >= 0 && rows <= INT64_MAX / 8 / std::max<std::int64_t>(cols, 1),
         [&] { return format("a tensor cannot be ({}, {})", rows, cols); });
  Tensor tensor;
  tensor.rows_ = rows;
  tensor.cols_ = tensor.ld_ = cols;
  tensor.dtype_ = dtype;
  tensor.storage_ = std::make_shared<Storage>(std::move(device), static_cast<std::size_t>(tensor.bytes()),
                                              MemoryScope::current());
  return tensor;
}

Tensor Tensor::zeros(std::int64_t rows, std::int64_t cols, DType dtype) {
  Tensor tensor = empty(rows, cols, dtype);
  tensor.zero();
  return tensor;
}

Tensor Tensor::of(std::int64_t rows, std::int64_t cols, const std::vector<double>& values, DType dtype) {
  expect_eq(static_cast<std::int64_t>(values.size()), rows * cols, "values for a tensor");
  const Tensor staged = empty(rows, cols, dtype, Device::host());
  with_type(dtype, [&]<class T>(T) {
    for (std::size_t i = 0; i < values.size(); ++i) staged.data<T>()[i] = static_cast<T>(values[i]);
  });
  Tensor tensor = empty(rows, cols, dtype);
  tensor.copy_from(staged);
  return tensor;
}

const std::shared_ptr<Device>& Tensor::device() const {
  expect(defined(), "the tensor is undefined: nothing was ever assigned to it");
  return storage_->device();
}

Tensor Tensor::row_range(std::int64_t begin, std::int64_t end) const {
  expect(0 <= begin && begin <= end && end <= rows_,
         [&] { return format("rows [{}, {}) of {}", begin, end, shape(*this)); });
  Tensor view = *this;
  view.offset_ += begin * ld_;
  view.rows_ = end - begin;
  return view;
}

Tensor Tensor::column_range(std::int64_t begin, std::int64_t end) const {
  expect(0 <= begin && begin <= end && end <= cols_,
         [&] { return format("columns [{}, {}) of {}", begin, end, shape(*this)); });
  Tensor view = *this;
  view.offset_ += begin;
  view.cols_ = end - begin;
  return view;
}

Tensor Tensor::reshape(std::int64_t rows, std::int64_t cols) const {
  expect(is_contiguous(), "reshape of a view whose rows lie apart");
  expect(rows >= 0 && cols >= 0, [&] { return format("reshape to ({}, {})", rows, cols); });
  expect_eq(rows * cols, size(), "elements after reshape");
  Tensor view = *this;
  view.rows_ = rows;
  view.cols_ = view.ld_ = cols;
  return view;
}

Tensor Tensor::copy() const {
  Tensor result = empty(rows_, cols_, dtype_, device());
  result.copy_from(*this);
  return result;
}

Tensor Tensor::contiguous() const { return is_contiguous() ? *this : copy(); }

Tensor Tensor::to(std::shared_ptr<Device> target) const {
  if (target == device()) return *this;
  Tensor result = empty(rows_, cols_, dtype_, std::move(target));
  result.copy_from(*this);
  return result;
}

void Tensor::copy_from(const Tensor& source) const {
  expect(rows_ == source.rows_ && cols_ == source.cols_ && dtype_ == source.dtype_,
         [&] { return format("copy of {} into {}", shape(source), shape(*this)); });
  const std::size_t element = size_of(dtype_);
  // The side on a GPU does the work; between two tensors of the host either may.
  const auto& worker = device()->kind() == DeviceKind::cuda ? device() : source.device();
  worker->copy(raw(), static_cast<std::size_t>(ld_) * element, source.raw(),
               static_cast<std::size_t>(source.ld_) * element, static_cast<std::size_t>(cols_) * element,
               static_cast<std::size_t>(rows_));
}

void Tensor::zero() const {
  const std::size_t element = size_of(dtype_);
  device()->zero(raw(), static_cast<std::size_t>(ld_) * element, static_cast<std::size_t>(cols_) * element,
                 static_cast<std::size_t>(rows_));
}

std::vector<double> Tensor::values() const {
  const MemoryScope scope(MemoryKind::check);
  const Tensor host = to(Device::host()).contiguous();
  std::vector<double> all;
  with_type(dtype_, [&]<class T>(T) { all.assign(host.data<T>(), host.data<T>() + host.size()); });
  return all;
}

void Tensor::check_dtype(DType wanted) const {
  if (wanted != dtype_) throw Error(format("the tensor is {}, not {}", shape(*this), name(wanted)));
}

std::string shape(const Tensor& tensor) {
  return format("({}, {}) {}", tensor.rows(), tensor.cols(), name(tensor.dtype()));
}

Tensor empty_like(const Tensor& tensor) {
  return Tensor::empty(tensor.rows(), tensor.cols(), tensor.dtype(), tensor.device());
}

}  // namespace tessera
