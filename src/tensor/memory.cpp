#include "tensor/memory.hpp"

#include <algorithm>

#include "tensor/error.hpp"

namespace tessera {

namespace {
thread_local MemoryKind current_kind = MemoryKind::activation;
}

const char* name(MemoryKind kind) {
  static constexpr const char* names[] = {"weights", "gradients", "optimizer", "activations", "check"};
  return names[static_cast<int>(kind)];
}

void MemoryLedger::add(MemoryKind kind, std::int64_t bytes) {
  std::lock_guard lock(mutex_);
  if (kind != MemoryKind::check) {
    if (bytes > limit_ - total_)
      throw UsageError(
          format("rank {} is out of memory: it holds {} B and asks for {} B of {}, --memory-per-rank allows "
                 "{} B: without --memory-per-rank it would work, or with more ranks, or with smaller sizes",
                 rank_, total_, bytes, name(kind), limit_));
    total_ += bytes;
    peak_ = std::max(peak_, total_);
  }
  const int k = static_cast<int>(kind);
  now_[k] += bytes;
  peak_of_[k] = std::max(peak_of_[k], now_[k]);
}

void MemoryLedger::remove(MemoryKind kind, std::int64_t bytes) {
  std::lock_guard lock(mutex_);
  if (kind != MemoryKind::check) total_ -= bytes;
  now_[static_cast<int>(kind)] -= bytes;
}

std::int64_t MemoryLedger::now(MemoryKind kind) const {
  std::lock_guard lock(mutex_);
  return now_[static_cast<int>(kind)];
}

std::int64_t MemoryLedger::now() const {
  std::lock_guard lock(mutex_);
  return total_;
}

std::int64_t MemoryLedger::peak() const {
  std::lock_guard lock(mutex_);
  return peak_;
}

std::int64_t MemoryLedger::peak(MemoryKind kind) const {
  std::lock_guard lock(mutex_);
  return peak_of_[static_cast<int>(kind)];
}

void MemoryLedger::reset_peak() {
  std::lock_guard lock(mutex_);
  peak_ = total_;
  peak_of_ = now_;
}

void MemoryLedger::limit(int rank, std::int64_t bytes) {
  std::lock_guard lock(mutex_);
  rank_ = rank;
  limit_ = bytes;
}

MemoryScope::MemoryScope(MemoryKind kind) : outer_(current_kind) {
  if (outer_ != MemoryKind::check) current_kind = kind;  // a check's gradients are no part of the run
}
MemoryScope::~MemoryScope() { current_kind = outer_; }
MemoryKind MemoryScope::current() { return current_kind; }

}  // namespace tessera
