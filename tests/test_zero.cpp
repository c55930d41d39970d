// Lesson 10: every stage of ZeRO gives the gradients of the unsplit model and, after some steps, the bits of
// plain data parallelism; its memory and its bytes are those of the formulas.
#include <algorithm>

#include "07_data_parallel/replica.hpp"
#include "09_sequence_parallel/parts.hpp"
#include "10_zero/harness/proof.hpp"
#include "cut_gpt.hpp"
#include "directory.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::zero;
using gpt::Parameter;

namespace {

Config config_of(int stage, std::int64_t batch, bool adamw) {
  Config s;
  // Units of 78, 18, 582 and 12 elements: few ranks divide all of them.
  s.training.model = model_of({.width = 6, .vocabulary = 13, .batch = batch, .seq = 3});
  s.training.zero = stage;
  s.training.adamw = adamw;
  s.training.lr = 0.003;
  s.batch = batch;
  s.steps = 3;
  return s;
}

Outcome outcome_of(int ranks, DType dtype, Config s) {
  s.sizes = {1, 1, ranks};
  return proven(ranks, floating(dtype), [&](Proof& proof, Communicator& dp) { zero::prove(proof, dp, s); });
}

}  // namespace

TEST_CASE("lesson 10 holds at 1, 2, 3, 4 and 8 ranks under every stage, on even and uneven batches") {
  Thin thin;
  for (const int ranks : {1, 2, 3, 4, 8})
    for (int stage = 0; stage < 4; ++stage)
      for (const std::int64_t batch : {16, 11})
        for (const bool adamw : {false, true})
          for (const DType dtype : {DType::f32, DType::f64}) {
            if (thin.skips()) continue;
            INFO(ranks, " ranks, stage ", stage, ", batch ", batch, adamw ? ", AdamW" : "");
            const Outcome outcome = outcome_of(ranks, dtype, config_of(stage, batch, adamw));
            CHECK(faults(outcome) == "");
            const int overlaps = ranks == 1 || stage == 0 ? 0 : stage == 3 ? 2 : 1;
            CHECK(outcome.checks.size() == 1 + 29 + 3 + overlaps);
            CHECK(outcome.memory.size() == 3 + (stage == 2 ? 1 : stage == 3 ? 2 : 0));
          }
}

TEST_CASE("lesson 10 without a step claims nothing about steps") {
  Config s = config_of(3, 8, false);
  s.steps = 0;
  const Outcome outcome = outcome_of(2, DType::f64, s);
  CHECK(faults(outcome) == "");
  for (const Check& check : outcome.checks) CHECK(!contains(check.identity, " 0 steps"));
}

TEST_CASE("every stage leaves the bits of lesson 07's replica, with its buckets") {
  for (int stage = 0; stage < 4; ++stage)
    for (const auto& [ranks, dtype] : {std::pair{1, DType::f32},
                                       {2, DType::f32},
                                       {3, DType::f32},
                                       {4, DType::f32},
                                       {8, DType::f32},
                                       {2, DType::bf16}})
      on_ranks(ranks, [&, ranks = ranks, dtype = dtype](Communicator& dp) {
        const auto group = dp.split(dp.rank(), 0, "tp");
        const TensorParallel alone(*group);
        Config s = config_of(stage, 11, false);
        s.training.lr = 0.1;
        s.sizes = {1, 1, ranks};
        use_in(s.training, stage);
        const auto make = generator(dtype, 0.3);
        const Batch batch = make_batch(s, dp, 5);
        s.training.model.attention.options.batch = own_sequences(s, dp.rank(), dp.size()).size();
        const Mesh mesh(dp, s.sizes);
        Trainer sharded(mesh, s.training, dtype, make);
        data_parallel::Replica plain(s.training.model, alone, dtype, 1000, make);
        for (int step = 0; step < 4; ++step) {
          sharded.gradients(batch.own);
          sharded.step();
          plain.gradients(batch.own.front(), dp);
          plain.step(0.1, 0.9);
        }
        const gpt::TrainingState state = sharded.state();
        expect_eq(state.tensors[0].size(), plain.parameters().size(), "parameters");
        for (std::size_t i = 0; i < plain.parameters().size(); ++i) {
          const Parameter& one = plain.parameters()[i];
          const Tensor whole = state.whole(0, i);
          expect(sharded.parameters()[i].name == one.name, one.name);
          expect(dp.rank() > 0 || cast(whole, dtype).values() == one.value.values(),
                 one.name + ": other bits");
        }
      });
}

