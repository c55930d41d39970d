// ./tessera bench: the command line, what machine this is, and the ratios in their order. Both sides of a
// ratio wait passively for their threads (OMP_WAIT_POLICY), as every lesson does unless the user has set
// another policy.
#include "bench.hpp"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "app/app.hpp"
#include "tensor/error.hpp"
#include "tensor/file.hpp"

using namespace tessera;
using namespace tessera::bench;

namespace {

struct Benchmark {
  const char* name;
  void (*run)(Report&, const bench::Options&);
  bool on_gpu;  // at its sizes there; the others are about cores
  bool by_pytorch = false;
};

constexpr Benchmark benchmarks[] = {{"mlp_block", bench::mlp_block, true},
                                    {"gpt", bench::gpt, true},
                                    {"pytorch", gpt_beside_pytorch, true, true},
                                    {"gloo", cut_beside_pytorch, false, true},
                                    {"tp", tensor_parallel, false},
                                    {"all_reduce", all_reduce, false},
                                    {"pipeline", pipeline_step, false},
                                    {"three_d", three_d_step, false},
                                    {"bandwidth", bandwidth, true},
                                    {"attention", streaming_attention, true},
                                    {"growth", growth, false},
                                    {"plan", bench::planned_step, false},
                                    {"busy", busy_machine, false}};

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "unknown CPU";
}

int run(int argc, char** argv) {
  bench::Options o;
  std::string json, only;
  tessera::Options common;
  std::vector<std::string> names = {"all"}, serves = served();
  serves.insert(serves.begin(), "no");
  for (const Benchmark& one : benchmarks) names.push_back(one.name);
  only = "all";
  Flags flags("bench: times as ratios, candidate and reference in turns");
  flags.choice("--only", only, names, "one of them");
  flags.choice("--device", common.device,
               {{std::nullopt, "auto"}, {DeviceKind::cpu, "cpu"}, {DeviceKind::cuda, "cuda"}},
               "where to compute");
  flags.number("--turns", o.turns, 1, 1000, "of candidate and reference");
  flags.text("--pytorch", o.pytorch, "PYTHON", "a python3 with torch, to run beside");
  flags.toggle("--tf32", o.tf32, "on a GPU: products may round their factors to 10 bits");
  flags.toggle("--bf16", o.bf16,
               "on a GPU: weights and activations in bf16, as lessons have them with --dtype bf16");
  flags.toggle("--quick", o.quick, "tiny sizes: shows that it runs, measures nothing");
  flags.text("--json", json, "FILE", "the ratios, for programs");
  flags.choice("--serve", o.serve, serves, "this step of the GPT for each line of input: prints its seconds");
  if (!flags.parse(argc, argv)) return 0;
  const LaunchOptions chosen = common.choose_transport(false).options;
  o.device = chosen.device;
  o.program = std::filesystem::read_symlink("/proc/self/exe").string();
  if (o.quick) o.turns = std::min<std::int64_t>(o.turns, 2);
  if ((o.tf32 || o.bf16) && !o.cuda())
    throw UsageError("--tf32 and --bf16 are of GPUs: with --device cuda they would work");
  if ((only == "pytorch" || only == "gloo") && o.pytorch.empty())
    throw UsageError(format("--only {}: --pytorch PYTHON, a python3 with torch, would work", only));
  if (!json.empty()) flags.advise([&] { check_writable(json); });
  if (o.serve != "no") return serve_steps(o, chosen.transport), 0;

  const std::string machine = format("{}, {} cores", processor(), sysconf(_SC_NPROCESSORS_ONLN)),
                    where = Device::make(o.device)->description(), compiler = __VERSION__;
  std::cout << "bench: " << machine << "; computes on " << where << (o.tf32 ? ", TF32" : "")
            << (o.bf16 ? ", bf16" : "") << "\n  " << blas_name() << "; NCCL " << nccl::version()
            << "; compiler " << compiler << "; " << o.turns << " turns" << std::endl;
  Report report;
  const Others others;
  for (const Benchmark& one : benchmarks)
    if (only == one.name ||
        (only == "all" && (!o.cuda() || one.on_gpu) && (!one.by_pytorch || !o.pytorch.empty()))) {
      if (isatty(STDERR_FILENO) == 1) std::cerr << "\r\033[K  " << one.name << std::flush;
      one.run(report, o);
      if (isatty(STDERR_FILENO) == 1) std::cerr << "\r\033[K" << std::flush;
    }
  const double disturbed = std::max(0.0, others.share());
  std::cout << report.text(!o.quick) << "\nOther processes took " << std::lround(100 * disturbed)
            << "% of the cores; turns in which they took more than 10% were run again.\n";
  if (json.empty()) return report.failed() ? 1 : 0;
  nlohmann::ordered_json file = {{"machine", machine},      {"device", where},      {"blas", blas_name()},
                                 {"nccl", nccl::version()}, {"compiler", compiler}, {"quick", o.quick},
                                 {"tf32", o.tf32},          {"bf16", o.bf16},       {"turns", o.turns},
                                 {"others", disturbed}};
  file.update(report.json());
  write_file(json, file.dump(2) + "\n");
  return report.failed() ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  return guarded([&] { return run(argc, argv); });
}
