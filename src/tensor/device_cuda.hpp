// CudaDevice: one rank's place on a GPU, with what kernels and transports need of it. Several ranks may share
// a GPU: each has streams, a handle and a pool of its own. The streams belong to one thread, the rank's;
// copies and frees may come from any.
#pragma once

#include <chrono>
#include <functional>

#include "tensor/cuda_check.hpp"
#include "tensor/device.hpp"

namespace tessera {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(int ordinal);
  ~CudaDevice() override;

  std::string description() const override;  ///< "NVIDIA H100 80GB HBM3 (GPU 0, sm_90, 79 GiB)"
  void copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
            std::size_t rows) override;
  void zero(void* block, std::size_t pitch, std::size_t width, std::size_t rows) override;
  void synchronize() override;
  Event record() override { return record(stream()); }
  void wait(const Event& event) override { wait(stream(), event); }
  Event mark() override { return mark(stream()); }
  double seconds_between(const Event& from, const Event& to) override;
  Stream select(Stream stream) override;

  void activate() const;  ///< Makes this GPU the calling thread's; it precedes every call of CUDA.
  cudaStream_t stream() const { return streams_[static_cast<int>(active_)]; }
  cudaStream_t stream(Stream which) const { return streams_[static_cast<int>(which)]; }
  cublasHandle_t blas() const { return blas_; }  ///< The handle is bound to the compute stream.

  // These do the same for a stream that a transport owns.
  Event record(cudaStream_t stream);
  Event mark(cudaStream_t stream);
  void wait(cudaStream_t stream, const Event& event);
  bool reached(const Event& event);  ///< Does not wait. The empty event is always reached.

  /// Called over and over while this thread waits for a stream, with the time when the wait began. A
  /// transport whose kernels wait for other ranks sets it, and throws from it where they never will be done.
  std::function<void(std::chrono::steady_clock::time_point began)> while_waiting;
  /// Called before memory is freed, which waits inside of CUDA until the GPU is idle. A transport whose
  /// kernels wait for other ranks sets it, and returns when none of its kernels is under way.
  std::function<void()> before_freeing;

 private:
  struct Events;  // the unused events, which outlive the device where an Event does

  void* system_allocate(std::size_t bytes) override;
  void system_release(void* block, std::size_t bytes) override;
  std::string out_of_memory(std::size_t bytes) const override;
  void before_release() override;
  void drain(cudaStream_t stream);

  cudaStream_t streams_[2] = {};
  Stream active_ = Stream::compute;
  cublasHandle_t blas_ = nullptr;
  void* workspace_ = nullptr;
  std::shared_ptr<Events> events_;
};

/// The device of a tensor on a GPU, which becomes the calling thread's.
CudaDevice& cuda_device(const std::shared_ptr<Device>& device);

}  // namespace tessera
