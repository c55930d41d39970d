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

TEST_CASE("flags: a value stands behind = or a space, and the last of two counts") {
  std::int64_t number = 0;
  bool toggle = false;
  Flags flags("usage");
  flags.number("--number", number, -8, 8, "help");
  flags.toggle("--toggle", toggle, "help");
  const auto parse = [&](std::vector<const char*> words) {
    words.insert(words.begin(), "program");
    return message_from(
        [&] { flags.parse(static_cast<int>(words.size()), const_cast<char**>(words.data())); });
  };
  CHECK(parse({}) == "");
  CHECK(!flags.given("--toggle"));
  CHECK(!flags.given("--other"));
  CHECK(parse({"--number=-4", "--toggle"}) == "");
  CHECK(number == -4);
  CHECK(toggle);
  CHECK(flags.given("--toggle"));
  CHECK(flags.values().size() == 2);
  CHECK(flags.values()[0].text == "-4");
  CHECK(flags.values()[1].text == "on");
  CHECK(parse({"--number", "-5", "--number", "6"}) == "");
  CHECK(number == 6);
  CHECK(parse({"--number", "9"}) == "--number 9: a whole number from -8 to 8 would work");
  CHECK(parse({"--number"}) == "--number needs a value: --number N");
  CHECK(parse({"--number=", "4"}) == "--number needs a value");
  CHECK(parse({"--toggle=off"}) == "--toggle takes no value");
  CHECK(parse({"--nunber=4"}) == "there is no flag --nunber, did you mean --number?; --help all lists them");
  CHECK(parse({"elsewhere"}) == "there is no flag elsewhere; --help all lists them");
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
  const auto parse = [&](std::vector<const char*> words) {
    words.insert(words.begin(), "program");
    return message_from(
        [&] { flags.parse(static_cast<int>(words.size()), const_cast<char**>(words.data())); });
  };
  CHECK(flags.values().size() == 2);  // without --trap, whose default has no word
  CHECK(flags.values()[0].text == "green");
  CHECK(parse({"--colour", "red", "--trap=qkv", "--number", "7"}) == "");
  CHECK(colour == Colour::red);
  CHECK(trap);
  CHECK(number == 7);
  CHECK(parse({"--colour", "blue"}) == "--colour blue: red|green would work");
  CHECK(parse({"--number", "9"}) == "--number 9: a whole number from 0 to 8 would work");
  CHECK(join(std::vector<std::string>{"", "a", "b"}, "|") == "|a|b");
}
