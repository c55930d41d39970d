// The all-reduce of two ranks against what their cores can read and write; beside it Open MPI's.
#include <algorithm>
#include <array>
#include <cstdio>

#include "bench.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

namespace {

/// What mpirun's two processes print (mpi_all_reduce.cpp): seconds of an all-reduce, large and small.
std::optional<std::array<double, 2>> open_mpi(std::int64_t large, std::int64_t small) {
  const std::string command = format("{} {} {} 2>/dev/null", TESSERA_MPI_ALL_REDUCE, large, small);
  FILE* pipe = command[0] == ' ' ? nullptr : popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  std::array<double, 2> found{};
  const bool read = std::fscanf(pipe, "%lf %lf", &found[0], &found[1]) == 2;
  return pclose(pipe) == 0 && read ? std::optional(found) : std::nullopt;
}

std::string us(double seconds) { return number(1e6 * seconds) + " us"; }

}  // namespace

void all_reduce(Report& report, const Options& o) {
  const std::int64_t large = o.quick ? 1 << 16 : std::int64_t{64} << 20, small = 4096;
  launch(o.ranks(2), [&](Communicator& comm) {
    const Tensor x = numbers(1, large / 4), y = numbers(1, large / 4), few = numbers(1, small / 4);
    // The bytes that a rank of an all-reduce reads and writes: it adds two halves and copies a third one.
    const std::int64_t half = x.size() / 2;
    const Tensor sum = y.column_range(0, half), rest = y.column_range(half, 2 * half);
    const auto turns = in_turns(
        comm, o.turns, [&] { comm.all_reduce(x); },
        [&] {
          kernels_of(x).add(sum, x.column_range(0, half), x.column_range(half, 2 * half));
          rest.copy_from(x.column_range(0, half));
        });
    const auto small_turns = in_turns(
        comm, 20 * o.turns, [&] { comm.all_reduce(few); }, [] {});
    if (comm.rank() != 0) return;
    report.ratio("all_reduce.fraction_of_limit", b_over_a(turns), Target{Target::at_least, 0.7},
                 format("two ranks' all-reduce of {} B: the time to read and write the same bytes, over the "
                        "time it takes; {}",
                        large, both(turns)));
    std::vector<double> of_large, of_small;
    for (const Turn& turn : turns) of_large.push_back(turn.a);
    for (const Turn& turn : small_turns) of_small.push_back(turn.a - turn.b);  // without the barrier
    const auto mpi = open_mpi(large, small);
    report.table("All-reduce of two ranks, medians",
                 {{"", format("{} B", large), format("{} B", small)},
                  {"threads", us(median(of_large)), us(median(of_small))},
                  {"Open MPI", mpi ? us((*mpi)[0]) : "not here", mpi ? us((*mpi)[1]) : ""}});
  });
}

}  // namespace tessera::bench
