// From the command line to a Config, or to a message that says what would work.
#pragma once

#include <cstdlib>

#include "06_pipeline/harness/proof.hpp"

namespace tessera::pipeline {

struct Arguments {  // as on the command line
  std::string schedule = "1f1b", partition, pace;
  std::int64_t microbatches = 8, batch = 16, chunks = 0;
  bool compare = false;
};

/// "5ms" in seconds; "" is none.
inline double seconds(const std::string& pace) {
  if (pace.empty()) return 0;
  char* end = nullptr;
  const double value = std::strtod(pace.c_str(), &end);
  const std::string unit = end;
  const double factor = unit == "ms" ? 1e-3 : unit == "us" ? 1e-6 : unit == "s" ? 1 : 0;
  if (!(value * factor > 0 && value * factor <= 1))
    throw UsageError("--pace " + pace + ": a time up to 1s like 5ms or 0.5ms would work");
  return value * factor;
}

/// Everything that can be wrong with the command line, before anything runs.
inline void apply_arguments(Config& s, const Arguments& arguments, int ranks) {
  ModelConfig& m = s.model;
  if (m.width() % m.attention.heads != 0)
    throw UsageError(format("--heads {} does not divide --width {}: --width {} would work", m.attention.heads,
                            m.width(), (m.width() / m.attention.heads + 1) * m.attention.heads));
  if (const std::int64_t tokens = arguments.batch * m.attention.options.seq; tokens > 1 << 20)
    throw UsageError(format("--batch {} and --seq {} make {} tokens: up to {} would work", arguments.batch,
                            m.attention.options.seq, tokens, 1 << 20));
  for (const auto& [schedule, name] : schedule_names)
    if (name == arguments.schedule) s.schedule = schedule;
  const std::int64_t group = s.schedule == Schedule::interleaved ? ranks : 1;  // microbatches go in groups
  if (arguments.batch % arguments.microbatches != 0 || arguments.microbatches % group != 0) {
    std::string fitting;
    for (std::int64_t n = group; n <= arguments.batch; n += group)
      if (arguments.batch % n == 0) fitting += format("{}{}", fitting.empty() ? "" : ", ", n);
    throw UsageError(format("--microbatches {}{}{} would work", arguments.microbatches,
                            arguments.batch % arguments.microbatches != 0
                                ? format(" does not divide --batch {}", arguments.batch)
                                : format(" cannot be divided by --ranks {}, as interleaved needs it", ranks),
                            fitting.empty() ? format(": --batch {} --microbatches {}",
                                                     (arguments.batch / group + 1) * group, group)
                                            : format(": --microbatches {}", fitting)));
  }
  s.microbatches = static_cast<int>(arguments.microbatches);
  s.chunks = arguments.chunks > 0                               ? static_cast<int>(arguments.chunks)
             : s.schedule == Schedule::interleaved && ranks > 1 ? 2
                                                                : 1;
  refuse_impossible(s.schedule, ranks, s.microbatches, s.chunks);
  const int parts = ranks * s.chunks;
  if (m.layers < parts)
    throw UsageError(
        format("--layers {} cannot fill {} stages{}: --layers {} or more, or --ranks {} would work", m.layers,
               ranks, s.chunks > 1 ? format(" of {} chunks", s.chunks) : "", parts,
               std::max<std::int64_t>(1, m.layers / s.chunks)));
  s.pace = seconds(arguments.pace);
  if (s.pace > 0 && arguments.partition == "balance")
    throw UsageError("--partition balance evens out what layers really cost: leave --pace out");
  s.partition = arguments.partition.empty() || arguments.partition == "balance"
                    ? even_partition(m.layers, parts)
                    : parse_partition(arguments.partition, m.layers, parts);
  s.steps = s.pace > 0 ? 5 : 3;
  m.attention.kv_heads = m.attention.heads;
  m.attention.options.batch = arguments.batch / arguments.microbatches;
  m.tokens = arguments.batch * m.attention.options.seq;
}

}  // namespace tessera::pipeline
