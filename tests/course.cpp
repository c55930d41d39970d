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

namespace tessera {

namespace {

/// Attention of a size that depends on a sweep's shape: up to 3 p groups of heads of up to 5 columns.
attention_heads::Sizes attention_sizes(const identities::MatrixSizes& s, int p, attention_heads::Part part,
                                       const std::string& mask, int group, double dropout) {
  attention_heads::Sizes sizes;
  AttentionOptions& o = sizes.shape.options;
  const std::int64_t keys = p * (1 + s.n / p % 3);
  sizes.shape.heads = keys * std::max(group, 1);
  sizes.shape.kv_heads = group == 0 ? 1 : keys;
  sizes.shape.width = sizes.shape.heads * (1 + s.k / p % 5);
  o.batch = 1 + s.m / p % 3;
  o.seq = 1 + (s.n + s.k) % 13;
  o.dropout = dropout;
  o.seed = 11;
  attention_heads::apply_arguments(sizes, mask, part == attention_heads::Part::block ? "block" : "attention",
                                   "auto");
  return sizes;
}

/// A pipeline of p stages that depends on a sweep's shape: up to 2 layers more than virtual stages, uneven.
pipeline::Config pipeline_setup(const identities::MatrixSizes& s, int p, pipeline::Schedule schedule) {
  const bool interleaved = schedule == pipeline::Schedule::interleaved;
  pipeline::Config setup;
  setup.schedule = schedule;
  setup.chunks = interleaved && p > 1 ? 2 : 1;
  setup.microbatches = static_cast<int>(interleaved ? p * (1 + s.n / p % 2) : 1 + (s.n + s.m) / p % 7);
  setup.partition = pipeline::Partition(static_cast<std::size_t>(p * setup.chunks), 1);
  setup.partition.front() += s.m / p % 2;
  setup.partition.back() += s.k / p % 2;
  setup.recompute = s.m / p % 2 == 0;
  gpt::ModelConfig& model = setup.model;
  model.layers = std::accumulate(setup.partition.begin(), setup.partition.end(), std::int64_t{0});
  model.vocabulary = 2 + s.m / p;
  model.attention = {2 * (2 + s.k / p % 5), 2, 2, {}};
  model.attention.options.batch = 1 + s.k / p % 2;
  model.attention.options.seq = 1 + (s.n + s.k) % 5;
  model.tokens = setup.microbatches * model.rows();
  return setup;
}

/// A small GPT, its batch of p to 3 p + 2 sequences cut over p ranks, evenly or not;
/// buckets of one gradient or of many.
data_parallel::Config data_parallel_setup(const identities::MatrixSizes& s, int p) {
  data_parallel::Config setup;
  gpt::ModelConfig& model = setup.model;
  model.layers = 1 + s.m / p % 2;
  model.vocabulary = 2 + s.m / p;
  model.attention = {2 * (2 + s.k / p % 5), 2, 2, {}};
  model.attention.options.batch = p * (1 + s.n / p % 3) + s.k / p % 3;
  model.attention.options.seq = 1 + (s.n + s.k) % 5;
  model.tokens = model.attention.tokens();
  setup.bucket = s.m * 100;
  setup.steps = 2;
  setup.lr = 0.01;
  return setup;
}

/// A GPT under one of the factorisations of p into tp x pp x dp, two steps on made-up text.
three_d::Config three_d_setup(const identities::MatrixSizes& s, int p) {
  std::vector<three_d::ParallelSizes> all;
  for (int t = 1; t <= p; ++t)
    for (int d = 1; d <= p / t; ++d)
      if (p % (t * d) == 0) all.push_back({t, p / (t * d), d});
  three_d::Config setup;
  setup.sizes = all[static_cast<std::size_t>((s.n + s.k + s.m) / p) % all.size()];
  gpt::ModelConfig& model = setup.training.model;
  model.layers = setup.sizes.pp + s.m / p % 2;
  model.vocabulary = 128;
  model.tied = true;
  model.attention = {setup.sizes.tp * (4 + s.k / p % 3), setup.sizes.tp, setup.sizes.tp, {}};
  model.attention.options.batch = 1 + s.k / p % 2;
  model.attention.options.seq = 1 + (s.n + s.k) % 5;
  setup.training.microbatches = static_cast<int>(1 + s.n / p % 3);
  setup.training.adamw = s.m / p % 2 == 0;
  setup.training.lr = 0.01;
  setup.training.clip = s.n / p % 2 == 0 ? 1 : 0;
  setup.batch = setup.sizes.dp * setup.training.microbatches * model.attention.options.batch;
  model.tokens = setup.batch * setup.seq();
  setup.steps = 2;
  for (int i = 0; i < 100; ++i) setup.text.ids.push_back(static_cast<std::uint16_t>('a' + i * i % 26));
  setup.sample = 2;
  return setup;
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
    const char* mask;
    int group;  // query heads that share a key and a value; 0: all do
    double dropout;
  };
  for (const Variant& v : {Variant{"05 attention by head, causal", Part::attention, "causal", 1, 0},
                           {"05 attention, padding, dropout", Part::attention, "padding", 1, 0.2},
                           {"05 grouped-query attention, no mask", Part::attention, "none", 2, 0},
                           {"05 multi-query attention", Part::attention, "causal", 0, 0},
                           {"05 transformer block", Part::block, "causal", 1, 0},
                           {"05 block, multi-query, padding, dropout", Part::block, "padding", 0, 0.1}})
    claims.push_back({v.name, [v](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        attention_heads::prove(
                            proof, comm, attention_sizes(s, comm.size(), v.part, v.mask, v.group, v.dropout));
                      }});
  for (const auto& [schedule, name] : pipeline::schedule_names)
    claims.push_back({"06 pipeline, " + name,
                      [schedule = schedule](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                        pipeline::prove(proof, comm, pipeline_setup(s, comm.size(), schedule));
                      },
                      {Tier::floating}});
  claims.push_back({"07 data parallel",
                    [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                      data_parallel::prove(proof, comm, data_parallel_setup(s, comm.size()));
                    },
                    {Tier::floating}});
  claims.push_back({"08 three dimensions",
                    [](Proof& proof, Communicator& comm, const MatrixSizes& s) {
                      three_d::prove(proof, comm, three_d_setup(s, comm.size()));
                    },
                    {Tier::floating}});
  return claims;
}

}  // namespace tessera
