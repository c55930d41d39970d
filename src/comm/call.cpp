#include "comm/call.hpp"

#include <algorithm>
#include <numeric>

#include "tensor/error.hpp"

namespace tessera {

const char* name(OpType op) {
  static constexpr const char* names[] = {"all_reduce", "all_gather", "reduce_scatter",
                                          "broadcast",  "all_to_all", "send",
                                          "recv",       "barrier",    "split"};
  return names[static_cast<int>(op)];
}

bool Call::matches(const Call& other) const {
  if (cols != other.cols || dtype != other.dtype) return false;
  if (parts && other.parts)
    return op == other.op && sent[other.rank] == other.received[rank] &&
           received[other.rank] == other.sent[rank];
  if (rows != other.rows || parts != other.parts) return false;
  if (point_to_point() && other.point_to_point()) return op != other.op;
  return op == other.op && reduce == other.reduce && axis == other.axis && peer == other.peer;
}

std::string Call::text() const {
  std::string text = name(op);
  if (reduce == Reduce::max) text += " (max)";
  if (axis >= 0) text += axis == 0 ? " by rows" : " by columns";
  if (moves_data()) text += format(" of {} x {} {}", rows, cols, name(dtype));
  if (parts)
    text += format(" in parts of {} rows, for {}", join(std::vector(sent, sent + parts)),
                   join(std::vector(received, received + parts)));
  if (op == OpType::send) text += format(" to rank {}", peer_in_world);
  if (op == OpType::recv) text += format(" from rank {}", peer_in_world);
  if (op == OpType::broadcast) text += format(" with root rank {}", peer_in_world);
  return format("{} in group {}", text, group);
}

std::string Call::numbered() const { return format("{} (call {})", text(), number); }

std::string mismatch(const std::vector<Call>& calls) {
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const auto other = std::find_if(calls.begin() + static_cast<std::ptrdiff_t>(i) + 1, calls.end(),
                                    [&](const Call& call) { return !calls[i].matches(call); });
    if (other != calls.end()) {
      const auto [low, high] = std::minmax(
          calls[i], *other, [](const Call& a, const Call& b) { return a.world_rank < b.world_rank; });
      return format("the calls do not match: rank {} calls {}; rank {} calls {}", low.world_rank,
                    low.numbered(), high.world_rank, high.numbered());
    }
    if (calls[i].parts == 0) break;  // the fields that match are equal in all
  }
  return "";
}

void Call::set_parts(int me, int ranks, const std::vector<std::int64_t>& to,
                     const std::vector<std::int64_t>& from) {
  const auto all = static_cast<std::size_t>(ranks), own = static_cast<std::size_t>(me);
  expect(ranks <= most_parts, [&] { return format("{}: at most {} ranks give counts", text(), most_parts); });
  const auto counts = [&](const std::vector<std::int64_t>& x) {
    return x.size() == all &&
           std::ranges::all_of(x, [](std::int64_t count) { return 0 <= count && count <= INT32_MAX; });
  };
  expect(counts(to) && counts(from) && to[own] == from[own] &&
             std::accumulate(to.begin(), to.end(), std::int64_t{0}) == rows,
         [&] {
           return format("{}: parts of {} rows for {} do not fit {} rows and {} ranks", text(), join(to),
                         join(from), rows, ranks);
         });
  rank = me, parts = ranks;
  const auto narrow = [](std::int64_t count) { return static_cast<std::int32_t>(count); };
  std::ranges::transform(to, sent, narrow);
  std::ranges::transform(from, received, narrow);
}

namespace {

/// Part `index` of the rows: of n equal ones, or after the counts.
Range range_of(const Call& call, const std::int32_t* counts, int index, int ranks) {
  if (call.parts == 0) return part(call.rows, index, ranks);
  const std::int64_t begin = std::accumulate(counts, counts + index, std::int64_t{0});
  return {begin, begin + counts[index]};
}

}  // namespace

Range Call::part_sent(int to, int ranks) const { return range_of(*this, sent, to, ranks); }
Range Call::part_received(int from, int ranks) const { return range_of(*this, received, from, ranks); }

}  // namespace tessera
