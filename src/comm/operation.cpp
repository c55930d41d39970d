// What an Operation of world.hpp does: the copies and sums of each call, as one rank makes them.
#include <algorithm>

#include "comm/world.hpp"

namespace tessera {

namespace {

/// Part i of n of a contiguous tensor, which counts as one row of elements. Parts differ by one element at
/// most.
Tensor chunk(const Tensor& x, std::size_t i, std::size_t n) {
  const auto size = x.size(), count = static_cast<std::int64_t>(n), index = static_cast<std::int64_t>(i);
  return x.reshape(1, size).column_range(size * index / count, size * (index + 1) / count);
}

/// Copies another rank's buffer, and counts it. Bytes cross between ranks here and in sum_in, nowhere else.
void copy_in(Operation::Seat& me, const Tensor& to, const Tensor& from) {
  to.copy_from(from);
  me.journal->wire(me.row, from.bytes(), true);
}

/// Sums piece(in) over the inputs of all seats, in rank order. n-1 pieces come from other ranks.
template <class Piece>
void sum_in(Operation& operation, Operation::Seat& me, const Tensor& to, const Piece& piece) {
  std::vector<Tensor> inputs;
  for (const auto& seat : operation.seats) inputs.push_back(piece(seat.in));
  // A single rank that reduces in place has its sum already.
  const bool done = inputs.size() == 1 && inputs[0].raw() == to.raw();
  if (!done) kernels_of(to).reduce(to, inputs, operation.call.reduce);
  me.journal->wire(me.row, static_cast<std::int64_t>(inputs.size() - 1) * to.bytes(), true);
}

}  // namespace

bool Operation::all_posted() const {
  return std::all_of(seats.begin(), seats.end(), [](const Seat& seat) { return seat.posted; });
}

bool Operation::complete() const {
  return std::all_of(seats.begin(), seats.end(),
                     [&](const Seat& seat) { return seat.posted && seat.steps_done == steps; });
}

bool Operation::can_step(int seat) const {
  const int done = seats[static_cast<std::size_t>(seat)].steps_done;
  return done < steps && all_posted() &&
         std::all_of(seats.begin(), seats.end(), [&](const Seat& other) { return other.steps_done >= done; });
}

Event Operation::run_step(int seat, const std::vector<Event>& events) {
  const std::size_t n = seats.size(), mine = static_cast<std::size_t>(seat);
  Seat& me = seats[mine];
  const Tensor& any = me.in.defined() ? me.in : me.out;
  if (!any.defined()) return nullptr;  // a barrier, a split
  Device& device = *any.device();
  const StreamScope scope(device, Stream::communication);
  for (const Event& event : events) device.wait(event);  // all are recorded, so no kernel waits for a rank
  const bool traced = me.journal->traced();
  if (traced && !me.began) me.began = device.mark();

  if (call.op == "all_reduce" && me.steps_done == 0) {
    sum_in(*this, me, chunk(me.out, mine, n), [&](const Tensor& in) { return chunk(in, mine, n); });
  } else if (call.op == "all_reduce") {
    for (std::size_t i = 0; i < n; ++i)
      if (i != mine) copy_in(me, chunk(me.out, i, n), chunk(seats[i].out, i, n));
  } else if (call.op == "reduce_scatter") {
    sum_in(*this, me, me.out.reshape(1, me.out.size()), [&](const Tensor& in) { return chunk(in, mine, n); });
  } else if (call.op == "all_gather") {
    chunk(me.out, mine, n).copy_from(me.in.reshape(1, me.in.size()));
    for (std::size_t i = 0; i < n; ++i)
      if (i != mine) copy_in(me, chunk(me.out, i, n), seats[i].in.reshape(1, seats[i].in.size()));
  } else if (call.op == "broadcast") {
    const auto root = static_cast<std::size_t>(call.peer);
    if (mine != root) copy_in(me, me.out, seats[root].in);
  } else if (call.point_to_point()) {  // the receiver's step, the only one
    copy_in(me, me.out, seats[0].in);
  }
  if (traced) me.ended = device.mark();
  return device.record();
}

}  // namespace tessera
