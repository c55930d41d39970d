// Lesson 08: process groups, the vocabulary cut, and a GPT cut three ways against the whole: training,
// checkpoints, buckets. A single step of every cut stands in test_gpt2.cpp.
#include <cmath>
#include <cstring>
#include <map>
#include <sstream>

#include "08_three_d/harness/command_line.hpp"
#include "13_all_axes/factorisations.hpp"
#include "at_once.hpp"
#include "cut_gpt.hpp"
#include "directory.hpp"
#include "fixture.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::three_d;

TEST_CASE("the mesh is Megatron's: every group of its RankGenerator, in the same order") {
  std::map<std::string, Tensors> cuts;  // "TP CP DP PP EP" -> axis -> a row for each group
  for (const auto& [name, groups] : load_fixture("mesh.safetensors"))
    cuts[name.substr(0, name.rfind(' '))][name.substr(name.rfind(' ') + 1)] = groups;
  CHECK(cuts.size() == 60);
  Thin thin;
  for (const auto& cut : cuts) {
    if (thin.skips()) continue;
    CAPTURE(cut.first);
    ParallelSizes sizes;
    std::istringstream(cut.first) >> sizes.tp >> sizes.cp >> sizes.dp >> sizes.pp >> sizes.ep;
    for (const auto& [axis, expected] : cut.second) {  // and as lesson 13 prints them
      const auto groups = all_axes::groups(axis, sizes);
      std::vector<double> flat;
      for (const auto& ranks : groups) flat.insert(flat.end(), ranks.begin(), ranks.end());
      CHECK_MESSAGE((flat == expected.values() && std::ssize(groups) == expected.rows()), axis);
    }
    CHECK(message_of(sizes.ranks(), [&](Communicator& world) {
            const Mesh mesh(world, sizes);
            const auto members = [&](Communicator& group) {
              return group.all_gather(Tensor::of(1, 1, {static_cast<double>(world.rank())}), 0).values();
            };
            for (const auto& [name, group] : mesh.groups()) {
              if (name == "embedding") continue;
              const Tensor& all = cut.second.at(name);
              const std::vector<double> flat = all.values();
              const auto at = std::ranges::find(flat, world.rank()) - flat.begin();
              expect(members(*group) == all.row_range(at / all.cols(), at / all.cols() + 1).values(), name);
            }
            const std::vector<double> stages = members(*mesh.pp);
            const bool has = mesh.embedding != nullptr;
            expect(has == (sizes.pp > 1 && (stages.front() == world.rank() || stages.back() == world.rank())),
                   "the embedding group has both ends");
            if (has)
              expect(members(*mesh.embedding) == std::vector{stages.front(), stages.back()}, "embedding");
          }) == "");
  }
}

TEST_CASE("the cross-entropy of cut columns equals the whole's, also where the cut is uneven") {
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const std::int64_t vocabulary : {8, 13})
      for (const DType dtype : {DType::f32, DType::f64})
        on_ranks(ranks, [&](Communicator& comm) {
          const Tensor logits = generate(1, "logits", Slice::whole(6, vocabulary), dtype, Fill::uniform, 30);
          const Tensor targets = Tensor::of(6, 1, {0, 7, 3, 7, 5, 1}, DType::i32);
          const CrossEntropy whole = cross_entropy(logits, targets);
          const Range own = attention_heads::own_ids(vocabulary, comm.rank(), comm.size());
          const Tensor mine = logits.column_range(own.begin, own.end).copy();
          const Tensor local = attention_heads::local_ids(targets, own);
          CrossEntropyTerms terms =
              cross_entropy_terms(mine, comm.all_reduce(row_largest(mine), Reduce::max), local);
          terms.sum = comm.all_reduce(terms.sum);
          terms.target = comm.all_reduce(terms.target);
          const CrossEntropy cut = cross_entropy_of(terms);
          const double u = dtype == DType::f32 ? 0x1p-24 : 0x1p-53;
          expect(largest_difference(cut.loss, whole.loss) <= 64 * 60 * u, "loss");
          const Tensor dwhole =
              cross_entropy_backward(whole, targets, 6).column_range(own.begin, own.end).copy();
          expect(largest_difference(cross_entropy_backward(cut, local, 6), dwhole) <= 64 * u, "gradient");
        });
}

