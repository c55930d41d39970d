// From the command line to a Config, or to a message that says what would work.
#pragma once

#include "08_three_d/config.hpp"
#include "app/app.hpp"
#include "tensor/file.hpp"

namespace tessera::three_d {

inline std::string divisors(std::int64_t n, std::int64_t most) {
  std::string text;
  for (std::int64_t d = 1; d <= std::min(n, most); ++d)
    if (n % d == 0) text += format("{}{}", text.empty() ? "" : ", ", d);
  return text;
}

struct Arguments {
  std::string schedule = "1f1b", optimizer = "sgd", text = "README.md", tokens, token_bytes = "auto", weights;
  std::int64_t tp = 2, pp = 2, dp = 2, microbatches = 4, chunks = 0, vocabulary = 256;
};

inline int ranks_of(const Arguments& arguments) {
  const std::int64_t all = arguments.tp * arguments.pp * arguments.dp;
  if (all > 64)
    throw UsageError(
        format("64 ranks at most: --tp {} --pp {} --dp {} make {}; --tp 2 --pp 2 --dp 2 would work",
               arguments.tp, arguments.pp, arguments.dp, all));
  return static_cast<int>(all);
}

/// Opens the file where the model begins: once, and before anything is written.
inline std::shared_ptr<const gpt::WeightsFile> open_weights(const std::string& weights,
                                                            const std::string& resume) {
  if (!resume.empty() && !weights.empty())
    throw UsageError("--weights and --resume: each says where the model begins, one of them would work");
  if (!weights.empty()) return std::make_shared<const gpt::WeightsFile>(weights);
  if (resume.empty()) return nullptr;
  if (!std::filesystem::exists(gpt::checkpoint_file(resume)))
    throw UsageError("--resume " + resume +
                     ": there is no checkpoint.safetensors; a folder that --save wrote would work");
  return std::make_shared<const gpt::WeightsFile>(gpt::checkpoint_file(resume), "--resume");
}

/// A flag that was not given, as the file where the model begins says.
inline void set_from_file(Flags& flags, const gpt::WeightsFile& file, const std::string& flag,
                          const std::string& text) {
  try {
    if (!flags.given(flag)) flags.set(flag, text);
  } catch (const UsageError& error) {
    throw UsageError(format("{} has {}", file.what(), error.what()));
  }
}

/// A run that resumes goes on as its checkpoint says. A flag may repeat that; the constants of the optimiser
/// and the text may differ, and the first lines say so.
inline void take_configuration(Config& s, Flags& flags, std::int64_t seed) {
  const gpt::WeightsFile& file = *s.weights;
  const std::int64_t done = gpt::steps_of(file);
  if (done >= s.steps && !s.eval)
    throw UsageError(
        format("--resume {} has done {} steps, and --steps {} counts from the first one: --steps {} "
               "or more would work, or --eval",
               s.resume, done, s.steps, done + 1));
  s.resumed = format("  --resume {} goes on after step {}", s.resume, done);
  for (const auto& [key, mine] : configuration(s, static_cast<std::uint64_t>(seed))) {
    const auto saved = file.metadata().find(key);
    if (saved == file.metadata().end())
      throw UsageError(
          format("{} does not say its {}: a checkpoint of this version would work", file.what(), key));
    const std::string& theirs = saved->second;
    if (key != "text" && !flags.given(key)) {
      set_from_file(flags, file, key, theirs);
    } else if (mine != theirs) {
      if (key != "text" && key != "--lr" && key != "--clip" && !s.eval)
        throw UsageError(
            format("{} {}: {} has {}; without {} it would work", key, mine, file.what(), theirs, key));
      s.resumed += format(", with {} {} in place of {}", key, mine, theirs);
    }
  }
  s.resumed += ".\n";
}

/// The sizes of the file's model, which the command line may repeat but not change.
inline void take_sizes(ModelConfig& m, std::int64_t vocabulary, const gpt::WeightsFile& file, Flags& flags) {
  const std::string has = file.what() + " has ";
  if (file.heads == 0 && !flags.given("--heads") && file.width % 64 != 0)
    throw UsageError(
        format("{}a width of {}, no multiple of GPT-2's 64 a head: give its --heads", has, file.width));
  const std::int64_t heads = file.heads > 0           ? file.heads
                             : flags.given("--heads") ? m.attention.heads
                                                      : file.width / 64;
  for (const auto& [flag, mine, theirs] : {std::tuple{"--layers", m.layers, file.layers},
                                           {"--width", m.attention.width, file.width},
                                           {"--heads", m.attention.heads, heads},
                                           {"--vocab", vocabulary, file.vocabulary}}) {
    if (flags.given(flag) && mine != theirs)
      throw UsageError(format("{} {}: {}{}; without {} it would work", flag, mine, has, theirs, flag));
    set_from_file(flags, file, flag, std::to_string(theirs));
  }
  set_from_file(flags, file, "--seq", std::to_string(file.positions));
  if (m.seq() > file.positions)
    throw UsageError(format("--seq {}: {}{} positions: --seq {} or less would work", m.seq(), has,
                            file.positions, file.positions));
  m.positions = file.positions, m.layer_norm_epsilon = file.layer_norm_epsilon;
}

inline void read_text(Config& s, const Arguments& arguments, const Flags& flags) {
  const bool tokens = !arguments.tokens.empty();
  if (tokens && flags.given("--text")) throw UsageError("--text and --tokens: one of them would work");
  s.text = tokens ? gpt::read_tokens(arguments.tokens,
                                     arguments.token_bytes == "auto" ? 0 : std::stoi(arguments.token_bytes))
                  : gpt::corpus_of(mlp::read_text(arguments.text));
  if (tokens && s.text.size() > 0 && arguments.weights.empty() && s.resume.empty() && !flags.given("--vocab"))
    throw UsageError(format("--tokens {} needs --vocab, how many ids there are: its largest is {}",
                            arguments.tokens, *std::max_element(s.text.ids.begin(), s.text.ids.end())));
}

/// Everything else that can be wrong with the command line, before anything runs.
inline void apply_arguments(Config& s, const Arguments& arguments, Flags& flags, const Options& options) {
  ModelConfig& m = s.training.model;
  read_text(s, arguments, flags);
  s.training.adamw = arguments.optimizer == "adamw";
  s.weights = open_weights(arguments.weights, s.resume);
  if (!s.resume.empty()) take_configuration(s, flags, options.seed);
  if (s.weights) take_sizes(m, arguments.vocabulary, *s.weights, flags);
  m.vocabulary = arguments.vocabulary;
  s.training.adamw = arguments.optimizer == "adamw";
  s.sizes = {static_cast<int>(arguments.tp), static_cast<int>(arguments.pp), static_cast<int>(arguments.dp)};
  if (m.width() % m.attention.heads != 0)
    throw UsageError(format("--heads {} does not divide --width {}: --heads {} would work", m.attention.heads,
                            m.width(), divisors(m.width(), 64)));
  if (m.attention.heads % arguments.tp != 0)
    throw UsageError(format("--tp {} does not divide the {} heads: --tp {} would work", arguments.tp,
                            m.attention.heads, divisors(m.attention.heads, 64)));
  for (const auto& [schedule, name] : pipeline::schedule_names)
    if (name == arguments.schedule) s.training.schedule = schedule;
  const bool interleaved = s.training.schedule == pipeline::Schedule::interleaved;
  s.training.chunks = arguments.chunks > 0              ? static_cast<int>(arguments.chunks)
                      : interleaved && arguments.pp > 1 ? 2
                                                        : 1;
  s.training.microbatches = static_cast<int>(arguments.microbatches);
  pipeline::refuse_impossible(s.training.schedule, s.sizes.pp, s.training.microbatches, s.training.chunks);
  if (m.vocabulary < arguments.tp)
    throw UsageError(format("--vocab {} leaves some of {} ranks without an id: --vocab {} or more would work",
                            m.vocabulary, arguments.tp, arguments.tp));
  if (m.layers < arguments.pp * s.training.chunks)
    throw UsageError(format("--layers {} cannot fill {} virtual stages: --layers {} or more would work",
                            m.layers, arguments.pp * s.training.chunks, arguments.pp * s.training.chunks));
  if (const std::int64_t parts = arguments.dp * arguments.microbatches; s.batch % parts != 0)
    throw UsageError(
        format("--batch {} cannot be shared out over {} replicas of {} microbatches: --batch {} would work",
               s.batch, arguments.dp, arguments.microbatches, (s.batch / parts + 1) * parts));
  m.attention.kv_heads = m.attention.heads;
  m.attention.options.batch = s.batch / (arguments.dp * arguments.microbatches);
  m.tokens = s.batch * s.seq();
  if (s.weights) s.weights->check(m, gpt::state_prefixes(!s.resume.empty() && !s.eval, s.training.adamw));
  gpt::check_ids(s.text, m.vocabulary, s.seq(),
                 s.text.bytes ? "--text " + arguments.text : "--tokens " + arguments.tokens);
  for (const auto& [flag, file] :
       {std::pair{"--save", s.save}, {"--dump", options.dump}, {"--svg", options.svg}})
    if (!file.empty() && s.eval)
      throw UsageError(format("--eval trains nothing: without {} it would work", flag));
  if (!options.svg.empty() && s.steps < 2)
    throw UsageError("--svg draws the losses: --steps 2 or more would work");
  if (s.save.empty()) return;
  std::error_code ignored;  // the check says what is wrong
  std::filesystem::create_directories(s.save, ignored);
  check_writable(gpt::checkpoint_file(s.save));
}

}  // namespace tessera::three_d
