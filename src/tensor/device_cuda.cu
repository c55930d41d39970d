#include <cstdlib>
#include <string_view>
#include <thread>
#include <utility>

#include "tensor/device_cuda.hpp"

namespace tessera {

// An event may be recorded again while a stream still waits for its earlier mark, because the wait keeps the
// mark that it was given. So an event goes back as soon as its last holder drops it, and steady state creates
// none.
struct CudaDevice::Events {
  ~Events() {
    for (cudaEvent_t event : unused) cudaEventDestroy(event);
  }
  std::mutex mutex;
  std::vector<cudaEvent_t> unused;
};

namespace {

// cuBLAS recommends 32 MiB for sm_90, and needs less on older GPUs.
constexpr std::size_t workspace_bytes = std::size_t{32} << 20;

bool is_host(const void* address) {
  cudaPointerAttributes attributes{};
  CUDA_CHECK(cudaPointerGetAttributes(&attributes, address));
  return attributes.type == cudaMemoryTypeHost || attributes.type == cudaMemoryTypeUnregistered;
}

/// "Not ready" is an answer and no failure, yet the next cudaGetLastError would return it.
bool is_done(cudaError_t state, const char* call) {
  if (state == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check_cuda(state, call);
  return true;
}

}  // namespace

CudaDevice::CudaDevice(int ordinal) : Device(DeviceKind::cuda, ordinal), events_(std::make_shared<Events>()) {
  activate();
  // The streams do not block: work of other libraries on the legacy default stream does not wait for ours,
  // nor ours for it.
  for (cudaStream_t& stream : streams_) CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  CUBLAS_CHECK(cublasCreate(&blas_));
  CUDA_CHECK(cudaMalloc(&workspace_, workspace_bytes));
  CUBLAS_CHECK(cublasSetStream(blas_, stream(Stream::compute)));
  CUBLAS_CHECK(cublasSetWorkspace(blas_, workspace_, workspace_bytes));  // after the stream, which resets it
  // Each product says what it computes in (ops/cuda.cu). Partial sums of bf16 are not rounded.
  CUBLAS_CHECK(cublasSetMathMode(
      blas_,
      static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)));
}

CudaDevice::~CudaDevice() {
  // cudaFree waits for the whole GPU, so kernels of other ranks that read this memory end first. Nothing here
  // may throw, and after the driver's own shutdown every call just fails.
  cudaSetDevice(ordinal());
  release_pool();
  cudaFree(workspace_);
  cublasDestroy(blas_);
  for (cudaStream_t stream : streams_) cudaStreamDestroy(stream);
}

std::string CudaDevice::description() const {
  cudaDeviceProp gpu{};
  CUDA_CHECK(cudaGetDeviceProperties(&gpu, ordinal()));
  return format("{} (GPU {}, sm_{}{}, {} GiB)", gpu.name, ordinal(), gpu.major, gpu.minor,
                gpu.totalGlobalMem >> 30);
}

void CudaDevice::activate() const { CUDA_CHECK(cudaSetDevice(ordinal())); }

Stream CudaDevice::select(Stream stream) { return std::exchange(active_, stream); }

void CudaDevice::copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                      std::size_t width, std::size_t rows) {
  if (width == 0 || rows == 0) return;
  activate();
  const bool host = is_host(to) || is_host(from);
  // With pageable memory CUDA would wait for the stream inside of the call, where while_waiting is not
  // called.
  if (host) drain(stream());
  // A pitch is limited to 2 GiB and must not be below the width; a single row has none.
  if (rows == 1 || (to_pitch == width && from_pitch == width))
    CUDA_CHECK(cudaMemcpyAsync(to, from, width * rows, cudaMemcpyDefault, stream()));
  else
    CUDA_CHECK(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, rows, cudaMemcpyDefault, stream()));
  if (host) CUDA_CHECK(cudaStreamSynchronize(stream()));
}

void CudaDevice::zero(void* block, std::size_t pitch, std::size_t width, std::size_t rows) {
  if (width == 0 || rows == 0) return;
  activate();
  if (rows == 1 || pitch == width)
    CUDA_CHECK(cudaMemsetAsync(block, 0, width * rows, stream()));
  else
    CUDA_CHECK(cudaMemset2DAsync(block, pitch, 0, width, rows, stream()));
}

void CudaDevice::synchronize() {
  activate();
  for (cudaStream_t stream : streams_) drain(stream);
}

