// From the command line to a Config, or to a message that says what would work.
#pragma once

#include "08_three_d/config.hpp"
#include "gpt/checkpoint.hpp"
#include "gpt/harness/command_line.hpp"
#include "tensor/file.hpp"

namespace tessera::three_d {

struct Arguments {  // the names of files
  std::string text = "README.md", tokens, weights;
};

inline void add_flags(App& app, Config& s, Arguments& arguments) {
  Flags& flags = app.flags();
  TrainingConfig& t = s.training;
  flags.number("--tp", s.sizes.tp, 1, 64, "ranks that share each layer");
  flags.number("--pp", s.sizes.pp, 1, 64, "stages of layers");
  flags.number("--dp", s.sizes.dp, 1, 64, "replicas");
  flags.number("--steps", s.steps, 0, 1 << 20, "of training");
  app.size("--batch", s.batch, "sequences of a step");
  flags.number("--microbatches", t.microbatches, 1, 1 << 20, "m, of each replica");
  flags.choice("--schedule", t.schedule, pipeline::schedule_names, "of the pipeline");
  flags.text("--text", arguments.text, "FILE", "what to train on: bytes are tokens");
  flags.text("--tokens", arguments.tokens, "FILE", "instead: uint16 ids, as nanoGPT and llm.c keep them");
  flags.text("--weights", arguments.weights, "FILE", "begin as a GPT-2 with Hugging Face's names; its sizes");
  flags.toggle("--eval", s.eval, "no training: the loss over the whole text");
  flags.number("--sample", s.sample, 0, 1 << 20, "tokens to write in the end");
  flags.real("--temperature", s.temperature, 0, 100, "of the sampling; 0 takes the likeliest");
  app.size("--layers", t.model.layers, "blocks");
  gpt::add_size_flags(app, t.model, 65536);
  flags.number("--chunks", t.chunks, 0, 64, "of a stage, for interleaved; 0: two there, else one");
  flags.choice("--optimizer", t.adamw, {{false, "sgd"}, {true, "adamw"}}, "with a constant rate");
  flags.text("--save", s.save, "DIR", "write checkpoints there: whole tensors, GPT-2's names");
  flags.number("--every", s.every, 0, 1 << 20, "steps between checkpoints; 0: one at the end");
  flags.text("--resume", s.resume, "DIR", "go on from the checkpoint there, under any cut");
  flags.real("--lr", t.lr, 0, 1e3, "learning rate");
  flags.real("--momentum", t.momentum, 0, 1, "of sgd");
  flags.real("--beta1", t.constants.beta1, 0, 0.999999,
             "of adamw: what stays of the mean gradient in a step");
  flags.real("--beta2", t.constants.beta2, 0, 0.999999, "and of the mean squared gradient");
  flags.real("--weight-decay", t.constants.decay, 0, 1e3, "of adamw, times the learning rate in a step");
  flags.real("--clip", t.clip, 0, 1e9, "largest norm of the gradients; 0: any");
  flags.toggle("--sequence-parallel", t.model.sequence_parallel,
               "cut activations by tokens over tp: lesson 09");
  flags.toggle("--regather", t.model.regather, "there: keep a rank's tokens only, gather X again");
  flags.size("--bucket", t.bucket, "of gradients that are summed over dp in one call");
}

inline int ranks_of(const ParallelSizes& sizes) {
  const int launched = mpi::launched_size();
  if (launched > 1 && launched != sizes.ranks())
    throw UsageError(
        format("--tp {} --pp {} --dp {} under a launcher of {} processes: a launcher of {} would work",
               sizes.tp, sizes.pp, sizes.dp, launched, sizes.ranks()));
  if (sizes.ranks() <= 64) return sizes.ranks();
  throw UsageError(
      format("64 ranks at most: --tp {} --pp {} --dp {} make {}; --tp 2 --pp 2 --dp 2 would work", sizes.tp,
             sizes.pp, sizes.dp, sizes.ranks()));
}

/// The sizes of a file's model, which the command line may repeat but not change.
inline void take_weights(Config& s, const Arguments& arguments, const Flags& flags) {
  s.weights = std::make_shared<const gpt::WeightsFile>(arguments.weights);
  const gpt::WeightsFile& file = *s.weights;
  ModelConfig& m = s.training.model;
  const std::string has = "--weights " + arguments.weights + " has ";
  for (const auto& [flag, mine, theirs] : {std::tuple{"--layers", &m.layers, file.layers},
                                           {"--width", &m.attention.width, file.width},
                                           {"--vocab", &m.vocabulary, file.vocabulary}}) {
    if (flags.given(flag) && *mine != theirs)
      throw UsageError(format("{} {}: {}{}; without {} it would work", flag, *mine, has, theirs, flag));
    *mine = theirs;
  }
  if (m.vocabulary > 65536) throw UsageError(has + "more ids than uint16 holds: up to 65536 would work");
  std::int64_t& seq = m.attention.options.seq;
  if (!flags.given("--seq")) seq = file.positions;
  if (seq > file.positions)
    throw UsageError(format("--seq {}: {}{} positions: --seq {} or less would work", seq, has, file.positions,
                            file.positions));
  if (!flags.given("--heads") && m.width() % 64 != 0)
    throw UsageError(format("{}a width of {}, no multiple of GPT-2's 64 a head: --heads {} would work", has,
                            m.width(), fitting(64, [&](std::int64_t n) { return m.width() % n == 0; })));
  if (!flags.given("--heads")) m.attention.heads = m.width() / 64;
}

inline void take_text(Config& s, const Arguments& arguments, const Flags& flags) {
  const bool tokens = !arguments.tokens.empty();
  if (tokens && flags.given("--text"))
    throw UsageError("--text and --tokens both say what to read: without --text it would work");
  s.text = tokens ? gpt::read_tokens(arguments.tokens) : gpt::corpus_of(mlp::read_text(arguments.text));
  if (tokens && s.text.size() > 0 && !s.weights && !flags.given("--vocab"))
    throw UsageError(
        format("--tokens {} needs --vocab, how many ids there are: --vocab {} would work, or more",
               arguments.tokens, *std::max_element(s.text.ids.begin(), s.text.ids.end()) + 1));
  if (const auto most = s.text.ids.empty() ? 0 : *std::max_element(s.text.ids.begin(), s.text.ids.end());
      s.weights && most >= s.training.model.vocabulary)  // which no --vocab can change
    throw UsageError(format("--weights {} has {} ids, and {} has id {}: without --weights it would work",
                            arguments.weights, s.training.model.vocabulary, tokens ? "--tokens" : "--text",
                            most));
  gpt::check_ids(s.text, s.training.model.vocabulary, s.seq(),
                 tokens ? "--tokens " + arguments.tokens : "--text " + arguments.text);
}

/// Everything else that can be wrong with the command line, before anything runs.
inline void apply_arguments(Config& s, const Arguments& arguments, const Flags& flags,
                            const Options& options) {
  TrainingConfig& t = s.training;
  ModelConfig& m = t.model;
  const auto [tp, pp, dp] = s.sizes;
  const int parts = dp * t.microbatches;
  if (!arguments.weights.empty()) take_weights(s, arguments, flags);
  gpt::set_batch(m, s.batch, parts, INT64_MAX);
  const std::int64_t heads = m.attention.heads;
  if (heads % tp != 0)
    throw UsageError(
        format("--tp {} does not divide the {} heads: --tp {} would work", tp, heads,
               fitting(std::min<std::int64_t>(heads, 64), [&](std::int64_t n) { return heads % n == 0; })));
  if (t.chunks == 0) t.chunks = t.schedule == pipeline::Schedule::interleaved && pp > 1 ? 2 : 1;
  pipeline::refuse_impossible(t.schedule, pp, t.microbatches, t.chunks);
  if (m.vocabulary < tp)
    throw UsageError(format("--vocab {} leaves some of {} ranks without an id: --vocab {} or more would work",
                            m.vocabulary, tp, tp));
  if (m.layers < pp * t.chunks)
    throw UsageError(format("--layers {} cannot fill {} virtual stages: --layers {} or more would work",
                            m.layers, pp * t.chunks, pp * t.chunks));
  if (s.batch % parts != 0)
    throw UsageError(
        format("--batch {} cannot be shared out over {} replicas of {} microbatches: --batch {} would work",
               s.batch, dp, t.microbatches, (s.batch / parts + 1) * parts));
  if (m.regather && !m.sequence_parallel)
    throw UsageError("--regather is of --sequence-parallel: both together would work");
  if (m.sequence_parallel && m.rows() % tp != 0)
    throw UsageError(
        format("--sequence-parallel cuts the {} tokens of a microbatch over --tp {}: --seq {} would work",
               m.rows(), tp, (s.seq() / tp + 1) * tp));
  if (!s.resume.empty() && !std::filesystem::exists(gpt::checkpoint_file(s.resume)))
    throw UsageError("--resume " + s.resume +
                     ": there is no checkpoint.safetensors; a folder that --save wrote would work");
  if (s.weights) s.weights->check(m);
  if (s.weights && !s.resume.empty())
    throw UsageError(
        "--weights and --resume both say where the model begins: without --weights it would work");
  take_text(s, arguments, flags);
  // A flag that nothing would read is refused: its user expects something of it.
  const auto refuse = [&](bool unread, const char* why, std::initializer_list<const char*> names) {
    for (const char* flag : names)
      if (unread && flags.given(flag)) throw UsageError(format("{}: without {} it would work", why, flag));
  };
  refuse(s.eval, "--eval trains nothing",
         {"--save", "--dump", "--svg", "--steps", "--optimizer", "--lr", "--clip", "--bucket", "--momentum",
          "--beta1", "--beta2", "--weight-decay"});
  refuse(s.save.empty(), "--every counts the steps between checkpoints of --save", {"--every"});
  refuse(s.sample == 0, "--temperature is that of --sample", {"--temperature"});
  refuse(!t.adamw, "--optimizer sgd has no such constant", {"--beta1", "--beta2", "--weight-decay"});
  refuse(t.adamw, "--optimizer adamw has no such constant", {"--momentum"});
  if (!options.svg.empty() && s.steps < 2)
    throw UsageError("--svg draws the losses: --steps 2 or more would work");
  if (s.save.empty()) return;
  std::error_code ignored;  // the check says what is wrong
  std::filesystem::create_directories(s.save, ignored);
  check_writable(gpt::checkpoint_file(s.save));
}

}  // namespace tessera::three_d
