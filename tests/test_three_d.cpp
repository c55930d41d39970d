// Lesson 08: process groups, the vocabulary cut, and a GPT cut three ways against the whole.
#include <map>
#include <mutex>
#include <set>

#include "06_pipeline/unsplit.hpp"
#include "08_three_d/trainer.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::three_d;

namespace {

double largest_difference(const Tensor& a, const Tensor& b) {
  const auto x = a.values(), y = b.values();
  expect_eq(x.size(), y.size(), "elements");
  double most = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double difference = std::abs(x[i] - y[i]);
    if (!(difference <= most)) most = difference;
  }
  return most;
}

}  // namespace

TEST_CASE("the mesh is Megatron's: tp fastest, then dp, then pp") {
  // FIELD: 16 ranks, tp 2, dp 2, pp 4.
  std::map<std::string, std::set<std::vector<int>>> groups;
  std::mutex mutex;
  on_ranks(16, [&](Communicator& world) {
    Mesh mesh(world, {2, 4, 2});
    for (Communicator* group : {mesh.tp.get(), mesh.dp.get(), mesh.pp.get()}) {
      const auto all = group->all_gather(Tensor::of(1, 1, {static_cast<double>(world.rank())}), 0).values();
      const std::lock_guard lock(mutex);
      groups[group->name()].insert(std::vector<int>(all.begin(), all.end()));
    }
  });
  CHECK(groups["tp"] ==
        std::set<std::vector<int>>{{0, 1}, {2, 3}, {4, 5}, {6, 7}, {8, 9}, {10, 11}, {12, 13}, {14, 15}});
  CHECK(groups["dp"] ==
        std::set<std::vector<int>>{{0, 2}, {1, 3}, {4, 6}, {5, 7}, {8, 10}, {9, 11}, {12, 14}, {13, 15}});
  CHECK(groups["pp"] ==
        std::set<std::vector<int>>{{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15}});
}

TEST_CASE(
    "the cross-entropy of cut columns equals the whole's, also where the ranks do not divide the "
    "vocabulary") {
  for (const int ranks : {1, 2, 3, 4, 8})
    for (const std::int64_t vocabulary : {8, 13})
      for (const DType dtype : {DType::f32, DType::f64})
        on_ranks(ranks, [&](Communicator& comm) {
          const Tensor logits = generate(1, "logits", Slice::whole(6, vocabulary), dtype, Fill::uniform, 30);
          const Tensor targets = Tensor::of(6, 1, {0, 7, 3, 7, 5, 1}, DType::i32);
          const CrossEntropy whole = cross_entropy(logits, targets);
          const Range own = own_ids(vocabulary, comm.rank(), comm.size());
          const Tensor mine = logits.column_range(own.begin, own.end).copy();
          const Tensor local = local_ids(targets, own);
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

Training training(int pp, int dp, pipeline::Schedule schedule = pipeline::Schedule::one_f_one_b,
                  int chunks = 1) {
  Training t;
  t.model.attention = {16, 8, 8, {}};
  t.model.layers = 8;
  t.model.vocabulary = 13;
  t.model.tied = true;
  t.model.attention.options.seq = 4;
  t.microbatches = 8 / dp;
  t.model.attention.options.batch = 2;  // 16 sequences of 4 tokens in all
  t.model.tokens = 64;
  t.schedule = schedule;
  t.chunks = chunks;
  (void)pp;
  return t;
}

/// Every factorisation of n into tp x pp x dp.
std::vector<Sizes3> factorisations(int n) {
  std::vector<Sizes3> all;
  for (int t = 1; t <= n; ++t)
    for (int p = 1; p <= n; ++p)
      for (int d = 1; d <= n; ++d)
        if (t * p * d == n) all.push_back({t, p, d});
  return all;
}

}  // namespace

TEST_CASE(
    "every factorisation of 1, 2, 4 and 8 ranks gives the whole model's loss and gradients, under every "
    "schedule") {
  using pipeline::Schedule;
  for (const int ranks : {1, 2, 4, 8})
    for (const Sizes3& sizes : factorisations(ranks))
      for (const auto& [schedule, name] : pipeline::schedule_names) {
        const int chunks = schedule == Schedule::interleaved ? 2 : 1;
        const Training setup = training(sizes.pp, sizes.dp, schedule, chunks);
        if (schedule == Schedule::interleaved &&
            (sizes.pp == 1 || setup.microbatches % sizes.pp != 0 || sizes.pp * 2 > 8))
          continue;
        CAPTURE(name);
        CAPTURE(sizes.tp);
        CAPTURE(sizes.pp);
        CAPTURE(sizes.dp);
        const std::string fault = message_of(ranks, [&, schedule = schedule](Communicator& world) {
          (void)schedule;
          Mesh mesh(world, sizes);
          const auto make = [&](const std::string& weight, const Slice& slice) {
            return generate(3, weight, slice, DType::f64, Fill::uniform,
                            weight.ends_with("bias") ? 0.5 : 0.3);
          };
          Trainer trainer(mesh, setup, DType::f64, make);
          const Tokens all = pipeline::make_tokens(setup.model, 3);
          std::vector<Tokens> mine;
          const auto parts = pipeline::cut_tokens(all, setup.microbatches * sizes.dp);
          const Range own = own_ids(setup.model.vocabulary, mesh.tp->rank(), sizes.tp);
          for (int i = 0; i < setup.microbatches; ++i) {
            const Tokens& part = parts[static_cast<std::size_t>(mesh.dp->rank() * setup.microbatches + i)];
            mine.push_back({local_ids(part.ids, own), local_ids(part.targets, own)});
          }
          double loss = trainer.gradients(mine) / static_cast<double>(setup.model.tokens);
          const Inputs<Tensor> in = [&](const std::string& weight) {
            for (const auto& info : pipeline::weights_of(setup.model))
              if (info.name == weight) return make(weight, Slice::whole(info.rows, info.cols));
            throw Error("no weight " + weight);
          };
          const MeasuredWhole whole = pipeline::unsplit_step(in, setup.model, all, "wte.weight");
          for (const Parameter& one : trainer.parameters()) {
            const Tensor& truth = whole.results.at("d" + one.name);
            const double error = largest_difference(one.gradient, one.slice.extract(truth));
            expect(error <= 1e-12 * (1 + largest(truth)), str(one.name, " is off by ", error));
          }
          loss = mesh.dp->all_reduce(Tensor::of(1, 1, {loss})).values()[0];
          if (mesh.pp->rank() == sizes.pp - 1)
            expect(std::abs(loss - whole.results.at("loss").values()[0]) <= 1e-12, str("the loss is ", loss));
          double squares = 0;
          for (const auto& info : pipeline::weights_of(setup.model))
            for (const double g : whole.results.at("d" + info.name).values()) squares += g * g;
          expect(std::abs(trainer.norm() - std::sqrt(squares)) <= 1e-12,
                 str("the norm is ", trainer.norm(), ", not ", std::sqrt(squares)));
        });
        CHECK(fault == "");
      }
}
