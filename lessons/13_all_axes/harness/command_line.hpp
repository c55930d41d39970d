// What lesson 13 adds to lesson 08's command line: the cut of so many ranks, and the sweep over all cuts.
#pragma once

#include <set>

#include "13_all_axes/factorisations.hpp"
#include "app/app.hpp"

namespace tessera::all_axes {

struct Asked {
  int ranks = mpi::launched_size() > 1 ? mpi::launched_size() : 8;
  std::int64_t sweep = 0;
};

inline void add_flags(Flags& flags, Asked& asked) {
  flags.number("--ranks", asked.ranks, 1, 64,
               "cut over them by as many axes as can be, where no axis is given");
  flags.number("--sweep", asked.sweep, 0, 1 << 10,
               "instead of the run: every N-th cut of 1, 2, 4, ... ranks against the unsplit model; 0: none");
}

/// Chooses what the flags have left open. Throws UsageError where they contradict one another.
inline void settle(Config& s, const Asked& asked, Flags& flags) {
  three_d::TrainingConfig& t = s.training;
  const auto given = [&](std::initializer_list<const char*> names) {
    return std::ranges::any_of(names, [&](const char* name) { return flags.given(name); });
  };
  if (asked.sweep > 0) {
    static const std::set<std::string> read = {"ranks",  "sweep",   "seed",   "device", "transport",
                                               "verify", "timeout", "json",   "trace",  "memory-per-rank",
                                               "text",   "quiet",   "stable", "math"};
    for (const Flags::Value& flag : flags.values())
      refuse_if(flags.given("--" + flag.name) && !read.contains(flag.name),
                "--sweep takes every cut of a model of its own in f64, and draws nothing: without --{} it "
                "would work",
                flag.name);
    flags.set("--dtype", "f64");
  }
  if (!given({"--tp", "--cp", "--pp", "--dp"}))
    s.sizes = widest(asked.ranks, s);
  else if (flags.given("--ranks") && s.sizes.ranks() != asked.ranks)
    throw UsageError("--ranks {}, but the axes make {}: --ranks {} would work", asked.ranks, s.sizes.ranks(),
                     s.sizes.ranks());
  if (!flags.given("--ep")) {
    s.sizes.ep = s.sizes.replicas();
    while (s.sizes.replicas() % s.sizes.ep != 0 ||
           std::max<std::int64_t>(t.model.experts, 1) % s.sizes.ep != 0)
      --s.sizes.ep;
  }
  const int pp = s.sizes.pp;
  if (!given({"--schedule", "--chunks"}) && pp > 1 && t.microbatches % pp == 0 && t.model.layers / 2 >= pp)
    t.schedule = pipeline::Schedule::interleaved;
}

}  // namespace tessera::all_axes
