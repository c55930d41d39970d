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

class Store {
 public:
  virtual ~Store() = default;
  /// Publishes an id under a key that no other id has; `reader`, a rank of the world, will ask for it.
  virtual void put(const std::string& key, const ncclUniqueId& id, int reader) = 0;
  /// The id under the key, or nothing yet. Never waits.
  virtual std::optional<ncclUniqueId> get(const std::string& key) = 0;
};

/// For the ranks of one process; any thread may call it.
class ThreadStore final : public Store {
 public:
  void put(const std::string& key, const ncclUniqueId& id, int) override {
    const std::lock_guard lock(mutex_);
    ids_[key] = id;
  }
  std::optional<ncclUniqueId> get(const std::string& key) override {
    const std::lock_guard lock(mutex_);
    const auto found = ids_.find(key);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::mutex mutex_;
  std::map<std::string, ncclUniqueId> ids_;
};

/// For the processes of an MPI job; each calls it from its main thread. A message is the id, then its key.
class ProcessStore final : public Store {
 public:
  void put(const std::string& key, const ncclUniqueId& id, int reader) override {
    if (reader == mpi::launched_rank())
      ids_[key] = id;
    else
      mpi::send_message(std::string(id.internal, sizeof id.internal) + key, reader);
  }
  std::optional<ncclUniqueId> get(const std::string& key) override {
    while (const auto message = mpi::receive_message()) {
      ncclUniqueId id{};
      std::memcpy(id.internal, message->data(), sizeof id.internal);
      ids_[message->substr(sizeof id.internal)] = id;
    }
    const auto found = ids_.find(key);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::map<std::string, ncclUniqueId> ids_;
};

}  // namespace tessera::nccl
