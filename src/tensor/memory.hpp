// What each rank's memory holds, in bytes, as its allocations say. No formula is used here: the lessons put
// theirs beside these figures.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

namespace tessera {

/// `check` is memory of the proof (baselines, gathers, dumps). It is outside the figures and outside the
/// limit.
enum class MemoryKind { weight, gradient, optimizer, activation, check };
inline constexpr int memory_kinds = 5;
const char* name(MemoryKind kind);

/// The bytes that one rank holds of each kind: now, and at their highest. Any thread may call it, since a
/// tensor may die on another rank's thread.
class MemoryLedger {
 public:
  /// Throws UsageError where the allocation would go beyond the limit, and then counts nothing.
  void add(MemoryKind kind, std::int64_t bytes);
  void remove(MemoryKind kind, std::int64_t bytes);

  std::int64_t now(MemoryKind kind) const;
  std::int64_t now() const;   ///< All kinds but `check`.
  std::int64_t peak() const;  ///< The highest now().
  std::int64_t peak(MemoryKind kind) const;
  void reset_peak();                         ///< Each peak starts again from now().
  void limit(int rank, std::int64_t bytes);  ///< For the memory of this rank, which messages name.

 private:
  mutable std::mutex mutex_;
  std::array<std::int64_t, memory_kinds> now_{}, peak_of_{};
  std::int64_t total_ = 0, peak_ = 0;
  std::int64_t limit_ = INT64_MAX;
  int rank_ = 0;
};

/// While it lives, allocations of this thread are of `kind`; but inside a scope of `check` they stay `check`.
/// Outside of any scope they are activations.
class MemoryScope {
 public:
  explicit MemoryScope(MemoryKind kind);
  ~MemoryScope();
  MemoryScope(const MemoryScope&) = delete;
  MemoryScope& operator=(const MemoryScope&) = delete;
  static MemoryKind current();

 private:
  MemoryKind outer_;
};

}  // namespace tessera
