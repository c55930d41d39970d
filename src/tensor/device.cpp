#include "tensor/device.hpp"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "tensor/error.hpp"

namespace tessera {

namespace {

constexpr std::size_t granule = 256;
std::size_t rounded(std::size_t bytes) {
  return (std::max<std::size_t>(bytes, 1) + granule - 1) / granule * granule;
}

/// The bytes that this process may use: the machine's memory, or less where a batch system's control group
/// says so.
std::int64_t physical_memory() {
  std::int64_t most = sysconf(_SC_PHYS_PAGES) * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE)), group = 0;
  for (const char* file : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"})
    if (std::ifstream(file) >> group) most = std::min(most, group);
  return most;
}

class CpuDevice final : public Device {
 public:
  CpuDevice() : Device(DeviceKind::cpu, 0) {}
  ~CpuDevice() override { release_pool(); }
  std::string description() const override { return "CPU"; }

  void copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
            std::size_t rows) override {
    if (width == 0) return;
    if (to_pitch == width && from_pitch == width) {
      std::memcpy(to, from, width * rows);
      return;
    }
    for (std::size_t row = 0; row < rows; ++row)
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                  width);
  }

  void zero(void* block, std::size_t pitch, std::size_t width, std::size_t rows) override {
    for (std::size_t row = 0; row < rows; ++row)
      std::memset(static_cast<char*>(block) + row * pitch, 0, width);
  }

 private:
  void* system_allocate(std::size_t bytes) override {
    // We ask beforehand, because Linux grants more than there is and kills the process that then writes to
    // it.
    static const std::int64_t most = physical_memory();
    const auto wanted = static_cast<std::int64_t>(bytes);
    const std::int64_t held = taken_.fetch_add(wanted);
    void* block = wanted <= most - held ? std::aligned_alloc(granule, bytes) : nullptr;
    if (block != nullptr) return block;
    taken_.fetch_sub(wanted);
    return nullptr;
  }
  std::string out_of_memory(std::size_t bytes) const override {
    return format(
        "the system has no {} B of memory left: this machine has {} B, and its ranks hold {} B. Smaller "
        "sizes or fewer ranks would work.",
        bytes, physical_memory(), taken_.load());
  }
  void system_release(void* block, std::size_t bytes) override {
    std::free(block);
    taken_.fetch_sub(static_cast<std::int64_t>(bytes));
  }
  static inline std::atomic<std::int64_t> taken_ = 0;  // bytes that all ranks of the process hold
};

thread_local std::shared_ptr<Device> thread_device;

}  // namespace

const char* name(DeviceKind kind) { return kind == DeviceKind::cpu ? "cpu" : "cuda"; }

std::shared_ptr<Device> Device::make(DeviceKind kind, int ordinal) {
  if (kind == DeviceKind::cuda) return make_cuda_device(ordinal);
  return std::make_shared<CpuDevice>();
}

const std::shared_ptr<Device>& Device::current() {
  static const std::shared_ptr<Device> fallback = make(DeviceKind::cpu);
  return thread_device ? thread_device : fallback;
}

const std::shared_ptr<Device>& Device::host() {
  static const std::shared_ptr<Device> host = make(DeviceKind::cpu);
  return host;
}

Device::Scope::Scope(std::shared_ptr<Device> device) : outer_(std::move(thread_device)) {
  thread_device = std::move(device);
}
Device::Scope::~Scope() { thread_device = std::move(outer_); }

void* Device::allocate(std::size_t bytes) {
  const std::size_t size = rounded(bytes);
  {
    std::lock_guard lock(mutex_);
    if (auto blocks = free_.find(size); blocks != free_.end() && !blocks->second.empty()) {
      void* block = blocks->second.back();
      blocks->second.pop_back();
      return block;
    }
    ++system_allocations_;
  }
  void* block = system_allocate(size);
  if (block == nullptr) {
    before_release();
    if (release_pool()) block = system_allocate(size);
  }
  if (block == nullptr) throw UsageError(out_of_memory(size));
  return block;
}

void Device::release(void* block, std::size_t bytes) {
  std::lock_guard lock(mutex_);
  free_[rounded(bytes)].push_back(block);
}

using Clock = std::chrono::steady_clock;
Event Device::mark() { return std::make_shared<Clock::time_point>(Clock::now()); }
double Device::seconds_between(const Event& from, const Event& to) {
  const auto at = [](const Event& event) { return *static_cast<const Clock::time_point*>(event.get()); };
  return std::chrono::duration<double>(at(to) - at(from)).count();
}

std::int64_t Device::system_allocations() const {
  std::lock_guard lock(mutex_);
  return system_allocations_;
}

bool Device::release_pool() {
  std::map<std::size_t, std::vector<void*>> idle;
  {
    const std::lock_guard lock(mutex_);
    idle.swap(free_);
  }
  bool any = false;
  for (auto& [size, blocks] : idle)
    for (void* block : blocks) {
      system_release(block, size);
      any = true;
    }
  return any;
}

}  // namespace tessera
