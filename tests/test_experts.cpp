// Lesson 12: experts. Every number of ranks, experts and choices gives the definition's results, its bytes
// and its memory; ties go to the lower index; with a capacity the answer depends on the cut.
#include "08_three_d/harness/command_line.hpp"
#include "10_zero/sharded_optimizer.hpp"
#include "11_context_parallel/parts.hpp"
#include "12_experts/harness/screen.hpp"
#include "12_experts/parts.hpp"
#include "cut_gpt.hpp"
#include "directory.hpp"
#include "fixture.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::experts;

TEST_CASE("lesson 12 holds at 1 to 8 ranks: experts, choices, tokens that nothing divides, ties, capacity") {
  Thin thin;
  int turn = 0;
  for (const int ranks : {1, 2, 3, 4, 6, 8})
    for (const int ep : {1, 2, 3, 4, 8})
      for (const std::int64_t experts : {2, 3, 4, 8, 12, 16})
        for (const std::int64_t top_k : {1, 2})
          for (const double router_scale : {3.0, 0.0})  // 0: all are equal, and the first experts get all
            for (const double capacity : {0.0, 0.7}) {
              if (ranks % ep != 0 || experts % ep != 0 || thin.skips()) continue;
              const std::int64_t tokens = ++turn % 5 < 2 ? 5 : 23;
              const DType dtype = turn % 3 == 0 ? DType::f32 : DType::f64;
              INFO(ranks, " ranks, ep ", ep, ", experts ", experts, ", top ", top_k, ", tokens ", tokens,
                   ", router ", router_scale, ", capacity ", capacity);
              const Config c{tokens, 5, 7, experts, top_k, ep, capacity, 0.3, router_scale};
              CHECK(faults(outcome_of(ranks, c, floating(dtype))) == "");
            }
}

namespace {

using Sizes = three_d::ParallelSizes;  // tp, pp, dp, cp, ep

/// Lesson 08's trainer with experts in the second and the fourth block.
three_d::Config trained(const Sizes& sizes, std::int64_t top_k, double aux, int microbatches = 1,
                        int stage = 0) {
  three_d::Config s = run_on_text(sizes, {.heads = 4, .layers = 4, .vocabulary = 13, .seq = 8, .tied = true},
                                  16, microbatches);
  gpt::ModelConfig& m = s.training.model;
  m.experts = 8, m.top_k = top_k, m.aux = aux, m.ep = sizes.ep;
  s.training.lr = 0.05, s.training.clip = 0.2;
  experts::use_in(s.training);
  s.training.parts.reference = experts::reference_step;
  if (sizes.cp > 1) context_parallel::use_in(s.training, sizes.cp, gpt::Way::ring, true);
  zero::use_in(s.training, stage);
  return s;
}

const Sizes cuts[] = {{1, 1, 2, 1, 1}, {1, 1, 2, 1, 2}, {1, 1, 4, 1, 2}, {1, 1, 8, 1, 8}, {2, 1, 1},
                      {2, 2, 2, 1, 2}, {1, 1, 1, 2, 2}, {2, 1, 1, 4, 4}, {1, 2, 2, 2, 4}, {1, 4, 2, 1, 1}};

}  // namespace

TEST_CASE("lesson 08 with experts: every cut has the unsplit model's gradients and losses, and its bytes") {
  Thin thin;
  std::size_t turn = 0;  // every cut meets every stage
  for (const std::int64_t top_k : {1, 2})
    for (const double aux : {0.0, 0.3}) {
      const int m = aux > 0 ? 2 : 8;  // each microbatch has an auxiliary loss: another m has another one
      const auto unsplit = checked_losses_of(trained({1, 1, 1}, top_k, aux, m));
      CHECK(unsplit.size() == 3);
      three_d::Config unclipped =
          trained({1, 1, 1}, top_k, aux, m);  // what clips shows a gradient counted twice
      unclipped.training.clip = 0;
      CHECK(three_d::largest_distance(losses_of(unclipped), unsplit) > 1e-3);
      for (const Sizes& sizes : cuts)
        for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
          const int stage = static_cast<int>((turn + (dtype == DType::f64 ? 0 : 2)) / 3 % 4);
          ++turn;
          if ((dtype != DType::f64 && (aux > 0) == (top_k == 1)) || thin.skips()) continue;
          INFO(text(sizes), ", ep ", sizes.ep, ", top ", top_k, ", aux ", aux, ", stage ", stage);
          const three_d::Config s = trained(sizes, top_k, aux, aux > 0 ? m : m / sizes.dp, stage);
          const auto losses = checked_losses_of(s, dtype);
          if (dtype == DType::f64) CHECK(three_d::largest_distance(losses, unsplit) <= 1e-10);
        }
      turn += 3;
    }
}

