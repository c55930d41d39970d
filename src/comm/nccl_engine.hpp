// Engine: one rank's NCCL. A kernel of NCCL waits on the GPU until the other ranks' kernels run, and a stream
// runs its kernels in the order of their launch: a send that was launched before a recv on one stream keeps
// the recv from starting. A Communicator promises more: a posted call never blocks a later one that does not
// need it. Therefore every group has a channel for its collectives, and a channel for each direction between
// two ranks that exchange messages. A channel is an NCCL communicator with a stream of its own, and takes so
// little of the GPU that the kernels of many channels run at once. The host never blocks in NCCL: a call is a
// task in its channel, and every wait of the rank moves all tasks on, so that a fault of any rank, or the
// time-out, ends every wait.
#pragma once

#include <nccl.h>

#include <cstring>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "comm/world.hpp"
#include "tensor/device_cuda.hpp"
#include "tensor/error.hpp"

namespace tessera::nccl {

/// Throws Error unless the call succeeded or is in progress. The communicators do not block, so the caller
/// polls Channel::settled before the next call on the same communicator.
#define NCCL_CHECK(call) ::tessera::nccl::check((call), #call)
void check(ncclResult_t result, const char* call, Where where = Where::here());

/// Where ranks find NCCL's ids before they can talk through NCCL, as in PyTorch's stores. An id is an open
/// socket with a thread that listens, until all its ranks have come; so it is made when a channel is first
/// used, by the channel's first rank, and the others find it here.
///
/// The ranks of one process share a Store, and any thread may call it. The processes of an MPI job have one
/// each, which the main thread calls: they send each other messages, an id and its key.
class Store {
 public:
  explicit Store(bool processes) : processes_(processes) {}

  /// Publishes an id under a key that no other id has; `reader`, a rank of the world, will ask for it.
  void put(const std::string& key, const ncclUniqueId& id, int reader) {
    const std::lock_guard lock(mutex_);
    if (processes_ && reader != mpi::launched_rank())
      mpi::send_message(std::string(id.internal, sizeof id.internal) + key, reader);
    else
      ids_[key] = id;
  }
  /// The id under the key, or nothing yet. Never waits.
  std::optional<ncclUniqueId> get(const std::string& key) {
    const std::lock_guard lock(mutex_);
    while (const auto message = processes_ ? mpi::receive_message() : std::nullopt)
      std::memcpy(ids_[message->substr(sizeof(ncclUniqueId))].internal, message->data(),
                  sizeof(ncclUniqueId));
    const auto found = ids_.find(key);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  bool processes_;
  std::mutex mutex_;
  std::map<std::string, ncclUniqueId> ids_;
};

class Engine;
struct Channel;

/// A call under way.
struct Task final : Work {
  Task(Engine& of, Channel& over, const Call& call, Tensor from, Tensor to);
  void wait() override;
  void abandon() override;
  std::pair<Event, Event> marks() const override { return {began, ended}; }
  ncclResult_t issue() const;  ///< Launches the payload.
  void take_maximum() const;   ///< Of what was gathered.

  Engine& engine;
  Channel& channel;
  Call mine;
  std::string doing = mine.numbered();  // for messages
  std::vector<Call> theirs;             // of all ranks of the channel, once the headers are here
  bool compares;  // the ranks exchange headers before the payload; for a barrier they are all
  Tensor in, out;
  Tensor gathered;        // all ranks' in, of a maximum
  Event ready;            // the payload starts after this point of the compute stream
  Event delivered, done;  // after the headers; after the payload
  Event began, ended;     // of the payload, with their times; where the run is traced
  enum { posted, exchanging, matched, issued, finished } stage = posted;
  bool awaited = false;  // the rank waits for it, or its compute stream does
};

enum class Use { collectives, messages };

/// An NCCL communicator, its stream and its calls in the order of their posting.
struct Channel {
  Channel() = default;
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  /// Whether NCCL has nothing of it in progress on the host. Throws Error where it failed.
  bool settled() const;

  int ranks = 0, rank = 0;
  Use use = Use::collectives;
  std::string key;  // of its id in the store
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;  // from the first task on
  Call* headers = nullptr;        // pinned, because NCCL reads and writes them: this rank's, then all ranks'
  std::deque<std::shared_ptr<Task>> tasks;  // those that are not finished
};

class Engine {
 public:
  Engine(World& world, int world_rank, CudaDevice& device, Store& store, const LaunchOptions& options);
  ~Engine();

  /// A channel of `members`, ranks of the world, of which this one is number `rank`. The first member
  /// publishes an id under `key`; the tasks begin when all members have opened the channel.
  Channel& open(const std::string& key, const std::vector<int>& members, int rank, Use use);
  void connect(Channel& channel);  ///< Waits until the channel is connected.

  std::shared_ptr<Task> post(Channel& channel, Call call, Tensor in, Tensor out);
  /// Returns when the payload is in its stream; later work of the compute stream starts after it.
  void wait(Task& task);
  void abandon(const Task& task) { world_.abandon(task.mine); }
  void close();  ///< The rank has returned: gives the communicators back when all ranks have.
  void abort();  ///< Ends the kernels that wait for other ranks. Throws nothing.

  std::shared_ptr<void> busy(const std::string& what) { return world_.busy(world_rank_, what); }
  bool verifies() const { return options_.verify; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  /// How long a wait may last without progress: for a call, see `stalled`; for a connection, which all its
  /// ranks make at the same time, the time-out; and without a limit for the other ranks to return.
  enum class Patience { call, connection, endless };

  ncclConfig_t config(const Channel& channel) const;
  void furnish(Channel& channel);
  bool connected(Channel& channel);
  void advance(Channel& channel);
  void look(Time began, Patience patience);
  bool stalled(std::chrono::duration<double> waited) const;
  void until(const std::function<bool()>& reached, Patience patience);

  World& world_;
  int world_rank_;
  CudaDevice& device_;
  Store& store_;
  LaunchOptions options_;
  int processors_ = 0;  // of the GPU
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<Call*> slabs_;                  // of pinned memory, which the channels share
  std::size_t slab_size_, slab_left_ = 0;     // in headers; of the last slab, what no channel has
  std::list<std::shared_ptr<Task>> pending_;  // in call order; not known to be done on the GPU
  Time moved_;                                // when a task was last found done
};

}  // namespace tessera::nccl
