// Every factorisation against the unsplit run. What can be chosen beside the sizes is spread over them, so
// that each pair of choices occurs in some run: a fault needs two of them to meet, hardly ever three.
#pragma once

#include <array>
#include <set>

#include "08_three_d/harness/proof.hpp"
#include "12_experts/harness/reference.hpp"
#include "13_all_axes/compose.hpp"
#include "13_all_axes/factorisations.hpp"
#include "gpt/harness/command_line.hpp"

namespace tessera::all_axes {

/// A small model on made-up text: 8 sequences of 16 tokens, in 8 microbatches.
inline Config small_run(bool experts, bool deep) {
  Config s;
  ModelConfig& m = s.training.model;
  m = {{8, 8, 8, {.seq = 16}}, deep ? 8 : 4, 13, 128, true};
  m.experts = experts ? 8 : 0, m.sequence_parallel = experts;
  s.sizes = {1, 1, 1}, s.batch = 8, s.steps = 5, s.training.lr = 0.05, s.training.clip = 1;
  for (int i = 0; i < 300; ++i) s.text.ids.push_back((i * i + i / 7) % 12);
  return s;
}

/// What is chosen beside the sizes: tokens over tp, ZeRO's stage, the schedule, the way and the placement of
/// cp, the objective, experts of a token, their auxiliary loss. -1 where nothing depends on it.
inline constexpr std::size_t choice_count = 8;
using Variant = std::array<int, choice_count>;

/// The values that each choice can have.
using OpenChoices = std::array<std::vector<int>, choice_count>;
inline OpenChoices open_choices(const Config& s) {
  const ParallelSizes& z = s.sizes;
  const ModelConfig& m = s.training.model;
  OpenChoices open;
  open.fill({-1});
  if (z.tp > 1 && m.experts == 0) open[0] = {0, 1};
  if (z.replicas() > 1) open[1] = {0, 1, 2, 3};
  if (z.pp > 1) open[2] = {0, 1, 3};
  if (z.pp > 1 && s.training.microbatches % z.pp == 0 && m.layers / 2 >= z.pp) open[2].push_back(2);
  if (z.cp > 1) open[3] = {0, 1}, open[4] = {0, 1};
  if (z.cp > 1 && m.attention.heads / z.tp % z.cp == 0) open[3].push_back(2);
  open[5] = {0, 1};
  if (m.experts > 0) open[6] = open[7] = {0, 1};
  return open;
}

inline Config with_choices(Config s, const Variant& v) {
  three_d::TrainingConfig& t = s.training;
  ModelConfig& m = t.model;
  if (v[0] == 1) m.sequence_parallel = m.regather = true;
  t.zero = std::max(v[1], 0);
  if (v[2] >= 0) t.schedule = pipeline::schedule_names[v[2]].first;
  if (t.schedule == pipeline::Schedule::interleaved) t.chunks = 2;
  m.way = gpt::Way(std::max(v[3], 0)), m.zigzag = v[4] != 1;
  s.masked = v[5] == 1;
  if (s.masked) m.attention.options.mask = Mask::none;
  m.top_k = v[6] == 1 ? 2 : 1, m.aux = v[7] == 1 ? 0.3 : 0;
  return s;
}

/// A run of every factorisation, and more of some until each pair of choices that can occur has occurred.
class Plan {
 public:
  Plan(const std::vector<int>& ranks, bool experts) {
    for (const int n : ranks) {
      std::size_t at = 0;
      for (const ParallelSizes& sizes : factorisations(n, small_run(experts, true))) {
        if (n > 8 && ++at % 7 != 0) continue;  // a sample
        Config s = small_run(experts, sizes.pp >= 4);
        s.sizes = sizes, s.training.microbatches = 8 / sizes.dp;
        s.training.model.cp = sizes.cp, s.training.model.ep = sizes.ep;
        cuts_.push_back(s);
        each_variant(open_choices(s),
                     [&](const Variant& v) { each_pair(v, [&](Pair p) { open_.insert(p); }); });
      }
    }
    for (std::size_t i = 0; i < cuts_.size(); ++i) take({best(cuts_[i])});
    while (!open_.empty()) {
      std::vector<Choice> all;
      for (const Config& cut : cuts_) all.push_back(best(cut));
      take(all);
    }
  }
  std::vector<Config> runs;

