// The suite's main. A test case that needs what this machine lacks calls skip("MPI (apt-get ...)"): ctest
// then counts it as skipped, unless something failed.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstring>
#include <set>
#include <string>

#include "support.hpp"

namespace {
std::set<std::string> lacking;
}

void tessera::test::skip(const std::string& missing) {
  if (lacking.insert(missing).second) std::printf("skipped: needs %s\n", missing.c_str());
}

int main(int argc, char** argv) {
  bool tell = false;  // ctest runs one case a process, and reads the exit code
  for (int i = 1; i < argc; ++i) tell |= std::strcmp(argv[i], "--exit-77-if-skipped") == 0;
  const int failed = doctest::Context(argc, argv).run();
  return failed == 0 && tell && !lacking.empty() ? 77 : failed;
}
