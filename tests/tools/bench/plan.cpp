// Lesson 14's prediction of a training step on this machine, beside the step.
#include "14_plan/estimate.hpp"
#include "14_plan/harness/this_machine.hpp"
#include "gpt.hpp"

namespace tessera::bench {

void planned_step(Report& report, const Options& o) {
  const GptSizes s = sizes_of(o);
  for (const int ranks : {1, 2}) {
    plan::Question asked;
    asked.weight_bytes = asked.wide_bytes = 4;
    plan::measure(asked, o.ranks(ranks), ranks);
    asked.model = test::model_of(s);
    asked.batch = s.batch, asked.devices = ranks;
    asked.fused_attention = asked.model.attention.options.streams(o.device);
    plan::Cut cut;
    cut.sizes = {ranks, 1, 1}, cut.microbatch = s.batch;
    const plan::Estimate planned = plan::estimate(asked, cut);
    launch(o.ranks(ranks), [&](Communicator& world) {
      Gpt gpt(world, s, cut.sizes, 1, o.dtype());
      std::vector<double> ratios;
      for (int i = 0; i < o.turns; ++i)
        ratios.push_back(planned.seconds() / seconds(world, [&] { gpt.step(); }));
      if (world.rank() != 0) return;
      report.ratio(format("plan.predicted_over_measured_{}", ranks), ratios, std::nullopt,
                   format("the planner's {:.1f} ms a step of {} tokens, width {}, {} layers, over the step's",
                          1e3 * planned.seconds(), s.tokens(), s.width, s.layers));
    });
  }
}

}  // namespace tessera::bench
