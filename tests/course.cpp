// The claims of every lesson, compiled once for the suite and for ./tessera verify.
#include "course.hpp"

#include "01_mlp/harness/proof.hpp"
#include "02_column_split/harness/proof.hpp"
#include "03_row_split/harness/proof.hpp"
#include "04_mlp_block/harness/proof.hpp"
#include "05_attention_heads/harness/proof.hpp"
#include "06_pipeline/harness/proof.hpp"
#include "07_data_parallel/harness/proof.hpp"
#include "08_three_d/harness/proof.hpp"
#include "09_sequence_parallel/harness/proof.hpp"
#include "09_sequence_parallel/parts.hpp"
#include "10_zero/harness/proof.hpp"
#include "11_context_parallel/harness/proof.hpp"
#include "11_context_parallel/parts.hpp"
#include "12_experts/harness/proof.hpp"
#include "13_all_axes/harness/sweep.hpp"
#include "14_plan/harness/proof.hpp"
#include "models.hpp"

namespace tessera {

namespace {

using identities::MatrixSizes;

/// The sizes that a sweep of index 0, 1, ... takes in turn, from a table.
template <class Case, std::size_t N>
const Case& in_turn(const Case (&cases)[N], const MatrixSizes& s) {
  return cases[static_cast<std::size_t>(s.index) % N];
}

struct AttentionCase {
  std::int64_t keys_per_rank, head_width, batch, seq;
};
constexpr AttentionCase attention_cases[] = {{2, 3, 2, 1}, {2, 2, 1, 7}, {3, 2, 1, 13}, {1, 5, 3, 4},
                                             {2, 4, 1, 9}, {3, 1, 2, 2}, {1, 4, 2, 12}};

attention_heads::Sizes attention_sizes(const MatrixSizes& s, int p, attention_heads::Part part, Mask mask,
                                       int group, double dropout) {
  const AttentionCase& one = in_turn(attention_cases, s);
  const std::int64_t keys = p * one.keys_per_rank, heads = keys * std::max(group, 1);
  const AttentionOptions options{
      .batch = one.batch, .seq = one.seq, .mask = mask, .dropout = dropout, .seed = 11};
  attention_heads::Sizes sizes{{heads * one.head_width, heads, group == 0 ? 1 : keys, options}, part};
  attention_heads::complete(sizes);
  return sizes;
}

struct PipelineCase {
  int microbatches, groups;            // groups of p microbatches, for interleaved
  std::int64_t more_first, more_last;  // layers of the first and of the last virtual stage beyond one
  bool recompute;
  std::int64_t vocabulary, width, batch, seq;
};
constexpr PipelineCase pipeline_cases[] = {{1, 1, 0, 0, false, 2, 4, 1, 1},
                                           {3, 2, 1, 0, true, 11, 6, 2, 3},
                                           {7, 1, 0, 1, false, 5, 8, 1, 5},
                                           {2, 2, 1, 1, true, 23, 12, 2, 2},
                                           {5, 1, 0, 0, true, 7, 10, 1, 4}};

pipeline::Config pipeline_config(const MatrixSizes& s, int p, pipeline::Schedule schedule) {
  const PipelineCase& one = in_turn(pipeline_cases, s);
  const bool interleaved = schedule == pipeline::Schedule::interleaved;
  pipeline::Config config;
  config.schedule = schedule;
  config.chunks = interleaved && p > 1 ? 2 : 1;
  config.microbatches = interleaved ? p * one.groups : one.microbatches;
  config.partition = pipeline::Partition(static_cast<std::size_t>(p * config.chunks), 1);
  config.partition.front() += one.more_first;
  config.partition.back() += one.more_last;
  config.recompute = one.recompute;
  config.model = test::model_of({.width = one.width,
                                 .layers = p * config.chunks + one.more_first + one.more_last,
                                 .vocabulary = one.vocabulary,
                                 .batch = one.batch,
                                 .seq = one.seq});
  config.model.tokens = config.microbatches * config.model.rows();
  return config;
}

/// The batch of p replicas, and what is left over; buckets of one gradient or of many.
struct DataParallelCase {
  std::int64_t layers, sequences_per_rank, more_sequences, bucket, vocabulary, width, seq;
};
constexpr DataParallelCase data_parallel_cases[] = {
    {1, 1, 0, 1, 2, 4, 1}, {2, 1, 1, 2000, 11, 6, 3}, {1, 3, 2, 500, 23, 12, 5}, {2, 2, 0, 1 << 20, 5, 8, 2}};

data_parallel::Config data_parallel_config(const MatrixSizes& s, int p) {
  const DataParallelCase& one = in_turn(data_parallel_cases, s);
  data_parallel::Config config;
  config.model = test::model_of({.width = one.width,
                                 .layers = one.layers,
                                 .vocabulary = one.vocabulary,
                                 .batch = p * one.sequences_per_rank + one.more_sequences,
                                 .seq = one.seq});
  config.bucket = one.bucket;
  config.steps = 2;
  config.lr = 0.01;
  return config;
}

struct ThreeDCase {
  std::int64_t more_layers, head_width, batch, seq;  // layers beyond one a stage; sequences of a microbatch
  int microbatches;
  bool adamw;
  double clip;
};
constexpr ThreeDCase three_d_cases[] = {{0, 4, 1, 1, 1, false, 0},
                                        {1, 5, 2, 3, 3, true, 1},
                                        {0, 6, 1, 5, 2, false, 1},
                                        {1, 4, 2, 2, 1, true, 0},
                                        {0, 5, 1, 4, 2, true, 1}};

/// Two steps on made-up text, under the factorisations of p into tp x pp x dp in turn.
three_d::Config three_d_config(const MatrixSizes& s, int p) {
  const ThreeDCase& one = in_turn(three_d_cases, s);
  const auto all = test::factorisations(p);
  const three_d::ParallelSizes& sizes = all[static_cast<std::size_t>(s.index) % all.size()];
  const test::GptSizes model = {.width = sizes.tp * one.head_width,
                                .heads = sizes.tp,
                                .layers = sizes.pp + one.more_layers,
                                .vocabulary = 128,
                                .seq = one.seq,
                                .tied = true};
  three_d::Config config =
      test::run_on_text(sizes, model, sizes.dp * one.microbatches * one.batch, one.microbatches);
  config.training.adamw = one.adamw;
  config.training.lr = 0.01;
  config.training.clip = one.clip;
  config.steps = 2;
  config.sample = 2;
  return config;
}

/// The sizes of lesson 07 under each stage; the microbatches, the optimiser and the prefetch vary.
zero::Config zero_config(const identities::MatrixSizes& s, int p, int stage) {
  zero::Config config;
  three_d::TrainingConfig& t = config.training;
  t.model = data_parallel_config(s, p).model;
  t.zero = stage, t.lr = 0.01;
  t.adamw = s.index % 2 == 0, t.prefetch = s.index % 3 != 2, t.clip = s.index % 5 == 3 ? 1 : 0;
  config.sizes = {1, 1, p}, config.steps = 2;
  config.batch = t.model.attention.options.batch;
  t.microbatches = config.batch % 2 == 0 && config.batch >= 2 * p ? 2 : 1;
  return config;
}

/// Lesson 11: placements, masks, grouped queries and lengths in turn.
context_parallel::Config context_config(const MatrixSizes& s, int p, context_parallel::Way way) {
  context_parallel::Config c;
  c.way = way, c.zigzag = s.index % 3 != 1;
  const std::int64_t heads = p * (1 + s.index % 2), kv[] = {heads, 1, p};
  c.shape() = {heads * (1 + s.index % 4), heads, kv[s.index % 3], {}};
  c.shape().options = {.batch = 1 + s.index % 3,
                       .seq = c.layout(p).chunks() * (1 + s.index % 5),
                       .mask = attention_heads::mask_names[static_cast<std::size_t>(s.index / 3) % 3].first};
  attention_heads::complete(c.sizes);
  return c;
}

/// Lesson 12: tokens, experts and groups in turn, and a router that is indifferent.
experts::Config experts_config(const MatrixSizes& s, int p, std::int64_t top_k, double capacity) {
  experts::Config c{s.n, s.k, s.m, p * (1 + s.index % 3), top_k, s.index % 4 == 1 ? 1 : p, capacity};
  c.experts = std::max(c.experts, top_k);
  c.aux = s.index % 5 == 4 ? 0 : 0.1, c.router_scale = s.index % 7 == 6 ? 0 : 3;
  return c;
}

}  // namespace

std::vector<Claim> course() {
  std::vector<Claim> claims;
  const std::vector<Tier> both = {Tier::exact, Tier::floating}, floating = {Tier::floating};
  const auto add = [&](const std::string& name, const std::vector<Tier>& tiers, const auto& prove) {
    claims.push_back({name, prove, tiers});
  };
  const auto add_run = [&](const std::string& name, const auto& config) {  // of s and the number of ranks
    add(name, floating, [config](Proof& proof, Communicator& comm, const MatrixSizes& s) {
      prove(proof, comm, config(s, comm.size()));
    });
  };
  for (const identities::Identity& identity : identities::all)
    add(format("identity: {}", identity.name), both,
        [&identity](Proof& proof, Communicator& comm, const MatrixSizes& s) {
          identity.prove(proof, comm, s);
        });
  add("01 MLP, on each rank", both, [](Proof& proof, Communicator&, const MatrixSizes& s) {
    mlp::prove(proof, {s.n, s.k, s.m});
  });
  add("02 column split", both, [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
    column_split::prove(proof, comm, {s.n, s.k, s.m});
  });
  add("03 row split", both, [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
    row_split::prove(proof, comm, {s.n, s.k, s.m});
  });
  for (const auto& [name, f] : {std::pair{"04 MLP block, gelu", mlp_block::Activation::gelu},
                                {"04 MLP block, relu", mlp_block::Activation::relu}})
    add(name, both, [f = f](Proof& proof, Communicator& comm, const MatrixSizes& s) {
      mlp_block::prove(proof, comm, {s.n, s.k, s.m}, f);
    });
  using attention_heads::Part;
  struct Variant {
    const char* name;
    Part part;
    Mask mask;
    int group;  // query heads that share a key and a value; 0: all do
    double dropout;
  };
  for (const Variant& v : {Variant{"05 attention by head, causal", Part::attention, Mask::causal, 1, 0},
                           {"05 attention, padding, dropout", Part::attention, Mask::padding, 1, 0.2},
                           {"05 grouped-query attention, no mask", Part::attention, Mask::none, 2, 0},
                           {"05 multi-query attention", Part::attention, Mask::causal, 0, 0},
                           {"05 transformer block", Part::block, Mask::causal, 1, 0},
                           {"05 block, multi-query, padding, dropout", Part::block, Mask::padding, 0, 0.1}})
    add(v.name, both, [v](Proof& proof, Communicator& comm, const MatrixSizes& s) {
      attention_heads::prove(proof, comm,
                             attention_sizes(s, comm.size(), v.part, v.mask, v.group, v.dropout));
    });
  for (const auto& [schedule, name] : pipeline::schedule_names)
    add_run("06 pipeline, " + name,
            [schedule = schedule](const MatrixSizes& s, int p) { return pipeline_config(s, p, schedule); });
  add_run("07 data parallel", data_parallel_config);
  add_run("08 three dimensions", three_d_config);
  for (const Variant& v : {Variant{"09 block cut by tokens, causal", Part::block, Mask::causal, 1, 0},
                           {"09 block, X gathered again, dropout", Part::block, Mask::causal, 1, 0.2},
                           {"09 grouped queries, no mask, X again", Part::block, Mask::none, 2, 0},
                           {"09 attention cut by tokens", Part::attention, Mask::causal, 1, 0}})
    add(v.name, both, [v](Proof& proof, Communicator& comm, const MatrixSizes& s) {
      sequence_parallel::Config c{attention_sizes(s, comm.size(), v.part, v.mask, v.group, v.dropout),
                                  v.group == 2 || v.dropout > 0};
      c.sizes.shape.options.seq *= comm.size();  // the ranks divide the tokens
      sequence_parallel::prove(proof, comm, c);
    });
  for (const bool regather : {false, true})
    add_run(regather ? "09 in three dimensions, X gathered again" : "09 in three dimensions",
            [regather](const MatrixSizes& s, int p) {
              three_d::Config config = three_d_config(s, p);
              sequence_parallel::use_in(config.training, regather);
              config.training.model.attention.options.seq *= config.sizes.tp;
              config.training.model.tokens *= config.sizes.tp;
              return config;
            });
  for (int stage = 0; stage < 4; ++stage)
    add(format("10 ZeRO, stage {}", stage), floating,
        [stage](Proof& proof, Communicator& comm, const MatrixSizes& s) {
          zero::prove(proof, comm, zero_config(s, comm.size(), stage));
        });
  for (const auto& [way, name] : context_parallel::way_names)
    add_run("11 context parallel, " + name,
            [way = way](const MatrixSizes& s, int p) { return context_config(s, p, way); });
  add_run("11 in three dimensions, every way in turn", [](const MatrixSizes& s, int p) {
    three_d::Config config = three_d_config(s, p);
    std::swap(config.sizes.dp, config.sizes.cp);
    config.batch /= config.sizes.cp;
    gpt::ModelConfig& m = config.training.model;
    const auto way = context_parallel::way_names[static_cast<std::size_t>(s.index) % 3].first;
    context_parallel::use_in(config.training, config.sizes.cp, way, s.index / 3 % 2 == 0);
    m.attention.options.seq *= context_parallel::layout_of(m).chunks();
    m.attention.heads = m.attention.kv_heads = config.sizes.tp * config.sizes.cp;
    m.attention.width = m.attention.heads * (4 + s.index % 3);
    m.tokens = config.batch * m.seq();
    return config;
  });
  for (const auto& [name, top_k, capacity] : {std::tuple{"12 experts, Switch", 1, 0.0},
                                              {"12 experts, top 2", 2, 0.0},
                                              {"12 experts, capacity", 2, 1.0}})
    add_run(name, [top_k = top_k, capacity = capacity](const MatrixSizes& s, int p) {
      return experts_config(s, p, top_k, capacity);
    });
  add("13 all axes, every cut in turn", floating, [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
    three_d::Config c = all_axes::small_run(!proof.coarse(), true);
    gpt::ModelConfig& m = c.training.model;
    c.batch = 2 * comm.size(), c.steps = 2, m.tokens = c.batch * c.seq();
    const auto cuts = all_axes::factorisations(comm.size(), c);
    c.sizes = cuts[static_cast<std::size_t>(7 * s.index) % cuts.size()];
    m.attention.options.batch = c.batch / c.sizes.dp, m.cp = c.sizes.cp, m.ep = c.sizes.ep;
    c.training.zero = s.index % 4;
    all_axes::compose(c.training);
    if (m.experts > 0) c.training.parts.reference = experts::reference_step;
    three_d::prove(proof, comm, c);
  });
  add("14 plan: memory and bytes", floating,
      [](Proof& proof, Communicator& comm, const MatrixSizes&) { plan::check_counted(proof, comm); });
  return claims;
}

}  // namespace tessera
