#include "comm/communicator.hpp"

#include <cstring>
#include <exception>

#include "tensor/error.hpp"

namespace tessera {

std::string Call::text() const {
  std::string text = op;
  if (op == "send") text += str(" to ", peer);
  if (op == "recv") text += str(" from ", peer);
  if (elements > 0) text += str(" of ", elements, " ", tessera::name(dtype));
  if (op == "broadcast") text += str(" from root ", peer);
  if (reduce == Reduce::max) text += " (max)";
  return text;
}

Request::Request(std::unique_ptr<Work> work, Tensor buffer, Finish finish)
    : work_(std::move(work)), buffer_(std::move(buffer)), finish_(std::move(finish)) {}

Request& Request::operator=(Request&& other) noexcept {
  std::swap(work_, other.work_);
  std::swap(buffer_, other.buffer_);
  std::swap(finish_, other.finish_);
  return *this;
}

Request::~Request() {
  if (work_) work_->abandon();
}

void Request::wait() {
  expect(work_ != nullptr, "this request was waited for already");
  const std::unique_ptr<Work> work = std::move(work_);
  work->wait();
  if (finish_) finish_(*work);
}

namespace {

bool sends_full(const std::string& op) { return op == "broadcast" || op == "send"; }

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

Call call_for(std::string op, const Tensor& x, int peer = -1, Reduce reduce = Reduce::sum) {
  return {std::move(op), x.size(), x.dtype(), reduce, peer};
}

void check_axis(int axis) {
  expect(axis == 0 || axis == 1, str("axis ", axis, " is neither rows (0) nor columns (1)"));
}

void check_contiguous(const Call& call, const Tensor& x) {
  expect(x.is_contiguous(), str(call.text(), ": a view whose rows lie apart; pass .contiguous()"));
}

}  // namespace

Request Communicator::start(const Call& call, std::int64_t payload, const Tensor& keep,
                            const std::function<std::unique_ptr<Work>(const TrafficKey&)>& post) {
  const bool point_to_point = call.op == "send" || call.op == "recv";
  // A send and its recv are one transfer: the sender enters it.
  journal_->call(name_, point_to_point ? "send" : call.op, point_to_point ? call.op == "send" : rank_ == 0,
                 payload);
  const Moment begin = journal_->moment();
  auto work = post(journal_->key(name_, point_to_point ? "send" : call.op));
  const bool shown = journal_->phase() != "check" && size_ > 1;
  const std::size_t before = journal_->span_count();
  return {std::move(work), keep,
          [journal = journal_, text = call.text(), shown, before, begin](const Work& done) {
            const bool alone = journal->span_count() == before;  // nothing else ended before the wait
            if (!shown) return;
            Moment from = begin, to = journal->moment();
            if (const auto [first, last] = done.marks(); last) from.mark = first, to.mark = last;
            journal->span(text, alone ? "communication" : "overlapped", from, to);
          }};
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

void Communicator::check_peer(const Call& call) const {
  expect(0 <= call.peer && call.peer < size_,
         str(call.text(), ": group ", name_, " has ranks 0 to ", size_ - 1));
  expect(sends_full(call.op) ? call.op == "broadcast" || call.peer != rank_ : call.peer != rank_,
         str(call.text(), ": rank ", rank_, " itself"));
}

Tensor Communicator::all_reduce(const Tensor& x, Reduce reduce) {
  const Call call = call_for("all_reduce", x, -1, reduce);
  const Tensor in = x.contiguous(), out = empty_like(x);
  start(call, out.bytes(), in, [&](const TrafficKey& key) {
    return do_all_reduce(call, key, in, out);
  }).wait();
  return out;
}

Request Communicator::iall_reduce(const Tensor& x, Reduce reduce) {
  const Call call = call_for("all_reduce", x, -1, reduce);
  check_contiguous(call, x);
  return start(call, x.bytes(), x, [&](const TrafficKey& key) { return do_all_reduce(call, key, x, x); });
}

Tensor Communicator::all_gather(const Tensor& x, int axis) {
  check_axis(axis);
  const Call call = call_for("all_gather", x);
  const Tensor in = x.contiguous(), out = Tensor::empty(size_ * x.rows(), x.cols(), x.dtype(), x.device());
  start(call, out.bytes(), in, [&](const TrafficKey& key) {
    return do_all_gather(call, key, in, out);
  }).wait();
  return axis == 0 ? out : unstack_columns(out, size_);
}

Tensor Communicator::reduce_scatter(const Tensor& x, int axis) {
  check_axis(axis);
  part(axis == 0 ? x.rows() : x.cols(), rank_, size_);
  const Call call = call_for("reduce_scatter", x);
  const Tensor in = axis == 0 ? x.contiguous() : stack_columns(x, size_);
  const Tensor out = Tensor::empty(in.rows() / size_, in.cols(), x.dtype(), x.device());
  start(call, in.bytes(), in, [&](const TrafficKey& key) {
    return do_reduce_scatter(call, key, in, out);
  }).wait();
  return out;
}

void Communicator::broadcast(const Tensor& x, int root) {
  const Call call = call_for("broadcast", x, root);
  check_peer(call);
  check_contiguous(call, x);
  start(call, x.bytes(), x, [&](const TrafficKey& key) { return do_broadcast(call, key, x); }).wait();
}

Request Communicator::isend(const Tensor& x, int to) {
  const Call call = call_for("send", x, to);
  check_peer(call);
  const Tensor in = x.contiguous();
  return start(call, in.bytes(), in, [&](const TrafficKey& key) { return do_send(call, key, in); });
}

Request Communicator::irecv(const Tensor& x, int from) {
  const Call call = call_for("recv", x, from);
  check_peer(call);
  check_contiguous(call, x);
  return start(call, x.bytes(), x, [&](const TrafficKey& key) { return do_recv(call, key, x); });
}

void Communicator::barrier() {
  const Call call{.op = "barrier"};
  start(call, 0, {}, [&](const TrafficKey&) { return do_barrier(call); }).wait();
}

Tensor Communicator::take_shard(const Tensor& x, int axis) const {
  check_axis(axis);
  const Range mine = part(axis == 0 ? x.rows() : x.cols(), rank_, size_);
  return (axis == 0 ? x.row_range(mine.begin, mine.end) : x.column_range(mine.begin, mine.end)).copy();
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, const std::string& name) {
  return do_split(Call{.op = "split"}, color, key, name);
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
  const std::vector<double> letters(text.begin(), text.end());  // one i32 a letter: short texts only
  for (const Tensor& tensor :
       gather_to_first(comm, Tensor::of(1, static_cast<std::int64_t>(text.size()), letters, DType::i32))) {
    std::string& back = texts.emplace_back();
    for (const double letter : tensor.values()) back += static_cast<char>(letter);
  }
  return texts;
}

}  // namespace tessera
