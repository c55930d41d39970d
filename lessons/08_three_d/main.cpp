// Lesson 08: tensor, pipeline and data parallelism combined, training a GPT on text. Read mesh.hpp (which
// ranks communicate), trainer.hpp (one step) and train.hpp (the loop). Lessons 09 to 12 plug in by compose;
// harness/program.hpp puts it all in order.
#include "08_three_d/harness/program.hpp"
#include "12_experts/harness/reference.hpp"
#include "13_all_axes/compose.hpp"

using namespace tessera;
using namespace tessera::three_d;

int main(int argc, char** argv) {
  Config s;
  s.training.microbatches = 4, s.training.chunks = 0;
  s.training.model = {{32, 4, 4, {.seq = 32}}, 4, 256, 1, true};
  return run_program(
      argc, argv,
      {.text = {"08", "three dimensions",
                "tp cuts columns and heads, pp layers, dp the batch; one GPT-2, head tied to the embedding",
                "Why all three: tp is limited by heads and links, pp by layers and its bubble, dp by the "
                "batch; their product is not.",
                format("train.hpp:{}", code_line)},
       .s = s,
       .compose = all_axes::compose,
       .of_experts = experts::reference_step});
}
