#include "comm/mpi_job.hpp"

#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <iostream>
#include <mutex>

#include "tensor/error.hpp"

namespace tessera::mpi {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int message_tag = 0;  // on the groups' own communicators
constexpr int alarm_tag = 1;    // on MPI_COMM_WORLD, where no message of a program can be in its way
constexpr auto grace = 500ms;   // for ranks that fail together to hear of each other, and for the last words
constexpr auto patience = 10s;  // of a rank that waits for another one to end the job

void say(const std::string& line) { std::cerr << line + "\n" << std::flush; }

bool match(const Header& a, const Header& b) {
  if (a.elements != b.elements || a.dtype != b.dtype) return false;
  return a.point_to_point() || (a.call().op == b.call().op && a.reduce == b.reduce && a.peer == b.peer);
}

void compare(const Header& mine, std::vector<Header> theirs) {
  if (std::all_of(theirs.begin(), theirs.end(), [&](const auto& other) { return match(mine, other); }))
    return;
  if (mine.point_to_point()) theirs.push_back(mine);  // else it is among them
  std::string text;
  for (const Header& header : theirs)
    text += str(text.empty() ? "" : "; ", "rank ", header.world_rank, " is at ", header.text());
  throw Error("the calls do not match: " + text);
}

}  // namespace

void check(int code, const char* call, Where where) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(str(place(where), ": ", call, ": ", std::string(text, static_cast<std::size_t>(length))));
}

bool test(MPI_Request& request) {
  int complete = 0;
  MPI_CHECK(MPI_Test(&request, &complete, MPI_STATUS_IGNORE));
  return complete != 0;
}

void Backoff::pause() {
  if (++idle_ < 100)
    sched_yield();
  else
    std::this_thread::sleep_for(30us);
}

Watchdog::Watchdog(std::string call, std::chrono::duration<double> timeout)
    : thread_([call = std::move(call), timeout](const std::stop_token& stop) {
        std::mutex mutex;
        std::condition_variable_any never;
        std::unique_lock lock(mutex);
        if (never.wait_for(lock, stop, timeout, [&] { return stop.stop_requested(); })) return;
        say(str("error: rank ", launched_rank(), " waits in ", call, ", no progress for ", timeout.count(),
                " s"));
        std::_Exit(3);
      }) {}

Group::Group(MPI_Comm owned) : data(owned) { MPI_CHECK(MPI_Comm_dup(data, &control)); }

Group::~Group() {
  if (std::uncaught_exceptions() > 0) return;  // the job is about to end, and transfers may be under way
  MPI_Comm_free(&control);
  MPI_Comm_free(&data);
}

std::string Header::text() const { return str(call().text(), " (call ", number, ")"); }

Job::Job(const LaunchOptions& options) : timeout_(options.timeout), verify_(options.verify) {
  MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size_));
}

std::shared_ptr<Transfer> Job::post(const Call& call, std::shared_ptr<Group> group, Tensor in, Tensor out,
                                    Transfer::Start start) {
  auto transfer = std::make_shared<Transfer>();
  Header& mine = transfer->mine;
  call.op.copy(mine.op, sizeof mine.op - 1);
  mine.elements = call.elements;
  mine.number = ++calls_;
  mine.dtype = call.dtype;
  mine.reduce = call.reduce;
  mine.peer = call.peer;
  mine.world_rank = rank_;
  doing_ = "is at " + mine.text();
  if (fault_) throw Error(*fault_);

  transfer->group = std::move(group);
  transfer->in = std::move(in);
  transfer->out = std::move(out);
  transfer->start = std::move(start);
  exchange_headers(*transfer);
  pending_.push_back(transfer);
  advance();  // MPI has no thread of its own: it moves data only inside our calls
  return transfer;
}

void Job::exchange_headers(Transfer& transfer) const {
  constexpr int bytes = sizeof(Header);
  Header& mine = transfer.mine;
  const MPI_Comm comm = transfer.group->control;
  const std::string op = mine.op;
  if (op == "send") {  // synchronous: completes when the receiver has posted its recv, no earlier
    MPI_CHECK(MPI_Issend(&mine, bytes, MPI_BYTE, mine.peer, message_tag, comm, &transfer.header));
  } else if (op == "recv") {
    transfer.theirs.resize(1);
    MPI_CHECK(
        MPI_Irecv(transfer.theirs.data(), bytes, MPI_BYTE, mine.peer, message_tag, comm, &transfer.header));
  } else if (verify_ || op == "split") {  // a split blocks in MPI: only when all ranks are known to be there
    int ranks = 0;
    MPI_CHECK(MPI_Comm_size(comm, &ranks));
    transfer.theirs.resize(static_cast<std::size_t>(ranks));
    MPI_CHECK(MPI_Iallgather(&mine, bytes, MPI_BYTE, transfer.theirs.data(), bytes, MPI_BYTE, comm,
                             &transfer.header));
  }
}

