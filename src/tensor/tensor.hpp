// Tensor: a row-major matrix, or a view of a part of one. Everything in the course has two axes: a vector is
// (1, F), token ids are (N, 1), a batch of sequences is (batch * seq, width).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tensor/bf16.hpp"
#include "tensor/device.hpp"

namespace tessera {

enum class DType { f32, f64, i32, bf16 };  // tables by DType have this order
std::size_t size_of(DType dtype);
const char* name(DType dtype);
/// The dtype of Arithmetic<T>: f32 for bf16, itself for every other.
inline DType arithmetic(DType dtype) { return dtype == DType::bf16 ? DType::f32 : dtype; }

template <class T>
inline constexpr DType dtype_of = DType::i32;
template <>
inline constexpr DType dtype_of<float> = DType::f32;
template <>
inline constexpr DType dtype_of<double> = DType::f64;
template <>
inline constexpr DType dtype_of<bf16> = DType::bf16;

/// Calls f with a number whose type is that of the dtype.
template <class F>
void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::bf16:
      return f(bf16{});
  }
}

/// Owns one block of a device's memory, and gives it back to that device's pool.
class Storage {
 public:
  Storage(std::shared_ptr<Device> device, std::size_t bytes, MemoryKind kind);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  char* data() const {
    if (!there_) refuse();
    return data_;
  }
  const std::shared_ptr<Device>& device() const { return device_; }
  void release();
  void restore();

 private:
  [[noreturn]] static void refuse();

  std::shared_ptr<Device> device_;
  bool there_ = false;
  std::size_t bytes_;
  MemoryKind kind_;
  char* data_ = nullptr;
};

/// A handle: copies of a Tensor share the elements. copy() makes new ones.
class Tensor {
 public:
  Tensor() = default;
  /// (rows, cols) with undefined elements, by default on this thread's device. The ledger counts it as this
  /// thread's MemoryKind.
  static Tensor empty(std::int64_t rows, std::int64_t cols, DType dtype,
                      std::shared_ptr<Device> device = Device::current());
  static Tensor zeros(std::int64_t rows, std::int64_t cols, DType dtype);
  /// (rows, cols) from row-major values, on this thread's device.
  static Tensor of(std::int64_t rows, std::int64_t cols, const std::vector<double>& values,
                   DType dtype = DType::f64);

  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t ld() const { return ld_; }  ///< Elements from the start of one row to the start of the next.
  std::int64_t size() const { return rows_ * cols_; }
  std::int64_t bytes() const { return size() * static_cast<std::int64_t>(size_of(dtype_)); }
  DType dtype() const { return dtype_; }
  const std::shared_ptr<Device>& device() const;  ///< Throws Error where the tensor is undefined.
  bool defined() const { return storage_ != nullptr; }
  bool is_contiguous() const { return ld_ == cols_ || rows_ <= 1; }

  /// Views, no bytes copied: rows [begin, end), columns [begin, end). Throws Error outside of the tensor.
  Tensor row_range(std::int64_t begin, std::int64_t end) const;
  Tensor column_range(std::int64_t begin, std::int64_t end) const;
  /// The same elements in the same order as (rows, cols). Throws Error unless the tensor is contiguous.
  Tensor reshape(std::int64_t rows, std::int64_t cols) const;

  Tensor copy() const;                         ///< New contiguous elements on the same device.
  Tensor contiguous() const;                   ///< This tensor, or a copy where its rows lie apart.
  Tensor to(std::shared_ptr<Device>) const;    ///< This tensor, or a copy on the other device.
  void copy_from(const Tensor& source) const;  ///< Elements of the same shape and dtype, from any device.
  void zero() const;
  /// release() gives the memory of this tensor, and of all views that share it, back to the device; restore()
  /// takes memory again, with undefined elements. The views stay, and to use one in between throws Error.
  /// PyTorch's FSDP resizes the storage of its parameters in this way.
  void release() const { storage_->release(); }
  void restore() const { storage_->restore(); }
  std::vector<double> values() const;  ///< All elements, row-major, from any device. Waits for them.

  /// The first element; on CUDA an address of the GPU. Throws Error for another dtype.
  template <class T>
  T* data() const {
    check_dtype(dtype_of<T>);
    return reinterpret_cast<T*>(raw());
  }
  char* raw() const { return storage_->data() + offset_ * static_cast<std::int64_t>(size_of(dtype_)); }

 private:
  void check_dtype(DType wanted) const;

  std::shared_ptr<Storage> storage_;
  std::int64_t offset_ = 0, rows_ = 0, cols_ = 0, ld_ = 0;
  DType dtype_ = DType::f32;
};

std::string shape(const Tensor& tensor);  ///< "(48, 96) f32"
Tensor empty_like(const Tensor& tensor);

/// A tensor read as its transpose, for matmul alone: nothing moves.
struct Transposed {
  Tensor of;
};
inline Transposed t(const Tensor& tensor) { return {tensor}; }

}  // namespace tessera
