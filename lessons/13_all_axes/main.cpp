// Lesson 13: all axes at once. Read factorisations.hpp (how n ranks can be cut), compose.hpp (what lesson
// 08's trainer is made of) and axes.hpp (what each axis sends). The program is lesson 08's.
#include "08_three_d/harness/program.hpp"
#include "13_all_axes/harness/command_line.hpp"
#include "13_all_axes/harness/screen.hpp"

using namespace tessera;
using namespace tessera::all_axes;

int main(int argc, char** argv) {
  three_d::Program program;
  program.text = {
      "13", "all axes",
      "rank = t + tp (c + cp (d + dp p)), and ep inside cp x dp; every cut is the same model",
      "Why all at once: each axis cuts another thing, and what one leaves whole another one cuts.",
      format("factorisations.hpp:{}", code_line)};
  Config& s = program.s;
  s.sizes = {1, 1, 1};
  s.training.microbatches = 4, s.training.chunks = 0;
  s.training.model = {{32, 4, 4, {.seq = 32}}, 4, 256, 1, true};
  s.training.model.experts = 4;
  s.training.zero = 3;
  s.steps = 10;
  program.compose = compose, program.of_experts = experts::reference_step;

  Asked asked;
  program.add_flags = [&](Flags& flags) { add_flags(flags, asked); };
  program.settle = [&](Config& config, Flags& flags) { settle(config, asked, flags); };
  std::vector<Measured> measured;
  std::vector<Swept> swept;
  std::int64_t element_bytes = 4;
  program.before = [&](Proof& proof, Communicator& world, const Config& config) {
    if (asked.sweep > 0) {
      proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
      const auto found = sweep(proof, world, asked.sweep);
      if (world.rank() == 0) swept = found, record(proof, swept);
      return false;
    }
    const auto found = measure_axes(proof, world, config);  // each axis alone
    {
      const three_d::Mesh mesh(world, config.sizes, "order-");
      check_groups(proof, gather_groups(world, mesh), config.sizes);
    }
    if (world.rank() == 0) measured = found, element_bytes = proof.element_bytes(), record(proof, measured);
    return true;
  };
  program.more = [&](const Options& o) { return text(measured, element_bytes) + text(swept, o.stable); };
  return run_program(argc, argv, std::move(program));
}
