#include "comm/mpi_job.hpp"

#include <algorithm>
#include <cstring>
#include <iostream>
#include <map>

#include "tensor/error.hpp"

namespace tessera::mpi {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int header_tag = 0;   // on the groups' own communicators
constexpr auto grace = 500ms;   // in which the ranks tell what they are doing before the job ends
constexpr auto patience = 10s;  // for which a rank waits until another one has ended the job

void tell(int to, const Notice& notice) {
  post_message(std::string(reinterpret_cast<const char*>(&notice), sizeof notice), to, notice_tag);
}

std::optional<Notice> receive_notice() {
  const auto bytes = next_message(notice_tag);
  if (!bytes) return std::nullopt;
  Notice heard{};
  std::memcpy(&heard, bytes->data(), sizeof heard);
  return heard;
}

}  // namespace

void Transfer::wait() { job.wait(*this); }
void Transfer::abandon() { job.abandon(*this); }

void Transfer::exchange_headers(bool verify) {
  constexpr int bytes = sizeof(Call);
  const MPI_Comm comm = group->control;
  if (mine.op == OpType::send) {
    // Synchronous: it completes when the receiver has posted its recv, no earlier.
    MPI_CHECK(MPI_Issend(&mine, bytes, MPI_BYTE, mine.peer, header_tag, comm, &header));
  } else if (mine.op == OpType::recv) {
    theirs = {mine, mine};  // the sender's is about to come
    MPI_CHECK(MPI_Irecv(theirs.data(), bytes, MPI_BYTE, mine.peer, header_tag, comm, &header));
  } else if (verify || mine.op == OpType::split) {
    // A split blocks in MPI, so all ranks must be there before.
    int ranks = 0;
    MPI_CHECK(MPI_Comm_size(comm, &ranks));
    theirs.resize(static_cast<std::size_t>(ranks), mine);
    MPI_CHECK(MPI_Iallgather(&mine, bytes, MPI_BYTE, theirs.data(), bytes, MPI_BYTE, comm, &header));
  }
}

bool Transfer::shares_channel(const Transfer& other) const {
  if (group != other.group || mine.point_to_point() != other.mine.point_to_point()) return false;
  return !mine.point_to_point() || (mine.op == other.mine.op && mine.peer == other.mine.peer);
}

Job::Job(const LaunchOptions& options) : options_(options), world_(options) {
  MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  world_.only(rank_);
  last_busy_ = Clock::now();
}

std::shared_ptr<Transfer> Job::post(Call call, std::shared_ptr<Group> group, Tensor in, Tensor out) {
  world_.enter(call);
  auto transfer = std::make_shared<Transfer>(*this, call, std::move(group), std::move(in), std::move(out));
  transfer->exchange_headers(options_.verify);
  pending_.push_back(transfer);
  advance();  // MPI has no thread of its own, and moves data only inside our calls
  return transfer;
}

/// A call that still exchanges headers holds the later ones of its channel back.
bool Job::held_back(const Transfer& transfer) const {
  for (const auto& earlier : pending_) {
    if (earlier.get() == &transfer) break;
    if (!earlier->started && earlier->shares_channel(transfer)) return true;
  }
  return false;
}

/// Looks once at all transfers. True where one of them moved on.
bool Job::advance() {
  if (const auto end = hear()) stop(notice(Notice::answer, end->code), end, "");
  world_.check();
  bool moved = false;
  try {
    for (auto it = pending_.begin(); it != pending_.end();) {
      Transfer& transfer = **it;
      if (!transfer.started && !held_back(transfer) && test(transfer.header)) {
        if (const std::string text = mismatch(transfer.theirs); !text.empty()) throw Error(text);
        transfer.start();
        transfer.started = moved = true;
      }
      transfer.done = transfer.started && test(transfer.payload);
      moved = moved || transfer.done;
      it = transfer.done ? pending_.erase(it) : std::next(it);
    }
  } catch (const Error& error) {
    world_.report(error.what());
    throw;
  }
  return moved;
}

void Job::poll(const bool& done) {
  const Time began = Clock::now();
  Time asked = began;
  for (int idle = 0; !done; pause(++idle)) {
    if (advance()) idle = 0;
    if (done) return;
    const Time now = Clock::now();
    Time since = std::max(began, last_busy_);
    // After this rank has returned: a rank that waits has a time-out of its own, but no call ends one that
    // does nothing. So all are asked what they do, and a rank that does not answer is a stall.
    if (returned_) {
      last_heard_[static_cast<std::size_t>(rank_)] = now;
      since = std::ranges::min(last_heard_);
    }
    if (now - since > options_.timeout) stop(notice(Notice::timed_out, 3), std::nullopt, "");
    if (!returned_ || now - asked < options_.timeout / 4) continue;
    tell_all(notice(Notice::question));
    asked = now;
  }
}

