// One conformance suite for every transport: programs that must run, and wrong programs with what the error
// must say. A program throws where something is wrong, so that rank threads and processes run it alike.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.hpp"
#include "messages.hpp"
#include "tensor/error.hpp"

namespace tessera::test {

/// Element i of rank r's tensor: small integers, so that every sum is exact in any order.
inline double element(int rank, std::int64_t i) { return static_cast<double>((i * 7 + rank * 13) % 31 - 15); }

inline Tensor input(int rank, std::int64_t rows, std::int64_t cols, DType dtype) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < rows * cols; ++i) values.push_back(element(rank, i));
  return Tensor::of(rows, cols, values, dtype);
}

inline void require_equal(const Tensor& tensor, const std::vector<double>& expected,
                          const std::string& what) {
  expect(tensor.values() == expected, what);
}

/// The wire bytes of one kind of call, summed over the group.
inline double wire_of_group(Communicator& comm, const std::string& phase, const std::string& op) {
  const Traffic row = comm.journal().traffic().at({phase, comm.name(), op});
  expect_eq(row.counted, comm.transport() == "threads", "counted or modelled");
  const auto check = comm.phase("check");
  return comm.all_reduce(Tensor::of(1, 1, {static_cast<double>(row.wire)})).values()[0];
}

inline void collectives_of(Communicator& comm, std::int64_t rows, std::int64_t cols, DType dtype) {
  const std::string at = format("{} x {} {}", rows, cols, name(dtype));
  const auto phase = comm.phase(at);
  const int me = comm.rank(), n = comm.size();
  const Tensor x = input(me, rows, cols, dtype);

  std::vector<double> sum(x.size()), largest(x.size(), -1e9), stacked, times_n, own_again;
  for (int r = 0; r < n; ++r)
    for (std::int64_t i = 0; i < x.size(); ++i) {
      sum[i] += element(r, i), largest[i] = std::max(largest[i], element(r, i));
      stacked.push_back(element(r, i)), own_again.push_back(element(me, i));
    }
  for (std::int64_t i = 0; i < x.size(); ++i) times_n.push_back(n * element(me, i));

  require_equal(comm.all_reduce(x), sum, "all_reduce of " + at);
  require_equal(x, input(me, rows, cols, dtype).values(), "all_reduce keeps its input, " + at);
  const Tensor gathered = comm.all_gather(x, 0);
  require_equal(gathered, stacked, "all_gather of rows, " + at);
  // Row block r of every rank's (n rows, cols) tensor is rank r's input: the sum is n times that.
  require_equal(comm.reduce_scatter(gathered, 0), times_n, "reduce_scatter of rows, " + at);
  const Tensor copy = x.copy();
  comm.broadcast(copy, n - 1);
  require_equal(copy, input(n - 1, rows, cols, dtype).values(), "broadcast of " + at);

  // Row block r of every rank's `gathered` is rank r's input, and goes to rank r: n times one's own.
  require_equal(comm.all_to_all(gathered), own_again, "all_to_all of " + at);

  const double each = static_cast<double>(x.bytes());
  expect_eq(comm.journal().traffic().at({at, comm.name(), "all_reduce"}).calls, me == 0 ? 1 : 0, "calls");
  const double every = (n - 1) * n * each;
  expect_eq(wire_of_group(comm, at, "all_reduce"), 2 * (n - 1) * each, "bytes of all_reduce, " + at);
  expect_eq(wire_of_group(comm, at, "all_gather"), every, "bytes of all_gather, " + at);
  expect_eq(wire_of_group(comm, at, "reduce_scatter"), every, "bytes of reduce_scatter, " + at);
  expect_eq(wire_of_group(comm, at, "all_to_all"), every, "bytes of all_to_all, " + at);
  expect_eq(wire_of_group(comm, at, "broadcast"), (n - 1) * each, "bytes of broadcast, " + at);

  const auto second = comm.phase("second");
  require_equal(comm.all_reduce(x, Reduce::max), largest, "maximum of " + at);
  const Tensor side_by_side = comm.all_gather(x, 1);
  require_equal(comm.take_shard(side_by_side, 1), x.values(), "all_gather of columns, my shard back, " + at);
  require_equal(side_by_side.column_range((n - 1) * cols, n * cols), input(n - 1, rows, cols, dtype).values(),
                "all_gather of columns, the last rank's, " + at);
  require_equal(comm.reduce_scatter(side_by_side, 1), times_n, "reduce_scatter of columns, " + at);
  const Tensor inplace = x.copy();
  comm.iall_reduce(inplace).wait();
  require_equal(inplace, sum, "iall_reduce of " + at);
  {
    const auto requests = comm.phase(at + " as requests");
    const Tensor part = empty_like(x), all = empty_like(gathered);
    Request scatter = comm.ireduce_scatter(gathered, part), gather = comm.iall_gather(x, all);
    (me % 2 == 0 ? gather : scatter).wait();
    (me % 2 == 0 ? scatter : gather).wait();
    require_equal(part, times_n, "ireduce_scatter of " + at);
    require_equal(all, stacked, "iall_gather of " + at);
    require_equal(gathered, stacked, "ireduce_scatter keeps its input, " + at);
  }
  for (const char* op : {"reduce_scatter", "all_gather"})
    expect_eq(wire_of_group(comm, at + " as requests", op), every, op);
  if (dtype != DType::i32 && x.size() > 0) {  // whichever rank has the NaN
    const Tensor with_nan = x.copy();
    if (me == n / 2) with_nan.copy_from(Tensor::of(rows, cols, std::vector<double>(sum.size(), NAN), dtype));
    for (const double value : comm.all_reduce(with_nan, Reduce::max).values())
      expect(std::isnan(value), "the maximum of a NaN and a number is NaN, " + at);
  }
  comm.barrier();
}

