// How MPI is called: every call is checked, one thread calls at a time, and a call that blocks has a
// time-out.
#include <sched.h>

#include <condition_variable>
#include <cstdlib>
#include <iostream>

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
        std::cerr << format("error: rank {} waits in {}, no progress for {:g} s", launched_rank(), call,
                            timeout.count())
                  << std::endl;
        std::_Exit(3);
      }) {}

Group::Group(MPI_Comm owned) : data(owned) { MPI_CHECK(MPI_Comm_dup(data, &control)); }

Group::~Group() {
  if (std::uncaught_exceptions() > 0) return;  // the job is about to end, and MPI may still use them
  MPI_Comm_free(&control);
  MPI_Comm_free(&data);
}

}  // namespace tessera::mpi
