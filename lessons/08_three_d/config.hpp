// What a run on text is asked to do, which parts its model and its training are made of, and its batches,
// which are the same under every cut.
#pragma once

#include "06_pipeline/partition.hpp"
#include "06_pipeline/worker.hpp"
#include "07_data_parallel/optimizer.hpp"
#include "08_three_d/mesh.hpp"
#include "app/proof.hpp"
#include "gpt/builder.hpp"
#include "gpt/tokens.hpp"
#include "gpt/weights.hpp"

namespace tessera::three_d {

using gpt::ModelConfig;
using gpt::Parameter;
using gpt::Tokens;

struct TrainingConfig;
/// Makes the worker of this rank, whose stage of pp has the layers that `config` says. `dtype` is that of
/// messages.
template <class Parts>
std::unique_ptr<pipeline::AnyWorker> make_worker(gpt::Builder& builder, const TrainingConfig& config,
                                                 const Mesh& mesh, const TensorParallel& tp, DType dtype);

/// The optimiser of a rank, where every replica steps all its weights.
inline std::unique_ptr<data_parallel::Optimizer> whole_optimizer(const TrainingConfig& config,
                                                                 const Mesh& mesh);

/// The attention of a rank, and its tokens of a microbatch, where no sequence is cut.
inline attention_heads::Core whole_core(const ModelConfig&, Communicator&, const TensorParallel&) {
  return {};
}
inline Tensor whole_tokens(const Tensor& x, const ModelConfig&, int) { return x; }

/// The parts that the model and its training are made of. Lessons 09 to 12 replace some of them.
struct Composition {
  std::unique_ptr<pipeline::AnyWorker> (*worker)(gpt::Builder&, const TrainingConfig&, const Mesh&,
                                                 const TensorParallel&,
                                                 DType) = make_worker<gpt::TensorParallelParts>;
  /// Sums over tp, once a step, the gradients of which each rank of tp has a term.
  void (*sum_partials)(const std::vector<Parameter>&,
                       const TensorParallel&) = [](const std::vector<Parameter>&, const TensorParallel&) {};
  std::unique_ptr<data_parallel::Optimizer> (*optimizer)(const TrainingConfig&,
                                                         const Mesh&) = whole_optimizer;
  /// The attention of a rank of cp and tp; and the rows of a microbatch's (N, cols) that rank `rank` of cp
  /// has.
  attention_heads::Core (*core)(const ModelConfig&, Communicator& cp, const TensorParallel&) = whole_core;
  Tensor (*cut_tokens)(const Tensor&, const ModelConfig&, int rank) = whole_tokens;
  /// The unsplit model's step; null: gpt::reference_step.
  MeasuredReference (*reference)(const Inputs<Tensor>&, const ModelConfig&, const Tokens& batch,
                                 int microbatches) = nullptr;
};

struct TrainingConfig {
  ModelConfig model;  // attention.options.batch: sequences of a microbatch; tokens: of the whole batch
  pipeline::Schedule schedule = pipeline::Schedule::one_f_one_b;
  int chunks = 1, microbatches = 1;  // microbatches of one replica
  bool adamw = false;
  double lr = 0.1, clip = 0;       // clip 0: the norm of the gradients is left alone
  double momentum = 0.9;           // of SGD
  AdamW constants;                 // of AdamW, whose learning rate is lr
  std::int64_t bucket = 16 << 10;  // bytes of gradients that one all-reduce over dp_cp sums, at least
  bool learns = true;              // false: no gradients, no optimiser
  int zero = 0;                    // the stage of ZeRO: lesson 10
  bool prefetch = true;            // of weights, under stage 3
  Composition parts;

