// Call: what a rank asks its group to do, as all ranks of the group must agree on it; and Header, the same as
// plain bytes, which ranks in different processes send each other before the data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ops/kernels.hpp"

namespace tessera {

/// Fields that do not apply to `op` stay at their defaults.
struct Call {
  std::string op;  // "all_reduce"
  std::int64_t rows = 0, cols = 0;
  DType dtype = DType::f32;
  Reduce reduce = Reduce::sum;
  int axis = -1;  // of all_gather and reduce_scatter
  int peer = -1;  // root, destination or source, as a rank of the group
  // For messages alone.
  std::string group = {};  // "tp {0, 2}", its ranks in the world
  int peer_in_world = -1;

  bool point_to_point() const { return op == "send" || op == "recv"; }
  bool moves_data() const { return op != "barrier" && op != "split"; }
  /// Whether both ranks may go on: all fields are equal, or one sends what the other receives.
  bool matches(const Call& other) const;
  /// "all_reduce of 64 x 64 f32 in group tp {0, 2}", "recv of 1 x 8 f32 from rank 3 in group pp {1, 3}".
  std::string text() const;
};

/// A call as it crosses between processes: plain bytes, since all processes run one binary.
struct Header {
  char op[16] = {}, group[64] = {};
  std::int64_t rows = 0, cols = 0, number = 0;  // number: of the calls that its rank has made
  DType dtype = DType::f32;
  Reduce reduce = Reduce::sum;
  int axis = -1, peer = -1, peer_in_world = -1, world_rank = 0;
  int color = 0, key = 0;  // of a split

  static Header of(const Call& call, int world_rank, long number);
  Call call() const { return {op, rows, cols, dtype, reduce, axis, peer, group, peer_in_world}; }
};

/// "all_reduce of 64 x 64 f32 in group tp {0, 2} (call 7)": the call and its number among its rank's calls.
std::string text_of(const Call& call, long number);
/// "the calls do not match: rank 0 calls ...; rank 2 calls ...", for two ranks of the world.
std::string mismatch(int rank, const std::string& call, int other_rank, const std::string& other_call);
/// What a rank threw, with the rank in front. A refusal of a flag ("--exact ...") is the same on every rank
/// and stays as it is, as does a text that names the rank.
std::string said_by(int rank, const std::string& what);
/// Throws Error that names the first two calls which do not match.
void expect_match(const std::vector<Header>& calls);

}  // namespace tessera
