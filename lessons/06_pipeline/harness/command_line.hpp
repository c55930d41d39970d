// From the command line to a Config, or to a message that says what would work.
#pragma once

#include <cstdlib>

#include "06_pipeline/harness/proof.hpp"
#include "gpt/harness/command_line.hpp"

namespace tessera::pipeline {

struct Arguments {  // as on the command line
  std::string partition, pace;
  std::int64_t batch = 16;
  bool compare = false;

  bool balances() const { return partition == "balance"; }
};

inline void add_flags(App& app, Config& s, Arguments& arguments) {
  Flags& flags = app.flags();
  flags.number("--microbatches", s.microbatches, 1, 1024, "m, parts of the batch");
  app.size("--batch", arguments.batch, "sequences of a step");
  flags.number("--layers", s.model.layers, 1, 1024, "blocks of the whole model");
  flags.choice("--schedule", s.schedule, schedule_names, "in which order the stages compute");
  flags.text("--pace", arguments.pace, "5ms", "a stage's forward takes this long, dX and dW as well");
  flags.toggle("--compare", arguments.compare, "all schedules in one table");
  flags.number("--chunks", s.chunks, 0, 64, "chunks of each stage; 0: two for interleaved, else one");
  flags.text("--partition", arguments.partition, "3,2,2,1", "layers of each stage, or balance");
  flags.toggle("--recompute", s.recompute, "keep only a stage's input, and run its forward again");
  flags.toggle("--blocking", s.blocking, "wait for each send at once, as a beginner would");
  gpt::add_size_flags(app, s.model);
}

/// Reads "5ms" as seconds; "" is 0. Throws UsageError.
inline double seconds(const std::string& pace) {
  if (pace.empty()) return 0;
  char* end = nullptr;
  const double value = std::strtod(pace.c_str(), &end);
  const std::string unit = end;
  const double factor = unit == "ms" ? 1e-3 : unit == "us" ? 1e-6 : unit == "s" ? 1 : 0;
  refuse_if(!(value * factor >= 1e-6 && value * factor <= 1),  // the clock counts in ticks of a pace
            "--pace {}: a time from 1us to 1s like 5ms or 0.5ms would work", pace);
  return value * factor;
}

/// Throws UsageError where the microbatches do not divide the batch, or cannot go in groups of one a stage.
inline void check_microbatches(std::int64_t microbatches, std::int64_t batch, std::int64_t group) {
  const bool divides = batch % microbatches == 0;
  if (divides && microbatches % group == 0) return;
  const std::string good = fitting(batch, [&](std::int64_t n) { return batch % n == 0 && n % group == 0; });
  throw UsageError("--microbatches {}{}{} would work", microbatches,
                   divides ? format(" cannot be divided by --ranks {}, as interleaved needs it", group)
                           : format(" does not divide --batch {}", batch),
                   good.empty() ? format(": --batch {} --microbatches {}", (batch / group + 1) * group, group)
                                : format(": --microbatches {}", good));
}

/// Completes `s` from the command line. Throws UsageError for everything that can be wrong with it, before
/// anything runs.
inline void apply_arguments(Config& s, const Arguments& arguments, int ranks) {
  const bool interleaved = s.schedule == Schedule::interleaved;
  gpt::set_batch(s.model, arguments.batch, s.microbatches);
  check_microbatches(s.microbatches, arguments.batch, interleaved ? ranks : 1);
  if (s.chunks == 0) s.chunks = interleaved && ranks > 1 ? 2 : 1;
  refuse_impossible(s.schedule, ranks, s.microbatches, s.chunks);
  const int parts = ranks * s.chunks;
  refuse_if(parts > s.model.layers,
            "--layers {} cannot fill {} stages{}: --layers {} or more, or --ranks {} would work",
            s.model.layers, ranks, s.chunks > 1 ? format(" of {} chunks", s.chunks) : "", parts,
            std::max<std::int64_t>(1, s.model.layers / s.chunks));
  s.pace = seconds(arguments.pace);
  refuse_if(s.pace > 0 && arguments.balances(),
            "--partition balance evens out what layers really cost: without --pace it would work");
  s.partition = arguments.partition.empty() || arguments.balances()
                    ? even_partition(s.model.layers, parts)
                    : parse_partition(arguments.partition, s.model.layers, parts);
  s.steps = s.pace > 0 ? 5 : 3;
}

}  // namespace tessera::pipeline
