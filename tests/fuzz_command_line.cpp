// The command line under coverage-guided fuzzing: whatever its words are, it is taken, or refused with a
// sentence that names a flag and says what would work. tests/fuzz.sh builds and runs it.
// sources: src/app/flags.cpp src/report/table.cpp src/report/check.cpp src/tensor/*.cpp
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "app/flags.hpp"
#include "tensor/error.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tessera;
  std::int64_t ranks = 4, bytes = 0;
  double rate = 0.5;
  std::string device = "auto", file;
  bool exact = false;
  Flags flags("usage");
  flags.number("--ranks", ranks, 1, 64, "help");
  flags.real("--rate", rate, 0, 1, "help");
  flags.choice("--device", device, {"auto", "cpu", "cuda"}, "help");
  flags.rest();
  flags.text("--json", file, "FILE", "help");
  flags.toggle("--exact", exact, "help");
  flags.size("--memory-per-rank", bytes, "help");
  std::vector<std::string> words = {"program"};  // a line each
  std::istringstream lines(std::string(reinterpret_cast<const char*>(data), size));
  for (std::string line; std::getline(lines, line);) words.push_back(line.substr(0, line.find('\0')));
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  std::cout.setstate(std::ios::failbit);  // --help
  try {
    flags.parse(static_cast<int>(argv.size()), argv.data());
    if (ranks < 1 || ranks > 64 || !(rate >= 0 && rate <= 1) || flags.values().empty()) std::abort();
  } catch (const UsageError& error) {
    const std::string message = error.what();
    if (message.find("--") == std::string::npos || message.find("would work") == std::string::npos) {
      std::cerr << "refused without advice: " << message << "\n";
      std::abort();
    }
  }
  return 0;
}