  pipeline::Partition partition(int stages) const {
    return pipeline::even_partition(model.layers, stages * chunks);
  }
  data_parallel::Rule rule() const {
    AdamW all = constants;
    all.lr = lr;
    return {adamw, momentum, all};
  }
};

inline std::unique_ptr<data_parallel::Optimizer> whole_optimizer(const TrainingConfig& config,
                                                                 const Mesh& mesh) {
  return std::make_unique<data_parallel::WholeOptimizer>(config.rule(), config.bucket, *mesh.dp_cp,
                                                         *mesh.expert_dp);
}

/// How many elements each flat row of this rank's weights has. Under ZeRO each part of its chunks is a row,
/// since each is cut by itself; else all parts are one row.
inline std::vector<gpt::Part> own_rows(const TrainingConfig& config, const Place& place) {
  std::vector<gpt::Part> rows;
  const int stages = place.sizes.pp, all = stages * config.chunks;
  for (int c = 0; c < config.chunks; ++c) {
    const int at = pipeline::virtual_stage(c, place.stage, stages);
    const auto parts = gpt::own_parts(config.model, pipeline::layers_of(config.partition(stages), at),
                                      at == 0, at == all - 1, place.tp, place.sizes.tp);
    rows.insert(rows.end(), parts.begin(), parts.end());
  }
  if (config.zero > 0) return rows;
  gpt::Part one{0};
  for (const gpt::Part& part : rows) one.elements += part.elements;
  return {one};
}

template <class Parts>
std::unique_ptr<pipeline::AnyWorker> make_worker(gpt::Builder& builder, const TrainingConfig& config,
                                                 const Mesh& mesh, const TensorParallel& tp, DType dtype) {
  const int stages = mesh.sizes.pp, all = stages * config.chunks;
  std::vector<gpt::ChunkOf<Parts>> chunks;
  for (int c = 0; c < config.chunks; ++c) {
    const int at = pipeline::virtual_stage(c, mesh.pp->rank(), stages);
    const Range layers = pipeline::layers_of(config.partition(stages), at);
    chunks.push_back(builder.chunk<Parts>(layers, at == 0, at == all - 1));
  }
  return std::make_unique<pipeline::WorkerOf<Parts>>(*mesh.pp, tp, chunks, config.model, dtype);
}

struct Config {
  ParallelSizes sizes{2, 2, 2};
  TrainingConfig training;
  std::int64_t batch = 16, steps = 20;  // sequences of a step
  gpt::Corpus text;
  std::shared_ptr<const gpt::WeightsFile> weights;  // of --weights or --resume; null: begin at random
  std::string save, resume;                         // folders, "" for none
  std::string resumed;                              // what the first lines say of --resume
  std::int64_t every = 0;                           // steps between checkpoints; 0: one at the end
  bool eval = false;                                // no training: the loss over the whole text
  std::int64_t sample = 0;                          // tokens to write in the end
  double temperature = 1;
  bool masked = false;  // BERT's objective, not the next token

  std::int64_t seq() const { return training.model.seq(); }
};

/// What a checkpoint keeps of a run: values by the names of their flags, and the text. With the number of
/// steps they say which batch comes next.
inline std::map<std::string, std::string> configuration(const Config& s, std::uint64_t seed) {
  const TrainingConfig& t = s.training;
  return {{"--batch", std::to_string(s.batch)},
          {"--seq", std::to_string(s.seq())},
          {"--seed", std::to_string(seed)},
          {"--optimizer", t.adamw ? "adamw" : "sgd"},
          {"--lr", format("{}", t.lr)},
          {"--clip", format("{}", t.clip)},
          {"--momentum", format("{}", t.momentum)},
          {"--beta1", format("{}", t.constants.beta1)},
          {"--beta2", format("{}", t.constants.beta2)},
          {"--objective", s.masked ? "mlm" : "causal"},
          {"--weight-decay", format("{}", t.constants.decay)},
          {"--aux", format("{}", t.model.aux)},
          {"text", format("{} ids, CRC-32 {:08x}", s.text.size(),
                          crc32(s.text.ids.data(), s.text.ids.size() * sizeof(s.text.ids[0])))}};
}

/// The sequences of step `step`, the same for every cut. (batch seq, 1), on the host.
inline Tokens batch_of(const Config& s, std::uint64_t seed, std::int64_t step) {
  const Tokens batch = gpt::batch_at(s.text, s.batch, s.seq(), seed, step);
  return s.masked ? gpt::masked(batch, s.training.model.vocabulary, seed, step) : batch;
}

/// The sum of what the last stages of all replicas have found, on every rank. The other stages give 0.
inline double sum_over_replicas(double own, const Mesh& mesh) {
  return sum_over(*mesh.pp, sum_over(*mesh.dp_cp, own));
}

/// The mean loss over all tokens of the batch, on every rank. `own` is the sum of the losses of this rank's
/// tokens.
inline double mean_loss(double own, const Config& s, const Mesh& mesh) {
  return sum_over_replicas(own, mesh) / static_cast<double>(s.training.model.tokens);
}

}  // namespace tessera::three_d
