// Three wrong programs on a few ranks, for the page Start here: each ends at once, with a message that says
// what every rank was doing.
#include <map>

#include "app/app.hpp"
#include "tensor/error.hpp"

namespace {

using namespace tessera;

// begin mismatch
void mismatch(Communicator& world) {  // rank 1 has forgotten the bias, the 97th element
  world.all_reduce(Tensor::zeros(1, world.rank() == 1 ? 96 : 97, DType::f32));
}
// end mismatch

// begin circle
void circle(Communicator& world) {  // everyone sends to the next rank first, and nobody receives
  const int next = (world.rank() + 1) % world.size(), before = (world.rank() + 3) % world.size();
  const Tensor mine = Tensor::zeros(8, 32, DType::f32), other = Tensor::zeros(8, 32, DType::f32);
  world.send(mine, next);
  world.recv(other, before);
}
// end circle

// begin dead
void dead(Communicator& world) {  // rank 1 is gone before the third step
  for (int step = 0; step < 3; ++step) {
    if (world.rank() == 1 && step == 2) return;
    world.all_reduce(Tensor::zeros(1, 97, DType::f32));
  }
}
// end dead

}  // namespace

int main(int argc, char** argv) {
  return guarded([&] {
    const std::map<std::string, void (*)(Communicator&)> programs = {
        {"mismatch", mismatch}, {"circle", circle}, {"dead", dead}};
    const auto wanted = programs.find(argc > 1 ? argv[1] : "");
    if (wanted == programs.end()) throw UsageError("wrong_programs mismatch, circle or dead would work");
    LaunchOptions options;
    options.ranks = wanted->first == "mismatch" ? 2 : 4;
    launch(options, wanted->second);
    return 0;
  });
}
