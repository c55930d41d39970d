// The all-reduce of two ranks against what their cores can read and write; beside it Open MPI's.
#include <algorithm>
#include <array>
#include <cstdio>

#include "bench.hpp"
#include "messages.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

namespace {

/// What mpirun's two processes print (mpi_all_reduce.cpp): seconds of an all-reduce, large and small.
std::optional<std::array<double, 2>> open_mpi(std::int64_t large, std::int64_t small) {
  const auto ran = test::run_command(format("{} {} {} 2>/dev/null", TESSERA_MPI_ALL_REDUCE, large, small));
  std::array<double, 2> found{};
  if (ran.exit != 0 || std::sscanf(ran.output.c_str(), "%lf %lf", &found[0], &found[1]) != 2) return {};
  return found;
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
    const Turns turns = in_turns(
        comm, o.turns, [&] { comm.all_reduce(x); },
        [&] {
          kernels_of(x).add(sum, x.column_range(0, half), x.column_range(half, 2 * half));
          rest.copy_from(x.column_range(0, half));
        });
    const Turns small_turns = in_turns(
        comm, 20 * o.turns, [&] { comm.all_reduce(few); }, [] {});
    if (comm.rank() != 0) return;
    report.ratio("all_reduce.fraction_of_limit", turns.b_over_a(), Target{Target::at_least, 0.7},
                 format("two ranks' all-reduce of {} B: the time to read and write the same bytes, over the "
                        "time it takes; {}",
                        large, turns.both()));
    const double barrier = median(small_turns.b);
    const auto mpi = open_mpi(large, small);
    report.table("All-reduce of two ranks, medians",
                 {{"", format("{} B", large), format("{} B", small)},
                  {"threads", us(median(turns.a)), us(median(small_turns.a) - barrier)},
                  {"Open MPI", mpi ? us((*mpi)[0]) : "not here", mpi ? us((*mpi)[1]) : ""}});
  });
}

}  // namespace tessera::bench
