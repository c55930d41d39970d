// One conformance suite for every transport's collectives, swept over ranks and ugly sizes, and the diagnosis
// of wrong programs.
#include <chrono>
#include <mutex>
#include <thread>

#include "support.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// Element i of rank r's tensor: small integers, so that every sum is exact in any order.
double element(int rank, std::int64_t i) { return static_cast<double>((i * 7 + rank * 13) % 31 - 15); }

Tensor input(int rank, std::int64_t rows, std::int64_t cols, DType dtype) {
  std::vector<double> values;
  for (std::int64_t i = 0; i < rows * cols; ++i) values.push_back(element(rank, i));
  return Tensor::of(rows, cols, values, dtype);
}

// doctest's assertions are not made for several threads at once: ranks collect, the test asserts.
void require_equal(const Tensor& tensor, const std::vector<double>& expected, const std::string& what) {
  expect(tensor.values() == expected, what);
}

Traffic traffic(const Communicator& comm, const std::string& op) {
  return comm.journal().traffic().at({"fwd", "world", op});
}

}  // namespace

TEST_CASE("every collective, at 1 to 8 ranks, ugly sizes, each dtype") {
  for (const int n : {1, 2, 3, 4, 7, 8})
    for (const auto& size : {std::pair{1, 1}, {0, 3}, {5, 3}, {2, 100}, {17, 61}})
      for (const DType dtype : {DType::f32, DType::f64, DType::i32}) {
        const int rows = size.first, cols = size.second;
        CAPTURE(n);
        CAPTURE(rows);
        CAPTURE(cols);
        std::mutex mutex;
        std::int64_t wire[4] = {};
        const std::int64_t each = rows * cols * static_cast<std::int64_t>(size_of(dtype));
        on_ranks(n, [&](Communicator& comm) {
          const auto phase = comm.phase("fwd");
          const int me = comm.rank();
          const Tensor x = input(me, rows, cols, dtype);

          std::vector<double> sum, largest, stacked;
          for (std::int64_t i = 0; i < x.size(); ++i) {
            double s = 0, l = -1e9;
            for (int r = 0; r < n; ++r) s += element(r, i), l = std::max(l, element(r, i));
            sum.push_back(s);
            largest.push_back(l);
          }
          for (int r = 0; r < n; ++r)
            for (std::int64_t i = 0; i < x.size(); ++i) stacked.push_back(element(r, i));
          require_equal(comm.all_reduce(x), sum, "all_reduce");
          require_equal(x, input(me, rows, cols, dtype).values(), "all_reduce keeps its input");
          const Tensor gathered = comm.all_gather(x, 0);
          require_equal(gathered, stacked, "all_gather of rows");

          // Row block r of every rank's (n rows, cols) tensor is rank r's input: the sum is n times that.
          std::vector<double> times_n;
          for (std::int64_t i = 0; i < x.size(); ++i) times_n.push_back(n * element(me, i));
          require_equal(comm.reduce_scatter(gathered, 0), times_n, "reduce_scatter of rows");

          const Tensor copy = x.copy();
          comm.broadcast(copy, n - 1);
          require_equal(copy, input(n - 1, rows, cols, dtype).values(), "broadcast");
          {
            const std::lock_guard lock(mutex);
            int k = 0;
            for (const char* op : {"all_reduce", "all_gather", "reduce_scatter", "broadcast"})
              wire[k++] += traffic(comm, op).wire;
          }
          expect_eq(traffic(comm, "all_reduce").calls, me == 0 ? 1 : 0, "calls");

          const auto second = comm.phase("second");
          require_equal(comm.all_reduce(x, Reduce::max), largest, "maximum");
          const Tensor side_by_side = comm.all_gather(x, 1);
          require_equal(comm.take_shard(side_by_side, 1), x.values(), "all_gather of columns, my shard back");
          require_equal(side_by_side.column_range((n - 1) * cols, n * cols),
                        input(n - 1, rows, cols, dtype).values(), "all_gather of columns, the last rank's");
          require_equal(comm.reduce_scatter(side_by_side, 1), times_n, "reduce_scatter of columns");
          const Tensor inplace = x.copy();
          Request request = comm.iall_reduce(inplace);
          request.wait();
          require_equal(inplace, sum, "iall_reduce");
          comm.barrier();
        });
        // Counted where other ranks' buffers are copied, summed over the group.
        CHECK(wire[0] == 2 * (n - 1) * each);
        CHECK(wire[1] == (n - 1) * n * each);
        CHECK(wire[2] == (n - 1) * n * each);
        CHECK(wire[3] == (n - 1) * each);
      }
}