void CudaDevice::drain(cudaStream_t stream) {
  if (!while_waiting) {
    CUDA_CHECK(cudaStreamSynchronize(stream));
    return;
  }
  const auto began = std::chrono::steady_clock::now();
  while (!is_done(cudaStreamQuery(stream), "cudaStreamQuery(stream)")) {
    while_waiting(began);
    std::this_thread::yield();
  }
}

Event CudaDevice::record(cudaStream_t stream) {
  activate();
  cudaEvent_t event = nullptr;
  {
    const std::lock_guard lock(events_->mutex);
    if (!events_->unused.empty()) {
      event = events_->unused.back();
      events_->unused.pop_back();
    }
  }
  if (!event) CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  Event recorded(event, [events = events_](void* used) {
    const std::lock_guard lock(events->mutex);
    events->unused.push_back(static_cast<cudaEvent_t>(used));
  });
  CUDA_CHECK(cudaEventRecord(event, stream));
  return recorded;
}

void CudaDevice::wait(cudaStream_t stream, const Event& event) {
  if (!event) return;
  activate();
  CUDA_CHECK(cudaStreamWaitEvent(stream, static_cast<cudaEvent_t>(event.get()), 0));
}

Event CudaDevice::mark(cudaStream_t stream) {
  activate();
  cudaEvent_t event = nullptr;
  CUDA_CHECK(cudaEventCreate(&event));
  Event marked(event, [](void* used) { cudaEventDestroy(static_cast<cudaEvent_t>(used)); });
  CUDA_CHECK(cudaEventRecord(event, stream));
  return marked;
}

double CudaDevice::seconds_between(const Event& from, const Event& to) {
  const auto began = std::chrono::steady_clock::now();
  while (!reached(from) || !reached(to)) {
    if (while_waiting) while_waiting(began);
    std::this_thread::yield();
  }
  float milliseconds = 0;
  CUDA_CHECK(cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(from.get()),
                                  static_cast<cudaEvent_t>(to.get())));
  return 1e-3 * milliseconds;
}

bool CudaDevice::reached(const Event& event) {
  if (!event) return true;
  activate();
  return is_done(cudaEventQuery(static_cast<cudaEvent_t>(event.get())), "cudaEventQuery(event)");
}

void* CudaDevice::system_allocate(std::size_t bytes) {
  activate();
  void* block = nullptr;
  const cudaError_t result = cudaMalloc(&block, bytes);
  if (result == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // else the next launch check would report it
    return nullptr;
  }
  CUDA_CHECK(result);
  return block;
}

void CudaDevice::system_release(void* block, std::size_t) { cudaFree(block); }

std::string CudaDevice::out_of_memory(std::size_t bytes) const {
  return format("GPU {} has no {} B of memory left for {}", ordinal(), bytes, description());
}

void CudaDevice::before_release() {
  if (before_freeing) before_freeing();
  synchronize();
}

CudaDevice& cuda_device(const std::shared_ptr<Device>& device) {
  auto& cuda = static_cast<CudaDevice&>(*device);
  cuda.activate();
  return cuda;
}

int cuda_device_count() {
  // The first CUDA call of the process reads it. Streams that share a hardware queue wait for one another.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;  // the failed call may have left anything in `count`
}

std::string why_no_gpu() {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (result == cudaSuccess || result == cudaErrorNoDevice || driver == 0) return "no GPU found";
  const auto version = [](int number) {
    return format("{}.{}", number / 1000, number % 1000 / 10);
  };  // 12020 is 12.2
  return format("{}; the driver serves CUDA {}, this build needs {}", cudaGetErrorString(result),
                version(driver), version(runtime));
}

std::string cuda_bus_id(int ordinal) {
  char text[32] = {};
  CUDA_CHECK(cudaDeviceGetPCIBusId(text, sizeof text, ordinal));
  return text;
}

bool built_with_cuda() { return true; }

std::shared_ptr<Device> make_cuda_device(int ordinal) {
  const int count = cuda_device_count();
  if (count == 0) throw UsageError(why_no_gpu() + ": --device cpu would work");
  if (ordinal < 0 || ordinal >= count)
    throw UsageError(
        format("there is no GPU {}: this machine has {}; --ranks {} or --transport threads (ranks sharing "
               "GPU 0) would work",
               ordinal, count, count));
  // The variable turns f32 products into TF32 behind every check, and the bounds of the checks do not hold
  // for them.
  if (const char* tf32 = std::getenv("NVIDIA_TF32_OVERRIDE"); tf32 && std::string_view(tf32) != "0")
    throw UsageError(format("NVIDIA_TF32_OVERRIDE={} changes f32 products: unset it, or set it to 0", tf32));
  return std::make_shared<CudaDevice>(ordinal);
}

}  // namespace tessera
