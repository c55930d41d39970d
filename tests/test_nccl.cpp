// Ranks that have a GPU each and talk through NCCL, and the choice of where ranks run.
#include <cstdlib>
#include <thread>

#include "gpu_ranks.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {
// NCCL is prepared before the first CUDA call of the suite, when it is not known yet which cases run.
[[maybe_unused]] const bool prepared = (nccl::prepare(), true);
}  // namespace

TEST_CASE("nccl: every collective and message, one GPU a rank") {
  NEEDS_NCCL(1)
  for (const int n : {1, 2, 3, 4, 8})
    for (const bool verify : {true, false}) {
      if (n > cuda_device_count() || (thinned > 1 && n > 3)) continue;
      INFO(n, " ranks", verify ? ", verified" : "");
      LaunchOptions options = gpus(n, Transport::nccl);
      options.verify = verify;
      CHECK(said(options, conform) == "");
    }
}

TEST_CASE("nccl: wrong programs end, and say what every rank was doing") {
  NEEDS_NCCL(2)
  for (const WrongProgram& program : wrong_programs) {
    if (program.ranks > cuda_device_count()) continue;
    INFO(program.name);
    LaunchOptions options = gpus(program.ranks, Transport::nccl);
    options.timeout = std::chrono::seconds(2);
    const std::string message = said(options, program.run);
    CHECK_MESSAGE(missing_from(message, program) == "", message);
  }
}

TEST_CASE("nccl: a fault ends the kernels of all groups and messages that wait") {
  NEEDS_NCCL(2)
  for (const bool verify : {true, false}) {
    LaunchOptions options = gpus(2, Transport::nccl);
    options.verify = verify;
    CHECK(said(options, [](Communicator& comm) {
            const auto other = comm.split(0, 0, "other"), third = comm.split(0, 0, "third");
            comm.barrier(), other->barrier(), third->barrier();  // a group's first call connects it
            if (comm.rank() == 1) {
              std::this_thread::sleep_for(std::chrono::milliseconds(500));  // rank 0's kernels wait by then
              throw UsageError("rank 1 is unwell");
            }
            const Tensor a = zeros(8), b = zeros(8), c = zeros(8), d = zeros(8);
            Request r1 = comm.iall_reduce(a), r2 = other->iall_reduce(b), r3 = third->iall_reduce(c);
            Request r4 = comm.irecv(d, 1);
            r3.wait();
            c.values();
          }) == "rank 1 is unwell");
  }
}

TEST_CASE("nccl: what a peer's GPU has yet to do is no stall") {
  NEEDS_NCCL(2)
  LaunchOptions options = gpus(2, Transport::nccl);
  options.timeout = std::chrono::seconds(2);  // NCCL needs a part of it to connect
  CHECK(said(options, [](Communicator& comm) {
          comm.barrier();
          const Tensor x = Tensor::of(1, 1, {1}, DType::f32);
          if (comm.rank() == 1) occupy_gpu(4);  // its host goes on
          require_equal(comm.all_reduce(x), {2}, "the sum");
        }) == "");
}

TEST_CASE("cuda: after a fault a rank may take its time to stop, because its GPU is behind") {
  NEEDS_GPUS(1)
  for (const Transport transport : transports_of_two()) {
    CHECK(said(gpus(2, transport), [](Communicator& comm) {
            comm.barrier();
            if (comm.rank() == 0) occupy_gpu(4);
            comm.barrier();
            if (comm.rank() == 1) throw UsageError("rank 1 is unwell");
            comm.barrier();
          }) == "rank 1 is unwell");
  }
}

TEST_CASE("nccl: calls are not held to one order for the whole GPU") {
  NEEDS_NCCL(2)
  CHECK(said(gpus(2, Transport::nccl), [](Communicator& comm) { comm.barrier(); }) == "");
  CHECK(std::getenv("NCCL_LAUNCH_ORDER_IMPLICIT") == nullptr);
}

TEST_CASE("where to run: the processes of a launcher agree on it") {
  const auto seen = [](int count, const char* taken, const char* none = "") {
    SeenGpus seen{.count = count};
    std::string(taken).copy(seen.taken, sizeof seen.taken - 1);
    std::string(none).copy(seen.none, sizeof seen.none - 1);
    return seen;
  };
  const auto choice = [&](const std::vector<SeenGpus>& processes, std::optional<DeviceKind> device = {},
                          std::optional<Transport> transport = {}) {
    const int n = static_cast<int>(processes.size());
    std::vector<std::string> said;
    for (const SeenGpus& mine : processes) {
      const Machine machine{n, mine.count, mine.none, "", true, true, true};
      std::string reason;
      const std::string refusal =
          message_from([&] { reason = choose(agreed(machine, processes), {}, 2, device, transport).reason; });
      said.push_back(refusal + reason);  // one of them is empty
    }
    for (const std::string& other : said) CHECK(other == said[0]);
    return said[0];
  };
  const std::vector<SeenGpus> own = {seen(2, "a 01"), seen(2, "a 02"), seen(2, "b 01"), seen(2, "b 02")};
  CHECK(choice(own) == "4 ranks as processes, a GPU each, NCCL, CUDA");
  // One visible GPU a process, as srun --gpus-per-task=1 gives it.
  CHECK(choice({seen(1, "a 01"), seen(1, "a 02")}) == "2 ranks as processes, a GPU each, NCCL, CUDA");
  // Four processes on a machine of one GPU.
  const std::vector<SeenGpus> one(4, seen(1, "a 01"));
  CHECK(choice(one) == "4 ranks as processes, MPI, CPU (processes 0 and 1 would share GPU a 01)");
  CHECK(contains(choice(one, DeviceKind::cuda),
                 "processes 0 and 1 would share GPU a 01; --device cpu would work"));
  CHECK(
      contains(choice(one, {}, Transport::nccl), "a GPU for each of 4 ranks: processes 0 and 1 would share"));
  CHECK(choice({seen(0, "", "no GPU found"), seen(0, "", "the driver is too old")}) ==
        "2 ranks as processes, MPI, CPU (no GPU found)");
  // One machine of two has none.
  const std::vector<SeenGpus> some = {seen(1, "a 01"), seen(0, "", "no GPU found")};
  CHECK(choice(some) == "2 ranks as processes, MPI, CPU (no GPU found)");
  CHECK(contains(choice(some, DeviceKind::cuda), "--device cuda: no GPU found; --device cpu would work"));
}

TEST_CASE("where to run: a driver that does not serve is named") {
  const char* says =
      "CUDA driver version is insufficient; the driver serves CUDA 12.2, this build needs 13.0";
  const Machine machine{0, 0, says, "", false, true, true};
  CHECK(choose(machine, 2, 2, {}, {}).reason == format("2 ranks as threads, CPU ({})", says));
  CHECK(message_from([&] { choose(machine, 2, 2, DeviceKind::cuda, {}); }) ==
        format("--device cuda: {}; --device cpu would work", says));
  CHECK(contains(message_from([&] { choose(machine, 2, 2, {}, Transport::nccl); }), says));
  CHECK(why_no_gpu().empty() == (cuda_device_count() > 0));
}
