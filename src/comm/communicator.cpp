#include "comm/communicator.hpp"

#include <algorithm>
#include <utility>

#include "tensor/error.hpp"

namespace tessera {

void Request::Abandon::operator()(Begun* call) const {
  if (!call->launch.expired()) call->work->abandon();
  delete call;
}

void Request::wait() {
  expect(call_ != nullptr, "this request was waited for already");
  const std::unique_ptr<Begun> call(call_.release());
  const auto journal = call->launch.lock();  // without it the transport is gone, too
  expect(journal != nullptr, "this request outlived its launch: wait for it before the rank returns");
  call->work->wait();
  if (call->finish) call->finish(*call->work, *journal);
}

namespace {

/// (rows, n w) seen as n blocks of columns -> (n rows, w), the blocks one below the other; and the reverse.
Tensor stack_columns(const Tensor& x, int n) {
  const std::int64_t rows = x.rows(), width = x.cols() / n;
  Tensor stacked = Tensor::empty(n * rows, width, x.dtype(), x.device());
  for (int i = 0; i < n; ++i)
    stacked.row_range(i * rows, (i + 1) * rows).copy_from(x.column_range(i * width, (i + 1) * width));
  return stacked;
}

Tensor unstack_columns(const Tensor& stacked, int n) {
  const std::int64_t rows = stacked.rows() / n, width = stacked.cols();
  Tensor x = Tensor::empty(rows, n * width, stacked.dtype(), stacked.device());
  for (int i = 0; i < n; ++i)
    x.column_range(i * width, (i + 1) * width).copy_from(stacked.row_range(i * rows, (i + 1) * rows));
  return x;
}

/// "tp {0, 2}": groups of one name are told apart by their ranks in the world.
std::string with_members(const std::string& name, const std::vector<int>& members) {
  constexpr std::size_t shown = 8;
  std::string text;
  for (std::size_t i = 0; i < members.size() && i < shown; ++i)
    text += format("{}{}", i == 0 ? "" : ", ", members[i]);
  if (members.empty() || name == "world") return name;
  return format("{} {{{}{}}}", name, text, members.size() > shown ? ", ..." : "");
}

void check_axis(int axis) {
  expect(axis == 0 || axis == 1, [&] { return format("axis {} is neither rows (0) nor columns (1)", axis); });
}

}  // namespace

Communicator::Communicator(int rank, int size, std::string name, std::shared_ptr<Journal> journal,
                           std::vector<int> members)
    : rank_(rank),
      size_(size),
      name_(std::move(name)),
      name_in_messages_(with_members(name_, members)),
      journal_(std::move(journal)),
      members_(std::move(members)) {}

Call Communicator::call_of(OpType op, const Tensor& x, std::optional<int> peer) const {
  Call call{
      .op = op, .rows = x.rows(), .cols = x.cols(), .dtype = x.dtype(), .world_rank = world_rank(rank_)};
  name_in_messages_.copy(call.group, sizeof call.group - 1);
  if (!peer) return call;
  call.peer = call.peer_in_world = *peer;
  expect(0 <= *peer && *peer < size_,
         [&] { return format("{}: this group has ranks 0 to {}", call.text(), size_ - 1); });
  call.peer_in_world = world_rank(*peer);
  expect(*peer != rank_ || op == OpType::broadcast,
         [&] { return call.text() + ": a rank cannot exchange messages with itself"; });
  return call;
}

TrafficKey Communicator::row_of(const Call& call) const {
  return {journal_->phase(), name_, tessera::name(call.op == OpType::recv ? OpType::send : call.op)};
}

Communicator::Part Communicator::part_of(std::vector<Call> calls) const {
  const Call mine = calls[static_cast<std::size_t>(rank_)];
  std::erase_if(calls, [&](const Call& call) { return call.color != mine.color; });
  std::ranges::stable_sort(calls, {}, &Call::key);
  Part part;
  for (const Call& call : calls) {
    if (call.world_rank == mine.world_rank) part.rank = static_cast<int>(part.members.size());
    part.members.push_back(call.world_rank);
  }
  return part;
}

Request Communicator::start(const Call& call, const Tensor& in, const Tensor& out) {
  expect(!call.moves_data() ||
             ((in.defined() || call.op == OpType::recv) && (out.defined() || call.op == OpType::send)),
         [&] { return call.text() + ": the tensor is undefined"; });
  expect(in.is_contiguous() && out.is_contiguous(),
         [&] { return call.text() + ": the rows of this view lie apart; a contiguous tensor would work"; });
  const std::int64_t payload = std::max(in.bytes(), out.bytes());
  journal_->call(row_of(call), call.point_to_point() ? call.op == OpType::send : rank_ == 0, payload);
  if (call.moves_data() && !counts_bytes()) model_wire(call, payload);
  const Moment begin = journal_->moment();
  auto work = do_call(call, in, out);
  Request::Finish show;
  if (journal_->phase() != "check" && size_ > 1)
    show = [call, begin, before = journal_->span_count()](const Work& done, Journal& journal) {
      const bool alone = journal.span_count() == before;  // nothing else ended before the wait
      Moment from = begin, to = journal.moment();
      if (const auto [first, last] = done.marks(); last) from.mark = first, to.mark = last;
      journal.span(call.text(), alone ? "communication" : "overlapped", from, to);
    };
  return {std::move(work), std::move(show), journal_};
}

void Communicator::model_wire(const Call& call, std::int64_t full_bytes) const {
  // Ring algorithms: an all-reduce is a reduce-scatter and an all-gather, each (n-1)/n of S a rank. Where n
  // does not divide that, some ranks take a byte more: the group's total is exact.
  const std::int64_t times = call.op == OpType::all_reduce ? 2 : 1, group = times * (size_ - 1) * full_bytes;
  std::int64_t bytes = group * (rank_ + 1) / size_ - group * rank_ / size_;
  if (call.op == OpType::broadcast) bytes = rank_ == call.peer ? 0 : full_bytes;
  if (call.op == OpType::send) bytes = full_bytes;
  if (call.op == OpType::recv) bytes = 0;
  if (call.op == OpType::all_to_all)
    bytes = (call.part_received(size_ - 1, size_).end - call.part_received(rank_, size_).size()) * call.cols *
            static_cast<std::int64_t>(size_of(call.dtype));
  journal_->wire(row_of(call), bytes, false);
}

Tensor Communicator::all_reduce(const Tensor& x, Reduce reduce) {
  Call call = call_of(OpType::all_reduce, x);
  call.reduce = reduce;
  const Tensor in = x.contiguous(), out = size_ == 1 ? in : empty_like(x);
  start(call, in, out).wait();
  return out;
}

Request Communicator::iall_reduce(const Tensor& x, Reduce reduce) {
  Call call = call_of(OpType::all_reduce, x);
  call.reduce = reduce;
  return start(call, x, x);
}

Tensor Communicator::all_gather(const Tensor& x, int axis) {
  check_axis(axis);
  Call call = call_of(OpType::all_gather, x);
  call.axis = axis;
  const Tensor out = Tensor::empty(size_ * x.rows(), x.cols(), x.dtype(), x.device());
  start(call, x.contiguous(), out).wait();
  return axis == 0 ? out : unstack_columns(out, size_);
}

Request Communicator::iall_gather(const Tensor& x, const Tensor& all) {
  Call call = call_of(OpType::all_gather, x);
  call.axis = 0;
  expect(all.rows() == size_ * x.rows() && all.cols() == x.cols() && all.dtype() == x.dtype(),
         [&] { return format("{}: {} cannot hold what {} ranks send", call.text(), shape(all), size_); });
  return start(call, x, all);
}

Tensor Communicator::reduce_scatter(const Tensor& x, int axis) {
  check_axis(axis);
  part(axis == 0 ? x.rows() : x.cols(), rank_, size_);
  Call call = call_of(OpType::reduce_scatter, x);
  call.axis = axis;
  const Tensor in = axis == 0 ? x.contiguous() : stack_columns(x, size_);
  const Tensor out = Tensor::empty(in.rows() / size_, in.cols(), x.dtype(), x.device());
  start(call, in, out).wait();
  return out;
}

Request Communicator::ireduce_scatter(const Tensor& x, const Tensor& part) {
  Call call = call_of(OpType::reduce_scatter, x);
  call.axis = 0;
  expect(x.rows() == size_ * part.rows() && x.cols() == part.cols() && x.dtype() == part.dtype(),
         [&] { return format("{}: {} is not one of {} equal parts", call.text(), shape(part), size_); });
  return start(call, x, part);
}

Tensor Communicator::all_to_all(const Tensor& x) {
  part(x.rows(), rank_, size_);
  const Tensor out = Tensor::empty(x.rows(), x.cols(), x.dtype(), x.device());
  start(call_of(OpType::all_to_all, x), x.contiguous(), out).wait();
  return out;
}

Tensor Communicator::all_to_all(const Tensor& x, const std::vector<std::int64_t>& sent,
                                const std::vector<std::int64_t>& received) {
  Call call = call_of(OpType::all_to_all, x);
  call.set_parts(rank_, size_, sent, received);
  const Tensor out = Tensor::empty(call.part_received(size_ - 1, size_).end, x.cols(), x.dtype(), x.device());
  start(call, x.contiguous(), out).wait();
  return out;
}

void Communicator::broadcast(const Tensor& x, int root) {
  start(call_of(OpType::broadcast, x, root), x, x).wait();
}

Request Communicator::isend(const Tensor& x, int to) {
  return start(call_of(OpType::send, x, to), x.contiguous(), {});
}

Request Communicator::irecv(const Tensor& x, int from) {
  return start(call_of(OpType::recv, x, from), {}, x);
}

void Communicator::barrier() { start(call_of(OpType::barrier), {}, {}).wait(); }

Tensor Communicator::take_shard(const Tensor& x, int axis) const {
  check_axis(axis);
  const Range mine = part(axis == 0 ? x.rows() : x.cols(), rank_, size_);
  return (axis == 0 ? x.row_range(mine.begin, mine.end) : x.column_range(mine.begin, mine.end)).copy();
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, const std::string& name) {
  Call call = call_of(OpType::split);
  call.color = color;
  call.key = key;
  return do_split(call, name);
}

std::vector<Tensor> gather_to_first(Communicator& comm, const Tensor& x) {
  const Phase phase = comm.phase("check");
  const MemoryScope scope(MemoryKind::check);
  const Tensor mine =
      Tensor::of(1, 2, {static_cast<double>(x.rows()), static_cast<double>(x.cols())}, DType::i32);
  if (comm.rank() != 0) {
    comm.send(mine, 0);
    if (x.size() > 0) comm.send(x, 0);
    return {};
  }
  std::vector<Tensor> all = {x};
  for (int from = 1; from < comm.size(); ++from) {
    comm.recv(mine, from);
    const std::vector<double> sizes = mine.values();
    all.push_back(
        Tensor::empty(static_cast<std::int64_t>(sizes[0]), static_cast<std::int64_t>(sizes[1]), x.dtype()));
    if (all.back().size() > 0) comm.recv(all.back(), from);
  }
  return all;
}

std::vector<std::string> gather_to_first(Communicator& comm, const std::string& text) {
  const MemoryScope scope(MemoryKind::check);
  std::vector<std::string> texts;
  const std::vector<double> bytes(text.begin(), text.end());  // each becomes an i32: for short texts only
  for (const Tensor& tensor :
       gather_to_first(comm, Tensor::of(1, static_cast<std::int64_t>(text.size()), bytes, DType::i32))) {
    std::string& back = texts.emplace_back();
    for (const double byte : tensor.values()) back += static_cast<char>(byte);
  }
  return texts;
}

}  // namespace tessera
