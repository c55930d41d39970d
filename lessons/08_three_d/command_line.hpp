// From the command line to a Setup, or to a message that says what would work.
#pragma once

#include "08_three_d/checkpoint.hpp"
#include "08_three_d/run.hpp"
#include "app/app.hpp"
#include "tensor/file.hpp"

namespace tessera::three_d {

inline std::string divisors(std::int64_t n, std::int64_t most) {
  std::string text;
  for (std::int64_t d = 1; d <= std::min(n, most); ++d)
    if (n % d == 0) text += str(text.empty() ? "" : ", ", d);
  return text;
}

struct Words {
  std::string schedule = "1f1b", optimizer = "sgd", text = "README.md", tokens, weights;
  std::int64_t tp = 2, pp = 2, dp = 2, microbatches = 4, chunks = 0, vocabulary = 256;
};

inline int ranks_of(const Words& words) {
  const std::int64_t all = words.tp * words.pp * words.dp;
  if (all > 64)
    throw UsageError(str("64 ranks at most: --tp ", words.tp, " --pp ", words.pp, " --dp ", words.dp,
                         " make ", all, "; --tp 2 --pp 2 --dp 2 would work"));
  return static_cast<int>(all);
}

/// The sizes of a file's model, which the command line may repeat but not change.
inline void take_weights(Setup& s, const Words& words, const Flags& flags) {
  s.weights = std::make_shared<const WeightsFile>(words.weights);
  const WeightsFile& file = *s.weights;
  Model& m = s.training.model;
  const std::string has = "--weights " + words.weights + " has ";
  for (const auto& [flag, mine, theirs] : {std::tuple{"--layers", &m.layers, file.layers},
                                           {"--width", &m.attention.width, file.width},
                                           {"--vocab", &m.vocabulary, file.vocabulary}}) {
    if (flags.given(flag) && *mine != theirs)
      throw UsageError(str(flag, " ", *mine, ": ", has, theirs, "; without ", flag, " it would work"));
    *mine = theirs;
  }
  if (m.vocabulary > 65536) throw UsageError(has + "more ids than uint16 holds: up to 65536 would work");
  std::int64_t& seq = m.attention.options.seq;
  if (!flags.given("--seq")) seq = file.positions;
  if (seq > file.positions)
    throw UsageError(str("--seq ", seq, ": ", has, file.positions, " positions: --seq ", file.positions,
                         " or less would work"));
  if (!flags.given("--heads") && m.width() % 64 != 0)
    throw UsageError(
        str(has, "a width of ", m.width(), ", no multiple of GPT-2's 64 a head: give its --heads"));
  if (!flags.given("--heads")) m.attention.heads = m.width() / 64;
}

inline void take_text(Setup& s, const Words& words, const Flags& flags) {
  const bool tokens = !words.tokens.empty();
  if (tokens && flags.given("--text")) throw UsageError("--text and --tokens: one of them would work");
  s.text = tokens ? read_tokens(words.tokens) : corpus_of(mlp::read_text(words.text));
  if (tokens && s.text.size() > 0 && !s.weights && !flags.given("--vocab"))
    throw UsageError(str("--tokens ", words.tokens, " needs --vocab, how many ids there are: its largest is ",
                         *std::max_element(s.text.ids.begin(), s.text.ids.end())));
  check_ids(s.text, s.training.model.vocabulary, s.seq(),
            tokens ? "--tokens " + words.tokens : "--text " + words.text);
}

/// Everything else that can be wrong with the command line, before anything runs.
inline void choose(Setup& s, const Words& words, const Flags& flags, const Options& options) {
  Model& m = s.training.model;
  m.vocabulary = words.vocabulary;
  if (!words.weights.empty()) take_weights(s, words, flags);
  s.sizes = {static_cast<int>(words.tp), static_cast<int>(words.pp), static_cast<int>(words.dp)};
  if (m.width() % m.attention.heads != 0)
    throw UsageError(str("--heads ", m.attention.heads, " does not divide --width ", m.width(), ": --heads ",
                         divisors(m.width(), 64), " would work"));
  if (m.attention.heads % words.tp != 0)
    throw UsageError(str("--tp ", words.tp, " does not divide the ", m.attention.heads, " heads: --tp ",
                         divisors(m.attention.heads, 64), " would work"));
  for (const auto& [schedule, name] : pipeline::schedule_names)
    if (name == words.schedule) s.training.schedule = schedule;
  const bool interleaved = s.training.schedule == pipeline::Schedule::interleaved;
  s.training.chunks = words.chunks > 0 ? static_cast<int>(words.chunks) : interleaved && words.pp > 1 ? 2 : 1;
  s.training.microbatches = static_cast<int>(words.microbatches);
  pipeline::refuse_impossible(s.training.schedule, s.sizes.pp, s.training.microbatches, s.training.chunks);
  if (m.vocabulary < words.tp)
    throw UsageError(str("--vocab ", m.vocabulary, " leaves some of ", words.tp,
                         " ranks without an id: --vocab ", words.tp, " or more would work"));
  if (m.layers < words.pp * s.training.chunks)
    throw UsageError(str("--layers ", m.layers, " cannot fill ", words.pp * s.training.chunks,
                         " virtual stages: --layers ", words.pp * s.training.chunks, " or more would work"));
  if (const std::int64_t parts = words.dp * words.microbatches; s.batch % parts != 0)
    throw UsageError(str("--batch ", s.batch, " cannot be shared out over ", words.dp, " replicas of ",
                         words.microbatches, " microbatches: --batch ", (s.batch / parts + 1) * parts,
                         " would work"));
  s.training.adamw = words.optimizer == "adamw";
  m.attention.kv_heads = m.attention.heads;
  m.attention.options.batch = s.batch / (words.dp * words.microbatches);
  m.tokens = s.batch * s.seq();
  if (!s.resume.empty() && !std::filesystem::exists(checkpoint_file(s.resume)))
    throw UsageError("--resume " + s.resume +
                     ": there is no checkpoint.safetensors; a folder that --save wrote would work");
  if (s.weights) s.weights->check(m);
  if (s.weights && !s.resume.empty())
    throw UsageError("--weights and --resume: each says where the model begins, one of them would work");
  take_text(s, words, flags);
  for (const auto& [flag, file] :
       {std::pair{"--save", s.save}, {"--dump", options.dump}, {"--svg", options.svg}})
    if (!file.empty() && s.eval)
      throw UsageError(str("--eval trains nothing: without ", flag, " it would work"));
  if (!options.svg.empty() && s.steps < 2)
    throw UsageError("--svg draws the losses: --steps 2 or more would work");
  if (s.save.empty()) return;
  std::error_code ignored;  // the check says what is wrong
  std::filesystem::create_directories(s.save, ignored);
  check_writable(checkpoint_file(s.save));
}

}  // namespace tessera::three_d
