// How a step's time and a rank's memory grow, beside what formulas say; and attention in its two forms.
#include <algorithm>

#include "08_three_d/activations.hpp"
#include "gpt.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

namespace {

struct Row {
  GptSizes s;
  int tp = 1;
  double seconds = 0, state = 0, activations = 0;  // bytes of the rank that has most

  /// Narayanan et al. 2021, section 5: 72 B l s h^2 (1 + s/(6h) + V/(12 l h)).
  /// Ranks that share cores share them.
  double work() const {
    const double h = s.width, q = s.seq, l = s.layers;
    return 72.0 * s.batch * l * q * h * h * (1 + q / (6 * h) + s.vocabulary / (12 * l * h));
  }
  /// Weights, gradients and both moments of AdamW, f32: 16 B a parameter of the rank.
  double expected_state() const {
    return 16.0 * gpt::own_elements(training_of(s, {tp, 1, 1}, 1).model, {0, s.layers}, true, true, 0, tp);
  }
  /// Lesson 08's own formula, which its check holds to the byte.
  double expected_activations() const {
    return 4.0 * three_d::activations_predicted(training_of(s, {tp, 1, 1}, 1), {tp, 1, 1}, 0, 0, 1);
  }
};

void measure(Row& row, const Options& o) {
  launch(o.ranks(row.tp), [&](Communicator& world) {
    Gpt gpt(world, row.s, {row.tp, 1, 1}, 1);
    const MemoryLedger& memory = Device::current()->memory;
    std::vector<double> times;
    for (int i = 0; i < (o.quick ? 2 : 6); ++i) times.push_back(seconds(world, [&] { gpt.step(); }));
    times.erase(times.begin());
    const std::int64_t state = memory.now(),
                       activations = gpt.activation_bytes();  // a step, which all ranks take
    if (world.rank() != 0) return;
    row.seconds = median(times);
    row.state = static_cast<double>(state), row.activations = static_cast<double>(activations);
  });
}

std::string times(double x) { return "x " + number(x); }
std::string mib(double bytes) { return number(bytes / 1048576); }

}  // namespace

void growth(Report& report, const Options& o) {
  GptSizes base{.width = 128, .heads = 16, .vocabulary = 256, .batch = 8, .seq = 64, .tied = true};
  if (o.quick) base.width = 32, base.batch = 2, base.seq = 16;
  std::vector<std::pair<std::string, Row>> rows = {{"base", {base}}};
  const auto vary = [&](const std::string& what, std::int64_t GptSizes::*size, std::int64_t factor) {
    Row row{base};
    row.s.*size *= factor;
    rows.emplace_back(format("{} x {}", what, factor), row);
  };
  const std::vector<std::int64_t> factors =
      o.quick ? std::vector<std::int64_t>{2} : std::vector<std::int64_t>{2, 4, 8};
  for (const auto factor : factors) vary("batch", &GptSizes::batch, factor);
  for (const auto factor : factors) vary("width", &GptSizes::width, factor);
  for (const auto factor : factors) vary("layers", &GptSizes::layers, factor);
  for (const int tp : {2, 4, 8, 16}) rows.emplace_back(format("tp {}", tp), Row{base, tp});
  for (auto& [what, row] : rows) measure(row, o);

  std::vector<std::vector<std::string>> cells = {
      {"", "step ms", "", "expected", "state MiB", "expected", "activations MiB", "expected"}};
  const Row& first = rows.front().second;
  for (const auto& [what, row] : rows)
    cells.push_back({what, number(1e3 * row.seconds), times(row.seconds / first.seconds),
                     times(row.work() / first.work()), mib(row.state), mib(row.expected_state()),
                     mib(row.activations), mib(row.expected_activations())});
  report.table(format("Growth of a training step and of rank 0's memory. Base: {} tokens, width {}, {} "
                      "layers, {} heads, one rank; the ranks of tp share this machine's cores",
                      base.tokens(), base.width, base.layers, base.heads),
               cells);
}

void streaming_attention(Report& report, const Options& o) {
  std::vector<std::vector<std::string>> cells = {
      {"seq", "plain ms", "streaming ms", "ratio", "plain keeps MiB", "streaming keeps MiB"}};
  launch(o.ranks(1), [&](Communicator& comm) {
    const std::int64_t heads = 4, width = o.quick ? 32 : 256;
    for (std::int64_t seq = o.quick ? 32 : 256; seq <= (o.quick ? 64 : 4096); seq *= 2) {
      const GptSizes s{.width = width, .heads = heads, .seq = seq};
      const AttentionJob plain_form(s, AttentionOptions::Form::plain),
          streaming_form(s, AttentionOptions::Form::streaming);
      double plain_keeps = 0, streaming_keeps = 0;
      const Turns turns = in_turns(
          comm, std::min<std::int64_t>(o.turns, 9), [&] { plain_keeps = plain_form(); },
          [&] { streaming_keeps = streaming_form(); });
      cells.push_back({std::to_string(seq), number(1e3 * median(turns.a)), number(1e3 * median(turns.b)),
                       number(median(turns.b_over_a())), mib(plain_keeps), mib(streaming_keeps)});
    }
  });
  report.table("Causal attention, forward and backward, 4 heads of 64: streaming beside plain", cells);
}

}  // namespace tessera::bench
