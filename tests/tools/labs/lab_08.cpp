#include "08_three_d/trainer.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::three_d;

namespace {

/// 8 ranks: the first trial cuts each axis in two, the others in any way.
ParallelSizes sizes_of(Trial& t) {
  if (t.ranks() == 2) return {2, 2, 2};
  const int tp = t.size(0, 3), pp = t.size(0, 3 - tp);  // powers of 2
  return {1 << tp, 1 << pp, 1 << (3 - tp - pp)};
}

/// The first trial again, then 16 ranks of which tp and pp leave some to cp, dp and ep.
ParallelSizes with_context(Trial& t) {
  if (t.ranks() == 2) return sizes_of(t);
  const int tp = t.size(0, 1), pp = t.size(0, 1), rest = 4 - tp - pp, cp = t.size(1, rest);
  return {1 << tp, 1 << pp, 1 << (rest - cp), 1 << cp, 1 << t.size(0, rest)};
}

const Task mesh_task("08.mesh", [](Trial& t) {
  const ParallelSizes sizes = with_context(t);
  t.on_ranks(sizes.ranks(), [&](Trial& own) {
    const Mesh mesh(own.comm(), sizes);
    std::vector<std::string> words;
    for (const auto& [name, group] : mesh.groups()) {
      words.push_back(format("{}:", name));
      if (group == nullptr) continue;
      const Tensor me = Tensor::of(1, 1, {static_cast<double>(own.rank())});
      for (const double rank : group->all_gather(me, 0).values()) words.back() += format(" {}", rank);
    }
    own.words(format("tp {}, cp {}, dp {}, pp {}, ep {}: the groups of rank {}", sizes.tp, sizes.cp, sizes.dp,
                     sizes.pp, sizes.ep, own.rank()),
              words);
  });
});

const Task norm_task("08.norm", [](Trial& t) {
  const ParallelSizes sizes = sizes_of(t);
  TrainingConfig training;
  training.model.attention = {8, 8, 8, {}};
  training.model.layers = 8;
  training.model.vocabulary = 11;
  training.model.tied = true;
  training.model.attention.options.seq = 3;
  training.microbatches = 2;
  t.on_ranks(sizes.ranks(), [&](Trial& own) {
    const Mesh mesh(own.comm(), sizes);
    const Trainer trainer(mesh, training, DType::f64,
                          [&](const std::string& name, const Slice& slice) { return own.in(name, slice); });
    for (const Parameter& one : trainer.parameters())
      one.gradient.copy_from(own.in("d" + one.name, one.slice));
    own.out(format("norm, tp {}, pp {}, dp {}", sizes.tp, sizes.pp, sizes.dp),
            "the root of the sum of squares of the whole model's gradients",
            Tensor::of(1, 1, {trainer.norm()}));
  });
});

}  // namespace
