// Lesson 13: how n ranks can be cut, the sweep over all cuts, each axis alone, and checkpoints from cut to
// cut.
#include "13_all_axes/harness/screen.hpp"
#include "cut_gpt.hpp"
#include "directory.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::all_axes;

TEST_CASE("lesson 13: 35 factorisations of 1, 2, 4 and 8 ranks, 77 with experts, each once") {
  for (const bool experts : {false, true}) {
    const Config s = small_run(experts, true);
    std::set<std::vector<int>> seen;
    std::size_t count = 0;
    for (const int n : {1, 2, 4, 8})
      for (const ParallelSizes& z : all_axes::factorisations(n, s)) {
        CHECK(z.ranks() == n);
        CHECK(z.replicas() % z.ep == 0);
        seen.insert({z.tp, z.cp, z.pp, z.dp, z.ep}), ++count;
      }
    CHECK(count == (experts ? 77 : 35));
    CHECK(seen.size() == count);
  }
  CHECK(all_axes::factorisations(7, small_run(false, true)).size() == 1);  // 7 layers for 7 stages
  for (const bool zigzag : {false, true}) {  // two ranks of cp share 2 chunks of a sequence out, or 4
    Config six = small_run(false, true);
    six.training.model.attention.options.seq = 6, six.training.model.zigzag = zigzag;
    CHECK(allows(six, {.cp = 2}) == !zigzag);
  }
  const ParallelSizes most = widest(8, small_run(true, true));
  CHECK(std::vector{most.tp, most.cp, most.pp, most.dp, most.ep} == std::vector{2, 2, 2, 1, 2});
}

TEST_CASE("lesson 13: the sweep has every factorisation, and every pair of choices meets in some run") {
  const Plan dense({1, 2, 4, 8}, false), experts({1, 2, 4, 8}, true);
  std::set<std::vector<int>> cuts, pairs;
  for (const Plan* plan : {&dense, &experts})
    for (const Config& s : plan->runs) {
      const three_d::TrainingConfig& t = s.training;
      const ParallelSizes& z = s.sizes;
      cuts.insert({z.tp, z.cp, z.pp, z.dp, z.ep, t.model.experts > 0});
      if (t.model.experts > 0) continue;
      const int schedule = static_cast<int>(t.schedule), way = static_cast<int>(t.model.way);
      if (z.pp > 1 && z.replicas() > 1) pairs.insert({0, schedule, t.zero});
      if (z.pp > 1 && z.cp > 1) pairs.insert({1, schedule, way}), pairs.insert({2, schedule, t.model.zigzag});
      if (z.pp > 1 && z.tp > 1) pairs.insert({3, schedule, t.model.sequence_parallel});
      if (z.cp > 1) pairs.insert({4, way, t.zero}), pairs.insert({5, way, t.model.zigzag});
      if (z.cp > 1) pairs.insert({6, way, s.masked}), pairs.insert({7, t.model.zigzag, t.zero});
      if (z.cp > 1 && z.tp > 1) pairs.insert({8, way, t.model.sequence_parallel});
      if (z.replicas() > 1 && z.tp > 1) pairs.insert({9, t.zero, t.model.sequence_parallel});
      if (z.replicas() > 1) pairs.insert({10, t.zero, s.masked});
    }
  CHECK(cuts.size() == 35 + 77);
  CHECK(pairs.size() == 16 + 12 + 8 + 8 + 12 + 6 + 6 + 8 + 6 + 8 + 8);
}

TEST_CASE("lesson 13: a part of the sweep, whose whole is a test of its own") {
  const Outcome outcome = proven(8, {Tier::floating, DType::f64, 3}, [](Proof& proof, Communicator& world) {
    proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
    const auto found = sweep(proof, world, thinned > 1 ? 40 : 5);
    expect(world.rank() != 0 || found.size() > (thinned > 1 ? 1U : 4U), "rows of the sweep");
  });
  CHECK(faults(outcome) == "");
}

