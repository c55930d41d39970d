// Ranks as threads: the conformance suite, and what this transport alone promises.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <thread>

#include "random_programs.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;

TEST_CASE("the conformance suite, at 1 to 8 ranks") {
  for (const int n : {1, 2, 3, 4, 7, 8})
    for (const Program& program : programs) {
      INFO(program.name, ", ", n, " ranks");
      CHECK_NOTHROW(on_ranks(n, program.run));
    }
}

TEST_CASE("all_reduce over one rank copies nothing") {
  on_ranks(1, [](Communicator& comm) {
    const Tensor x = Tensor::of(2, 2, {1, 2, 3, 4}, DType::f32);
    for (const Reduce how : {Reduce::sum, Reduce::max}) {
      const Tensor y = comm.all_reduce(x, how);
      expect(y.raw() == x.raw() && y.values() == std::vector<double>{1, 2, 3, 4}, "the result is not x");
    }
    const Tensor apart = Tensor::of(2, 2, {1, 2, 3, 4}, DType::f32).column_range(1, 2);
    expect(comm.all_reduce(apart).values() == std::vector<double>{2, 4}, "a view's sum is wrong");
  });
}

TEST_CASE("all_reduce sums in rank order: equal bits on all ranks and in every run") {
  std::vector<double> first;
  for (int run = 0; run < 3; ++run)
    on_ranks(4, [&](Communicator& comm) {
      const Tensor x =
          generate(1, format("x{}", comm.rank()), Slice::whole(33, 65), DType::f32, Fill::uniform, 1);
      const Tensor y = comm.all_reduce(x);
      const Tensor all = comm.all_gather(y.reshape(1, y.size()), 0);
      for (int r = 1; r < 4; ++r)
        expect(all.row_range(r, r + 1).values() == all.row_range(0, 1).values(), "ranks differ");
      if (comm.rank() == 0) {
        if (run == 0) first = y.values();
        expect(first == y.values(), "runs differ");
      }
    });
  CHECK(first.size() == 33 * 65);
}

namespace {

/// How many random programs to run: ten times as many where TESSERA_LONG is set, as in ./tessera test --all.
int programs_of(int number) {
  return (std::getenv("TESSERA_LONG") != nullptr ? 10 * number : number) / thinned;
}

/// Checks that a wrong program ends within two seconds and says what it must. Returns the seconds that it
/// took.
template <class Program>
double check_wrong(int ranks, const Program& program, const std::function<void(Communicator&)>& run) {
  const auto start = std::chrono::steady_clock::now();
  const std::string message = message_of(ranks, run);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  CHECK_MESSAGE(missing_from(message, program) == "", message);
  CHECK(took.count() < 2);
  return took.count();
}

}  // namespace

TEST_CASE("wrong programs end within two seconds, and say what every rank was doing") {
  for (const WrongProgram& program : wrong_programs) {
    INFO(program.name);
    check_wrong(program.ranks, program, program.run);
  }
}

TEST_CASE("random programs over nested groups compute what a sequential model does") {
  const int number = programs_of(500);
  for (int i = 0; i < number; ++i) {
    CAPTURE(i);
    const RandomProgram program(i, 1 + i % 8);
    CHECK(message_of(1 + i % 8, [&](Communicator& comm) { program.run(comm); }) == "");
  }
  std::cout << number << " random programs were compared with the model\n";
}

TEST_CASE("random programs with one fault end within two seconds, and name calls, group and ranks") {
  const int number = programs_of(600);
  double longest = 0;
  for (int i = 0; i < number; ++i) {
    INFO("program ", i, ", fault: ", fault_names[i % fault_names.size()]);
    const RandomProgram program = wrong_program(i, 3 + i % 6);
    longest =
        std::max(longest, check_wrong(3 + i % 6, program, [&](Communicator& comm) { program.run(comm); }));
  }
  std::cout << number << " wrong programs, of " << fault_names.size() << " kinds, took " << longest
            << " s at most\n";
}

TEST_CASE("a call that never completes ends at the time-out, and so does a rank that sleeps at the end") {
  LaunchOptions options = ranks(2);
  options.timeout = std::chrono::milliseconds(200);
  const auto sleep = [](Communicator& comm) {
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(800));
  };
  refuses([&] { launch(options, [&](Communicator& comm) { sleep(comm), comm.barrier(); }); },
          "no progress for 0.2 s: rank 0 waits in barrier in group world (call 1); rank 1 has made no call");
  const auto sleeps_at_the_end = [&](Communicator& comm) { comm.barrier(), sleep(comm); };
  options.ranks = 3;
  refuses([&] { launch(options, sleeps_at_the_end); },
          "no progress for 0.2 s: rank 0 has returned after 1 calls; rank 1 is outside any call, after "
          "barrier in group world (call 1); rank 2 has");
  options.ranks = 1;  // nobody waits for the only rank
  CHECK_NOTHROW(launch(options, [&](Communicator& comm) {
    comm.barrier();
    std::this_thread::sleep_for(std::chrono::milliseconds(800));
  }));
}

