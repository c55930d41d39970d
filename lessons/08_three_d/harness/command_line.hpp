// From the command line to a Config, or to a message that says what would work.
#pragma once

#include <set>

#include "08_three_d/config.hpp"
#include "gpt/checkpoint.hpp"
#include "gpt/harness/command_line.hpp"
#include "gpt/harness/context.hpp"
#include "tensor/file.hpp"

namespace tessera::three_d {

struct Arguments {  // the names of files
  std::string text = "README.md", tokens, weights;
  int token_bytes = 0;  // of an id; 0: as the file says
};

inline void add_flags(App& app, Config& s, Arguments& arguments) {
  Flags& flags = app.flags();
  TrainingConfig& t = s.training;
  flags.number("--tp", s.sizes.tp, 1, 64, "ranks that share each layer");
  flags.number("--pp", s.sizes.pp, 1, 64, "stages of layers");
  flags.number("--dp", s.sizes.dp, 1, 64, "replicas");
  flags.number("--cp", s.sizes.cp, 1, 64, "ranks that share the tokens of each sequence: lesson 11");
  flags.number("--experts", t.model.experts, 0, 1 << 10,
               "in every second block, in place of the MLP: lesson 12");
  flags.number("--ep", s.sizes.ep, 1, 64, "ranks of cp x dp that share the experts out: lesson 12");
  flags.number("--top-k", t.model.top_k, 1, 64, "experts of a token");
  flags.real("--aux", t.model.aux, 0, 1e3, "factor of the auxiliary loss, over the whole batch; 0: none");
  flags.number("--steps", s.steps, 0, 1 << 20, "of training, those before --resume included");
  app.size("--batch", s.batch, "sequences of a step");
  flags.number("--microbatches", t.microbatches, 1, 1 << 20, "m, of each replica");
  flags.choice("--objective", s.masked, {{false, "causal"}, {true, "mlm"}},
               "guess the next token; or, as BERT does, those behind a mask");
  flags.choice("--schedule", t.schedule, pipeline::schedule_names, "of the pipeline");
  flags.text("--text", arguments.text, "FILE", "what to train on: bytes are tokens");
  flags.text("--tokens", arguments.tokens, "FILE", "instead: uint16 ids, as nanoGPT and llm.c keep them");
  flags.choice("--token-bytes", arguments.token_bytes, {{0, "auto"}, {2, "2"}, {4, "4"}, {8, "8"}},
               "of each id; auto: 2, or as llm.c's header says");
  flags.text("--weights", arguments.weights, "FILE",
             "begin as this GPT-2, with Hugging Face's names and its sizes");
  flags.toggle("--eval", s.eval, "no training: the loss over the whole text");
  flags.number("--sample", s.sample, 0, 1 << 20, "tokens to write in the end");
  flags.real("--temperature", s.temperature, 0, 100, "of the sampling; 0 takes the likeliest");
  app.size("--layers", t.model.layers, "blocks");
  gpt::add_size_flags(app, t.model, 65536);
  flags.number("--chunks", t.chunks, 0, 64, "of a stage; 0: two for interleaved, else one");
  flags.choice("--optimizer", t.adamw, {{false, "sgd"}, {true, "adamw"}}, "with a constant learning rate");
  flags.text("--save", s.save, "DIR", "write checkpoints there, as transformers opens a GPT-2");
  flags.number("--every", s.every, 0, 1 << 20, "steps between checkpoints; 0: the one at the end");
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
  flags.toggle("--regather", t.model.regather, "with it: keep a rank's tokens only, gather X again");
  gpt::add_context_flags(flags, t.model.way, t.model.zigzag);
  flags.size("--bucket", t.bucket, "gradients that are summed over dp in one call");
  flags.number("--zero", t.zero, 0, 3,
               "replicas share out: 1 the optimiser's state, 2 and gradients, 3 and weights: lesson 10");
}

/// The number of ranks of these sizes. Throws UsageError where they cannot be, or the launcher has others.
inline int ranks_of(const ParallelSizes& sizes) {
  const int launched = mpi::launched_size();
  const std::string flags = format("--tp {} {}--pp {} --dp {}", sizes.tp,
                                   sizes.cp > 1 ? format("--cp {} ", sizes.cp) : "", sizes.pp, sizes.dp);
  refuse_if(sizes.replicas() % sizes.ep != 0,
            "--ep {} does not divide the {} ranks of --cp {} --dp {}: --ep {} would work", sizes.ep,
            sizes.replicas(), sizes.cp, sizes.dp,
            fitting(sizes.replicas(), [&](std::int64_t n) { return sizes.replicas() % n == 0; }));
  refuse_if(launched > 1 && launched != sizes.ranks(),
            "{} under a launcher of {} processes: a launcher of {} would work", flags, launched,
            sizes.ranks());
  if (sizes.ranks() <= 64) return sizes.ranks();
  throw UsageError("64 ranks at most: {} make {}; --tp 2 {}--pp 2 --dp 2 would work", flags, sizes.ranks(),
                   sizes.cp > 1 ? "--cp 2 " : "");
}

/// Opens the file of --weights or --resume, once and before anything is written. Null where there is none.
inline std::shared_ptr<const gpt::WeightsFile> open_weights(const std::string& weights,
                                                            const std::string& resume) {
  refuse_if(!resume.empty() && !weights.empty(),
            "--weights and --resume both say where the model begins: without --weights it would work");
  if (!weights.empty()) return std::make_shared<const gpt::WeightsFile>(weights);
  if (resume.empty()) return nullptr;
  if (!std::filesystem::exists(gpt::model_file(resume)))
    throw UsageError("--resume " + resume +
                     ": there is no model.safetensors; a folder that --save wrote would work");
  return std::make_shared<const gpt::WeightsFile>(gpt::model_file(resume), "--resume");
}

/// Sets a flag that was not given to what the file of --weights or --resume says.
inline void set_from_file(Flags& flags, const gpt::WeightsFile& file, const std::string& flag,
                          const std::string& text) {
  try {
    if (!flags.given(flag)) flags.set(flag, text);
  } catch (const UsageError& error) {
    throw UsageError("{} has {}", file.what(), error.what());
  }
}

/// A run that resumes goes on as its checkpoint says. A flag may repeat that; the constants of the optimiser
/// and the text may differ, and the first lines say so.
inline void take_configuration(Config& s, Flags& flags, std::int64_t seed) {
  const gpt::WeightsFile& file = *s.weights;
  const std::int64_t done = gpt::steps_of(file);
  refuse_if(done >= s.steps && !s.eval,
            "--resume {} has done {} steps, and --steps {} counts from the first one: --steps {} "
            "or more would work, or --eval",
            s.resume, done, s.steps, done + 1);
  s.resumed = format("  --resume {} goes on after step {}", s.resume, done);
  for (const auto& [key, mine] : configuration(s, seed)) {
    const auto saved = file.metadata().find(key);
    refuse_if(saved == file.metadata().end(),
              "{} does not say its {}: a checkpoint of this version would work", file.what(), key);
    const std::string& theirs = saved->second;
    if (key != "text" && !flags.given(key)) {
      set_from_file(flags, file, key, theirs);
    } else if (mine != theirs) {
      static const std::set<std::string> free = {"text",    "--lr",    "--clip",        "--momentum",
                                                 "--beta1", "--beta2", "--weight-decay"};
      refuse_if(!free.contains(key) && !s.eval, "{} {}: {} has {}; without {} it would work", key, mine,
                file.what(), theirs, key);
      s.resumed += format(", with {} {} in place of {}", key, mine, theirs);
    }
  }
  s.resumed += ".\n";
}

/// The sizes of the file's model, which the command line may repeat but not change.
inline void take_sizes(ModelConfig& m, const gpt::WeightsFile& file, Flags& flags) {
  const std::string has = file.what() + " has ";
  if (file.heads == 0 && !flags.given("--heads") && file.width % 64 != 0)
    throw UsageError("{}a width of {}, no multiple of GPT-2's 64 a head: --heads {} would work", has,
                     file.width, fitting(64, [&](std::int64_t n) { return file.width % n == 0; }));
  const std::int64_t heads = file.heads > 0           ? file.heads
                             : flags.given("--heads") ? m.attention.heads
                                                      : file.width / 64;
  const std::int64_t top_k = file.experts == 0 ? 1 : file.top_k > 0 ? file.top_k : m.top_k;
  for (const auto& [flag, mine, theirs] : {std::tuple{"--layers", m.layers, file.layers},
                                           {"--width", m.attention.width, file.width},
                                           {"--heads", m.attention.heads, heads},
                                           {"--vocab", m.vocabulary, file.vocabulary},
                                           {"--experts", m.experts, file.experts},
                                           {"--top-k", m.top_k, top_k}}) {
    refuse_if(flags.given(flag) && mine != theirs, "{} {}: {}{}; without {} it would work", flag, mine, has,
              theirs, flag);
    set_from_file(flags, file, flag, std::to_string(theirs));
  }
  set_from_file(flags, file, "--seq", std::to_string(file.positions));
  refuse_if(m.seq() > file.positions, "--seq {}: {}{} positions: --seq {} or less would work", m.seq(), has,
            file.positions, file.positions);
  m.positions = file.positions, m.layer_norm_epsilon = file.layer_norm_epsilon;
}

/// Reads what to train on or to evaluate. Throws UsageError where it cannot be read.
inline void read_text(Config& s, const Arguments& arguments, const Flags& flags) {
  const bool tokens = !arguments.tokens.empty();
  if (tokens && flags.given("--text"))
    throw UsageError("--text and --tokens both say what to read: without --text it would work");
  s.text = tokens ? gpt::read_tokens(arguments.tokens, arguments.token_bytes)
                  : gpt::corpus_of(mlp::read_text(arguments.text));
  if (tokens && s.text.size() > 0 && arguments.weights.empty() && s.resume.empty() && !flags.given("--vocab"))
    throw UsageError("--tokens {} needs --vocab, how many ids there are: --vocab {} would work, or more",
                     arguments.tokens, *std::max_element(s.text.ids.begin(), s.text.ids.end()) + 1);
}

/// A flag that nothing would read is refused: its user expects something of it.
inline void refuse_unread(const Config& s, const Arguments& arguments, const Flags& flags) {
  const auto refuse = [&](bool unread, const char* why, std::initializer_list<const char*> names) {
    for (const char* flag : names)
      refuse_if(unread && flags.given(flag), "{}: without {} it would work", why, flag);
  };
  refuse(s.eval, "--eval trains nothing",
         {"--save", "--dump", "--svg", "--steps", "--optimizer", "--lr", "--clip", "--bucket", "--momentum",
          "--beta1", "--beta2", "--weight-decay", "--zero"});
  refuse(s.training.zero > 0, "--zero sums the gradients part by part", {"--bucket"});
  refuse(arguments.tokens.empty(), "--token-bytes is the width of the ids of --tokens", {"--token-bytes"});
  refuse(s.sizes.cp == 1, "--cp 1 cuts no tokens", {"--way", "--placement"});
  const bool from_file = !s.resume.empty() || !arguments.weights.empty();
  refuse(s.training.model.experts == 0 && !from_file, "without --experts there are none",
         {"--ep", "--top-k", "--aux"});
  refuse(s.save.empty(), "--every counts the steps between checkpoints of --save", {"--every"});
  refuse(s.sample == 0, "--temperature is that of --sample", {"--temperature"});
  refuse(s.resume.empty() && !s.training.adamw, "--optimizer sgd has no such constant",
         {"--beta1", "--beta2", "--weight-decay"});
  refuse(s.resume.empty() && s.training.adamw, "--optimizer adamw has no such constant", {"--momentum"});
}

/// Throws UsageError where the ranks of ep cannot share the experts out, or a token cannot choose among them.
inline void refuse_experts(const ModelConfig& m, int ep, const Options& options) {
  if (options.math == "tf32")
    throw UsageError(
        "--experts: TF32 rounds the router's factors, and a token may choose other experts: "
        "--math f32 would work");
  refuse_if(m.experts % ep != 0, "--ep {} does not divide the {} experts: --experts {} would work", ep,
            m.experts, (m.experts / ep + 1) * ep);
  refuse_if(m.top_k > m.experts, "--top-k {} of --experts {}: --top-k {} would work", m.top_k, m.experts,
            m.experts);
  refuse_if(m.layers < 2,
            "--experts are in every second block, and --layers 1 has none: --layers 2 would work");
}

/// Completes `s`, and refuses everything else that can be wrong with the command line before anything runs.
inline void apply_arguments(Config& s, const Arguments& arguments, Flags& flags, const Options& options) {
  TrainingConfig& t = s.training;
  ModelConfig& m = t.model;
  const int tp = s.sizes.tp, pp = s.sizes.pp, dp = s.sizes.dp;
  const int parts = dp * t.microbatches;
  refuse_unread(s, arguments, flags);
  read_text(s, arguments, flags);
  s.weights = open_weights(arguments.weights, s.resume);
  if (!s.resume.empty()) take_configuration(s, flags, options.seed);
  if (s.weights) take_sizes(m, *s.weights, flags);
  if (s.weights && m.experts == 0 && (s.sizes.ep > 1 || m.aux > 0))
    throw UsageError("{} has no experts: without {} it would work", s.weights->what(),
                     s.sizes.ep > 1 ? "--ep" : "--aux");
  gpt::set_batch(m, s.batch, parts, INT64_MAX);
  if (s.masked) m.attention.options.mask = Mask::none;
  refuse_if(s.masked && (s.eval || s.sample > 0),
            "{} asks for the next token: without --objective it would work", s.eval ? "--eval" : "--sample");
  const std::int64_t heads = m.attention.heads;
  refuse_if(heads % tp != 0, "--tp {} does not divide the {} heads: --tp {} would work", tp, heads,
            fitting(std::min<std::int64_t>(heads, 64), [&](std::int64_t n) { return heads % n == 0; }));
  if (t.chunks == 0) t.chunks = t.schedule == pipeline::Schedule::interleaved && pp > 1 ? 2 : 1;
  pipeline::refuse_impossible(t.schedule, pp, t.microbatches, t.chunks);
  refuse_if(m.vocabulary < tp,
            "--vocab {} leaves some of {} ranks without an id: --vocab {} or more would work", m.vocabulary,
            tp, tp);
  if (const int stages = pp * t.chunks; m.layers < stages)
    throw UsageError("--layers {} cannot fill {} virtual stages: --layers {} or more would work", m.layers,
                     stages, stages);
  refuse_if(s.batch % parts != 0,
            "--batch {} cannot be shared out over {} replicas of {} microbatches: --batch {} would work",
            s.batch, dp, t.microbatches, (s.batch / parts + 1) * parts);
  if (m.experts > 0) refuse_experts(m, s.sizes.ep, options), m.sequence_parallel = true;
  refuse_if(m.regather && !m.sequence_parallel,
            "--regather is of --sequence-parallel: without --regather it would work");
  m.cp = s.sizes.cp, m.ep = s.sizes.ep;
  const std::int64_t chunks = m.cp == 1 ? 1 : m.zigzag ? 2 * m.cp : m.cp;
  if (m.cp > 1)
    gpt::refuse_context(m.attention, m.way, m.zigzag, m.cp, tp, format("--cp {}", m.cp),
                        format("--cp {}", fitting(64, [&](std::int64_t n) {
                                 return n == 1 || s.seq() % (n * chunks / m.cp) == 0;
                               })));
  refuse_if(m.sequence_parallel && m.rows() % tp != 0,
            "--sequence-parallel cuts the {} tokens of a microbatch over --tp {}: --seq {} would work",
            m.rows(), tp, (s.seq() / (chunks * tp) + 1) * chunks * tp);
  if (s.weights) s.weights->check(m, gpt::state_prefixes(!s.resume.empty() && !s.eval, t.adamw));
  if (const auto most = s.text.ids.empty() ? 0 : *std::max_element(s.text.ids.begin(), s.text.ids.end());
      s.weights && most >= m.vocabulary)  // which no --vocab can change
    throw UsageError("{} has {} ids, and {} has id {}: without {} it would work", s.weights->what(),
                     m.vocabulary, s.text.bytes ? "--text" : "--tokens", most,
                     s.resume.empty() ? "--weights" : "--resume");
  gpt::check_ids(s.text, m.vocabulary, s.seq(),
                 s.text.bytes ? "--text " + arguments.text : "--tokens " + arguments.tokens);
  refuse_if(!options.svg.empty() && s.steps < 2, "--svg draws the losses: --steps 2 or more would work");
  if (s.save.empty()) return;
  if (gpt::config_json(m, DType::f32).empty())
    s.resumed += "  transformers has no such GPT-2: it cannot open what --save writes.\n";
  std::error_code ignored;  // check_writable says what is wrong
  std::filesystem::create_directories(s.save, ignored);
  check_writable(gpt::model_file(s.save));
}

}  // namespace tessera::three_d
