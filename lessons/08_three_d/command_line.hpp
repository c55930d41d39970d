// From the command line to a Setup, or to a message that says what would work.
#pragma once

#include "08_three_d/run.hpp"
#include "tensor/file.hpp"

namespace tessera::three_d {

inline std::string divisors(std::int64_t n, std::int64_t most) {
  std::string text;
  for (std::int64_t d = 1; d <= std::min(n, most); ++d)
    if (n % d == 0) text += str(text.empty() ? "" : ", ", d);
  return text;
}

struct Words {
  std::string schedule = "1f1b", optimizer = "sgd", path = "README.md";
  std::int64_t tp = 2, pp = 2, dp = 2, microbatches = 4, chunks = 0;
};

inline int ranks_of(const Words& words) {
  const std::int64_t all = words.tp * words.pp * words.dp;
  if (all > 64)
    throw UsageError(str("64 ranks at most: --tp ", words.tp, " --pp ", words.pp, " --dp ", words.dp,
                         " make ", all, "; --tp 2 --pp 2 --dp 2 would work"));
  return static_cast<int>(all);
}

/// Everything else that can be wrong with the command line, before anything runs.
inline void choose(Setup& s, const Words& words) {
  Model& m = s.training.model;
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
  s.text = mlp::read_text(words.path);
  if (static_cast<std::int64_t>(s.text.size()) <= s.seq())
    throw UsageError(str("--text ", words.path, ": ", s.text.size(),
                         " bytes are less than a sequence: --seq ", s.text.size() - 1,
                         " or less would work"));
  if (s.save.empty()) return;
  std::error_code ignored;  // the check says what is wrong
  std::filesystem::create_directories(s.save, ignored);
  check_writable(checkpoint_file(s.save));
}

}  // namespace tessera::three_d