namespace {

Config on_text(const ParallelSizes& sizes, std::int64_t steps, bool adamw) {
  Config s = run_on_text(sizes, {.width = 16, .heads = 8, .layers = 8, .vocabulary = 128, .tied = true}, 16,
                         8 / sizes.dp);
  s.training.adamw = adamw;
  s.training.lr = adamw ? 0.003 : 0.05;
  s.training.clip = 1;
  s.steps = steps;
  return s;
}

/// The losses of a run, and the whole weights at the end.
struct Run {
  std::vector<double> losses;
  std::map<std::string, Tensor> weights;
};
Run run_of(Config s, DType dtype = DType::f64) {
  const Directory directory;
  if (s.save.empty()) s.save = directory.file("run");
  const std::vector<double> losses = losses_of(s, dtype);
  return {losses, checkpoint_of(s.save)};
}

/// The largest relative distance of a weight, without the optimiser's state; under AdamW also without the
/// bias of the keys, whose gradient is zero: AdamW makes steps of its rounding errors.
double weights_apart(const Run& a, const Run& b, bool adamw) {
  double most = 0;
  for (const auto& [name, w] : a.weights) {
    if (name.starts_with("optimizer") || (adamw && name.ends_with("c_attn.bias"))) continue;
    const double apart = largest_difference(w, b.weights.at(name)) / largest(w);
    if (!(apart <= most)) most = std::isnan(apart) ? INFINITY : apart;  // a NaN is not lost
  }
  return most;
}

}  // namespace

TEST_CASE("20 steps in f64 under every factorisation of 8: all weights are the unsplit run's") {
  const int steps = thinned > 1 ? 3 : 20;
  for (const bool adamw : {false, true}) {
    const Run whole = run_of(on_text({1, 1, 1}, steps, adamw));
    Thin thin;
    for (const ParallelSizes& sizes : factorisations(8)) {
      if (thin.skips()) continue;
      const Run cut = run_of(on_text(sizes, steps, adamw));
      INFO(text(sizes));
      CHECK(weights_apart(whole, cut, adamw) <= (adamw ? 1e-9 : 1e-11));
      CHECK(largest_distance(whole.losses, cut.losses) <= 1e-11);
    }
  }
}

TEST_CASE("a checkpoint of step 10 resumes under any cut, under the same one bit for bit") {
  const Directory directory;
  const std::string folder = directory.file("run");
  constexpr std::int64_t at = thinned > 1 ? 3 : 10;
  Thin thin;
  for (const bool adamw : {false, true}) {
    if (thinned > 1 && !adamw) continue;
    Config s = on_text({2, 2, 2}, at, adamw);
    s.save = folder;
    const Run half = run_of(s);
    s.save.clear();
    s.steps = 2 * at;
    const Run all = run_of(s);
    for (const ParallelSizes& sizes : {ParallelSizes{2, 2, 2}, {1, 4, 2}, {4, 1, 1}, {1, 1, 1}}) {
      if (thin.skips()) continue;
      const Run rest = run_of(resumed(on_text(sizes, 2 * at, adamw), folder));
      CHECK(largest_distance(rest.losses, {all.losses.begin() + at, all.losses.end()}) <= 1e-11);
      if (sizes.ranks() != 8 || sizes.tp != 2) continue;
      for (const auto& [name, w] : all.weights) CHECK(w.values() == rest.weights.at(name).values());
    }
    const Config wrong = resumed(on_text({1, 1, 1}, 20, !adamw), folder);
    CHECK(contains(message_from([&] { run_of(wrong); }), "there is no optimizer."));
  }
}

TEST_CASE(
    "a process that ends between the files of a checkpoint leaves the last one, and the next removes the "
    "rest") {
  const Directory directory;
  const std::string folder = directory.file("run"), later = directory.file("later");
  Config s = on_text({1, 1, 1}, 2, true);
  s.save = folder;
  run_of(s);
  const std::string two = bytes_of(folder);
  s.steps = 3, s.save = later;
  const Run three = run_of(s);
  const std::string next = std::filesystem::path(optimizer_file(later)).filename().string();
  std::filesystem::copy_file(optimizer_file(later), gpt::in_folder(folder, next));
  CHECK(bytes_of(folder) == two);
  s.save = folder;
  CHECK(run_of(resumed(s, folder)).losses == std::vector{three.losses.back()});
  CHECK(bytes_of(folder) == bytes_of(later));
  CHECK(names_in(folder) == std::vector<std::string>{"config.json", "model.safetensors", next});
}

