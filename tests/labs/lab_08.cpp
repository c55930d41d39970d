#include "08_three_d/trainer.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::three_d;
using labs::Task;
using labs::Trial;

namespace {

/// 8 ranks cut in each way, by the number of the trial.
ParallelSizes sizes_of(Trial& t) {
  const std::vector<ParallelSizes> all = {{2, 2, 2}, {2, 1, 4}, {4, 2, 1}, {1, 4, 2}};
  const ParallelSizes sizes = all[static_cast<std::size_t>(t.ranks() - 1)];
  t.set_ranks(8);
  return sizes;
}

const Task mesh_task("08.mesh", [](Trial& t) {
  const ParallelSizes sizes = sizes_of(t);
  t.on_ranks([&](Communicator& world) {
    const Mesh mesh(world, sizes);
    std::vector<std::string> words;
    for (const auto& [name, group] : {std::pair{"tp", mesh.tp.get()},
                                      {"dp", mesh.dp.get()},
                                      {"pp", mesh.pp.get()},
                                      {"embedding", mesh.embedding.get()}}) {
      words.push_back(str(name, ":"));
      if (group == nullptr) continue;
      const Tensor me = Tensor::of(1, 1, {static_cast<double>(world.rank())});
      for (const double rank : group->all_gather(me, 0).values()) words.back() += str(" ", rank);
    }
    t.out(str("tp ", sizes.tp, ", pp ", sizes.pp, ", dp ", sizes.dp, ": the groups of rank ", world.rank()),
          words);
  });
});

const Task norm_task("08.norm", [](Trial& t) {
  const ParallelSizes sizes = sizes_of(t);
  TrainingConfig training;
  training.model.attention = {8, 4, 4, {}};
  training.model.layers = 4;
  training.model.vocabulary = 11;
  training.model.tied = true;
  training.model.attention.options.seq = 3;
  training.microbatches = 2;
  t.on_ranks([&](Communicator& world) {
    const Mesh mesh(world, sizes);
    const Trainer trainer(mesh, training, DType::f64,
                          [&](const std::string& name, const Slice& slice) { return t.in(name, slice); });
    for (const Parameter& one : trainer.parameters()) one.gradient.copy_from(t.in("d" + one.name, one.slice));
    t.out(world.rank(), str("norm, tp ", sizes.tp, ", pp ", sizes.pp, ", dp ", sizes.dp),
          "the root of the sum of squares of the whole model's gradients", Tensor::of(1, 1, {trainer.norm()}),
          Slice::whole(1, 1));
  });
});

}  // namespace