inline void every_collective(Communicator& comm) {
  for (const auto& [rows, cols] : {std::pair{1, 1}, {0, 3}, {5, 3}, {2, 100}, {17, 61}})
    for (const DType dtype : {DType::f32, DType::f64, DType::i32, DType::bf16})
      collectives_of(comm, rows, cols, dtype);
}

/// Parts of every size, some of them empty, of a tensor whose rows lie apart; and nothing at all.
inline void all_to_all_in_uneven_parts(Communicator& comm) {
  const int me = comm.rank(), n = comm.size();
  for (const int seed : {0, 1, 2, 3})
    for (const DType dtype : {DType::f32, DType::f64, DType::i32, DType::bf16}) {
      const auto count = [&](int from, int to) -> std::int64_t {
        return seed == 3 ? 0 : (3 * from + 5 * to + from * to + seed) % (seed + 2) * (seed == 2 ? 37 : 1);
      };
      const std::string at = format("parts of kind {}, {}", seed, name(dtype));
      const auto phase = comm.phase(at);
      constexpr std::int64_t cols = 3;
      std::vector<std::int64_t> sent, received;
      std::int64_t rows = 0;
      double apart = 0;  // rows that cross between ranks
      for (int r = 0; r < n; ++r) {
        sent.push_back(count(me, r)), received.push_back(count(r, me)), rows += count(me, r);
        for (int to = 0; to < n; ++to) apart += r == to ? 0 : static_cast<double>(count(r, to));
      }
      std::vector<double> expected;
      for (int r = 0; r < n; ++r) {
        std::int64_t begin = 0;
        for (int to = 0; to < me; ++to) begin += count(r, to);
        for (std::int64_t i = begin * cols; i < (begin + count(r, me)) * cols; ++i)
          expected.push_back(element(r, i));
      }
      const Tensor wide = Tensor::zeros(rows, cols + 2, dtype);
      wide.column_range(1, 1 + cols).copy_from(input(me, rows, cols, dtype));
      const Tensor got = comm.all_to_all(wide.column_range(1, 1 + cols), sent, received);
      require_equal(got, expected, "all_to_all in " + at);
      expect_eq(got.cols(), cols, "columns");
      expect_eq(wire_of_group(comm, at, "all_to_all"),
                apart * static_cast<double>(cols * static_cast<std::int64_t>(size_of(dtype))),
                "bytes of all_to_all in " + at);
    }
}