TEST_CASE("announced work is no stall, whatever it takes, and when it ends the time-out runs again") {
  LaunchOptions options = ranks(3);
  options.timeout = std::chrono::milliseconds(100);
  const auto computes = [](Communicator& comm, int rank, int milliseconds) {
    if (comm.rank() != rank) return;
    const auto busy = comm.busy("computes the unsplit reference");
    const auto inner = comm.busy("computes it again");
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  };
  for (const int rank : {0, 2})
    CHECK_NOTHROW(launch(options, [&](Communicator& comm) {
      computes(comm, rank, 500);
      comm.barrier();
      const auto half = comm.split(comm.rank() % 2, 0, "half");
      computes(comm, rank, 500);
      half->barrier();
      computes(comm, rank, 500);  // the others may have returned
    }));
  refuses(
      [&] {
        launch(options, [&](Communicator& comm) {
          computes(comm, 1, 300);
          if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(500));
          comm.barrier();
        });
      },
      "rank 1 has made no call");
}

TEST_CASE("a refusal of a flag names no rank: it is the same on all of them") {
  CHECK(message_of(2, [](Communicator&) { throw UsageError("--heads 7: --heads 6 would work"); }) ==
        "--heads 7: --heads 6 would work");
  CHECK(message_of(2, [](Communicator& comm) {
          comm.barrier();
          if (comm.rank() == 1) throw Error("rank 1 is out of memory");
        }) == "rank 1 is out of memory");
}

TEST_CASE("of ranks that throw the same error the lowest is named, whichever threw first") {
  std::atomic<int> thrown = 0;
  CHECK(message_of(4, [&](Communicator& comm) {
          while (thrown < 3 - comm.rank()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
          ++thrown;
          throw Error("stage 3 has no forward");
        }) == "rank 0: stage 3 has no forward");
}

TEST_CASE("a request that outlives its launch is an error, and so is its wait") {
  Request kept;
  const std::string message = message_of(2, [&](Communicator& comm) {
    if (comm.rank() == 1) return comm.recv(Tensor::zeros(2, 2, DType::f32), 0);
    kept = comm.isend(Tensor::zeros(2, 2, DType::f32), 1);
  });
  CHECK(contains(message, "rank 0 never waited for its send of 2 x 2 f32 to rank 1 in group world (call 1)"));
  CHECK(contains(message_from([&] { kept.wait(); }), "this request outlived its launch"));
}

TEST_CASE("UsageError keeps its exit code where another rank cannot be stopped") {
  if (const int child = fork(); child == 0) {  // the process ends while a rank computes
    if (!std::freopen("/dev/null", "w", stderr)) _exit(9);
    try {
      on_ranks(2, [](Communicator& comm) {
        if (comm.rank() == 1) throw UsageError("7 heads cannot be cut");
        std::this_thread::sleep_for(std::chrono::minutes(1));
      });
    } catch (...) {
    }
    std::_Exit(0);
  } else {
    int status = 0;
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 2);
  }
}

TEST_CASE("OutOfMemory is rethrown as such") {
  const auto run = [](Communicator& comm) {
    if (comm.rank() == 1) throw OutOfMemory("no 8 B of memory left");
    comm.barrier();
  };
  refuses<OutOfMemory>([&] { on_ranks(2, run); }, "rank 1: no 8 B of memory left");
}

TEST_CASE("where the machine has no thread for a rank, those that have begun stop, and the message says it") {
  if (thinned > 1) return skip("a build without a sanitizer: that needs the addresses itself");
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const int child = fork();
  if (child == 0) {
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;  // a build with CUDA maps more than one without it
    const rlim_t few = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + (std::size_t{1} << 30);
    const rlimit little{few, few};  // of addresses: some 100 stacks of 8 MiB more
    setrlimit(RLIMIT_AS, &little);
    const std::string said = message_of(1000, [](Communicator& comm) { comm.barrier(); });
    const auto written = write(ends[1], said.data(), said.size());
    std::_Exit(written == static_cast<ssize_t>(said.size()) ? 0 : 9);
  }
  close(ends[1]);
  std::string said(1000, ' ');
  const ssize_t bytes = read(ends[0], said.data(), said.size());
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  said.resize(static_cast<std::size_t>(std::max<ssize_t>(bytes, 0)));
  CHECK_MESSAGE(
      (said.starts_with("--ranks 1000: no thread for rank ") && said.ends_with("fewer ranks would work")),
      said);
}

TEST_CASE("an asynchronous send is taken while its sender computes, and does not wait") {
  std::atomic<bool> taken = false;
  on_ranks(2, [&](Communicator& comm) {
    const Tensor x = Tensor::zeros(8, 8, DType::f32);
    if (comm.rank() == 1) {
      comm.recv(x, 0);
      taken = true;
      return;
    }
    Request sent = comm.isend(x, 1);
    const auto start = std::chrono::steady_clock::now();
    while (!taken && std::chrono::steady_clock::now() - start < std::chrono::seconds(10))
      std::this_thread::yield();
    expect(taken, "the receive waits for the sender's wait");
    sent.wait();
  });
  CHECK(taken);
}
