// Refusals that a command line reaches only at sizes too large for a test.
#include "app/flags.hpp"
#include "app/proof.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

/// Y = X A^6: integers of [-2, 2], whose sums grow some tenfold with each product.
std::string exact_chain(std::int64_t width, DType dtype) {
  return message_of(2, [&](Communicator& comm) {
    Proof proof(comm, {Tier::exact, dtype, 1});
    const Slice x = Slice::whole(4, width), a = Slice::whole(width, width);
    const Tensor factor = proof.input("A", "KK", a);
    Tensor y = proof.input("X", "NK", x);
    for (int i = 0; i < 6; ++i) y = matmul(y, factor);
    proof.result("Y", "NK", "Y = X A^6", y, x);
    proof.baseline([](const auto& in) {
      auto chained = in("X");
      for (int i = 0; i < 6; ++i) chained = matmul(chained, in("A"));
      return Named<std::decay_t<decltype(chained)>>{{"Y", chained}};
    });
    proof.finish();
  });
}

}  // namespace

TEST_CASE("--exact refuses sizes whose sums the dtype does not hold exactly, and says what would work") {
  CHECK(exact_chain(8, DType::f32) == "");
  const std::string message = exact_chain(100, DType::f32);
  CHECK(contains(message, "--exact needs sums below 1.678e+07 in f32"));
  CHECK(contains(message, "smaller sizes or --dtype f64 would work"));
  CHECK(exact_chain(100, DType::f64) == "");
}

TEST_CASE("sizes in bytes: any number that fits, with and without a unit") {
  CHECK(parse_size("--memory-per-rank", "48MiB") == 48 << 20);
  CHECK(parse_size("--memory-per-rank", "8388609") == 8388609);
  CHECK(parse_size("--memory-per-rank", "8388607TiB") == INT64_MAX - (std::int64_t{1} << 40) + 1);
  for (const char* wrong :
       {"", "0", "-1", "B", "1.5GiB", "8388608TiB", "9223372036854775808", "1 KiB", "1kib"})
    CHECK_THROWS_AS(parse_size("--memory-per-rank", wrong), UsageError);
}
