// How MPI is called: every call is checked, one thread calls at a time, and a call that blocks has a
// time-out.
#include <sched.h>

#include "comm/mpi_job.hpp"

namespace tessera::mpi {

using namespace std::chrono_literals;

std::recursive_mutex& one_at_a_time() {
  static std::recursive_mutex mutex;  // an argument of a call may be another call's result
  return mutex;
}

void check(int code, const char* call, Where where) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(format("{}: {}: {}", place(where), call, std::string(text, static_cast<std::size_t>(length))));
}

bool test(MPI_Request& request) {
  int complete = 0;
  MPI_CHECK(MPI_Test(&request, &complete, MPI_STATUS_IGNORE));
  return complete != 0;
}

void pause(int idle) {
  if (idle < 100)
    sched_yield();
  else
    std::this_thread::sleep_for(30us);
}

Timer::Timer(std::chrono::duration<double> time, std::function<void()> then)
    : thread_([this, time, then = std::move(then)] {
        std::unique_lock lock(mutex_);
        while (!wake_.wait_for(lock, time, [&] { return ended_; })) {
          lock.unlock();
          then();
          lock.lock();
        }
      }) {}

Timer::~Timer() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void post_message(const std::string& bytes, int to, Tag tag) {
  struct Outgoing {
    std::string bytes;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  // MPI reads from them, and a message may leave after the launch has ended.
  static std::list<Outgoing> outgoing;
  const std::lock_guard lock(one_at_a_time());
  outgoing.remove_if([](Outgoing& sent) { return test(sent.request); });
  Outgoing& last = outgoing.emplace_back(Outgoing{bytes});
  MPI_CHECK(MPI_Isend(last.bytes.data(), static_cast<int>(bytes.size()), MPI_BYTE, to, tag, MPI_COMM_WORLD,
                      &last.request));
}

std::optional<std::string> next_message(Tag tag) {
  int there = 0, bytes = 0;
  MPI_Status status;
  MPI_CHECK(MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &there, &status));
  if (!there) return std::nullopt;
  MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &bytes));
  std::string text(static_cast<std::size_t>(bytes), ' ');
  MPI_CHECK(MPI_Recv(text.data(), bytes, MPI_BYTE, status.MPI_SOURCE, tag, MPI_COMM_WORLD, &status));
  return text;
}

Timer watchdog(std::string call, std::chrono::duration<double> timeout) {
  return {timeout, [call = std::move(call), timeout] {
            end_process({3, format("rank {} waits in {}, no progress for {:g} s", launched_rank(), call,
                                   timeout.count())});
          }};
}

Group::Group(MPI_Comm owned) : data(owned) { MPI_CHECK(MPI_Comm_dup(data, &control)); }

Group::~Group() {
  if (std::uncaught_exceptions() > 0) return;  // the job is about to end, and MPI may still use them
  const std::lock_guard lock(one_at_a_time());
  MPI_Comm_free(&control);
  MPI_Comm_free(&data);
}

}  // namespace tessera::mpi
