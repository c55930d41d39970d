// Call: what a rank asks its group to do, as all ranks of the group must agree on it. It is plain bytes,
// which ranks in different processes, all of one binary, send each other before the data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/kernels.hpp"
#include "tensor/slice.hpp"

namespace tessera {

// clang-format off
enum class OpType { all_reduce, all_gather, reduce_scatter, broadcast, all_to_all, send, recv, barrier, split };
// clang-format on
const char* name(OpType op);

/// Fields that do not apply to `op` stay at their defaults.
struct Call {
  OpType op;
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::f32;
  Reduce reduce = Reduce::sum;
  int axis = -1;           // of all_gather and reduce_scatter
  int peer = -1;           // root, destination or source, as a rank of the group
  int color = 0, key = 0;  // of a split; each rank has its own
  // Of an all_to_all with counts of rows: this rank and the number of ranks in the group, and how many rows
  // go to and come from each of them. Without counts `parts` is 0.
  static constexpr int most_parts = 64;
  int rank = 0, parts = 0;
  std::int32_t sent[most_parts] = {}, received[most_parts] = {};
  // Which call it is, for the texts of errors and for World; matches() does not compare these.
  char group[64] = {};  // "tp {0, 2}", its ranks in the world
  int world_rank = -1, peer_in_world = -1;
  long number = 0;  // among the calls of its rank: 1, 2, ...

  bool point_to_point() const { return op == OpType::send || op == OpType::recv; }
  bool moves_data() const { return op != OpType::barrier && op != OpType::split; }
  /// Throws Error unless `to` and `from` hold a count for each rank, and x, which has `rows`, holds what is
  /// sent.
  void set_parts(int me, int ranks, const std::vector<std::int64_t>& to,
                 const std::vector<std::int64_t>& from);
  /// The rows of an all_to_all's input that go to a rank, and those of its output that come from one.
  Range part_sent(int to, int ranks) const;
  Range part_received(int from, int ranks) const;
  /// Whether both ranks may go on: all fields are equal, or one sends what the other receives.
  bool matches(const Call& other) const;
  /// "all_reduce of 64 x 64 f32 in group tp {0, 2}", "recv of 1 x 8 f32 from rank 3 in group pp {1, 3}".
  std::string text() const;
  std::string numbered() const;  ///< "all_reduce of 64 x 64 f32 in group tp {0, 2} (call 7)"
};

/// Names the first two calls that do not match, and is empty where all do: "the calls do not match: rank 0
/// calls ...; rank 2 calls ...".
std::string mismatch(const std::vector<Call>& calls);

}  // namespace tessera