/// Groups know nothing of each other: every rank begins with another group and waits in another order, and
/// has messages under way in both directions of every pair meanwhile.
inline void groups_in_different_orders(Communicator& comm) {
  constexpr int groups = 5;
  const int n = comm.size(), me = comm.rank();
  std::vector<std::unique_ptr<Communicator>> all;
  for (int g = 0; g < groups; ++g) all.push_back(comm.split(0, g % 2 == 0 ? me : -me, format("group {}", g)));
  for (int round = 0; round < 3; ++round) {
    std::vector<Tensor> sums, received;
    std::vector<Request> requests;
    for (int peer = 0; peer < n; ++peer) {
      received.push_back(Tensor::zeros(5, 8, DType::f32));
      if (peer == me) continue;
      requests.push_back(comm.isend(input(me + round, 5, 8, DType::f32), peer));
      requests.push_back(comm.irecv(received.back(), peer));
    }
    for (int i = 0; i < groups; ++i) {
      const int g = (i + me) % groups;
      sums.push_back(input(me + g, 3, 7, DType::f32));
      requests.push_back(all[g]->iall_reduce(sums.back()));
    }
    for (std::size_t k = 0; k < requests.size(); ++k) requests[(k + me) % requests.size()].wait();
    for (int i = 0; i < groups; ++i) {
      double sum = 0;
      for (int r = 0; r < n; ++r) sum += element(r + (i + me) % groups, 2);
      expect_eq(sums[i].values()[2], sum, format("the sum of group {}", (i + me) % groups));
    }
    for (int peer = 0; peer < n; ++peer)
      if (peer != me)
        require_equal(received[peer], input(peer + round, 5, 8, DType::f32).values(),
                      format("the message from {}", peer));
  }
}

/// Calls are matched in the order of their posting, whatever the timing and the order of the waits: each has
/// a size of its own, one of them beyond any eager limit. Receives are posted first.
inline void many_in_flight(Communicator& comm) {
  constexpr int calls = 30;
  const auto phase = comm.phase("many in flight");
  const int n = comm.size(), right = (comm.rank() + 1) % n, left = (comm.rank() + n - 1) % n;
  const auto message = [](int rank, int i) {
    return input(rank + i, 2, i == 7 ? 75000 : 40 * i + 1, DType::f64);
  };
  std::vector<Tensor> sums, parts, received;
  std::vector<Request> requests;
  double bytes = 0;
  for (int i = 0; i < calls; ++i) {
    sums.push_back(input(comm.rank(), i % 7 + 1, i + 1, DType::f64));
    requests.push_back(comm.iall_reduce(sums.back()));
    parts.push_back(Tensor::zeros(2, i + 1, DType::f64));
    requests.push_back(comm.ireduce_scatter(input(comm.rank(), 2 * n, i + 1, DType::f64), parts.back()));
    if (n == 1) continue;
    const Tensor sent = message(comm.rank(), i);
    bytes += n * sent.bytes();
    received.push_back(empty_like(sent));
    requests.push_back(comm.irecv(received.back(), left));
    requests.push_back(comm.isend(sent, right));
  }
  const std::size_t count = requests.size();
  // 7 divides no count: every request once, on each rank from elsewhere.
  for (std::size_t k = 0; k < count; ++k) requests[(7 * k + 5 * comm.rank()) % count].wait();
  for (int i = 0; i < calls; ++i) {
    double last = 0;
    for (int r = 0; r < n; ++r) last += element(r, sums[i].size() - 1);
    expect_eq(sums[i].values().back(), last, format("sum {}", i));
    double first = 0;
    for (int r = 0; r < n; ++r) first += element(r, comm.rank() * parts[i].size());
    expect_eq(parts[i].values().front(), first, format("part {} of a sum", i));
    if (n > 1) require_equal(received[i], message(left, i).values(), format("message {}", i));
  }
  if (n > 1) expect_eq(wire_of_group(comm, "many in flight", "send"), bytes, "bytes");
}

