// Two threads write one variable without a lock: ThreadSanitizer, for which alone it is built, must see it.
#include <cstdio>
#include <thread>

int main() {
  int counter = 0;
  std::thread other([&] { ++counter; });
  ++counter;
  other.join();
  std::printf("%d\n", counter);
}