 private:
  using Pair = std::array<int, 4>;
  struct Choice {
    const Config* cut;
    Variant variant;
    int closes = -1;
  };
  template <class F>
  static void each_variant(const OpenChoices& open, const F& visit, Variant v = {}, std::size_t at = 0) {
    if (at == choice_count) return visit(v);
    for (const int value : open[at]) v[at] = value, each_variant(open, visit, v, at + 1);
  }
  template <class F>
  static void each_pair(const Variant& v, const F& visit) {
    for (int i = 0; i < int(choice_count); ++i)
      for (int j = 0; j < i; ++j)
        if (v[i] >= 0 && v[j] >= 0) visit(Pair{i, v[i], j, v[j]});
  }
  /// The variant that closes most open pairs; where several close as many, the calls take them in turn.
  Choice best(const Config& cut) {
    std::vector<Choice> all;
    each_variant(open_choices(cut), [&](const Variant& v) {
      int closes = 0;
      each_pair(v, [&](Pair p) { closes += open_.count(p); });
      if (all.empty() || closes > all.front().closes) all.clear();
      if (all.empty() || closes == all.front().closes) all.push_back({&cut, v, closes});
    });
    return all[runs.size() * 5 % all.size()];
  }
  void take(const std::vector<Choice>& all) {
    const Choice& one = *std::ranges::max_element(all, {}, &Choice::closes);
    each_pair(one.variant, [&](Pair p) { open_.erase(p); });
    runs.push_back(with_choices(*one.cut, one.variant));
  }