/// What is posted moves on while its rank waits in another call.
inline void progress_in_other_calls(Communicator& comm) {
  if (comm.size() == 1) return;
  const Tensor x = input(comm.rank(), 64, 64, DType::f32), y = empty_like(x), total = x.copy();
  const std::vector<double> sum = comm.all_reduce(x).values();
  Request reduce = comm.iall_reduce(total);
  if (comm.rank() == 0) {
    Request receive = comm.irecv(y, 1);
    comm.barrier();  // rank 1 gets here when its send, and with it our receive, is done
    receive.wait();
    require_equal(y, input(1, 64, 64, DType::f32).values(), "the message");
    reduce.wait();
  } else {
    if (comm.rank() == 1) comm.send(x, 0);
    reduce.wait();
    comm.barrier();
  }
  require_equal(total, sum, "the sum");
}

/// Groups by color, ordered by key; a color of -1 takes no part; a split of a split.
inline void split(Communicator& comm) {
  const int n = comm.size(), me = comm.rank(), half = (n + 1) / 2;
  const auto row = comm.split(me / half, -me, "row");
  const int begin = me / half * half, size = std::min(half, n - begin);
  expect_eq(row->size(), size, "size");
  expect_eq(row->rank(), size - 1 - (me - begin), "key reverses the order");
  double sum = 0;
  for (int r = begin; r < begin + size; ++r) sum += r;
  expect_eq(row->all_reduce(Tensor::of(1, 1, {static_cast<double>(me)})).values()[0], sum,
            "sum over the row");
  const auto pair = row->split(row->rank() < 2 ? 0 : -1, 0, "pair");
  expect_eq(pair != nullptr, row->rank() < 2, "color -1 gives none");
  if (pair) expect_eq(pair->size(), std::min(2, size), "pair");
}

inline void gathers_for_checks(Communicator& comm) {
  const std::string text(comm.rank(), 'a');
  const auto tensors = gather_to_first(comm, input(comm.rank(), comm.rank(), 3, DType::f64));
  const auto texts = gather_to_first(comm, text);
  expect_eq(static_cast<int>(texts.size()), comm.rank() == 0 ? comm.size() : 0, "texts");
  for (std::size_t r = 0; r < texts.size(); ++r) {
    expect_eq(texts[r], std::string(r, 'a'), "text");
    const auto rank = static_cast<int>(r);
    require_equal(tensors[r], input(rank, rank, 3, DType::f64).values(), "tensor");
  }
}

struct Program {
  const char* name;
  void (*run)(Communicator&);
};
inline constexpr Program programs[] = {{"every collective", every_collective},
                                       {"all_to_all in uneven parts", all_to_all_in_uneven_parts},
                                       {"groups in different orders", groups_in_different_orders},
                                       {"many in flight", many_in_flight},
                                       {"progress in other calls", progress_in_other_calls},
                                       {"split", split},
                                       {"gathers for checks", gathers_for_checks}};

/// A program that must end, soon, with an error that contains each of `says`.
struct WrongProgram {
  std::string name;
  int ranks = 0, code = 0;  // the exit code, of processes
  std::vector<std::string> says;
  std::function<void(Communicator&)> run;
};
inline constexpr int refused = 2, broke = 3;

inline WrongProgram wrong(const char* name, int ranks, int code, std::vector<std::string> says,
                          std::function<void(Communicator&)> run) {
  return {name, ranks, code, std::move(says), std::move(run)};
}

