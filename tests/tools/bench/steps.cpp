// Steps of several ranks: the pipeline over its simulation, all three axes over their pieces' own work, and a
// step on a machine of which another program takes a core.
#include <atomic>
#include <thread>

#include "06_pipeline/harness/proof.hpp"
#include "bench.hpp"
#include "gpt.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

namespace {

/// Every rank's `mine`, by rank.
std::vector<double> of_all(Communicator& comm, double mine) {
  return comm.all_gather(Tensor::of(1, 1, {mine}), 0).values();
}

double time_of(const Job& job) {
  const Event begin = Device::current()->mark();
  job();
  return Device::current()->seconds_between(begin, Device::current()->mark());
}

/// Takes a core for as long as it lives, as somebody else's program would.
class Competitor {
 public:
  ~Competitor() { done_ = true, thread_.join(); }

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_{[this] {
    while (!done_) continue;
  }};
};

}  // namespace

void busy_machine(Report& report, const Options& o) {
  GptSizes s = sizes_of(o);
  s.heads = 4;  // four ranks need them under --quick, too
  for (const int ranks : {1, 2, 4})
    launch(o.ranks(ranks), [&](Communicator& world) {
      Gpt gpt(world, s, {ranks, 1, 1}, 1);
      gpt.step();
      std::vector<double> slowdowns;
      for (int turn = 0; turn < o.turns; ++turn) {
        const double quiet = seconds(world, [&] { gpt.step(); });
        std::optional<Competitor> competitor;
        if (world.rank() == 0) competitor.emplace();
        slowdowns.push_back(seconds(world, [&] { gpt.step(); }) / quiet);
      }
      if (world.rank() == 0)
        report.ratio(
            format("busy.slowdown_{}", ranks), slowdowns, Target{Target::at_most, 2.5},
            format("a step on {} rank(s) while a thread that does nothing else takes a core, over the "
                   "step without it",
                   ranks));
    });
}

void pipeline_step(Report& report, const Options& o) {
  const int stages = 2, microbatches = o.quick ? 4 : 16;
  launch(o.ranks(stages), [&](Communicator& comm) {
    gpt::ModelConfig model = test::model_of({.width = o.size(256, 1024, 32),
                                             .heads = 4,
                                             .layers = o.size(4, 8, 4),
                                             .vocabulary = 256,
                                             .seq = o.size(128, 1024, 16)});
    model.tokens = microbatches * model.rows();
    const auto alone = comm.split(comm.rank(), 0, "tp");
    const TensorParallel tp(*alone);
    gpt::Builder builder(model, tp, weights_of_gpt(model));
    const Range layers = part(model.layers, comm.rank(), stages);
    const std::vector<gpt::Chunk> chunks = {
        builder.chunk(layers, comm.rank() == 0, comm.rank() == stages - 1)};
    const auto batch = gpt::microbatches_of(gpt::random_tokens(model, 1), microbatches);
    const pipeline::Plan plan = pipeline::with_asynchronous_sends(
        pipeline::make_plan(pipeline::Schedule::one_f_one_b, stages, microbatches, 1));
    pipeline::Worker worker(comm, tp, chunks, model, DType::f32);
    const Placed<Replicated> x(numbers(model.rows(), model.width()));
    const auto ratios = undisturbed<double>(comm, o.turns, [&] {
      // F and B of a microbatch, while the other stage does the same: no messages.
      std::vector<double> forward, backward;
      comm.barrier();
      for (const gpt::Tokens& tokens : batch) {
        gpt::Chunk::Saved saved;
        forward.push_back(time_of([&] { chunks[0].forward(x, tokens, saved, tp); }));
        backward.push_back(time_of([&] {
          chunks[0].backward_input(x, saved, tp);
          chunks[0].backward_weight(saved);
        }));
      }
      pipeline::Costs costs = pipeline::Costs::equal(stages, 0, 0, 0);
      costs.forward = of_all(comm, median(forward));
      costs.backward_input = of_all(comm, median(backward));
      comm.barrier();
      const auto& list = plan[comm.rank()];
      const auto measured =
          pipeline::gather(comm, plan, pipeline::run_timed(worker, list, batch, comm.journal(), 0));
      return comm.rank() == 0 ? measured.timeline.makespan() / pipeline::simulate(plan, costs).makespan() : 0;
    });
    if (comm.rank() == 0)
      report.ratio("pipeline.step_over_ideal", ratios, Target{Target::at_most, 1.10},
                   format("1F1B, {} stages, {} microbatches, over the simulation from F and B measured "
                          "without messages",
                          stages, microbatches));
  });
}

namespace {

/// A rank's piece of the model, and its work of a step as if it were alone: the same products and functions
/// on the same shapes, and the optimiser.
class Piece {
 public:
  Piece(const Gpt& gpt, Communicator& alone)
      : model_(gpt.training().model),
        tp_(alone),
        builder_(model_, TensorParallel(*gpt.mesh().tp), weights_of_gpt(model_)),
        batch_(gpt.batch()),
        x_(numbers(model_.rows(), model_.width())) {
    const int stages = gpt.mesh().sizes.pp, stage = gpt.mesh().pp->rank();
    chunk_ = builder_.chunk(part(model_.layers, stage, stages), stage == 0, stage == stages - 1);
    for (const gpt::Parameter& one : builder_.parameters)
      for (auto* state : {&first_, &second_}) {
        state->push_back(empty_like(one.value));
        state->back().zero();
      }
  }
  void step() {
    for (const gpt::Parameter& one : builder_.parameters) one.gradient.zero();
    for (const gpt::Tokens& tokens : batch_) {
      gpt::Chunk::Saved saved;
      chunk_.forward(x_, tokens, saved, tp_);
      chunk_.backward_input(x_, saved, tp_);
      chunk_.backward_weight(saved);
    }
    ++steps_;
    for (std::size_t i = 0; i < first_.size(); ++i)
      adamw(builder_.parameters[i].value, first_[i], second_[i], builder_.parameters[i].gradient,
            {.lr = 1e-4}, steps_);
  }

 private:
  gpt::ModelConfig model_;
  TensorParallel tp_;
  gpt::Builder builder_;
  gpt::Chunk chunk_;
  const std::vector<gpt::Tokens>& batch_;
  Placed<Replicated> x_;
  std::vector<Tensor> first_, second_;
  std::int64_t steps_ = 0;
};

}  // namespace

void three_d_step(Report& report, const Options& o) {
  GptSizes s = sizes_of(o);
  s.batch = o.size(32, 32, 8);
  launch(o.ranks(8), [&](Communicator& world) {
    Gpt gpt(world, s, {2, 2, 2}, o.quick ? 2 : 4);
    const auto alone = world.split(world.rank(), 0, "alone");
    Piece piece(gpt, *alone);
    const Turns turns = in_turns(
        world, o.turns, [&] { gpt.step(); }, [&] { piece.step(); });
    if (world.rank() == 0)
      report.ratio("three_d.overhead", turns.a_over_b(), Target{Target::at_most, 1.25},
                   format("a step of tp 2 x pp 2 x dp 2 over the eight pieces' own work, nothing sent; {}",
                          turns.both()));
  });
}

}  // namespace tessera::bench