TEST_CASE("lesson 13: the sweep finds a wrong gradient, and a loss that is no number") {
  on_ranks(1, [](Communicator& alone) {
    Config s = small_run(false, false);
    s.training.microbatches = 8, s.steps = 1;
    const Whole whole = whole_of(alone, s, 3);
    const auto [loss, gradient] = distance(alone, s, whole, 3);
    expect(loss <= 1e-12 && gradient <= 1e-12, "the unsplit run is itself");
    for (const char* name : {"dwte.weight", "dh.3.mlp.c_proj.bias", "dln_f.weight"})
      for (const double value : {1.0, std::nan("")}) {
        Whole other = whole;
        Tensor& changed = other.gradients.at(name) = whole.gradients.at(name).copy();
        changed.row_range(0, 1).column_range(0, 1).copy_from(Tensor::of(1, 1, {value}));
        expect(!(distance(alone, s, other, 3).second <= 1e-3), name);
      }
    Whole other = whole;
    other.losses[0] = std::nan("");
    expect(!(distance(alone, s, other, 3).first <= 1e-3), "a loss that is no number");
  });
}

TEST_CASE("lesson 13: the bytes of each axis alone, in every dtype and for uneven sizes") {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
    for (const bool tied : {false, true}) {
      if (thinned > 1 && tied != (dtype == DType::f64)) continue;
      Config s = small_run(dtype != DType::bf16, false);
      s.training.model.layers = 6, s.training.model.tied = tied, s.training.microbatches = 4;
      s.training.model.attention.options.batch = 2, s.training.model.vocabulary = 15;
      s.training.model.regather = tied;
      std::size_t rows = 0;
      const Outcome outcome = proven(2, {Tier::floating, dtype, 3}, [&](Proof& proof, Communicator& world) {
        proof.measured_baseline([](const auto&) { return MeasuredReference{}; });
        const auto found = measure_axes(proof, world, s);
        if (world.rank() == 0) rows = found.size();
      });
      CHECK(faults(outcome) == "");
      CHECK(rows == (dtype == DType::bf16 ? 9 : 10));
    }
}

TEST_CASE("lesson 13: a run whose every step has another cut, by way of a checkpoint, is the unsplit run") {
  const Directory directory;
  const auto step = [&](Config s, std::int64_t steps) {
    s.training.adamw = true, s.training.lr = 0.003, s.training.clip = 1;
    s.save = directory.file("run"), s.steps = steps;
    if (std::filesystem::exists(gpt::model_file(s.save))) s = resumed(s, s.save);
    compose(s.training);
    return losses_of(s);
  };
  for (const bool experts : {false, true}) {
    const Plan plan({1, 2, 4, 8}, experts);
    std::vector<double> chain;
    for (std::size_t i = 0; i < plan.runs.size(); i += (experts ? 4 : 2) * thinned) {
      Config s = plan.runs[i];
      gpt::ModelConfig& m = s.training.model;
      if (m.layers == 8) continue;  // one run has one model and one objective
      s.masked = false, m.attention.options.mask = Mask::causal, m.top_k = 1, m.aux = 0;
      for (const double loss : step(s, std::ssize(chain) + 1)) chain.push_back(loss);
    }
    CHECK(chain.size() > (thinned > 1 ? 1 : 12));
    std::filesystem::remove_all(directory.file("run"));
    Config whole = small_run(experts, false);
    whole.training.microbatches = 8;
    CHECK(three_d::largest_distance(step(whole, std::ssize(chain)), chain) <= 1e-10);
    std::filesystem::remove_all(directory.file("run"));
  }
}

TEST_CASE("lesson 13 in bf16: all axes but experts, with its memory, its bytes and its checks") {
  Config s = small_run(false, false);
  s.sizes = {2, 2, 1, 2}, s.training.microbatches = 8, s.training.zero = 2, s.steps = 2;
  s.training.model.sequence_parallel = true, s.training.model.cp = 2;
  s.training.schedule = pipeline::Schedule::interleaved, s.training.chunks = 2;
  compose(s.training);
  checked_losses_of(s, DType::bf16);
}