TEST_CASE("a released tensor gives its memory back, and refuses to be used") {
  const MemoryScope scope(MemoryKind::weight);
  const auto held = [] { return Device::current()->memory.now(MemoryKind::weight); };
  const std::int64_t before = held();
  const Tensor row = Tensor::zeros(1, 10, DType::f64), view = row.column_range(2, 6).reshape(2, 2);
  CHECK(held() - before == 80);
  row.release();
  row.release();  // a second time does nothing
  CHECK(held() == before);
  CHECK(contains(message_from([&] { view.values(); }), "was released"));
  row.restore();
  row.restore();
  CHECK(held() - before == 80);
  row.copy_from(Tensor::of(1, 10, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  CHECK(view.values() == std::vector<double>{2, 3, 4, 5});
}

TEST_CASE("under a limit of memory that refuses stage 0, stage 3 trains") {
  const auto run = [](int stage, std::int64_t limit) {  // the largest peak of a rank
    LaunchOptions options = ranks(4);
    options.memory_per_rank = limit;
    std::int64_t peak = 0;
    launch(options, [&](Communicator& dp) {
      Proof proof(dp, {Tier::floating, DType::f64, 3});
      Config s = config_of(stage, 8, true);
      s.sizes = {1, 1, 4};
      zero::prove(proof, dp, s);
      const Outcome outcome = proof.finish();
      if (dp.rank() == 0) peak = *std::max_element(outcome.peak.begin(), outcome.peak.end());
    });
    return peak;
  };
  const std::int64_t whole = run(0, INT64_MAX), sharded = run(3, INT64_MAX), between = (whole + sharded) / 2;
  CHECK(sharded < whole);
  CHECK(run(3, between) == sharded);
  CHECK(contains(message_from([&] { run(0, between); }), "is out of memory"));
}

namespace {

using three_d::ParallelSizes;

/// Lesson 08's trainer under a stage. Few parts have elements that 3 or 8 replicas divide.
three_d::Config trained(const ParallelSizes& sizes, int stage, bool adamw, int microbatches = 1) {
  three_d::Config s = run_on_text(sizes, {.heads = 8, .layers = 8, .vocabulary = 13, .seq = 3, .tied = true},
                                  48, microbatches);
  s.training.adamw = adamw;
  s.training.lr = adamw ? 0.003 : 0.05;
  use_in(s.training, stage);
  return s;
}

/// The losses of a run, and the checkpoint that it leaves, byte by byte.
struct Trained {
  std::vector<double> losses;
  std::string file;
};
Trained trained_run(three_d::Config s, const std::string& folder, DType dtype = DType::f64) {
  s.save = folder;
  const std::vector<double> losses = losses_of(s, dtype);
  return {losses, bytes_of(folder)};
}
Trained trained_run(const three_d::Config& s) { return trained_run(s, Directory().file("run")); }

/// Every factorisation of 1, 2, 4 and 8, and three replicas.
std::vector<ParallelSizes> all_sizes() {
  std::vector<ParallelSizes> all = {{1, 1, 3}, {2, 1, 3}, {1, 2, 3}};
  for (const int ranks : {1, 2, 4, 8})
    for (const ParallelSizes& sizes : factorisations(ranks)) all.push_back(sizes);
  return all;
}

}  // namespace

TEST_CASE("lesson 08 under every stage: the losses and the checkpoint of stage 0, bit for bit") {
  Thin thin;
  for (const ParallelSizes& sizes : all_sizes())
    for (const bool adamw : {false, true})
      for (const bool tokens_cut : {false, true}) {
        if ((tokens_cut && (sizes.tp == 1 || adamw)) || thin.skips()) continue;
        const auto run = [&](int stage) {
          three_d::Config s = trained(sizes, stage, adamw);
          if (tokens_cut) sequence_parallel::use_in(s.training, false);
          return trained_run(s);
        };
        const Trained plain = run(0);
        CHECK(plain.losses.size() == 3);
        for (const int stage : {1, 2, 3}) {
          INFO(text(sizes), ", stage ", stage);
          const Trained cut = run(stage);
          CHECK(cut.losses == plain.losses);
          CHECK(cut.file == plain.file);
        }
      }
}

TEST_CASE(
    "lesson 08 under every stage: microbatches and schedules, and clipping changes the last digits alone") {
  Thin thin;
  for (const auto& named : pipeline::schedule_names)
    for (const ParallelSizes& sizes : {ParallelSizes{2, 2, 2}, {1, 1, 4}, {1, 2, 3}})
      for (const double clip : {0.0, 0.1}) {
        const auto schedule = named.first;
        const bool interleaved = schedule == pipeline::Schedule::interleaved;
        if ((interleaved && sizes.pp == 1) || thin.skips()) continue;
        const auto run = [&](int stage) {
          three_d::Config s = trained(sizes, stage, false, 4);
          s.training.schedule = schedule, s.training.chunks = interleaved ? 2 : 1;
          s.training.clip = clip;
          return trained_run(s);
        };
        const Trained plain = run(0);
        for (const int stage : {1, 2, 3}) {
          INFO(named.second, ", ", text(sizes), ", stage ", stage, ", clip ", clip);
          const Trained cut = run(stage);
          CHECK(three_d::largest_distance(cut.losses, plain.losses) <= 1e-12);
          if (stage == 1 && clip == 0) CHECK(cut.file == plain.file);
        }
      }
}

TEST_CASE("under stage 3 no rank ever holds all weights or all gradients, nor when it makes the model") {
  const three_d::Config s = trained({1, 1, 4}, 3, true);
  on_ranks(4, [&](Communicator& world) {
    const three_d::Mesh mesh(world, s.sizes);
    const MemoryLedger& memory = Device::current()->memory;
    three_d::Trainer trainer = three_d::make_trainer(mesh, s, DType::f64, 3);
    three_d::train(world, trainer, s, 3);
    for (const MemoryKind kind : {MemoryKind::weight, MemoryKind::gradient}) {
      const std::int64_t whole = gpt::elements_of(s.training.model) * 8, peak = memory.peak(kind);
      expect(peak < whole * 2 / 3, format("{} B at the peak, of {} B", peak, whole));
    }
  });
}

TEST_CASE("lesson 08 under every stage: memory and bytes are the formulas', to the byte") {
  Thin thin;
  for (const ParallelSizes& sizes : all_sizes())
    for (const int stage : {1, 2, 3})
      for (const DType dtype : {DType::f64, DType::bf16}) {
        if ((dtype == DType::bf16 && sizes.ranks() > 4) || thin.skips()) continue;
        INFO(text(sizes), ", stage ", stage);
        three_d::Config s = trained(sizes, stage, dtype == DType::bf16, 2);
        s.training.clip = 1;
        s.steps = 2;
        if (sizes.tp == 2) sequence_parallel::use_in(s.training, true);
        if (sizes.tp == 1) s.sample = 2;
        const Outcome outcome = outcome_of(sizes.ranks(), s, floating(dtype));
        CHECK(faults(outcome) == "");
        CHECK(outcome.memory.size() == 4 + (stage == 2 ? 1 : stage == 3 ? 2 : 0));
      }
}

TEST_CASE("lesson 08: a checkpoint of every stage resumes under another stage and another cut") {
  const Directory directory;
  Thin thin;
  for (const bool adamw : {false, true}) {
    three_d::Config s = trained({2, 1, 4}, 0, adamw, 2);
    s.steps = 5;
    const Trained all = trained_run(s);
    for (const int stage : {1, 2, 3}) {
      const std::string folder = directory.file(format("{}-{:d}", stage, adamw));
      trained_run(trained({2, 1, 4}, stage, adamw, 2), folder);
      const std::pair<ParallelSizes, int> moves[] = {{{2, 1, 4}, 1}, {{1, 1, 3}, 3}, {{4, 2, 1}, 2},
                                                     {{1, 2, 2}, 1}, {{1, 1, 1}, 0}, {{2, 1, 2}, 2}};
      for (const auto& to : moves) {
        if (thin.skips()) continue;
        const ParallelSizes sizes = to.first;
        INFO("from stage ", stage, " to ", to.second, ", ", text(sizes));
        s = trained(sizes, to.second, adamw, sizes.dp == 3 ? 2 : 8 / sizes.dp);
        s.steps = 5;
        const Trained rest = trained_run(resumed(s, folder), directory.file("rest"));
        CHECK(three_d::largest_distance(rest.losses, {all.losses.begin() + 3, all.losses.end()}) <= 1e-11);
        if (sizes.dp == 4 && stage == 1) CHECK(rest.file == all.file);
      }
    }
  }
}

TEST_CASE(
    "lesson 08 in bf16 under every stage resumes bit for bit, since its checkpoint has masters in f32") {
  const Directory directory;
  for (const int stage : {0, 1, 2, 3})
    for (const bool adamw : {false, true}) {
      three_d::Config s = trained({2, 1, 2}, stage, adamw);
      trained_run(s, directory.file("run"), DType::bf16);
      s.steps = 6;
      const Trained all = trained_run(s, directory.file("all"), DType::bf16),
                    rest =
                        trained_run(resumed(s, directory.file("run")), directory.file("rest"), DType::bf16);
      CHECK(rest.losses == std::vector<double>(all.losses.begin() + 3, all.losses.end()));
      CHECK(rest.file == all.file);
      const Tensor master = checkpoint_of(directory.file("all")).at("wte.weight");
      CHECK(master.dtype() == DType::f32);
      CHECK(master.values() != cast(cast(master, DType::bf16), DType::f32).values());
    }
}

// The rules of ops/ops.hpp are PyTorch's (test_fixtures.cpp), and so is the 1e-6 of clip_grad_norm_.
TEST_CASE("lesson 08 under every stage: three steps are the rule's, with the run's constants, clipped") {
  const auto check = [](Communicator& world, const three_d::Config& s, DType dtype) {
    const Mesh mesh(world, s.sizes);
    three_d::Trainer trainer = three_d::make_trainer(mesh, s, dtype, 3);
    const std::vector<Parameter>& owned = trainer.optimizer().owned;
    std::vector<Tensor> w, m, v;
    for (const Parameter& one : owned) {
      w.push_back(one.value.copy());
      m.push_back(scale(one.value, 0)), v.push_back(scale(one.value, 0));
    }
    AdamW rule = s.training.constants;
    rule.lr = s.training.lr;
    for (int step = 1; step <= s.steps; ++step) {
      trainer.gradients(own_microbatches(batch_of(s, 3, step - 1), s, trainer));
      double squares = 0;
      std::vector<Tensor> gradients;
      for (const Parameter& one : owned) {
        gradients.push_back(one.gradient.copy());
        for (const double g : one.gradient.values()) squares += g * g;
      }
      const double clip = s.training.clip, norm = std::sqrt(squares);
      expect(clip < norm, "these gradients are clipped");
      trainer.step();
      for (std::size_t i = 0; i < owned.size(); ++i) {
        const Tensor g = clip > 0 ? scale(gradients[i], clip / (norm + 1e-6)) : gradients[i];
        if (s.training.adamw)
          adamw(w[i], m[i], v[i], g, rule, step);
        else
          sgd(w[i], m[i], g, rule.lr, s.training.momentum);
        expect_close(owned[i].name, owned[i].value, w[i], largest(w[i]) + rule.lr,
                     dtype == DType::f64 ? 1e-12 : 1e-5);
        if (s.training.zero < 3)  // the weights of a part are here, and are its masters, rounded once
          expect(trainer.parameters()[i].value.values() == cast(owned[i].value, dtype).values(), "rounded");
      }
    }
  };
  for (const DType dtype : {DType::f64, DType::bf16})
    for (const bool adamw : {false, true})
      for (const double clip : {0.0, 0.05})
        for (int stage = 0; stage < 4; ++stage) {
          three_d::Config s = run_on_text({1, 1, 1}, {.tied = true}, 4, 2);
          s.training.adamw = adamw, s.training.lr = 0.01, s.training.clip = clip, s.training.momentum = 0.5;
          s.training.constants = {.beta1 = 0.8, .beta2 = 0.95, .epsilon = 1e-6, .decay = 0.1};
          use_in(s.training, stage);
          CAPTURE(stage);
          on_ranks(1, [&](Communicator& world) { check(world, s, dtype); });
        }
}
