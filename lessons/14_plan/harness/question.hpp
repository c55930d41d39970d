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
/// three matrices, so its ffn is here one and a half times as large.
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

inline const std::vector<std::pair<std::optional<Recompute>, std::string>> recompute_names = {
    {Recompute::none, "none"}, {Recompute::selective, "selective"}, {Recompute::full, "full"}};

struct Arguments {
  std::string model = "gpt2-xl", machine = "dgx-a100", json, svg;
  std::map<std::string, std::int64_t> sizes;  // by their flags; 0 where none is given
  double tflops = 0, bandwidth = 0, memory = 0, inside = 0, between = 0;
  int zero = 0;
  pipeline::Schedule schedule = pipeline::Schedule::one_f_one_b;
  gpt::Way way = gpt::Way::ring;
  bool no_sequence_parallel = false, no_overlap = false, fit = false;
  Fixed fixed;
};

/// "gpt2, gpt2-xl"
template <class Named>
std::string names_of(const std::vector<Named>& all) {
  std::vector<std::string> names;
  for (const Named& one : all) names.push_back(one.name);
  return join(names);
}
template <class Named>
const Named& find_named(const std::vector<Named>& all, const char* flag, const std::string& name) {
  const auto found = std::ranges::find(all, name, &Named::name);
  refuse_if(found == all.end(), "{0} {1} is not known: {0} {2} would work", flag, name, names_of(all));
  return *found;
}

inline void add_flags(Flags& flags, Question& asked, Arguments& a) {
  constexpr std::int64_t most = most_devices;
  flags.text("--model", a.model, "NAME", names_of(known_models) + "; sizes below change it");
  flags.text("--machine", a.machine, "NAME", names_of(machines) + ", or this: short runs measure it");
  flags.number("--gpus", asked.devices, 1, most, "in all");
  flags.number("--batch", asked.batch, 1, most, "sequences of a step");
  const auto size = [&](const std::string& name, const std::string& help) {
    flags.number(name, a.sizes[name], 1, most, help);
  };
  size("--tp", "tensor parallel; without it: searched, like the next ten");
  size("--cp", "context parallel");
  size("--pp", "pipeline stages");
  size("--dp", "replicas");
  size("--ep", "expert parallel, in cp x dp");
  size("--microbatch", "sequences of a microbatch");
  size("--chunks", "of a stage; more than one: interleaved");
  flags.choice("--schedule", a.schedule, pipeline::schedule_names,
               "of the pipeline; searched: 1f1b, interleaved");
  flags.choice("--recompute", a.fixed.recompute, recompute_names, "in the backward");
  flags.number("--zero", a.zero, 0, 3, "stage of ZeRO");
  flags.toggle("--no-sequence-parallel", a.no_sequence_parallel, "norms on every rank of tp");
  flags.rest();
  size("--width", "W");
  size("--heads", "of queries");
  size("--kv-heads", "of keys and values");
  size("--layers", "blocks");
  size("--ffn", "columns of the MLP's first matrix");
  size("--vocab", "number of ids");
  size("--seq", "tokens of a sequence");
  size("--experts", "in every second block");
  size("--top-k", "experts of a token");
  flags.choice("--way", a.way, gpt::way_names, "how cp brings K and V");
  flags.choice("--attention", asked.fused_attention, {{true, "fused"}, {false, "plain"}},
               "plain: scores in memory");
  flags.toggle("--no-overlap", a.no_overlap, "gradients are summed after the last backward");
  flags.toggle("--scatter-gather", a.fixed.scatter_gather,
               "pp sends a tp-th, and gathers it inside a machine");
  flags.number("--weight-bytes", asked.weight_bytes, 1, 8, "of a weight and of an activation");
  flags.number("--wide-bytes", asked.wide_bytes, 1, 8, "of a gradient, a master and a moment each");
  flags.real("--tokens", asked.tokens, 1, 1e18, "of the whole training");
  flags.real("--tflops", a.tflops, 1e-3, 1e6, "of a GPU, in 16 bits");
  flags.real("--bandwidth", a.bandwidth, 1e-3, 1e6, "GB/s of a GPU's memory");
  flags.real("--memory", a.memory, 1e-3, 1e6, "GiB of a GPU");
  flags.real("--inside", a.inside, 1e-3, 1e6, "GB/s each way of a GPU inside its machine");
  flags.real("--between", a.between, 1e-3, 1e6, "GB/s each way of a GPU to other machines");
  size("--gpus-per-machine", "GPUs that share a machine's links");
  flags.toggle("--fit", a.fit, "fit the constants to published runs, and show how well they do");
  flags.text("--json", a.json, "FILE", "write the answer there, for programs");
  flags.text("--svg", a.svg, "FILE", "write memory and time as bars there");
}

