// Lesson 08: process groups, the vocabulary cut, and a GPT cut three ways against the whole.
#include <map>
#include <mutex>
#include <set>

#include "cut_gpt.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::three_d;

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

TEST_CASE(
    "every factorisation of 1, 2, 4 and 8 ranks gives the whole model's loss and gradients, under every "
    "schedule") {
  WholeStep whole;
  whole.model.attention = {16, 8, 8, {}};
  whole.model.attention.options.batch = 16;
  whole.model.attention.options.seq = 4;
  whole.model.layers = 8;
  whole.model.vocabulary = 13;
  whole.model.tokens = 64;
  whole.model.tied = true;
  whole.make = [](const std::string& weight, const Slice& slice) {
    return generate(3, weight, slice, DType::f64, Fill::uniform, weight.ends_with("bias") ? 0.5 : 0.3);
  };
  whole.batch = pipeline::make_tokens(whole.model, 3);
  whole.results = pipeline::unsplit_step(whole.inputs(), whole.model, whole.batch, "wte.weight").results;
  check_every_cut(whole, 1e-13);
}
