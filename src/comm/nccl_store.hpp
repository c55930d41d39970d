// Store: where ranks find NCCL's ids before they can talk through NCCL, as PyTorch's stores do. An id is an
// open socket with a thread that listens, until all its ranks have come; so it is made when a channel is
// first used, by the channel's first rank, and the others find it here.
#pragma once

#include <nccl.h>

#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "comm/launch.hpp"

namespace tessera::nccl {

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

}  // namespace tessera::nccl