TEST_CASE("a saved model has the names, shapes and settings that transformers gives it, or no config.json") {
  const Directory directory;
  const auto saved = [&](const std::string& name, bool masked) {
    Config s = on_text({2, 1, 1}, 0, false);
    s.training.model = model_of({.width = 16, .vocabulary = 67, .batch = 2, .seq = 12, .tied = true});
    if (masked) s.training.model.attention.options.mask = Mask::none;
    on_ranks(2, [&](Communicator& world) {
      const Mesh mesh(world, s.sizes);
      make_trainer(mesh, s, DType::f64, 3).save(world, directory.file(name), {});
    });
    return directory.file(name);
  };
  const std::string folder = saved("run", false), file = mlp::read_text(gpt::model_file(folder));
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof length);
  write_file(directory.file("header"), file.substr(sizeof length, length));
  auto ours = read_json(directory.file("header"));
  const auto config = read_json(gpt::in_folder(folder, "config.json"));
  const auto theirs = read_json(fixtures + "saved.json");  // made by make_saved.py
  CHECK(contains(ours.at("__metadata__"), R"("format":"pt")"));
  ours.erase("__metadata__");
  for (const auto& [key, value] : config) CHECK(theirs.at("config " + key) == value);
  CHECK(config.size() == 17);
  for (const auto& [name, value] : theirs)
    if (name.starts_with("transformer.")) {
      CHECK(ours.at(name).ends_with("," + value + "}"));
      ours.erase(name);
    }
  CHECK(ours.empty());
  saved("run", true);  // in the same folder
  CHECK(!std::filesystem::exists(gpt::in_folder(folder, "config.json")));
}

TEST_CASE("without a step of the optimiser no norm is summed, and nobody misses its sum") {
  CHECK(faults(outcome_of(2, on_text({2, 1, 1}, 0, false))) == "");
}

TEST_CASE("in bf16 a parameter takes 2 + 4 + 4 + 8 bytes, counted and in the formulas") {
  Config s = on_text({2, 1, 1}, 1, true);
  s.batch = 16;
  const Outcome outcome = outcome_of(2, s, floating(DType::bf16));
  CHECK(faults(outcome) == "");
  const std::int64_t elements = gpt::elements_of(s.training.model);
  for (const auto& [label, bytes, formula] : {std::tuple{"weights", 2, "2 x own"},
                                              {"gradients", 4, "4 x own"},
                                              {"optimiser", 12, "(4 + 8) x own"}}) {
    const auto row = std::find_if(outcome.memory.begin(), outcome.memory.end(),
                                  [&, label = label](const MemoryRow& r) { return r.label == label; });
    REQUIRE(row != outcome.memory.end());
    CHECK(row->whole == bytes * elements);
    CHECK(contains(row->formula, formula));
  }
}

TEST_CASE(
    "a checkpoint is read as it was opened: the run that overwrites it has the reference that resumes it") {
  const Directory directory;
  Config s = on_text({1, 2, 1}, 2, false);
  s.save = directory.file("run");
  run_of(s);
  s = resumed(s, s.save);
  s.steps = 4;
  const Run cut = run_of(s);
  s.sizes = {1, 1, 1};
  const Run whole = run_of(s);
  CHECK(whole.losses.size() == 2);
  CHECK(weights_apart(whole, cut, true) <= 1e-9);
}

TEST_CASE("a loss that is no number ends the run and names the step, and the last checkpoint is sound") {
  const Directory directory;
  const std::string folder = directory.file("run");
  Config s = on_text({1, 2, 1}, 60, false);
  s.training.model.layers = 2;
  s.training.lr = 1000;
  s.training.clip = 0;
  s.save = folder;
  s.every = 1;
  const std::string fault = message_from([&] { run_of(s); });
  CAPTURE(fault);
  CHECK(contains(fault, "the loss of step "));
  CHECK(contains(fault, "; the last checkpoint in " + folder + " stays"));
  REQUIRE(std::filesystem::exists(gpt::model_file(folder)));
  Config rest = on_text({1, 1, 1}, 60, false);
  rest.training.model.layers = 2;
  rest.training.lr = 0;
  rest.training.clip = 1e-9;
  const auto losses = run_of(resumed(rest, folder)).losses;
  CHECK(losses.size() > 0);
  CHECK(std::all_of(losses.begin(), losses.end(), [](double loss) { return std::isfinite(loss); }));
}

