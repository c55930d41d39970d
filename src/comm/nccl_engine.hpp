// Engine: one rank's NCCL. NCCL's kernels wait for other ranks on the GPU, and run in issue order on a
// stream, so a send that was issued before a recv on one stream keeps the recv from starting. A Communicator
// promises more: a posted call never blocks a later one. So every group has one line for its collectives, all
// on the device's communication stream; and one line for each direction between two ranks that exchange
// messages, an NCCL communicator of these two with a stream of its own, where calls are ordered by nature. No
// call blocks the host in NCCL. A call is a task in its line, which every wait of the rank, for a task or for
// a stream, moves on; so a fault anywhere, or a time-out, ends every wait.
#pragma once

#include <nccl.h>

#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "comm/launch.hpp"
#include "comm/world.hpp"
#include "tensor/device_cuda.hpp"
#include "tensor/error.hpp"

namespace tessera::nccl {

/// Throws Error unless the call succeeded or is in progress: communicators do not block, so whoever goes on
/// polls Line::settled first.
#define NCCL_CHECK(call) ::tessera::nccl::check((call), #call)
void check(ncclResult_t result, const char* call, Where where = Where::here());

/// A call under way.
struct Task {
  std::string doing;   // for messages: "all_reduce of 8 f32 (call 3)"
  std::string letter;  // sent to all ranks of the line before anything else; may be empty
  std::function<void(const char* letters)> open;  // on the host, when all ranks' letters are here
  /// Starts the payload, and keeps its tensors alive. Empty: the letters were all.
  std::function<ncclResult_t(ncclComm_t, cudaStream_t)> issue;
  Event ready;            // the payload starts after this point of the compute stream
  Event delivered, done;  // the letters; the payload
  enum { posted, mailing, opened, issued, finished } stage = posted;
};

/// An NCCL communicator and its calls, in order. Stays where it is: NCCL holds the address of `comm`.
struct Line {
  Line() = default;
  ~Line();
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;
  bool settled() const;  ///< Nothing of it is in progress on the host. Throws Error where it failed.

  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  bool owns_stream = false;
  std::size_t longest_letter = 0;
  char* mailbox = nullptr;  // pinned, so that NCCL reads and writes it: my letter, then everyone's
  std::deque<std::shared_ptr<Task>> tasks;  // not finished
};

class Engine {
 public:
  Engine(World& world, int world_rank, CudaDevice& device, const LaunchOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// A line without a communicator. Letters of `ranks` ranks fit its mailbox.
  Line& add_line(std::size_t longest_letter, int ranks);
  /// Starts to connect the line; its tasks begin when that is done.
  void connect(Line& line, int ranks, int rank, const ncclUniqueId& id);
  /// A connected line of two ranks, this one `rank`, with a stream of its own.
  Line& open_channel(int rank, const ncclUniqueId& id);
  static ncclConfig_t config();  ///< Not blocking.

  std::shared_ptr<Task> post(Line& line, Task task);
  void wait(const std::shared_ptr<Task>& task);  ///< The compute stream goes on after its payload.
  void abandon(const Task& task);
  void settle(Line& line);  ///< Waits until NCCL has done on the host what was asked of it.
  void close();             ///< All work is done: gives the communicators back.
  void abort();             ///< Ends kernels that wait for other ranks. Throws nothing.

  World& world() { return world_; }
  int world_rank() const { return world_rank_; }
  bool verifies() const { return verify_; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  void advance(Line& line);
  void look(Time began, bool setting_up);
  void until(const std::function<bool()>& reached, bool setting_up);

  World& world_;
  int world_rank_;
  CudaDevice& device_;
  std::chrono::duration<double> timeout_;
  bool verify_;
  std::vector<std::unique_ptr<Line>> lines_;
  std::list<std::shared_ptr<Task>> pending_;  // in call order; not known to be done on the GPU
  Time moved_;                                // when a task was last found done
};

}  // namespace tessera::nccl
