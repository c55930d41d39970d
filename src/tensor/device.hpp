// A Device is one rank's place to compute: where its memory comes from, how bytes are copied, and in which
// order its work runs. On the CPU everything is done when the call returns, so streams and events are empty
// there.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tensor/memory.hpp"

namespace tessera {

/// A point in a stream's work: a recorded cudaEvent_t on CUDA, and empty on the CPU.
using Event = std::shared_ptr<void>;
enum class Stream { compute, communication };
enum class DeviceKind { cpu, cuda };
const char* name(DeviceKind kind);

class Device {
 public:
  virtual ~Device() = default;

  static std::shared_ptr<Device> make(DeviceKind kind, int ordinal = 0);
  /// The device of this thread: the one that its Scope set, or else the CPU device of the process.
  static const std::shared_ptr<Device>& current();
  /// The host's memory for copies that checks and files read; no rank's ledger counts it.
  static const std::shared_ptr<Device>& host();

  /// While it lives, `device` is the device of this thread.
  class Scope {
   public:
    explicit Scope(std::shared_ptr<Device> device);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::shared_ptr<Device> outer_;
  };

  DeviceKind kind() const { return kind_; }
  int ordinal() const { return ordinal_; }
  virtual std::string description() const = 0;

  /// A block of at least `bytes`, 64-byte aligned (256 on CUDA), taken from the blocks that came back if one
  /// of that size is there. A training step in steady state therefore asks the system for nothing. Where the
  /// system has none left, the blocks of other sizes go back to it first. Throws OutOfMemory where that is
  /// not enough.
  void* allocate(std::size_t bytes);
  void release(void* block, std::size_t bytes);
  /// Gives all free blocks back to the system, and says whether there were any.
  bool trim();
  std::int64_t system_allocations() const;  ///< How often the system has been asked since the start.

  /// Copies `rows` rows of `width` bytes; pitches are in bytes. Either side may be on the host. Runs on the
  /// active stream; where one side is host memory it returns when the bytes have arrived.
  virtual void copy(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                    std::size_t width, std::size_t rows) = 0;
  virtual void zero(void* block, std::size_t pitch, std::size_t width, std::size_t rows) = 0;
  virtual void synchronize() {}               ///< Returns when all streams are empty.
  virtual Event record() { return nullptr; }  ///< Marks the present end of the active stream.
  virtual void wait(const Event&) {}          ///< Later work of the active stream starts after the event.
  virtual Event mark();                       ///< A mark in the active stream, which knows its time.
  /// The seconds from one mark of this device to another. Waits until both are reached.
  virtual double seconds_between(const Event& from, const Event& to);
  /// Makes a stream active, and returns the one that was active before.
  virtual Stream select(Stream) { return Stream::compute; }

  MemoryLedger memory;
  /// Products of f32 on a GPU may round their operands to TF32, which has 11 bits of precision.
  bool tf32 = false;

 protected:
  Device(DeviceKind kind, int ordinal) : kind_(kind), ordinal_(ordinal) {}
  /// The system's own calls. system_allocate returns null where there is no memory left, and out_of_memory
  /// says so.
  virtual void* system_allocate(std::size_t bytes) = 0;
  virtual void system_release(void* block, std::size_t bytes) = 0;
  virtual std::string out_of_memory(std::size_t bytes) const = 0;
  virtual void before_release() {}  ///< Returns when system_release will not wait for other ranks.
  /// Gives all free blocks back, and says whether there were any. Destructors of derived classes call it.
  bool release_pool();

 private:
  DeviceKind kind_;
  int ordinal_;
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;  // by rounded size
  std::int64_t system_allocations_ = 0;
};

/// While it lives, work of this thread goes to `stream` of `device`.
class StreamScope {
 public:
  StreamScope(Device& device, Stream stream) : device_(device), outer_(device.select(stream)) {}
  ~StreamScope() { device_.select(outer_); }
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  Device& device_;
  Stream outer_;
};

/// The bytes that this process may still take of the host's memory: what the machine has free, or less where
/// a control group (of a batch system, of a container) allows less.
std::int64_t available_memory();

int cuda_device_count();  ///< It is 0 without a driver, without a GPU, and in a build without CUDA.
/// Says why there is none: "no GPU found", or what the CUDA runtime says where there is a driver that cannot
/// be used, for example because it is too old. Empty where there is a GPU.
std::string why_no_gpu();
std::string cuda_bus_id(int ordinal);  ///< The GPU's place in its machine: "0000:1B:00.0".
bool built_with_cuda();
std::shared_ptr<Device> make_cuda_device(int ordinal);  ///< It throws UsageError where there is no such GPU.

}  // namespace tessera