void Job::wait(Transfer& transfer) {
  const std::string call = transfer.mine.numbered();
  world_.begin_wait(transfer.mine);
  world_.back_at(rank_, "waits in " + call);
  waits_ = true;
  poll(transfer.done);
  waits_ = false;
  world_.back_at(rank_, "is outside any call, after " + call);
}

std::shared_ptr<void> Job::busy(const std::string& what) {
  const auto heartbeat = [this, busy = world_.busy(rank_, what), beat = notice(Notice::busy)] {
    if (!waits_) tell_all(beat);
  };
  heartbeat();
  return std::make_shared<Timer>(options_.timeout / 4, heartbeat);
}

void Job::finish() {
  world_.returned(rank_);
  world_.check();
  returned_ = true;
  last_heard_.assign(static_cast<std::size_t>(size_), Clock::now());
  const auto barrier =
      std::make_shared<Transfer>(*this, Call{.op = OpType::barrier}, nullptr, Tensor(), Tensor());
  barrier->started = true;
  MPI_CHECK(MPI_Ibarrier(MPI_COMM_WORLD, &barrier->payload));
  pending_.push_back(barrier);
  poll(barrier->done);
}

Notice Job::notice(Notice::Kind kind, int code) const {
  Notice notice{kind, rank_, code, {}};
  world_.doing(rank_).copy(notice.doing, sizeof notice.doing - 1);
  return notice;
}

void Job::tell_all(const Notice& notice) const {
  for (int to = 0; to < size_; ++to)
    if (to != rank_) tell(to, notice);
}

/// Reads all notices that are here, up to one that ends the job, which it returns.
std::optional<Notice> Job::hear() {
  while (const auto heard = receive_notice()) {
    if (heard->kind == Notice::failed || heard->kind == Notice::timed_out) return heard;
    if (heard->kind == Notice::busy) last_busy_ = Clock::now();
    if (heard->kind == Notice::question) tell(heard->rank, notice(Notice::answer));
    if (!last_heard_.empty()) last_heard_[static_cast<std::size_t>(heard->rank)] = Clock::now();
  }
  return std::nullopt;
}

void Job::fail() {
  world_.failed(rank_);
  const Failure failure = world_.first_failure();
  stop(notice(Notice::failed, failure.code), std::nullopt, failure.what);
}

/// Tells all ranks, and waits until all have answered or the grace is over. Then the first rank in order
/// prints its message, or after a time-out what all ranks are doing, and ends the job. It is noexcept: with
/// MPI itself broken, std::terminate ends the process, and the launcher ends the job.
// NOLINTNEXTLINE(bugprone-exception-escape)
void Job::stop(const Notice& mine, const std::optional<Notice>& heard,
               const std::string& message) const noexcept {
  tell_all(mine);
  std::map<int, Notice> all = {{rank_, mine}};
  if (heard) all.emplace(heard->rank, *heard);
  for (const auto end = Clock::now() + grace;
       Clock::now() < end && all.size() < static_cast<std::size_t>(size_); std::this_thread::sleep_for(1ms))
    while (const auto other = receive_notice())
      if (other->kind != Notice::question) all.emplace(other->rank, *other);
  const bool first =
      std::ranges::all_of(all, [&](const auto& other) { return mine.order() <= other.second.order(); });
  if (!first) {
    std::this_thread::sleep_for(patience);
    std::_Exit(mine.code);
  }
  std::string text = message;
  for (int rank = 0; rank < size_ && mine.kind == Notice::timed_out; ++rank)
    text += format(
        "{}rank {} {}", rank == 0 ? format("no progress for {:g} s: ", options_.timeout.count()) : "; ", rank,
        all.count(rank) > 0 ? all.at(rank).doing : "did not answer: it computes, or it was stopped");
  std::cerr << "error: " + text + "\n" << std::flush;
  // An exit would run MPI_Finalize, which waits for ranks that wait for this one.
  MPI_Abort(MPI_COMM_WORLD, mine.code);
  std::_Exit(mine.code);
}

}  // namespace tessera::mpi