  std::vector<Config> cuts_;
  std::set<Pair> open_;
};

/// "tp 2, cp 1, pp 4, dp 1, ep 1, 1f1b, ..."
inline std::string text_of(const Config& s) {
  const three_d::TrainingConfig& t = s.training;
  return format("tp {}, cp {}, pp {}, dp {}, ep {}, {}, {}{}, zero {}{}{}, {} experts, top {}, aux {}",
                s.sizes.tp, s.sizes.cp, s.sizes.pp, s.sizes.dp, s.sizes.ep,
                word_of(pipeline::schedule_names, t.schedule), word_of(gpt::way_names, t.model.way),
                t.model.zigzag ? " zigzag" : "", t.zero, t.model.sequence_parallel ? ", tokens over tp" : "",
                s.masked ? ", mlm" : "", t.model.experts, t.model.top_k, t.model.aux);
}

/// Makes every rank's slices of the same weights. Norms and biases are random, too.
inline gpt::MakeWeight weights_for(const Config& s, std::uint64_t seed) {
  std::map<std::string, double> scales;
  for (const auto& info : gpt::weights_of(s.training.model)) scales[info.name] = 0.5 * info.scale;
  return [scales, seed](const std::string& name, const Slice& slice) {
    return generate(seed, name, slice, DType::f64, Fill::uniform, scales.at(name));
  };
}

/// The unsplit run: the losses, by lesson 08's loop, and the gradients of the first step by the definition.
struct Whole {
  std::vector<double> losses;
  Named<Tensor> gradients;
};
inline Whole whole_of(Communicator& alone, const Config& cut, std::uint64_t seed) {
  const Config s = with_layout(cut, {1, 1, 1});
  const gpt::MakeWeight make = weights_for(s, seed);
  const three_d::Mesh mesh(alone, s.sizes, "alone-");
  three_d::Trainer trainer(mesh, s.training, DType::f64, make);
  const Inputs<Tensor> in = gpt::whole_weights(s.training.model, make);
  const auto reference = s.training.model.experts > 0 ? experts::reference_step : gpt::reference_step<>;
  return {train(alone, trainer, s, seed),
          reference(in, s.training.model, batch_of(s, seed, 0), s.training.microbatches).results};
}

/// The same on every rank of `world`; rank 0 computes it. Collective.
inline Whole shared_whole(Communicator& world, Communicator& alone, const Config& s, std::uint64_t seed) {
  const CheckScope scope(world);
  Whole whole;
  if (world.rank() == 0) {
    const auto busy = world.busy("runs the unsplit reference");
    whole = whole_of(alone, s, seed);
  }
  const auto share = [&](Tensor& x, std::int64_t rows, std::int64_t cols) {
    if (!x.defined()) x = Tensor::empty(rows, cols, DType::f64);
    world.broadcast(x, 0);
  };
  Tensor losses = world.rank() == 0 ? Tensor::of(1, s.steps, whole.losses) : Tensor();
  share(losses, 1, s.steps);
  whole.losses = losses.values();
  for (const auto& info : gpt::weights_of(s.training.model))
    share(whole.gradients["d" + info.name], info.rows, info.cols);
  return whole;
}

/// The largest distances of a cut run on this rank: of a loss, and of an element of a gradient of the first
/// step as a share of the largest one in its tensor.
inline std::pair<double, double> distance(Communicator& world, const Config& s, const Whole& whole,
                                          std::uint64_t seed) {
  const three_d::Mesh mesh(world, s.sizes, world.name() + "-");
  three_d::Trainer trainer(mesh, s.training, DType::f64, weights_for(s, seed));
  trainer.gradients(own_microbatches(batch_of(s, seed, 0), s, trainer));
  double off = 0;
  for (const gpt::Parameter& one : trainer.with_gradients()) {
    const Tensor& truth = whole.gradients.at("d" + one.name);
    const double apart = three_d::largest_distance(one.gradient.values(), one.slice.extract(truth).values()),
                 most = largest(truth);  // 0 for an expert that no token has chosen
    off = std::max(off, apart == 0 || apart == INFINITY ? apart : apart / most);
  }
  return {three_d::largest_distance(train(world, trainer, s, seed), whole.losses), off};
}

/// What a sweep has found, on rank 0.
struct Swept {
  std::string what;  // "dense"
  std::int64_t ranks = 0, factorisations = 0, runs = 0;
  double loss = 0, gradient = 0;
};

// begin sweep
/// Every `stride`-th run of the plans for 1, 2, 4, ... ranks of `world`, dense and with experts. Collective.
inline std::vector<Swept> sweep(Proof& proof, Communicator& world, std::size_t stride) {
  const Journal before = world.journal();
  const auto alone = world.split(world.rank(), 0, "alone");
  std::vector<int> ranks;
  for (int n = 1; n <= world.size(); n *= 2) ranks.push_back(n);
  std::vector<Swept> found;
  for (const bool experts : {false, true}) {
    const Plan plan(ranks, experts);
    std::map<std::vector<std::int64_t>, Whole> wholes;  // by what changes the unsplit run
    std::map<int, Swept> by_ranks;
    std::map<int, std::string> wrong;
    for (std::size_t i = 0; i < plan.runs.size(); i += stride) {
      Config s = plan.runs[i];
      compose(s.training);
      const ModelConfig& m = s.training.model;
      const int n = s.sizes.ranks();
      const int mean_of = m.aux > 0 ? s.training.microbatches : 0;  // each has an auxiliary loss of its own
      Whole& whole = wholes[{m.layers, s.masked, m.top_k, mean_of}];
      if (whole.losses.empty()) whole = shared_whole(world, *alone, s, proof.seed());
      const auto group = world.split(world.rank() < n ? 0 : -1, world.rank(), format("cut{}", i));
      if (!group) continue;  // waits at the next split
      const auto [loss, gradient] = distance(*group, s, whole, proof.seed());
      const CheckScope scope(world);
      const auto most = group->all_reduce(Tensor::of(1, 2, {loss, gradient}), Reduce::max).values();
      Swept& row = by_ranks[n];
      row.ranks = n, ++row.runs;
      row.loss = std::max(row.loss, most[0]), row.gradient = std::max(row.gradient, most[1]);
      if (wrong[n].empty() && !(std::max(most[0], most[1]) <= 1e-10)) wrong[n] = text_of(s);
    }
    for (auto& [n, row] : by_ranks) {
      row.what = experts ? "with experts" : "dense";
      row.factorisations = std::ssize(all_axes::factorisations(n, small_run(experts, true)));
      proof.claim(format("{} runs of {} ranks, {}: losses, gradients", row.runs, n, row.what),
                  std::max(row.loss, row.gradient), 1e-10, "the first one that differs: " + wrong[n]);
      found.push_back(row);
    }
  }
  world.journal() = before;  // these calls are in no table
  return found;
}
// end sweep

}  // namespace tessera::all_axes
