#include "comm/communicator.hpp"

#include <cstring>
#include <exception>

#include "tensor/error.hpp"

namespace tessera {

bool Call::matches(const Call& other) const {
  if (rows != other.rows || cols != other.cols || dtype != other.dtype) return false;
  if (point_to_point() && other.point_to_point()) return op != other.op;
  return op == other.op && reduce == other.reduce && axis == other.axis && peer == other.peer;
}

std::string Call::text() const {
  std::string text = op;  // not by a stream: every call makes this text
  if (reduce == Reduce::max) text += " (max)";
  if (axis >= 0) text += axis == 0 ? " by rows" : " by columns";
  if (moves_data())
    text += " of " + std::to_string(rows) + " x " + std::to_string(cols) + " " + tessera::name(dtype);
  if (op == "send") text += " to rank " + std::to_string(peer_in_world);
  if (op == "recv") text += " from rank " + std::to_string(peer_in_world);
  if (op == "broadcast") text += " with root rank " + std::to_string(peer_in_world);
  return text + " in group " + group;
}

Header Header::of(const Call& call, int world_rank, long number) {
  Header header;
  call.op.copy(header.op, sizeof header.op - 1);
  call.group.copy(header.group, sizeof header.group - 1);
  header.rows = call.rows, header.cols = call.cols, header.number = number;
  header.dtype = call.dtype, header.reduce = call.reduce, header.axis = call.axis;
  header.peer = call.peer, header.peer_in_world = call.peer_in_world, header.world_rank = world_rank;
  return header;
}

std::string text_of(const Call& call, long number) {
  return call.text() + " (call " + std::to_string(number) + ")";
}

std::string mismatch(int rank, const std::string& call, int other_rank, const std::string& other_call) {
  return format("the calls do not match: rank {} calls {}; rank {} calls {}", rank, call, other_rank,
                other_call);
}

std::string said_by(int rank, const std::string& what) {
  const std::string who = format("rank {}", rank);
  return what.starts_with("--") || what.starts_with(who) ? what : format("{}: {}", who, what);
}

void expect_match(const std::vector<Header>& calls) {
  for (const Header& other : calls) {
    const Header& first = calls.front();
    if (&other != &first && !first.call().matches(other.call()))
      throw Error(mismatch(first.world_rank, text_of(first.call(), first.number), other.world_rank,
                           text_of(other.call(), other.number)));
  }
}

Request::Request(std::unique_ptr<Work> work, Tensor buffer, Finish finish, std::weak_ptr<Journal> launch)
    : work_(std::move(work)),
      buffer_(std::move(buffer)),
      finish_(std::move(finish)),
      launch_(std::move(launch)) {}

Request& Request::operator=(Request&& other) noexcept {
  std::swap(work_, other.work_);
  std::swap(buffer_, other.buffer_);
  std::swap(finish_, other.finish_);
  std::swap(launch_, other.launch_);
  return *this;
}

Request::~Request() {
  if (work_ && !launch_.expired()) work_->abandon();
}

void Request::wait() {
  expect(work_ != nullptr, "this request was waited for already");
  const std::unique_ptr<Work> work = std::move(work_);
  const auto journal = launch_.lock();  // without it the transport is gone, too
  expect(journal != nullptr, "this request outlived its launch: wait for it before the rank returns");
  work->wait();
  if (finish_) finish_(*work, *journal);
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

void check_contiguous(const Call& call, const Tensor& x) {
  expect(x.is_contiguous(),
         [&] { return call.text() + ": the rows of this view lie apart; pass .contiguous()"; });
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

Call Communicator::call_of(std::string op, const Tensor& x) const {
  Call call{.op = std::move(op), .group = name_in_messages_};
  if (x.defined()) call.rows = x.rows(), call.cols = x.cols(), call.dtype = x.dtype();
  return call;
}

Call Communicator::call_of(std::string op, const Tensor& x, int peer) const {
  Call call = call_of(std::move(op), x);
  call.peer = peer;
  const bool there = 0 <= peer && peer < size_;
  call.peer_in_world = there ? world_rank(peer) : peer;
  expect(there, [&] { return format("{}: this group has ranks 0 to {}", call.text(), size_ - 1); });
  expect(peer != rank_ || call.op == "broadcast",
         [&] { return call.text() + ": a rank cannot exchange messages with itself"; });
  return call;
}

Request Communicator::start(const Call& call, std::int64_t payload, const Tensor& keep,
                            const std::function<std::unique_ptr<Work>(const TrafficKey&)>& post) {
  // A send and its recv are one transfer, which the sender enters.
  const std::string op = call.point_to_point() ? "send" : call.op;
  journal_->call(name_, op, call.point_to_point() ? call.op == "send" : rank_ == 0, payload);
  const Moment begin = journal_->moment();
  auto work = post(journal_->key(name_, op));
  const bool shown = journal_->phase() != "check" && size_ > 1;
  const std::size_t before = journal_->span_count();
  const auto finish = [text = call.text(), shown, before, begin](const Work& done, Journal& journal) {
    const bool alone = journal.span_count() == before;  // nothing else ended before the wait
    if (!shown) return;
    Moment from = begin, to = journal.moment();
    if (const auto [first, last] = done.marks(); last) from.mark = first, to.mark = last;
    journal.span(text, alone ? "communication" : "overlapped", from, to);
  };
  return {std::move(work), keep, finish, journal_};
}

void Communicator::model_wire(const Call& call, std::int64_t full_bytes) const {
  // Ring algorithms: an all-reduce is a reduce-scatter and an all-gather, each (n-1)/n of S a rank. Where n
  // does not divide that, some ranks take a byte more: the group's total is exact.
  const std::int64_t times = call.op == "all_reduce" ? 2 : 1, group = times * (size_ - 1) * full_bytes;
  std::int64_t bytes = group * (rank_ + 1) / size_ - group * rank_ / size_;
  if (call.op == "broadcast") bytes = rank_ == call.peer ? 0 : full_bytes;
  if (call.op == "send") bytes = full_bytes;
  if (call.op == "recv" || call.op == "barrier") bytes = 0;
  journal_->wire(journal_->key(name_, call.op == "recv" ? "send" : call.op), bytes, false);
}

Tensor Communicator::all_reduce(const Tensor& x, Reduce reduce) {
  Call call = call_of("all_reduce", x);
  call.reduce = reduce;
  const Tensor in = x.contiguous(), out = empty_like(x);
  start(call, out.bytes(), in, [&](const TrafficKey& key) {
    return do_all_reduce(call, key, in, out);
  }).wait();
  return out;
}

Request Communicator::iall_reduce(const Tensor& x, Reduce reduce) {
  Call call = call_of("all_reduce", x);
  call.reduce = reduce;
  check_contiguous(call, x);
  return start(call, x.bytes(), x, [&](const TrafficKey& key) { return do_all_reduce(call, key, x, x); });
}

Tensor Communicator::all_gather(const Tensor& x, int axis) {
  check_axis(axis);
  Call call = call_of("all_gather", x);
  call.axis = axis;
  const Tensor in = x.contiguous(), out = Tensor::empty(size_ * x.rows(), x.cols(), x.dtype(), x.device());
  start(call, out.bytes(), in, [&](const TrafficKey& key) {
    return do_all_gather(call, key, in, out);
  }).wait();
  return axis == 0 ? out : unstack_columns(out, size_);
}

Request Communicator::iall_gather(const Tensor& x, const Tensor& all) {
  Call call = call_of("all_gather", x);
  call.axis = 0;
  check_contiguous(call, x);
  check_contiguous(call, all);
  expect(all.rows() == size_ * x.rows() && all.cols() == x.cols() && all.dtype() == x.dtype(),
         [&] { return format("{}: {} cannot hold what {} ranks send", call.text(), shape(all), size_); });
  return start(call, all.bytes(), all,
               [&](const TrafficKey& key) { return do_all_gather(call, key, x, all); });
}

Tensor Communicator::reduce_scatter(const Tensor& x, int axis) {
  check_axis(axis);
  part(axis == 0 ? x.rows() : x.cols(), rank_, size_);
  Call call = call_of("reduce_scatter", x);
  call.axis = axis;
  const Tensor in = axis == 0 ? x.contiguous() : stack_columns(x, size_);
  const Tensor out = Tensor::empty(in.rows() / size_, in.cols(), x.dtype(), x.device());
  start(call, in.bytes(), in, [&](const TrafficKey& key) {
    return do_reduce_scatter(call, key, in, out);
  }).wait();
  return out;
}

void Communicator::broadcast(const Tensor& x, int root) {
  const Call call = call_of("broadcast", x, root);
  check_contiguous(call, x);
  start(call, x.bytes(), x, [&](const TrafficKey& key) { return do_broadcast(call, key, x); }).wait();
}

Request Communicator::isend(const Tensor& x, int to) {
  const Call call = call_of("send", x, to);
  const Tensor in = x.contiguous();
  return start(call, in.bytes(), in, [&](const TrafficKey& key) { return do_send(call, key, in); });
}

Request Communicator::irecv(const Tensor& x, int from) {
  const Call call = call_of("recv", x, from);
  check_contiguous(call, x);
  return start(call, x.bytes(), x, [&](const TrafficKey& key) { return do_recv(call, key, x); });
}

void Communicator::barrier() {
  const Call call = call_of("barrier");
  start(call, 0, {}, [&](const TrafficKey&) { return do_barrier(call); }).wait();
}

Tensor Communicator::take_shard(const Tensor& x, int axis) const {
  check_axis(axis);
  const Range mine = part(axis == 0 ? x.rows() : x.cols(), rank_, size_);
  return (axis == 0 ? x.row_range(mine.begin, mine.end) : x.column_range(mine.begin, mine.end)).copy();
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, const std::string& name) {
  return do_split(call_of("split"), color, key, name);
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
