// A training step of lesson 08's GPT over its bare products, and beside PyTorch's.
#include "gpt.hpp"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "08_three_d/generate.hpp"
#include "messages.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

void gpt(Report& report, const Options& o) {
  const GptSizes s = sizes_of(o);
  launch(o.ranks(1), [&](Communicator& comm) {
    Gpt gpt(comm, s, {1, 1, 1}, 1, o.dtype());
    Products products(o.dtype());
    for (std::int64_t layer = 0; layer < s.layers; ++layer) {
      products.linear(s.tokens(), s.width, 3 * s.width);
      products.attention(s);
      products.linear(s.tokens(), s.width, s.width);
      products.linear(s.tokens(), s.width, 4 * s.width);
      products.linear(s.tokens(), 4 * s.width, s.width);
    }
    products.linear(s.tokens(), s.width, s.vocabulary);
    Device::current()->tf32 = o.tf32;
    const Turns turns = in_turns(
        comm, o.turns, [&] { gpt.step(); }, [&] { products.run(); });
    report.ratio("gpt.step_over_gemm", turns.a_over_b(), Target{Target::at_most, o.cuda() ? 1.30 : 1.15},
                 format("a training step ({} tokens, width {}, {} layers, AdamW) over its bare products, {}",
                        s.tokens(), s.width, s.layers, turns.both()));
  });
}

namespace {

/// What --serve takes the time of, beside pytorch_step.py and pytorch_gloo.py.
struct Served {
  std::string name;
  three_d::ParallelSizes cut;
  int microbatches = 1;
};
const Served all_served[] = {
    {"step"}, {"attention"}, {"tp", {.tp = 2}}, {"pipeline", {.pp = 2}, 4}, {"dp", {.dp = 2}}};

}  // namespace

std::vector<std::string> served() {
  std::vector<std::string> names;
  for (const Served& one : all_served) names.push_back(one.name);
  return names;
}

void serve_steps(const Options& o, Transport transport) {
  const Served& job = *std::ranges::find(all_served, o.serve, &Served::name);
  LaunchOptions options = o.ranks(job.cut.ranks());
  options.transport = transport;
  options.timeout = std::chrono::hours(1);  // between two lines the peer takes its turn
  launch(options, [&](Communicator& world) {
    const GptSizes s = sizes_of(o);
    Gpt gpt(world, s, job.cut, job.microbatches, o.dtype());
    const AttentionJob attention(s, AttentionOptions::Form::streaming, o.dtype());
    Device::current()->tf32 = o.tf32;
    for (std::string line;;) {
      const bool goes_on = world.rank() != 0 || std::getline(std::cin, line);
      const Tensor more = Tensor::of(1, 1, {goes_on ? 1.0 : 0.0}, DType::i32);
      world.broadcast(more, 0);
      if (more.values()[0] == 0) return;
      const double taken = seconds(world, [&] { job.name == "attention" ? void(attention()) : gpt.step(); });
      if (world.rank() == 0) std::cout << taken << std::endl;
    }
  });
}

namespace {

/// The script's ratios of the step as it is ("whole") or cut over two processes ("cut").
void beside_pytorch(Report& report, const Options& o, const char* which) {
  const GptSizes s = sizes_of(o);
  const std::string command = format(
      "{} -B {}/tests/tools/bench/pytorch_step.py {} --tessera {} --mpirun '{}' --turns {} --device {} "
      "--vocabulary {} --seq {} --batch {} --width {} --layers {} --heads {}{}{}{}",
      o.pytorch, TESSERA_SOURCE_DIR, which, o.program, TESSERA_TWO_PROCESSES, o.turns, name(o.device),
      s.vocabulary, s.seq, s.batch, s.width, s.layers, s.heads, o.quick ? " --quick" : "",
      o.tf32 ? " --tf32" : "", o.bf16 ? " --bf16" : "");
  const auto ran = test::run_command(command);
  if (ran.exit != 0) throw UsageError(format("--pytorch {}: a python3 with torch would work", o.pytorch));
  const auto json = nlohmann::json::parse(ran.output);
  std::vector<std::vector<std::string>> failed = {{"not measured", "PyTorch said"}};
  for (const auto& [job, said] : json.at("failed").items()) failed.push_back({job, said});
  if (failed.size() > 1) report.table("What PyTorch could not run", failed);
  for (const auto& one : json.at("ratios")) {
    std::optional<Target> target;
    if (!one.at("target").is_null()) target = Target{Target::at_least, one.at("target")};
    report.ratio(one.at("name"), one.at("turns"), target, one.at("what"));
  }
}

}  // namespace

void gpt_beside_pytorch(Report& report, const Options& o) { beside_pytorch(report, o, "whole"); }
void cut_beside_pytorch(Report& report, const Options& o) { beside_pytorch(report, o, "cut"); }

}  // namespace tessera::bench