TEST_CASE("all_reduce sums in rank order: equal bits on all ranks and in every run") {
  std::vector<double> first;
  for (int run = 0; run < 3; ++run)
    on_ranks(4, [&](Communicator& comm) {
      const Tensor x = generate(1, str("x", comm.rank()), Slice::whole(33, 65), DType::f32, Fill::uniform, 1);
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

TEST_CASE("messages: a ring with posted receives, and requests waited for in any order") {
  for (const int n : {2, 3, 8})
    on_ranks(n, [&](Communicator& comm) {
      const int right = (comm.rank() + 1) % n, left = (comm.rank() + n - 1) % n;
      const Tensor a = input(comm.rank(), 4, 5, DType::f32), b = input(comm.rank() + 100, 4, 5, DType::f32);
      const Tensor from_left = empty_like(a), second = empty_like(a);
      Request receive = comm.irecv(from_left, left), again = comm.irecv(second, left);
      Request send = comm.isend(a, right), resend = comm.isend(b, right);
      resend.wait();
      again.wait();
      send.wait();
      receive.wait();
      require_equal(from_left, input(left, 4, 5, DType::f32).values(), "first message");
      require_equal(second, input(left + 100, 4, 5, DType::f32).values(), "second message");
    });
}

TEST_CASE("two collectives in flight may be waited for in different orders on different ranks") {
  on_ranks(2, [](Communicator& comm) {
    const Tensor a = input(comm.rank(), 3, 3, DType::f64), b = input(comm.rank() + 5, 3, 3, DType::f64);
    Request ra = comm.iall_reduce(a), rb = comm.iall_reduce(b);
    if (comm.rank() == 0)
      ra.wait(), rb.wait();
    else
      rb.wait(), ra.wait();
    expect_eq(a.values()[1], element(0, 1) + element(1, 1), "a");
    expect_eq(b.values()[1], element(5, 1) + element(6, 1), "b");
  });
}

TEST_CASE("split: groups by color, ordered by key, and a rank that takes no part") {
  on_ranks(8, [](Communicator& comm) {
    const auto row = comm.split(comm.rank() / 4, -comm.rank(), "row");
    expect_eq(row->size(), 4, "size");
    expect_eq(row->rank(), 3 - comm.rank() % 4, "key reverses the order");
    const Tensor x = Tensor::of(1, 1, {static_cast<double>(comm.rank())});
    expect_eq(row->all_reduce(x).values()[0], comm.rank() < 4 ? 6.0 : 22.0, "sum over the row");
    const auto pair = row->split(row->rank() < 2 ? 0 : -1, 0, "pair");
    expect_eq(pair != nullptr, row->rank() < 2, "color -1 gives none");
    if (pair) expect_eq(pair->size(), 2, "pair");
  });
}

// Wrong programs. Each must end within two seconds of the last rank blocking, and say what every rank was
// doing.

TEST_CASE("wrong programs: calls that do not match") {
  const auto f32 = [](std::int64_t n) { return Tensor::zeros(1, n, DType::f32); };
  CHECK(contains(message_of(2, [&](Communicator& c) { c.all_reduce(f32(c.rank() == 0 ? 8 : 9)); }),
                 "the calls do not match: "));
  CHECK(contains(message_of(3, [&](Communicator& c) { c.all_reduce(f32(c.rank() == 2 ? 8 : 9)); }),
                 "all_reduce of 8 f32 (call 1)"));
  CHECK(contains(message_of(2,
                            [&](Communicator& c) {
                              c.all_reduce(Tensor::zeros(1, 4, c.rank() == 0 ? DType::f32 : DType::f64));
                            }),
                 "all_reduce of 4 f64"));
  CHECK(contains(message_of(2, [&](Communicator& c) { c.broadcast(f32(4), c.rank()); }), "from root 1"));
  const auto op = message_of(2, [&](Communicator& c) {
    c.barrier();
    if (c.rank() == 0)
      c.all_gather(f32(4), 0);
    else
      c.all_reduce(f32(4));
  });
  CHECK(contains(op, "all_gather of 4 f32 (call 2)"));
  CHECK(contains(op, "all_reduce of 4 f32 (call 2)"));
  CHECK(contains(message_of(2,
                            [&](Communicator& c) {
                              if (c.rank() == 0)
                                c.send(f32(4), 1);
                              else
                                c.recv(f32(5), 0);
                            }),
                 "the calls do not match"));
}

TEST_CASE("wrong programs: circles of waits") {
  const auto start = std::chrono::steady_clock::now();
  const auto x = [] { return Tensor::zeros(1, 4096, DType::f32); };
  const auto circle = message_of(3, [&](Communicator& c) { c.send(x(), (c.rank() + 1) % 3); });
  for (int r = 0; r < 3; ++r) CHECK(contains(circle, str("rank ", r, " waits in send to ", (r + 1) % 3)));
  const auto mixed = message_of(2, [&](Communicator& c) {
    if (c.rank() == 0)
      c.recv(x(), 1);
    else
      c.all_reduce(x());
  });
  CHECK(contains(mixed, "rank 0 waits in recv from 1 of 4096 f32 (call 1)"));
  CHECK(contains(mixed, "rank 1 waits in all_reduce of 4096 f32 (call 1)"));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(2));
}

TEST_CASE("wrong programs: a rank that throws, returns early, or forgets to wait") {
  const auto x = [] { return Tensor::zeros(1, 8, DType::f32); };
  CHECK(message_of(4, [&](Communicator& c) {
          if (c.rank() == 2) throw Error("rank 2 is unwell");
          const auto half = c.split(c.rank() % 2, 0, "half");
          half->all_reduce(x());
        }) == "rank 2 is unwell");
  CHECK(contains(message_of(3,
                            [&](Communicator& c) {
                              if (c.rank() != 1) c.all_reduce(x());
                            }),
                 "rank 1 has returned after 0 calls"));
  CHECK(contains(message_of(2,
                            [&](Communicator& c) {
                              if (c.rank() == 0)
                                c.isend(x(), 1);
                              else
                                c.recv(x(), 0);
                            }),
                 "rank 0 never waited for its send to 1"));
  CHECK(contains(message_of(2, [&](Communicator& c) { c.send(x(), c.rank()); }), "itself"));
  CHECK(contains(message_of(2, [&](Communicator& c) { c.send(x(), 5); }), "ranks 0 to 1"));
}

TEST_CASE("a call that never completes ends at the time-out") {
  LaunchOptions options = ranks(2);
  options.timeout = std::chrono::milliseconds(200);
  const auto late = [](Communicator& comm) {
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(600));
    comm.barrier();
  };
  CHECK_THROWS_WITH_AS(launch(options, late),
                       doctest::Contains("no progress for 0.2 s: rank 0 waits in barrier"), Error);
}
