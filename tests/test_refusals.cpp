// Refusals that a command line reaches only at sizes too large for a test, the memory that they save, and the
// parser of flags.
#include <fstream>

#include "04_mlp_block/harness/screen.hpp"
#include "app/flags.hpp"
#include "proven.hpp"

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

std::string parse(Flags& flags, std::vector<const char*> words) {
  words.insert(words.begin(), "program");
  return message_from([&] { flags.parse(static_cast<int>(words.size()), const_cast<char**>(words.data())); });
}

/// VmRSS or VmHWM, this process's memory now and at its highest, in bytes.
double resident(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key)) return 1024 * std::stod(line.substr(key.size() + 1));
  return 0;
}

}  // namespace

TEST_CASE("the checks take at most 20 times the f32 weights, and no more than was estimated") {
  if (thinned > 1) return skip("a build without a sanitizer: this one measures memory");
  for (const mlp_block::Sizes& s : {mlp_block::Sizes{1024, 1024, 2048}, {4096, 128, 512}, {16, 1024, 2048}}) {
    const double before = resident("VmRSS");
    std::ofstream("/proc/self/clear_refs") << 5;  // the highest begins again
    std::int64_t own = 0;
    const Outcome outcome = proven(4, {}, [&](Proof& proof, Communicator& comm) {
      mlp_block::prove(proof, comm, s, mlp_block::Activation::gelu);
    });
    CHECK(faults(outcome) == "");
    for (const std::int64_t rank : outcome.peak) own += rank;
    const double taken = resident("VmHWM") - before;
    const double weights = 4.0 * static_cast<double>(mlp_block::weights_of(s, 1));
    const double checks = (taken - static_cast<double>(own)) / weights;
    INFO(s.tokens, " ", s.width, " ", s.ffn, ": ", taken / weights, " x the weights, checks ", checks);
    if (s.tokens <= s.width) CHECK(checks <= 20);
    CHECK(taken <= s.memory(4));
    CHECK(s.memory(4) <= 3e8 + 2 * taken);
  }
}

TEST_CASE("lesson 04 advises a limit of memory only where four ranks can cut the sizes and keep it") {
  CHECK(contains(mlp_block::why_cut({48, 96, 192}), "--memory-per-rank 321KiB --ranks 4"));
  CHECK(mlp_block::why_cut({48, 99, 198}) == "");
  CHECK(mlp_block::why_cut({1, 4, 4}) == "");
}

TEST_CASE("neither an infinite error passes, though the unsplit run has it, nor what no rank holds") {
  const Outcome outcome = proven(1, {}, [](Proof& proof, Communicator&) {
    const Slice one = Slice::whole(1, 1);
    const Tensor x = proof.input("X", "11", one, 1e30);
    proof.result("Y", "11", "Y = X X, which f32 does not hold", matmul(x, x), one);
    const Tensor u = proof.input("U", "N1", Slice::whole(2, 1));
    proof.result("Z", "N1", "Z = U", u.row_range(0, 1), {2, 1, {{0, 1}}, {{0, 1}}});
    proof.measured_baseline([](const auto& in) {
      MeasuredReference found;
      found.note("Z", in("U"), 1);
      found.note("Y", matmul(in("X"), in("X")), largest_terms(in("X"), in("X")));
      return found;
    });
    proof.claim("a claim", INFINITY, INFINITY);
  });
  CHECK(outcome.checks.size() == 3);
  for (const Check& check : outcome.checks) CHECK_FALSE(check.ok);
  CHECK(contains(faults(outcome), "no rank holds 1 elements of it"));
}

TEST_CASE("memory that is not there is refused with its size, also where a vector asks for it") {
  CHECK(available_memory() > 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their operator new ends the program
  const std::string message = message_from([] { return std::vector<double>(std::size_t{1} << 56).data(); });
  CHECK(contains(message, "no 576460752303423488 B of memory left"));
#endif
}

TEST_CASE("--exact refuses sizes whose sums the dtype does not hold exactly, and says what would work") {
  CHECK(exact_chain(8, DType::f32) == "");
  const std::string message = exact_chain(100, DType::f32);
  CHECK(contains(message, "--exact needs sums below 1.678e+07 in f32"));
  CHECK(contains(message, "--dtype f64 would work, or smaller sizes"));
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

TEST_CASE("flags: a value stands behind = or a space, and the last of two counts") {
  std::int64_t number = 0;
  bool toggle = false;
  Flags flags("usage");
  flags.number("--number", number, -8, 8, "help");
  flags.toggle("--toggle", toggle, "help");
  CHECK(parse(flags, {}) == "");
  CHECK(!flags.given("--toggle"));
  CHECK(!flags.given("--other"));
  CHECK(parse(flags, {"--number=-4", "--toggle"}) == "");
  CHECK(number == -4);
  CHECK(toggle);
  CHECK(flags.given("--toggle"));
  CHECK(flags.values().size() == 2);
  CHECK(flags.values()[0].text == "-4");
  CHECK(flags.values()[1].text == "on");
  CHECK(parse(flags, {"--number", "-5", "--number", "6"}) == "");
  CHECK(number == 6);
}

TEST_CASE("flags: an enumeration is chosen by its words, and a number may be an int") {
  enum class Colour { red, green };
  Colour colour = Colour::green;
  bool trap = false;
  int number = 3;
  Flags flags("usage");
  flags.choice("--colour", colour, {{Colour::red, "red"}, {Colour::green, "green"}}, "help");
  flags.choice("--trap", trap, {{true, "qkv"}}, "help");
  flags.number("--number", number, 0, 8, "help");
  CHECK(flags.values().size() == 2);  // without --trap, whose default has no word
  CHECK(flags.values()[0].text == "green");
  CHECK(parse(flags, {"--colour", "red", "--trap=qkv", "--number", "7"}) == "");
  CHECK(colour == Colour::red);
  CHECK(trap);
  CHECK(number == 7);
  CHECK(join(std::vector<std::string>{"", "a", "b"}, "|") == "|a|b");
}