/// Completes `asked` from the flags, and returns what they fix. Throws UsageError.
inline Fixed apply(const Flags& flags, Question& asked, const Arguments& a) {
  const KnownModel& known = find_named(known_models, "--model", a.model);
  const auto size = [&](const std::string& flag, std::int64_t otherwise) {
    return flags.given(flag) ? a.sizes.at(flag) : otherwise;
  };
  gpt::ModelConfig& m = asked.model;
  m.attention.width = size("--width", known.width), m.attention.heads = size("--heads", known.heads);
  m.attention.kv_heads = size("--kv-heads", size("--heads", known.kv_heads));
  m.layers = size("--layers", known.layers), m.vocabulary = size("--vocab", known.vocabulary);
  m.attention.options.seq = size("--seq", known.seq);
  m.inner = size("--ffn", flags.given("--width") ? 0 : known.ffn);
  m.experts = size("--experts", known.experts), m.top_k = size("--top-k", known.top_k);
  refuse_if(m.top_k > std::max<std::int64_t>(m.experts, 1), "--top-k {} of {} experts: --top-k 1 would work",
            m.top_k, m.experts);
  refuse_if(flags.given("--ep") && m.experts == 0,
            "--ep shares out experts, and there are none: without --ep it would work");
  refuse_if(m.attention.heads % m.attention.kv_heads != 0,
            "--kv-heads {} does not divide --heads {}: --kv-heads {} would work", m.attention.kv_heads,
            m.attention.heads,
            fitting(m.attention.heads, [&](std::int64_t n) { return m.attention.heads % n == 0; }));
  m.tied = true;
  attention_heads::check_shape(m.attention, 1, 1);
  if (a.machine == "this" && asked.devices > 64)
    throw UsageError("--machine this has no {} GPUs: --gpus 2 would work, as two threads", asked.devices);
  if (a.machine != "this") asked.machine = find_named(machines, "--machine", a.machine);
  for (const auto& [given, unit, target] : {std::tuple{a.tflops, 1e12, &asked.machine.flops},
                                            {a.bandwidth, 1e9, &asked.machine.bandwidth},
                                            {a.memory, gib, &asked.machine.memory},
                                            {a.inside, 1e9, &asked.machine.inside},
                                            {a.between, 1e9, &asked.machine.between}})
    if (given > 0) *target = given * unit;
  asked.machine.devices = size("--gpus-per-machine", asked.machine.devices);
  refuse_if(asked.wide_bytes % asked.weight_bytes != 0,
            "--wide-bytes {} is no multiple of --weight-bytes {}: --wide-bytes {} would work",
            asked.wide_bytes, asked.weight_bytes, 2 * asked.weight_bytes);
  Fixed fixed = a.fixed;
  for (const auto& [flag, target] : {std::pair{"--tp", &fixed.tp},
                                     {"--cp", &fixed.cp},
                                     {"--ep", &fixed.ep},
                                     {"--pp", &fixed.pp},
                                     {"--dp", &fixed.dp},
                                     {"--chunks", &fixed.chunks}})
    if (flags.given(flag)) *target = a.sizes.at(flag);
  if (flags.given("--microbatch")) fixed.microbatch = a.sizes.at("--microbatch");
  if (flags.given("--zero")) fixed.zero = a.zero;
  if (flags.given("--schedule")) fixed.schedule = a.schedule;
  if (flags.given("--way")) fixed.way = a.way;
  refuse_if(fixed.chunks > 1 && fixed.schedule && a.schedule != pipeline::Schedule::interleaved,
            "--chunks {} is what interleaved has: --schedule interleaved would work",
            fixed.chunks.value_or(0));
  if (a.no_sequence_parallel) fixed.sequence_parallel = false;
  fixed.overlap = !a.no_overlap;
  return fixed;
}

}  // namespace tessera::plan
