#include "13_all_axes/axes.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::all_axes;

namespace {

std::string text(const ParallelSizes& z) {
  return format("tp {}, cp {}, pp {}, dp {}, ep {}", z.tp, z.cp, z.pp, z.dp, z.ep);
}

/// A model that some of the cuts do not fit, with or without experts.
Config draw(Trial& t) {
  Config s;
  ModelConfig& m = s.training.model;
  const int heads = 2 * t.size(1, 3);
  m = {{4 * heads, heads, heads, {}}, 2 * t.size(1, 3), 20, 1, true};
  m.attention.options.seq = 24, m.attention.options.batch = t.size(1, 2);
  m.experts = 4 * t.size(0, 1), m.zigzag = t.size(0, 1) == 1;
  s.batch = 2 * t.size(1, 6);
  return s;
}

const Task list("13.factorisations", [](Trial& t) {
  for (int i = 0; i < 4; ++i) {
    const Config s = draw(t);
    const int n = t.size(1, 16);
    const ModelConfig& m = s.training.model;
    t.words(format("{}: cuts of {} ranks: {} heads, {} layers, {} experts, batch {}", i, n, m.attention.heads,
                   m.layers, m.experts, s.batch),
            factorisations(n, s), text);
  }
});

const Task order("13.groups", [](Trial& t) {
  for (int i = 0; i < 4; ++i) {
    ParallelSizes z{t.size(1, 3), t.size(1, 3), t.size(1, 2), t.size(1, 2)};
    z.ep = z.replicas() % 2 == 0 ? 2 : 1;
    for (const char* axis : {"tp", "cp", "dp", "pp", "dp_cp", "ep", "expert_dp"})
      t.words(format("{}: {} of {}", i, axis, text(z)), groups(axis, z),
              [](const auto& ranks) { return "{" + join(ranks, ",") + "}"; });
  }
});

const Task sent("13.bytes", [](Trial& t) {
  const int n = 2 * t.size(1, 2), m = t.size(1, 4);
  for (const all_axes::Axis& axis : axes(n)) {
    Config s = draw(t);
    s.sizes = axis.sizes;
    s.training.microbatches = m, s.training.zero = axis.zero;
    ModelConfig& model = s.training.model;
    model.experts = axis.name == "ep" ? 8 : 0;
    model.sequence_parallel = axis.over_tp, model.cp = axis.sizes.cp, model.ep = axis.sizes.ep;
    t.words(format("{} alone on {} ranks, {} microbatches", axis.name, n, m),
            {format("{} B", bytes_alone(s, 2, 4, t.size(0, 50)))});
  }
});

}  // namespace