TEST_CASE("checkpoints are of every n-th step, and before each its next loss is computed") {
  const Directory directory;
  Config s = on_text({1, 1, 1}, 4, false);
  s.save = directory.file("run");
  s.every = 2;
  on_ranks(1, [&](Communicator& world) {
    const Mesh mesh(world, s.sizes);
    Trainer trainer = make_trainer(mesh, s, DType::f64, 3);
    const double next = next_loss(trainer, s, 3);
    const auto losses = train(world, trainer, s, 3, [&](std::int64_t done) {
      if (done == 3) expect_eq(gpt::steps_of(*resumed(s, s.save).weights), 2, "steps of the last checkpoint");
    });
    expect(std::abs(next - losses.front()) <= 1e-12, "the loss that the next step finds");
  });
}

TEST_CASE("f32 on real text: each loss as near to f64's as the unsplit run's, every run the same bits") {
  Config s = on_text({1, 1, 1}, thinned > 1 ? 30 : 100, false);
  s.training.model.layers = 2;
  s.training.model.vocabulary = 256;
  s.text = gpt::corpus_of(mlp::read_text(TESSERA_SOURCE_DIR "/README.md"));
  const auto losses = [&](const ParallelSizes& sizes, DType dtype) {
    Config cut = s;
    cut.sizes = sizes;
    cut.training.microbatches = 8 / sizes.dp;
    return losses_of(cut, dtype);
  };
  const auto truth = losses({1, 1, 1}, DType::f64), unsplit = losses({1, 1, 1}, DType::f32);
  REQUIRE(static_cast<std::int64_t>(truth.size()) == s.steps);
  CHECK(truth.back() < truth.front() - 0.5);  // it learns
  const double own_error = largest_distance(unsplit, truth);
  CHECK(own_error > 0);
  Thin thin;
  for (const ParallelSizes& sizes : {ParallelSizes{2, 2, 2}, {1, 2, 2}, {4, 1, 1}, {1, 1, 4}}) {
    if (thin.skips()) continue;
    INFO(text(sizes));
    const auto cut = losses(sizes, DType::f32);
    CHECK(largest_distance(cut, truth) <= 3 * own_error + 1e-5);
    if (sizes.ranks() == 8) CHECK(losses(sizes, DType::f32) == cut);
  }
}

TEST_CASE("buckets are summed over dp while the backward runs, and not before their gradients are final") {
  using pipeline::Schedule;
  for (const Schedule schedule : {Schedule::one_f_one_b, Schedule::zb_h1, Schedule::interleaved})
    for (const int stages : {1, 2}) {
      const bool interleaved = schedule == Schedule::interleaved;
      if (interleaved && stages == 1) continue;
      on_ranks(stages, [&](Communicator& world) {
        /// All gradients; and whether the sums began before those of the stage's first norm were complete.
        const auto step = [&](std::int64_t bucket, bool twice) {
          Config s = on_text({1, stages, 1}, 1, false);
          s.training.schedule = schedule;
          s.training.chunks = interleaved ? 2 : 1;
          s.training.bucket = bucket;
          Mesh mesh(world, s.sizes, format("b{}{:d}", bucket, twice));
          Tensor first_norm;
          std::vector<double> at_first_call;
          if (twice)
            mesh.dp_cp = std::make_unique<AtOnce>([&] {
              if (at_first_call.empty()) at_first_call = scale(first_norm, 2).values();
            });
          Trainer trainer(mesh, s.training, DType::f64,
                          gpt::initial_weights(s.training.model, s.weights, DType::f64, 3));
          first_norm = trainer.parameters()[1].gradient;
          for (int step = 0; step < 2; ++step) {  // the second one as early as the first
            at_first_call.clear();
            trainer.gradients(own_microbatches(batch_of(s, 3, step), s, trainer));
          }
          std::vector<double> all;
          for (const Parameter& one : trainer.parameters())
            for (const double value : one.gradient.values()) all.push_back(value / (twice ? 2 : 1));
          return std::pair{all, at_first_call != first_norm.values()};
        };
        const auto once = step(1000, false).first;
        const auto [half_of_twice, early] = step(1000, true);
        expect(half_of_twice == once, "gradients that came after their sum");
        expect(early, "the first bucket waited for the whole backward");
        expect(!step(1 << 30, true).second, "one bucket for all cannot be early");
      });
    }
}
