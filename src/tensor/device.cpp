#include "tensor/device.hpp"

#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <tuple>

#include "tensor/error.hpp"

namespace tessera {

namespace {

constexpr std::size_t granule = 256;
std::size_t rounded(std::size_t bytes) {
  return (std::max<std::size_t>(bytes, 1) + granule - 1) / granule * granule;
}

/// The number behind `key` in a file of lines "key number unit", or the first number where there is no key.
std::optional<std::int64_t> number_in(const std::string& file, const std::string& key) {
  std::ifstream lines(file);
  std::int64_t number = 0;
  if (key.empty()) return lines >> number ? std::optional(number) : std::nullopt;
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key)) return std::stoll(line.substr(key.size()));
  return std::nullopt;
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
    static const std::int64_t most = available_memory();
    const auto wanted = static_cast<std::int64_t>(bytes);
    const std::int64_t held = taken_.fetch_add(wanted);
    void* block = wanted <= most - held ? std::aligned_alloc(granule, bytes) : nullptr;
    if (block != nullptr) return block;
    taken_.fetch_sub(wanted);
    return nullptr;
  }
  std::string out_of_memory(std::size_t bytes) const override {
    return format("no {} B of memory left: {} B are free on this machine, beside the {} B of its ranks",
                  bytes, available_memory(), taken_.load());
  }
  void system_release(void* block, std::size_t bytes) override {
    std::free(block);
    taken_.fetch_sub(static_cast<std::int64_t>(bytes));
  }
  static inline std::atomic<std::int64_t> taken_ = 0;  // bytes that all ranks of the process hold
};

thread_local std::shared_ptr<Device> thread_device;

}  // namespace

std::int64_t available_memory() {
  const auto pages = [](int count) {
    return sysconf(count) * static_cast<std::int64_t>(sysconf(_SC_PAGESIZE));
  };
  std::int64_t least = pages(_SC_AVPHYS_PAGES);
  if (const auto kib = number_in("/proc/meminfo", "MemAvailable:")) least = *kib * 1024;
  // A group's own folder, as /proc names it, and the top one, which is a container's own. What its programs
  // have read of files counts as taken, and is given back when it is needed.
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::string group = line.substr(line.rfind(':') + 1);
    for (const std::string& folder : {"/sys/fs/cgroup" + group, std::string("/sys/fs/cgroup"),
                                      "/sys/fs/cgroup/memory" + group, std::string("/sys/fs/cgroup/memory")})
      for (const auto& [limit, used, files] :
           {std::tuple{"/memory.max", "/memory.current", "inactive_file"},
            {"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"}}) {
        const auto most = number_in(folder + limit, ""), now = number_in(folder + used, "");
        if (most && now)
          least = std::min(least, *most - *now + number_in(folder + "/memory.stat", files).value_or(0));
      }
  }
  return std::max<std::int64_t>(least, 0);
}

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
    if (trim()) block = system_allocate(size);
  }
  if (block == nullptr) throw OutOfMemory(out_of_memory(size));
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

bool Device::trim() {
  before_release();
  const bool any = release_pool();
#ifdef __GLIBC__
  if (any) malloc_trim(0);  // glibc keeps what lies between two blocks that are in use
#endif
  return any;
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
