// What ./tessera plan is asked, as flags.
#pragma once

#include "05_attention_heads/harness/sizes.hpp"
#include "14_plan/search.hpp"
#include "app/flags.hpp"
#include "gpt/harness/context.hpp"

namespace tessera::plan {

struct KnownModel {
  std::string name;
  std::int64_t width, heads, kv_heads, layers, ffn, vocabulary, seq, experts = 0, top_k = 1;
};
/// Radford et al. 2019; Shoeybi et al. 2019, table 2; Brown et al. 2020; Touvron et al. 2023. Llama's MLP has
/// three matrices: its ffn counts here once and a half.
inline const std::vector<KnownModel> known_models = {
    {"gpt2", 768, 12, 12, 12, 0, 50257, 1024},
    {"gpt2-medium", 1024, 16, 16, 24, 0, 50257, 1024},
    {"gpt2-large", 1280, 20, 20, 36, 0, 50257, 1024},
    {"gpt2-xl", 1600, 25, 25, 48, 0, 50257, 1024},
    {"gpt3-1.3b", 2048, 16, 16, 24, 0, 51200, 2048},
    {"gpt3-175b", 12288, 96, 96, 96, 0, 51200, 2048},
    {"megatron-1.2b", 1536, 16, 16, 40, 0, 51200, 1024},
    {"megatron-8.3b", 3072, 32, 32, 72, 0, 51200, 1024},
    {"llama2-70b", 8192, 64, 8, 80, 43008, 32000, 4096},
    {"gpt3-1.3b-64e", 2048, 16, 16, 24, 0, 51200, 2048, 64, 2}};

struct Arguments {
  std::string model = "gpt2-xl", machine = "dgx-a100", recompute, attention = "fused";
  std::int64_t width = 0, heads = 0, kv_heads = 0, layers = 0, ffn = 0, vocabulary = 0, seq = 0, experts = 0,
               top_k = 0;
  std::int64_t devices_a_machine = 0;
  double tflops = 0, bandwidth = 0, memory = 0, inside = 0, between = 0;
  std::int64_t tp = 0, cp = 0, pp = 0, dp = 0, ep = 0, chunks = 0, microbatch = 0, zero = 0;
  pipeline::Schedule schedule = pipeline::Schedule::one_f_one_b;
  gpt::Way way = gpt::Way::ring;
  bool no_sequence_parallel = false, no_overlap = false, scatter_gather = false, fit = false;
  std::string json, svg;
};

/// "gpt2, gpt2-xl"
template <class Named>
std::string names_of(const std::vector<Named>& all) {
  std::vector<std::string> names;
  for (const Named& one : all) names.push_back(one.name);
  return join(names);
}
template <class Named>
const Named& find_named(const std::vector<Named>& all, const std::string& flag, const std::string& name) {
  const auto found = std::ranges::find(all, name, &Named::name);
  if (found == all.end())
    throw UsageError(format("{0} {1} is not known: {0} {2} would work", flag, name, names_of(all)));
  return *found;
}

inline void add_flags(Flags& flags, Question& asked, Arguments& a) {
  constexpr std::int64_t most = most_devices;
  flags.text("--model", a.model, "NAME", names_of(known_models) + "; sizes below change it");
  flags.text("--machine", a.machine, "NAME", names_of(machines) + ", or this: short runs measure it");
  flags.number("--gpus", asked.devices, 1, most, "in all");
  flags.number("--batch", asked.batch, 1, most, "sequences of a step");
  const auto fixed = [&](const std::string& name, std::int64_t& target, const std::string& help) {
    flags.number(name, target, 1, most, help);
  };
  fixed("--tp", a.tp, "tensor parallel; without it: searched, like the next ten");
  fixed("--cp", a.cp, "context parallel");
  fixed("--pp", a.pp, "pipeline stages");
  fixed("--dp", a.dp, "replicas");
  fixed("--ep", a.ep, "expert parallel, in cp x dp");
  fixed("--microbatch", a.microbatch, "sequences of a microbatch");
  fixed("--chunks", a.chunks, "of a stage; more than one: interleaved");
  flags.choice("--schedule", a.schedule, pipeline::schedule_names,
               "of the pipeline; searched: 1f1b, interleaved");
  flags.choice("--recompute", a.recompute, {"none", "selective", "full"}, "in the backward");
  flags.number("--zero", a.zero, 0, 3, "stage of ZeRO");
  flags.toggle("--no-sequence-parallel", a.no_sequence_parallel, "norms on every rank of tp");
  flags.rest();
  fixed("--width", a.width, "W");
  fixed("--heads", a.heads, "of queries");
  fixed("--kv-heads", a.kv_heads, "of keys and values");
  fixed("--layers", a.layers, "blocks");
  fixed("--ffn", a.ffn, "columns of the MLP's first matrix");
  fixed("--vocab", a.vocabulary, "ids that there are");
  fixed("--seq", a.seq, "tokens of a sequence");
  fixed("--experts", a.experts, "in every second block");
  fixed("--top-k", a.top_k, "experts of a token");
  flags.choice("--way", a.way, gpt::way_names, "of cp to bring K and V");
  flags.choice("--attention", a.attention, {"fused", "plain"}, "plain: scores in memory");
  flags.toggle("--no-overlap", a.no_overlap, "gradients are summed after the last backward");
  flags.toggle("--scatter-gather", a.scatter_gather, "pp sends a tp-th, and gathers it inside a machine");
  flags.number("--weight-bytes", asked.weight_bytes, 1, 8, "of a weight and of an activation");
  flags.number("--wide-bytes", asked.wide_bytes, 1, 8, "of a gradient, a master and a moment each");
  flags.real("--tokens", asked.tokens, 1, 1e18, "of the whole training");
  flags.real("--tflops", a.tflops, 0, 1e6, "of a GPU, in 16 bits");
  flags.real("--bandwidth", a.bandwidth, 0, 1e6, "GB/s of a GPU's memory");
  flags.real("--memory", a.memory, 0, 1e6, "GiB of a GPU");
  flags.real("--inside", a.inside, 0, 1e6, "GB/s each way of a GPU inside its machine");
  flags.real("--between", a.between, 0, 1e6, "GB/s each way of a GPU to other machines");
  fixed("--gpus-per-machine", a.devices_a_machine, "that share its links");
  flags.toggle("--fit", a.fit, "fit the constants to published runs, and show how well they do");
  flags.text("--json", a.json, "FILE", "write the answer there, for programs");
  flags.text("--svg", a.svg, "FILE", "write memory and time as bars there");
}

/// Reads the flags into what is asked and what is fixed. Throws UsageError.
inline Fixed apply(const Flags& flags, Question& asked, const Arguments& a) {
  const KnownModel& known = find_named(known_models, "--model", a.model);
  const auto size = [](std::int64_t given, std::int64_t otherwise) { return given > 0 ? given : otherwise; };
  gpt::ModelConfig& m = asked.model;
  m.attention.width = size(a.width, known.width), m.attention.heads = size(a.heads, known.heads);
  m.attention.kv_heads = size(a.kv_heads, a.heads > 0 ? a.heads : known.kv_heads);
  m.layers = size(a.layers, known.layers), m.vocabulary = size(a.vocabulary, known.vocabulary);
  m.attention.options.seq = size(a.seq, known.seq), m.inner = size(a.ffn, a.width > 0 ? 0 : known.ffn);
  m.experts = size(a.experts, known.experts), m.top_k = size(a.top_k, known.top_k);
  if (m.top_k > std::max<std::int64_t>(m.experts, 1))
    throw UsageError(format("--top-k {} of {} experts: --top-k 1 would work", m.top_k, m.experts));
  m.tied = true;
  attention_heads::check_shape(m.attention, 1, 1);
  if (a.machine == "this" && asked.devices > 64)
    throw UsageError(
        format("--machine this has no {} GPUs: --gpus 2 would work, as two threads", asked.devices));
  if (a.machine != "this") asked.machine = find_named(machines, "--machine", a.machine);
  for (const auto& [given, unit, target] : {std::tuple{a.tflops, 1e12, &asked.machine.flops},
                                            {a.bandwidth, 1e9, &asked.machine.bandwidth},
                                            {a.memory, gib, &asked.machine.memory},
                                            {a.inside, 1e9, &asked.machine.inside},
                                            {a.between, 1e9, &asked.machine.between}})
    if (given > 0) *target = given * unit;
  if (a.devices_a_machine > 0) asked.machine.devices = static_cast<int>(a.devices_a_machine);
  if (asked.wide_bytes % asked.weight_bytes != 0)
    throw UsageError(format("--wide-bytes {} is no multiple of --weight-bytes {}: --wide-bytes {} would work",
                            asked.wide_bytes, asked.weight_bytes, 2 * asked.weight_bytes));
  asked.fused_attention = a.attention == "fused";
  Fixed fixed;
  const auto fix = [](std::int64_t given, auto& target) {
    if (given > 0) target = static_cast<int>(given);
  };
  fix(a.tp, fixed.tp), fix(a.cp, fixed.cp), fix(a.ep, fixed.ep), fix(a.pp, fixed.pp), fix(a.dp, fixed.dp),
      fix(a.chunks, fixed.chunks);
  if (a.microbatch > 0) fixed.microbatch = a.microbatch;
  if (flags.given("--zero")) fixed.zero = static_cast<int>(a.zero);
  if (flags.given("--schedule")) fixed.schedule = a.schedule;
  if (flags.given("--way")) fixed.way = a.way;
  if (a.chunks > 1 && fixed.schedule && a.schedule != pipeline::Schedule::interleaved)
    throw UsageError(
        format("--chunks {} is what interleaved has: --schedule interleaved would work", a.chunks));
  if (a.no_sequence_parallel) fixed.sequence_parallel = false;
  for (const auto& [word, value] :
       {std::pair{"none", Recompute::none}, {"selective", Recompute::selective}, {"full", Recompute::full}})
    if (a.recompute == word) fixed.recompute = value;
  fixed.overlap = !a.no_overlap, fixed.scatter_gather = a.scatter_gather;
  return fixed;
}

}  // namespace tessera::plan
