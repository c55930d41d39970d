// The claims of every lesson, compiled once for the suite and for ./tessera verify.
#include "course.hpp"

#include <numeric>

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

namespace tessera {

namespace {

/// The sizes that a sweep of index 0, 1, ... takes in turn, from a table.
template <class Case, std::size_t N>
const Case& in_turn(const Case (&cases)[N], const identities::MatrixSizes& s) {
  return cases[static_cast<std::size_t>(s.index) % N];
}

struct AttentionCase {
  std::int64_t keys_per_rank, head_width, batch, seq;
};
constexpr AttentionCase attention_cases[] = {
    {.keys_per_rank = 2, .head_width = 3, .batch = 2, .seq = 1},
    {.keys_per_rank = 2, .head_width = 2, .batch = 1, .seq = 7},
    {.keys_per_rank = 3, .head_width = 2, .batch = 1, .seq = 13},
    {.keys_per_rank = 1, .head_width = 5, .batch = 3, .seq = 4},
    {.keys_per_rank = 2, .head_width = 4, .batch = 1, .seq = 9},
    {.keys_per_rank = 3, .head_width = 1, .batch = 2, .seq = 2},
    {.keys_per_rank = 1, .head_width = 4, .batch = 2, .seq = 12},
};

attention_heads::Sizes attention_sizes(const identities::MatrixSizes& s, int p, attention_heads::Part part,
                                       Mask mask, int group, double dropout) {
  const AttentionCase& one = in_turn(attention_cases, s);
  attention_heads::Sizes sizes;
  AttentionOptions& o = sizes.shape.options;
  const std::int64_t keys = p * one.keys_per_rank;
  sizes.shape.heads = keys * std::max(group, 1);
  sizes.shape.kv_heads = group == 0 ? 1 : keys;
  sizes.shape.width = sizes.shape.heads * one.head_width;
  o.batch = one.batch;
  o.seq = one.seq;
  o.dropout = dropout;
  o.seed = 11;
  o.mask = mask;
  sizes.part = part;
  attention_heads::complete(sizes);
  return sizes;
}

struct PipelineCase {
  int microbatches, groups;            // groups of p microbatches, for interleaved
  std::int64_t more_first, more_last;  // layers of the first and of the last virtual stage beyond one
  bool recompute;
  std::int64_t vocabulary, head_width, batch, seq;
};
constexpr PipelineCase pipeline_cases[] = {
    {.microbatches = 1,
     .groups = 1,
     .more_first = 0,
     .more_last = 0,
     .recompute = false,
     .vocabulary = 2,
     .head_width = 2,
     .batch = 1,
     .seq = 1},
    {.microbatches = 3,
     .groups = 2,
     .more_first = 1,
     .more_last = 0,
     .recompute = true,
     .vocabulary = 11,
     .head_width = 3,
     .batch = 2,
     .seq = 3},
    {.microbatches = 7,
     .groups = 1,
     .more_first = 0,
     .more_last = 1,
     .recompute = false,
     .vocabulary = 5,
     .head_width = 4,
     .batch = 1,
     .seq = 5},
    {.microbatches = 2,
     .groups = 2,
     .more_first = 1,
     .more_last = 1,
     .recompute = true,
     .vocabulary = 23,
     .head_width = 6,
     .batch = 2,
     .seq = 2},
    {.microbatches = 5,
     .groups = 1,
     .more_first = 0,
     .more_last = 0,
     .recompute = true,
     .vocabulary = 7,
     .head_width = 5,
     .batch = 1,
     .seq = 4},
};

pipeline::Config pipeline_config(const identities::MatrixSizes& s, int p, pipeline::Schedule schedule) {
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
  gpt::ModelConfig& model = config.model;
  model.layers = std::accumulate(config.partition.begin(), config.partition.end(), std::int64_t{0});
  model.vocabulary = one.vocabulary;
  model.attention = {2 * one.head_width, 2, 2, {}};
  model.attention.options.batch = one.batch;
  model.attention.options.seq = one.seq;
  model.tokens = config.microbatches * model.rows();
  return config;
}

/// The batch of p replicas, and what is left over; buckets of one gradient or of many.
struct DataParallelCase {
  std::int64_t layers, sequences_per_rank, more_sequences, bucket, vocabulary, head_width, seq;
};
constexpr DataParallelCase data_parallel_cases[] = {
    {.layers = 1,
     .sequences_per_rank = 1,
     .more_sequences = 0,
     .bucket = 100,
     .vocabulary = 2,
     .head_width = 2,
     .seq = 1},
    {.layers = 2,
     .sequences_per_rank = 1,
     .more_sequences = 1,
     .bucket = 2000,
     .vocabulary = 11,
     .head_width = 3,
     .seq = 3},
    {.layers = 1,
     .sequences_per_rank = 3,
     .more_sequences = 2,
     .bucket = 500,
     .vocabulary = 23,
     .head_width = 6,
     .seq = 5},
    {.layers = 2,
     .sequences_per_rank = 2,
     .more_sequences = 0,
     .bucket = 1 << 20,
     .vocabulary = 5,
     .head_width = 4,
     .seq = 2},
};

data_parallel::Config data_parallel_config(const identities::MatrixSizes& s, int p) {
  const DataParallelCase& one = in_turn(data_parallel_cases, s);
  data_parallel::Config config;
  gpt::ModelConfig& model = config.model;
  model.layers = one.layers;
  model.vocabulary = one.vocabulary;
  model.attention = {2 * one.head_width, 2, 2, {}};
  model.attention.options.batch = p * one.sequences_per_rank + one.more_sequences;
  model.attention.options.seq = one.seq;
  model.tokens = model.attention.tokens();
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
constexpr ThreeDCase three_d_cases[] = {
    {.more_layers = 0, .head_width = 4, .batch = 1, .seq = 1, .microbatches = 1, .adamw = false, .clip = 0},
    {.more_layers = 1, .head_width = 5, .batch = 2, .seq = 3, .microbatches = 3, .adamw = true, .clip = 1},
    {.more_layers = 0, .head_width = 6, .batch = 1, .seq = 5, .microbatches = 2, .adamw = false, .clip = 1},
    {.more_layers = 1, .head_width = 4, .batch = 2, .seq = 2, .microbatches = 1, .adamw = true, .clip = 0},
    {.more_layers = 0, .head_width = 5, .batch = 1, .seq = 4, .microbatches = 2, .adamw = true, .clip = 1},
};

/// Two steps on made-up text, under the factorisations of p into tp x pp x dp in turn.
three_d::Config three_d_config(const identities::MatrixSizes& s, int p) {
  const ThreeDCase& one = in_turn(three_d_cases, s);
  std::vector<three_d::ParallelSizes> all;
  for (int t = 1; t <= p; ++t)
    for (int d = 1; d <= p / t; ++d)
      if (p % (t * d) == 0) all.push_back({t, p / (t * d), d});
  three_d::Config config;
  config.sizes = all[static_cast<std::size_t>(s.index) % all.size()];
  gpt::ModelConfig& model = config.training.model;
  model.layers = config.sizes.pp + one.more_layers;
  model.vocabulary = 128;
  model.tied = true;
  model.attention = {config.sizes.tp * one.head_width, config.sizes.tp, config.sizes.tp, {}};
  model.attention.options.batch = one.batch;
  model.attention.options.seq = one.seq;
  config.training.microbatches = one.microbatches;
  config.training.adamw = one.adamw;
  config.training.lr = 0.01;
  config.training.clip = one.clip;
  config.batch = config.sizes.dp * one.microbatches * one.batch;
  model.tokens = config.batch * config.seq();
  config.steps = 2;
  for (int i = 0; i < 100; ++i) config.text.ids.push_back(static_cast<std::uint16_t>('a' + i * i % 26));
  config.sample = 2;
  return config;
}

/// The sizes of lesson 07 under each stage; the microbatches, the optimiser and the prefetch vary.
zero::Config zero_config(const identities::MatrixSizes& s, int p, int stage) {
  zero::Config config;
  config.training.model = data_parallel_config(s, p).model;
  config.training.stage = stage;
  config.training.adamw = s.index % 2 == 0;
  config.training.prefetch = s.index % 3 != 2;
  config.training.clip = s.index % 5 == 4 ? 1 : 0;
  config.training.lr = 0.01;
  config.steps = 2;
  const std::int64_t batch = config.training.model.attention.options.batch;
  config.microbatches = batch % 2 == 0 && batch >= 2 * p ? 2 : 1;
  return config;
}

}  // namespace

std::vector<Claim> course() {
  using identities::MatrixSizes;
  std::vector<Claim> claims;
  for (const auto& identity : identities::all())
    claims.push_back({"identity: " + identity.name, identity.prove});
  claims.push_back({"01 MLP, on each rank", [](Proof& proof, Communicator&, const MatrixSizes& s) {
                      mlp::prove(proof, {s.n, s.k, s.m});
                    }});
  claims.push_back({"02 column split", [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                      column_split::prove(proof, comm, {s.n, s.k, s.m});
                    }});
  claims.push_back({"03 row split", [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                      row_split::prove(proof, comm, {s.n, s.k, s.m});
                    }});
  for (const auto& [name, f] : {std::pair{"04 MLP block, gelu", mlp_block::Activation::gelu},
                                {"04 MLP block, relu", mlp_block::Activation::relu}})
    claims.push_back({name, [f = f](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        mlp_block::prove(proof, comm, {s.n, s.k, s.m}, f);
                      }});
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
    claims.push_back({v.name, [v](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        attention_heads::prove(
                            proof, comm, attention_sizes(s, comm.size(), v.part, v.mask, v.group, v.dropout));
                      }});
  for (const auto& [schedule, name] : pipeline::schedule_names)
    claims.push_back({"06 pipeline, " + name,
                      [schedule = schedule](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        pipeline::prove(proof, comm, pipeline_config(s, comm.size(), schedule));
                      },
                      {Tier::floating}});
  claims.push_back({"07 data parallel",
                    [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                      data_parallel::prove(proof, comm, data_parallel_config(s, comm.size()));
                    },
                    {Tier::floating}});
  claims.push_back({"08 three dimensions",
                    [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                      three_d::prove(proof, comm, three_d_config(s, comm.size()));
                    },
                    {Tier::floating}});
  for (const Variant& v : {Variant{"09 block cut by tokens, causal", Part::block, Mask::causal, 1, 0},
                           {"09 block, X gathered again, dropout", Part::block, Mask::causal, 1, 0.2},
                           {"09 grouped queries, no mask, X again", Part::block, Mask::none, 2, 0},
                           {"09 attention cut by tokens", Part::attention, Mask::causal, 1, 0}})
    claims.push_back({v.name, [v](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        sequence_parallel::Config c{
                            attention_sizes(s, comm.size(), v.part, v.mask, v.group, v.dropout),
                            v.group == 2 || v.dropout > 0};
                        // The ranks divide the tokens.
                        c.sizes.shape.options.seq *= comm.size();
                        sequence_parallel::prove(proof, comm, c);
                      }});
  for (const bool regather : {false, true})
    claims.push_back({regather ? "09 in three dimensions, X gathered again" : "09 in three dimensions",
                      [regather](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        three_d::Config config = three_d_config(s, comm.size());
                        sequence_parallel::use_in(config.training, regather);
                        config.training.model.attention.options.seq *= config.sizes.tp;
                        config.training.model.tokens *= config.sizes.tp;
                        three_d::prove(proof, comm, config);
                      },
                      {Tier::floating}});
  for (int stage = 0; stage < 4; ++stage)
    claims.push_back({format("10 ZeRO, stage {}", stage),
                      [stage](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        zero::prove(proof, comm, zero_config(s, comm.size(), stage));
                      },
                      {Tier::floating}});
  return claims;
}

}  // namespace tessera
