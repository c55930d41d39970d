#include "comm/mpi_job.hpp"

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <map>
#include <mutex>

#include "tensor/error.hpp"

namespace tessera::mpi {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int message_tag = 0;  // on the groups' own communicators
constexpr int notice_tag = 1;   // on MPI_COMM_WORLD, where no message of a program can be in its way
constexpr auto grace = 500ms;   // in which the ranks tell what they are doing before the job ends
constexpr auto patience = 10s;  // for which a rank waits until another one has ended the job

void say(const std::string& line) { std::cerr << line + "\n" << std::flush; }

/// The notice stays here until MPI has sent it: its own thread and that of a heartbeat may ask for that.
void tell(int to, const Notice& notice) {
  struct Outgoing {
    Notice notice;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  static std::mutex mutex;
  static std::list<Outgoing> outgoing;  // not a Job's: a notice may leave after the launch has ended
  const std::lock_guard lock(mutex);
  outgoing.remove_if([](Outgoing& sent) { return test(sent.request); });
  Outgoing& last = outgoing.emplace_back(Outgoing{notice});
  MPI_CHECK(
      MPI_Isend(&last.notice, sizeof last.notice, MPI_BYTE, to, notice_tag, MPI_COMM_WORLD, &last.request));
}

std::optional<Notice> receive_notice() {
  int there = 0;
  MPI_Status status;
  MPI_CHECK(MPI_Iprobe(MPI_ANY_SOURCE, notice_tag, MPI_COMM_WORLD, &there, &status));
  if (!there) return std::nullopt;
  Notice heard{};
  MPI_CHECK(MPI_Recv(&heard, sizeof heard, MPI_BYTE, status.MPI_SOURCE, notice_tag, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE));
  return heard;
}

}  // namespace

Job::Job(const LaunchOptions& options) : timeout_(options.timeout), verify_(options.verify) {
  MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  last_busy_ = Clock::now();
}

std::shared_ptr<Transfer> Job::post(const Call& call, std::shared_ptr<Group> group, Tensor in, Tensor out,
                                    Transfer::Start start) {
  auto transfer = std::make_shared<Transfer>();
  transfer->mine = Header::of(call, rank_, ++calls_);
  doing_ = "is outside any call, after " + text_of(call, calls_);
  if (fault_) throw Error(*fault_);

  transfer->group = std::move(group);
  transfer->in = std::move(in);
  transfer->out = std::move(out);
  transfer->start = std::move(start);
  exchange_headers(*transfer);
  pending_.push_back(transfer);
  unwaited_.push_back(transfer);
  advance();  // MPI has no thread of its own, and moves data only inside our calls
  return transfer;
}

void Job::exchange_headers(Transfer& transfer) const {
  constexpr int bytes = sizeof(Header);
  Header& mine = transfer.mine;
  const MPI_Comm comm = transfer.group->control;
  const std::string op = mine.op;
  if (op == "send") {  // synchronous: it completes when the receiver has posted its recv, no earlier
    MPI_CHECK(MPI_Issend(&mine, bytes, MPI_BYTE, mine.peer, message_tag, comm, &transfer.header));
  } else if (op == "recv") {
    transfer.theirs.resize(1);
    MPI_CHECK(
        MPI_Irecv(transfer.theirs.data(), bytes, MPI_BYTE, mine.peer, message_tag, comm, &transfer.header));
  } else if (verify_ || op == "split") {  // a split blocks in MPI, so all ranks must be there before
    int ranks = 0;
    MPI_CHECK(MPI_Comm_size(comm, &ranks));
    transfer.theirs.resize(static_cast<std::size_t>(ranks));
    MPI_CHECK(MPI_Iallgather(&mine, bytes, MPI_BYTE, transfer.theirs.data(), bytes, MPI_BYTE, comm,
                             &transfer.header));
  }
}

/// A channel is a group's collectives, its messages to one peer, or those from one. Payloads of a channel
/// start in call order on every rank: a call that still exchanges headers holds the later ones back.
bool Job::held_back(const Transfer& transfer) const {
  const Header& mine = transfer.mine;
  for (const auto& earlier : pending_) {
    if (earlier.get() == &transfer) break;
    const Header& other = earlier->mine;
    const bool same_channel =
        earlier->group == transfer.group && mine.call().point_to_point() == other.call().point_to_point() &&
        (!mine.call().point_to_point() || (mine.call().op == other.call().op && mine.peer == other.peer));
    if (same_channel && !earlier->started) return true;
  }
  return false;
}

/// Looks once at all transfers. True where one of them moved on.
bool Job::advance() {
  if (const auto end = hear()) stop(notice(Notice::answer, end->code), end, "");
  if (fault_) throw Error(*fault_);
  bool moved = false;
  try {
    for (auto it = pending_.begin(); it != pending_.end();) {
      Transfer& transfer = **it;
      if (!transfer.started && !held_back(transfer) && test(transfer.header)) {
        if (transfer.mine.call().point_to_point()) transfer.theirs.push_back(transfer.mine);
        expect_match(transfer.theirs);
        transfer.start(transfer.group->data, &transfer.payload);
        transfer.started = moved = true;
      }
      transfer.done = transfer.started && test(transfer.payload);
      moved = moved || transfer.done;
      it = transfer.done ? pending_.erase(it) : std::next(it);
    }
  } catch (const Error& error) {
    fault_ = error.what();
    throw;
  }
  return moved;
}

void Job::poll(const bool& done) {
  const Time began = Clock::now();
  Time asked = began;
  for (Backoff backoff; !done; backoff.pause()) {
    if (advance()) backoff = {};
    if (done) return;
    const Time now = Clock::now();
    Time since = std::max(began, last_busy_);
    // After this rank has returned: a rank that waits has a time-out of its own, but no call ends one that
    // does nothing. So all are asked what they do, and a rank that does not answer is a stall.
    if (returned_) {
      last_heard_[static_cast<std::size_t>(rank_)] = now;
      since = *std::min_element(last_heard_.begin(), last_heard_.end());
    }
    if (now - since > timeout_) stop(notice(Notice::timed_out, 3), std::nullopt, "");
    if (!returned_ || now - asked < timeout_ / 4) continue;
    tell_all(notice(Notice::question));
    asked = now;
  }
}

void Job::wait(const std::shared_ptr<Transfer>& transfer) {
  const std::string call = text_of(transfer->mine.call(), transfer->mine.number);
  doing_ = "waits in " + call;
  unwaited_.remove(transfer);
  waits_ = true;
  poll(transfer->done);
  waits_ = false;
  doing_ = "is outside any call, after " + call;
}

void Job::abandon(const std::shared_ptr<Transfer>& transfer) {
  unwaited_.remove(transfer);
  // A rank that unwinds drops its requests. Any other rank forgot to wait.
  if (std::uncaught_exceptions() == 0 && !fault_)
    fault_ = format("rank {} never waited for its {}", rank_,
                    text_of(transfer->mine.call(), transfer->mine.number));
}

std::unique_ptr<Busy> Job::busy(const std::string& what) {
  struct Scope final : Busy {
    Scope(Job& job, const std::string& what)
        : job(job), before(std::exchange(job.doing_, what)), heartbeat([this](const std::stop_token& stop) {
            std::mutex mutex;
            std::condition_variable_any never;
            std::unique_lock lock(mutex);
            do {
              if (!this->job.waits_) this->job.tell_all(beat);
            } while (
                !never.wait_for(lock, stop, this->job.timeout_ / 4, [&] { return stop.stop_requested(); }));
          }) {}
    ~Scope() override { job.doing_ = before; }
    Job& job;
    std::string before;
    Notice beat = job.notice(Notice::busy);
    std::jthread heartbeat;  // the last member: it starts when the others are there, and ends before them
  };
  return std::make_unique<Scope>(*this, what);
}

void Job::finish() {
  if (!unwaited_.empty()) abandon(std::shared_ptr(unwaited_.front()));
  if (fault_) throw Error(*fault_);
  returned_ = true;
  last_heard_.assign(static_cast<std::size_t>(size_), Clock::now());
  doing_ = format("has returned after {} calls", calls_);
  auto barrier = std::make_shared<Transfer>();
  barrier->started = true;
  MPI_CHECK(MPI_Ibarrier(MPI_COMM_WORLD, &barrier->payload));
  pending_.push_back(barrier);
  poll(barrier->done);
}

Notice Job::notice(Notice::Kind kind, int code) const {
  Notice notice{kind, rank_, code, {}};
  doing_.copy(notice.doing, sizeof notice.doing - 1);
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

void Job::fail(int code, const std::string& what) {
  // A fault that the transport found names the ranks itself.
  stop(notice(Notice::failed, code), std::nullopt, fault_ == what ? what : said_by(rank_, what));
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
  const bool first = std::all_of(all.begin(), all.end(),
                                 [&](const auto& other) { return mine.order() <= other.second.order(); });
  if (!first) {
    std::this_thread::sleep_for(patience);
    std::_Exit(mine.code);
  }
  std::string text = message;
  for (int rank = 0; rank < size_ && mine.kind == Notice::timed_out; ++rank)
    text +=
        format("{}rank {} {}", rank == 0 ? format("no progress for {:g} s: ", timeout_.count()) : "; ", rank,
               all.count(rank) > 0 ? all.at(rank).doing : "did not answer: it computes, or it was stopped");
  say("error: " + text);
  // An exit would run MPI_Finalize, which waits for ranks that wait for this one.
  MPI_Abort(MPI_COMM_WORLD, mine.code);
  std::_Exit(mine.code);
}

}  // namespace tessera::mpi
