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
void copy_in(const Operation::Seat& me, const Tensor& to, const Tensor& from) {
  to.copy_from(from);
  me.journal->wire(me.row, from.bytes(), true);
}

/// Sums piece(in) over the inputs of all seats, in rank order. n-1 pieces come from other ranks.
template <class Piece>
void sum_in(const std::vector<Operation::Seat>& seats, const Operation::Seat& me, const Tensor& to,
            const Piece& piece) {
  std::vector<Tensor> inputs;
  for (const auto& seat : seats) inputs.push_back(piece(seat.in));
  // A single rank that reduces in place has its sum already.
  const bool done = inputs.size() == 1 && inputs[0].raw() == to.raw();
  if (!done) kernels_of(to).reduce(to, inputs, me.call->reduce);
  me.journal->wire(me.row, static_cast<std::int64_t>(inputs.size() - 1) * to.bytes(), true);
}

}  // namespace

bool Operation::all_posted() const {
  return std::ranges::all_of(seats, [](const Seat& seat) { return seat.call.has_value(); });
}

bool Operation::complete() const {
  return std::ranges::all_of(seats, [&](const Seat& seat) { return seat.call && seat.steps_done == steps; });
}

bool Operation::can_step(const Seat& mine) const {
  return mine.steps_done < steps && std::ranges::all_of(seats, [&](const Seat& other) {
           return other.call && other.steps_done >= mine.steps_done;
         });
}

Event Operation::run_step(std::size_t mine, const std::vector<Event>& events) {
  const std::size_t n = seats.size();
  Seat& me = seats[mine];
  Device& device = *(me.in.defined() ? me.in : me.out).device();
  const StreamScope scope(device, Stream::communication);
  for (const Event& event : events) device.wait(event);  // all are recorded, so no kernel waits for a rank
  const bool traced = me.journal->traced();
  if (traced && !me.began) me.began = device.mark();
  const auto from_others = [&](const auto& copy) {
    for (std::size_t i = 0; i < n; ++i)
      if (i != mine) copy(i);
  };

  switch (me.call->op) {
    case OpType::all_reduce:
      if (me.steps_done == 0)
        sum_in(seats, me, chunk(me.out, mine, n), [&](const Tensor& in) { return chunk(in, mine, n); });
      else
        from_others([&](std::size_t i) { copy_in(me, chunk(me.out, i, n), chunk(seats[i].out, i, n)); });
      break;
    case OpType::reduce_scatter:
      sum_in(seats, me, chunk(me.out, 0, 1), [&](const Tensor& in) { return chunk(in, mine, n); });
      break;
    case OpType::all_gather:
      chunk(me.out, mine, n).copy_from(chunk(me.in, 0, 1));
      from_others([&](std::size_t i) { copy_in(me, chunk(me.out, i, n), chunk(seats[i].in, 0, 1)); });
      break;
    case OpType::broadcast:
      if (const auto root = static_cast<std::size_t>(me.call->peer); root != mine)
        copy_in(me, me.out, seats[root].in);
      break;
    case OpType::recv:  // the only step of a message
      copy_in(me, me.out, seats[0].in);
      break;
    case OpType::send:
    case OpType::barrier:
    case OpType::split:
      break;
  }
  if (traced) me.ended = device.mark();
  return device.record();
}

}  // namespace tessera