/// What the message lacks; "" where it says all that it must.
inline std::string missing_from(const std::string& message, const WrongProgram& program) {
  for (const std::string& part : program.says)
    if (!contains(message, part)) return part;
  return "";
}

inline Tensor zeros(std::int64_t n, DType dtype = DType::f32) { return Tensor::zeros(1, n, dtype); }

inline Request scatter(Communicator& comm, std::int64_t rows, std::int64_t cols) {
  return comm.ireduce_scatter(zeros(rows * cols).reshape(rows, cols), zeros(cols));
}

/// The first rank's call does not match the last one's. The error names both, in these words.
inline WrongProgram mismatch(const char* name, int ranks, const char* first, const char* last,
                             void (*run)(Communicator&)) {
  return wrong(name, ranks, broke,
               {"the calls do not match: ",
                format("{} calls {} in group world (call 1)", ranks == 2 ? "rank 0" : "", first),
                format("rank {} calls {} in group world (call 1)", ranks - 1, last)},
               run);
}

// The message of each names the two calls that do not match, or what every rank was doing; and the group, by
// its name and its ranks in the world.
inline const std::vector<WrongProgram> wrong_programs = {
    mismatch("rows", 3, "all_reduce of 1 x 9 f32", "all_reduce of 1 x 8 f32",
             [](Communicator& c) { c.all_reduce(zeros(c.rank() == 2 ? 8 : 9)); }),
    mismatch("shape", 2, "all_reduce of 2 x 3 f32", "all_reduce of 3 x 2 f32",
             [](Communicator& c) { c.all_reduce(zeros(6).reshape(2 + c.rank(), 3 - c.rank())); }),
    mismatch("dtype", 2, "all_reduce of 1 x 4 f32", "all_reduce of 1 x 4 f64",
             [](Communicator& c) { c.all_reduce(zeros(4, c.rank() == 0 ? DType::f32 : DType::f64)); }),
    mismatch("dtype_of_nothing", 2, "all_reduce of 1 x 0 f32", "all_reduce of 1 x 0 i32",
             [](Communicator& c) { c.all_reduce(zeros(0, c.rank() == 0 ? DType::f32 : DType::i32)); }),
    mismatch("reduce", 2, "all_reduce of 1 x 4 f32", "all_reduce (max) of 1 x 4 f32",
             [](Communicator& c) { c.all_reduce(zeros(4), c.rank() == 0 ? Reduce::sum : Reduce::max); }),
    mismatch("root", 2, "broadcast of 1 x 4 f32 with root rank 0", "broadcast of 1 x 4 f32 with root rank 1",
             [](Communicator& c) { c.broadcast(zeros(4), c.rank()); }),
    mismatch("op", 2, "all_gather by rows of 1 x 4 f32", "all_reduce of 1 x 4 f32",
             [](Communicator& c) { c.rank() == 0 ? c.all_gather(zeros(4), 0) : c.all_reduce(zeros(4)); }),
    mismatch("axis_of_all_gather", 2, "all_gather by rows of 1 x 4 f32", "all_gather by columns of 1 x 4 f32",
             [](Communicator& c) { c.all_gather(zeros(4), c.rank()); }),
    mismatch("axis_of_reduce_scatter", 2, "reduce_scatter by rows of 2 x 4 f32",
             "reduce_scatter by columns of 2 x 4 f32",
             [](Communicator& c) { c.reduce_scatter(zeros(8).reshape(2, 4), c.rank()); }),
    mismatch("columns_of_all_to_all", 2, "all_to_all of 2 x 3 f32", "all_to_all of 2 x 4 f32",
             [](Communicator& c) { c.all_to_all(zeros(6 + 2 * c.rank()).reshape(2, 3 + c.rank())); }),
    // Rank 2 expects a row more from rank 0 than that sends; what ranks 0 and 1 say of each other fits.
    wrong(
        "counts_of_all_to_all", 3, broke,
        {"the calls do not match: rank 0 calls all_to_all of 6 x 3 f32 in parts of 1, 2, 3 rows, for 1, 2, 3",
         "rank 2 calls all_to_all of 9 x 3 f32 in parts of 3, 3, 3 rows, for 4, 3, 3 in group world (call "
         "1)"},
        [](Communicator& c) {
          const std::vector<std::int64_t> counts[] = {{1, 2, 3}, {2, 2, 3}, {3, 3, 3}}, more = {4, 3, 3};
          const auto& own = counts[c.rank()];
          c.all_to_all(zeros((own[0] + own[1] + own[2]) * 3).reshape(own[0] + own[1] + own[2], 3), own,
                       c.rank() == 2 ? more : own);
        }),
    wrong("parts_beyond_the_rows", 2, broke, {"parts of 1, 2 rows for 1, 2 do not fit 4 rows and 2 ranks"},
          [](Communicator& c) {
            const std::vector<std::int64_t> counts = {1, 2};
            c.all_to_all(zeros(4).reshape(4, 1), counts, counts);
          }),
    mismatch("columns_of_ireduce_scatter", 2, "reduce_scatter by rows of 2 x 3 f32",
             "reduce_scatter by rows of 2 x 4 f32",
             [](Communicator& c) { scatter(c, 2, 3 + c.rank()).wait(); }),
    mismatch("split_or_barrier", 2, "split", "barrier",
             [](Communicator& c) { c.rank() == 0 ? void(c.split(0, 0, "half")) : c.barrier(); }),
    mismatch("message_size", 2, "send of 1 x 4 f32 to rank 1", "recv of 1 x 5 f32 from rank 0",
             [](Communicator& c) { c.rank() == 0 ? c.send(zeros(4), 1) : c.recv(zeros(5), 0); }),
    mismatch("message_shape", 2, "send of 2 x 3 f32 to rank 1", "recv of 3 x 2 f32 from rank 0",
             [](Communicator& c) {
               const Tensor x = zeros(6).reshape(2 + c.rank(), 3 - c.rank());  // as many elements
               c.rank() == 0 ? c.send(x, 1) : c.recv(x, 0);
             }),
    mismatch("message_dtype", 2, "send of 1 x 4 i32 to rank 1", "recv of 1 x 4 f32 from rank 0",
             [](Communicator& c) { c.rank() == 0 ? c.send(zeros(4, DType::i32), 1) : c.recv(zeros(4), 0); }),
    // There are two groups of one name: ranks 0 and 2, and ranks 1 and 3.
    wrong("in_a_group", 4, broke,
          {"the calls do not match: ", "rank 3 calls all_reduce of 1 x 8 f32 in group tp {1, 3} (call 2)",
           "rank 1 calls all_reduce of 1 x 9 f32 in group tp {1, 3} (call 2)"},
          [](Communicator& c) {
            const auto tp = c.split(c.rank() % 2, 0, "tp");
            tp->all_reduce(zeros(c.rank() == 3 ? 8 : 9));
          }),
    // All numbers are those of the world.
    wrong("message_in_a_group", 4, broke,
          {"the calls do not match: ", "rank 2 calls send of 1 x 4 f32 to rank 3 in group pp {2, 3} (call 2)",
           "rank 3 calls recv of 1 x 5 f32 from rank 2 in group pp {2, 3} (call 2)"},
          [](Communicator& c) {
            const auto pp = c.split(c.rank() / 2, 0, "pp");
            pp->rank() == 0 ? pp->send(zeros(c.rank() == 2 ? 4 : 5), 1) : pp->recv(zeros(5), 0);
          }),
    // The messages are small enough for any eager buffer.
    wrong("circle_of_sends", 3, broke,
          {"rank 0 waits in send of 1 x 8 f32 to rank 1 in group world (call 1); "
           "rank 1 waits in send of 1 x 8 f32 to rank 2 in group world (call 1); "
           "rank 2 waits in send of 1 x 8 f32 to rank 0 in group world (call 1)"},
          [](Communicator& c) { c.send(zeros(8), (c.rank() + 1) % 3); }),
    wrong("recv_or_all_reduce", 2, broke,
          {"rank 0 waits in recv of 1 x 4096 f32 from rank 1 in group world (call 1)",
           "rank 1 waits in all_reduce of 1 x 4096 f32 in group world (call 1)"},
          [](Communicator& c) { c.rank() == 0 ? c.recv(zeros(4096), 1) : void(c.all_reduce(zeros(4096))); }),
    wrong("waits_in_two_groups", 4, broke,
          {"rank 0 waits in barrier in group row {0, 1} (call 3)",
           "rank 1 waits in barrier in group column {1, 3} (call 3)",
           "rank 2 waits in barrier in group column {0, 2} (call 3)",
           "rank 3 waits in barrier in group row {2, 3} (call 3)"},
          [](Communicator& c) {
            const auto row = c.split(c.rank() / 2, 0, "row"), column = c.split(c.rank() % 2, 0, "column");
            (c.rank() == 0 || c.rank() == 3 ? row : column)->barrier();
          }),
    wrong("throws", 4, broke, {"rank 2: the weights are unwell"},
          [](Communicator& c) {
            if (c.rank() == 2) throw Error("the weights are unwell");
            const auto half = c.split(c.rank() % 2, 0, "half");
            half->all_reduce(zeros(8));
          }),
    wrong("refuses", 3, refused, {"rank 1: 7 heads cannot be cut"},
          [](Communicator& c) {
            if (c.rank() == 1) throw UsageError("7 heads cannot be cut");
            c.barrier();
          }),
    // The message does not name a rank: all of them refuse.
    wrong("refuses_a_flag", 3, refused, {"--heads 7: --heads 6 would work"},
          [](Communicator&) { throw UsageError("--heads 7: --heads 6 would work"); }),
    wrong("throws_everywhere", 4, refused, {"7", "4"},
          [](Communicator& c) { c.reduce_scatter(zeros(7), 1); }),
    wrong("returns_early", 3, broke,
          {"rank 0 waits in all_reduce of 1 x 8 f32 in group world (call 1)",
           "rank 1 has returned after 0 calls"},
          [](Communicator& c) {
            if (c.rank() != 1) c.all_reduce(zeros(8));
          }),
    wrong("forgets_to_wait", 2, broke,
          {"rank 0 never waited for its send of 1 x 8 f32 to rank 1 in group world (call 1)"},
          [](Communicator& c) { c.rank() == 0 ? void(c.isend(zeros(8), 1)) : c.recv(zeros(8), 0); }),
    wrong("forgets_a_reduce_scatter", 2, broke,
          {" never waited for its reduce_scatter by rows of 2 x 4 f32 in group world (call 1)"},
          [](Communicator& c) { scatter(c, 2, 4); }),
    wrong("unequal_parts", 2, broke, {"reduce_scatter by rows of 3 x 4 f32", "is not one of 2 equal parts"},
          [](Communicator& c) { scatter(c, 3, 4); }),
    // A wait after the launch would use what the launch has freed.
    wrong("keeps_a_request", 2, broke,
          {" never waited for its all_reduce of 1 x 8 f32 in group world (call 1)"},
          [](Communicator& c) {
            static Request kept[2];
            kept[c.rank()] = c.iall_reduce(zeros(8));
          }),
    wrong("undefined", 2, broke, {"send of 0 x 0 f32 to rank 1 in group world: the tensor is undefined"},
          [](Communicator& c) { c.rank() == 0 ? c.send(Tensor(), 1) : c.recv(zeros(0).reshape(0, 0), 0); }),
    wrong("to_itself", 2, broke, {"with itself"}, [](Communicator& c) { c.send(zeros(8), c.rank()); }),
    wrong("to_nobody", 2, broke, {"ranks 0 to 1"}, [](Communicator& c) { c.send(zeros(8), 5); }),
};

}  // namespace tessera::test