/// Payloads of one channel (a group's collectives; its messages to one peer, or from one) start in call order
/// on every rank: a call that still exchanges headers holds the later ones back.
bool Job::held_back(const Transfer& transfer) const {
  const Header& mine = transfer.mine;
  for (const auto& earlier : pending_) {
    if (earlier.get() == &transfer) break;
    const Header& other = earlier->mine;
    const bool same_channel =
        earlier->group == transfer.group && mine.point_to_point() == other.point_to_point() &&
        (!mine.point_to_point() || (mine.call().op == other.call().op && mine.peer == other.peer));
    if (same_channel && !earlier->started) return true;
  }
  return false;
}

/// One look at everything under way. True where something moved.
bool Job::advance() {
  if (const auto alarm = hear()) {
    if (alarm->timed_out)
      say(str("error: rank ", rank_, " ", doing_));  // after a failure only the cause speaks
    std::this_thread::sleep_for(patience);
    std::_Exit(alarm->code);
  }
  if (fault_) throw Error(*fault_);
  bool moved = false;
  try {
    for (auto it = pending_.begin(); it != pending_.end();) {
      Transfer& transfer = **it;
      if (!transfer.started && !held_back(transfer) && test(transfer.header)) {
        compare(transfer.mine, transfer.theirs);
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

void Job::poll(const bool& done, std::optional<Clock::time_point> deadline) {
  Backoff backoff;
  while (true) {
    if (!done && advance()) backoff = {};
    if (done) return;
    if (deadline && Clock::now() > *deadline)
      stop({true, 3, rank_},
           str("error: rank ", rank_, " ", doing_, ", no progress for ", timeout_.count(), " s"));
    backoff.pause();
  }
}

void Job::wait(const std::shared_ptr<Transfer>& transfer) {
  doing_ = "waits in " + transfer->mine.text();
  poll(transfer->done, Clock::now() + std::chrono::duration_cast<Clock::duration>(timeout_));
}

void Job::abandon(const Transfer& transfer) {
  // A rank that unwinds drops its requests; a rank that does not forgot to wait.
  if (std::uncaught_exceptions() == 0 && !fault_)
    fault_ = str("rank ", rank_, " never waited for its ", transfer.mine.text());
}

void Job::finish() {
  if (fault_) throw Error(*fault_);
  // No deadline: another rank may compute for long.
  // One that waits for this rank has its own time-out, and is heard here.
  doing_ = str("has returned after ", calls_, " calls");
  auto barrier = std::make_shared<Transfer>();
  barrier->started = true;
  MPI_CHECK(MPI_Ibarrier(MPI_COMM_WORLD, &barrier->payload));
  pending_.push_back(barrier);
  poll(barrier->done, std::nullopt);
}

std::optional<Job::Alarm> Job::hear() const {
  int there = 0;
  MPI_Status status;
  MPI_CHECK(MPI_Iprobe(MPI_ANY_SOURCE, alarm_tag, MPI_COMM_WORLD, &there, &status));
  if (!there) return std::nullopt;
  Alarm alarm{};
  MPI_CHECK(MPI_Recv(&alarm, sizeof alarm, MPI_BYTE, status.MPI_SOURCE, alarm_tag, MPI_COMM_WORLD,
                     MPI_STATUS_IGNORE));
  return alarm;
}

void Job::fail(int code, const std::string& what) {
  stop({false, code, rank_}, str("error: rank ", rank_, ": ", what));
}

/// Of the ranks that fail within the grace, the first in order speaks and ends the job; the others wait for
/// that.
/// noexcept: with MPI itself broken, std::terminate still ends the process, and the launcher the job.
// NOLINTNEXTLINE(bugprone-exception-escape)
void Job::stop(const Alarm& mine, const std::string& message) const noexcept {
  const auto earlier = hear();
  bool first = !earlier;
  for (int to = 0; to < size_ && !earlier; ++to) {
    MPI_Request request = MPI_REQUEST_NULL;
    if (to == rank_) continue;
    MPI_CHECK(MPI_Isend(&mine, sizeof mine, MPI_BYTE, to, alarm_tag, MPI_COMM_WORLD, &request));
    MPI_CHECK(MPI_Request_free(&request));
  }
  if (earlier ? earlier->timed_out : mine.timed_out) say(message);  // every rank says where it waits
  for (const auto end = Clock::now() + grace; Clock::now() < end; std::this_thread::sleep_for(1ms))
    if (const auto other = hear()) first = first && mine.order() < other->order();
  if (first) {
    if (!mine.timed_out) say(message);
    // Not an exit: that runs MPI_Finalize, which waits for ranks that wait for this one.
    MPI_Abort(MPI_COMM_WORLD, mine.code);
  }
  std::this_thread::sleep_for(patience);
  std::_Exit(mine.code);
}

}  // namespace tessera::mpi