TEST_CASE("lesson 08 with experts: a checkpoint moves between any two cuts, and its file knows none") {
  const Directory directory;
  const auto run_of = [&](three_d::Config s, const std::string& name, std::int64_t steps,
                          DType dtype = DType::f64) {
    s.steps = steps, s.save = directory.file(name);
    return losses_of(s, dtype);
  };
  Thin thin;
  const auto moved = [&](const Sizes& from, int stage, const Sizes& to, int next, DType dtype = DType::f64) {
    if (thin.skips()) return;
    INFO(text(from), ", ep ", from.ep, ", stage ", stage, " to ", text(to), ", ep ", to.ep, ", stage ", next);
    three_d::Config s = trained(from, 2, 0, 8 / from.dp, stage);
    s.training.adamw = true, s.training.lr = 0.003;
    const auto all = run_of(s, "all", 4, dtype);
    run_of(s, "half", 2, dtype);
    const Tensors whole = checkpoint_of(directory.file("all"));
    for (const auto& info : gpt::weights_of(s.training.model)) CHECK(largest(whole.at(info.name)) > 0);
    three_d::Config rest = trained(to, 2, 0, 8 / to.dp, next);
    rest.training.adamw = true, rest.training.lr = 0.003;
    const auto losses = run_of(resumed(rest, directory.file("half")), "rest", 4, dtype);
    CHECK(three_d::largest_distance(losses, {all.begin() + 2, all.end()}) <=
          (dtype == DType::f64 ? 1e-11 : 0));
    if (text(from) == text(to) && from.ep == to.ep && stage == next)
      CHECK(bytes_of(directory.file("rest")) == bytes_of(directory.file("all")));
  };
  const Sizes three[] = {{1, 1, 4, 1, 2}, {2, 2, 2, 1, 2}, {1, 1, 1, 2, 2}};
  for (const int stage : {0, 1, 2, 3}) {
    const Sizes& cut = three[stage % 3];
    moved(cut, stage, cut, stage, stage < 2 ? DType::bf16 : DType::f64);
    moved(cut, stage, {1, 1, 1}, 0);
    moved(cut, stage, {1, 1, 8, 1, 8}, 3 - stage);
    moved({1, 2, 2, 2, 4}, 3 - stage, cut, stage);
  }
}

TEST_CASE("PyTorch's formulas, Mixtral's block and Switch's: the layer on 1, 2, 3 and 6 ranks") {
  const Tensors torch = load_fixture("experts.safetensors");
  const auto here = [&](const std::string& name) { return torch.at(name).to(Device::current()); };
  const auto check = [&](const std::string& name, const Tensor& actual) {
    expect(largest_difference(actual, torch.at(name)) <= 1e-12, name);
  };
  struct Witness {
    std::string name;
    std::int64_t top_k;
    double aux;
  };
  for (const Witness& one : {Witness{"k1", 1, 0.3}, {"k2", 2, 0.3}, {"mixtral", 2, 0}, {"switch", 1, 0}})
    for (const int ranks : {1, 2, 3, 6})
      on_ranks(ranks, [&](Communicator& ep) {
        Experts layer{{here("router.weight"), one.top_k, 0, one.aux}, {}, &ep, {&ep}};
        const std::int64_t own = 6 / ep.size(), first = ep.rank() * own;
        for (std::int64_t i = first; i < first + own; ++i) {
          std::vector<Tensor> w;
          for (const Weight& weight : expert_weights(6, 10)) {
            w.push_back(here(expert_name(i) + weight.name));
            if (one.name == "switch" && weight.rows == 1) w.back().zero();
          }
          layer.experts.push_back({w[0], w[1], w[2], w[3]});
        }
        const auto [begin, end] = data_parallel::own_rows(13, ep.rank(), ep.size());
        const auto tokens = [begin = begin, end = end](const Tensor& x) { return x.row_range(begin, end); };
        Experts::Saved saved;
        const Tensor y = layer.forward(tokens(here("X")), saved);
        const Tensor dx = layer.backward_input(tokens(here("dY")), saved);
        layer.backward_weight(saved);
        expect(largest_difference(y, tokens(torch.at(one.name + ".Y"))) <= 1e-12, "Y");
        expect(largest_difference(dx, tokens(torch.at(one.name + ".dX"))) <= 1e-12, "dX");
        check(one.name + ".drouter.weight", ep.all_reduce(layer.router.dw));
        if (one.aux > 0) check(one.name + ".aux", Tensor::of(1, 1, {saved.router.aux}));
        for (std::int64_t i = 0; i < own; ++i)
          for (const Weight& weight : expert_weights(6, 10))
            if (one.name != "switch" || weight.rows > 1)
              check(format("{}.d{}{}", one.name, expert_name(first + i), weight.name),
                    layer.experts[static_cast<std::size_t>(i)].*weight.gradient);
      });
}

TEST_CASE_ON_EVERY_DEVICE("lesson 12: of equal probabilities the lower index is chosen, on every device") {
  const Tensor p = Tensor::of(4, 5, {1, 2, 2, 1, 2, 3, 3, 3, 3, 3, 0, 1, 0, 1, 0, 5, 4, 3, 2, 5});
  CHECK(top_k(p, 1) == std::vector<std::int64_t>{1, 0, 1, 0});
  CHECK(top_k(p, 3) == std::vector<std::int64_t>{1, 2, 4, 0, 1, 2, 1, 3, 0, 0, 4, 1});
}

TEST_CASE("lesson 12: with a capacity the answer depends on the cut, and dropless it does not") {
  const auto output = [](int ranks, double capacity) {
    const Config c{23, 5, 7, 4, 2, 0, capacity, 0.3};
    return outcome_of(ranks, c, {Tier::floating, DType::f64, 3, true}).dump.at("split.Y");
  };
  CHECK(largest_difference(output(4, 0), output(1, 0)) <= 1e-14);
  CHECK(largest_difference(output(4, 0.7), output(1, 0.7)) > 0.01);
}

TEST_CASE("lesson 12: the auxiliary loss of a rank's own tokens is another one for each number of ranks") {
  const Choices choices = outcome_and_found(1, Config{24, 5, 7, 4, 1, 0, 0, 1}).second;
  CHECK(std::abs(choices.aux(4) - choices.aux(1)) > 0.05);  // own tokens make a difference
}

TEST_CASE("lesson 12: the picture has a box for each token at home, at its expert and back, and two arrows") {
  const std::string text = drawing();
  CHECK(count_of(text, "<rect") == 12 + 1);
  CHECK(count_of(text, "class=\"arrow\"") == 8);
}
