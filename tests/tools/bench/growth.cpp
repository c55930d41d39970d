// How a step's time, a rank's memory and what it sends grow, beside what the lessons' formulas say; and
// attention in its two forms.
#include "14_plan/harness/proof.hpp"
#include "gpt.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera::bench {

namespace {

struct Row {
  std::string what;
  plan::Question asked = {};
  plan::Cut cut = {};  // its microbatch is settled when the row is measured
  int microbatches = 1;
  double seconds = 0;
  plan::ComparedCut found = {};  // on rank 0

  gpt::ModelConfig& model() { return asked.model; }
  /// FLOPs of all ranks, which share this machine's cores.
  double work() const { return plan::step_flops(asked.model, asked.batch, false); }
};

/// The other rows are compared with the first one.
struct Table {
  std::string title;
  std::vector<Row> rows;

  void add(const std::string& what, const std::function<void(Row&)>& change) {
    Row row = rows.front();
    row.what = what, change(row);
    rows.push_back(row);
  }
};

std::vector<Table> tables(const Options& o) {
  Row base{"one rank"};
  base.model() = test::model_of(
      {.width = o.quick ? 32 : 128, .heads = 16, .vocabulary = 256, .seq = o.quick ? 16 : 64, .tied = true});
  base.asked.batch = 8, base.asked.weight_bytes = 4, base.asked.fused_attention = false;
  const auto factors = o.quick ? std::vector<std::int64_t>{2} : std::vector<std::int64_t>{2, 4, 8};

  Table three_d{"lesson 08's tensor parallelism", {base}};
  for (const auto f : factors) three_d.add(format("batch x {}", f), [f](Row& r) { r.asked.batch *= f; });
  for (const auto f : factors)
    three_d.add(format("width x {}", f), [f](Row& r) { r.model().attention.width *= f; });
  for (const auto f : factors) three_d.add(format("layers x {}", f), [f](Row& r) { r.model().layers *= f; });
  for (const int n : {2, 4, 8, 16}) three_d.add(format("tp {}", n), [n](Row& r) { r.cut.sizes.tp = n; });

  Table sequence{"lesson 09's sequence parallelism", {base}};
  for (const int n : {2, 4, 8})
    for (const bool cut : {false, true})
      sequence.add(format("tp {}{}", n, cut ? ", sequence" : ""),
                   [=](Row& r) { r.cut.sizes.tp = n, r.cut.sequence_parallel = cut; });

  Table zero{"lesson 10's ZeRO", {base}};
  zero.rows.front().model().layers = 8;  // of which one or two are there whole
  for (const int n : {2, 4, 8})
    for (const int stage : {0, 1, 2, 3})
      zero.add(format("dp {}, stage {}", n, stage), [=](Row& r) { r.cut.sizes.dp = n, r.cut.zero = stage; });

  base.asked.fused_attention = true;  // as tokens that are cut need it
  Table context{"lesson 11's context parallelism", {base}};
  Row& whole = context.rows.front();
  whole.asked.batch = 2, whole.model().attention.heads = whole.model().attention.kv_heads = 2;
  if (!o.quick) whole.model().attention.options.seq = 256;
  for (const int f : {1, 2, 4})
    for (const int n : {1, 2, 4, 8})
      if (f * n > 1)
        context.add(format("seq x {}, cp {}", f, n),
                    [=](Row& r) { r.model().attention.options.seq *= f, r.cut.sizes.cp = n; });

  Table experts{"lesson 12's experts, 4 of a token", {base}};  // of 4 where ep cuts them: an even router
  experts.rows.front().model().experts = experts.rows.front().model().top_k = 4;
  for (const int n : {2, 4})
    experts.add(format("ep {}", n), [n](Row& r) { r.cut.sizes.dp = r.cut.sizes.ep = n; });
  for (const int f : {2, 4}) experts.add(format("experts x {}", f), [f](Row& r) { r.model().experts *= f; });

  base.model().layers = 8, base.model().experts = base.model().top_k = 2, base.microbatches = 4;
  Table all{"lesson 13's axes: tp 2, cp 2, pp 2 with 2 chunks, ep 2, tokens over tp, ZeRO 3", {base}};
  const auto add = [&](const std::string& what, const std::function<void(Row&)>& change) {
    all.add(what, [&](Row& r) {
      r.cut.sizes = {2, 2, 1, 2, 2}, r.cut.chunks = 2, r.cut.zero = 3, r.cut.sequence_parallel = true;
      change(r);
    });
  };
  add("8 ranks", [](Row&) {});
  add("microbatches x 2", [](Row& r) { r.asked.batch *= 2, r.microbatches *= 2; });
  add("seq x 2", [](Row& r) { r.model().attention.options.seq *= 2; });
  add("experts, choices x 2", [](Row& r) { r.model().experts *= 2, r.model().top_k *= 2; });
  return {three_d, sequence, zero, context, experts, all};
}

void measure(Row& row, const Options& o) {
  row.cut.microbatch = row.asked.batch / row.cut.sizes.dp / row.microbatches;
  launch(o.ranks(row.cut.sizes.ranks()), [&](Communicator& world) {
    std::vector<double> times;
    {
      three_d::Config run = plan::run_of(row.asked, row.cut);
      run.training.lr = 1e-4;
      all_axes::compose(run.training);
      Gpt gpt(world, run);
      gpt.step();
      for (int i = 0; i < (o.quick ? 1 : 5); ++i) times.push_back(seconds(world, [&] { gpt.step(); }));
    }
    const plan::ComparedCut found = plan::compare(world, row.asked, row.cut, DType::f32, 1);
    if (world.rank() == 0) row.seconds = median(times), row.found = found;
  });
}

std::string times(double x) { return "x " + number(x); }
std::string mib(double bytes) { return number(bytes / 1048576); }

}  // namespace

void growth(Report& report, const Options& o) {
  double off = 0;
  std::vector<std::string> differ;
  for (Table& table : tables(o)) {
    std::vector<std::vector<std::string>> cells = {{"", "step ms", "", "expected", "state MiB", "expected",
                                                    "activations MiB", "expected", "sent MiB a rank",
                                                    "expected"}};
    for (Row& row : table.rows) {
      measure(row, o);
      const Row& first = table.rows.front();
      const plan::ComparedCut& found = row.found;
      const double ranks = row.cut.sizes.ranks(),
                   bytes = found.state.off + found.activations.off + found.sent.off;
      off += bytes;
      if (!(bytes <= 0)) differ.push_back(row.what);
      cells.push_back({row.what, number(1e3 * row.seconds), times(row.seconds / first.seconds),
                       times(row.work() / first.work())});
      for (const auto& [one, parts] :
           {std::pair{found.state, 1.0}, {found.activations, 1.0}, {found.sent, ranks}})
        cells.back().push_back(mib(one.counted / parts)), cells.back().push_back(mib(one.planned / parts));
    }
    const auto& asked = table.rows.front().asked;
    report.table(format("Growth by {}. Base: {} sequences of {} tokens, width {}, {} layers, one rank; "
                        "memory of rank 0",
                        table.title, asked.batch, asked.model.seq(), asked.model.width(), asked.model.layers),
                 cells);
  }
  report.ratio("growth.bytes_off", {off}, Target{Target::exactly, 0},
               format("how far memory and bytes sent are from the formulas, all rows of growth together{}{}",
                      differ.empty() ? "" : ": ", join(differ, "; ")));
}

void streaming_attention(Report& report, const Options& o) {
  std::vector<std::vector<std::string>> cells = {
      {"seq", "plain ms", "streaming ms", "ratio", "plain keeps MiB", "streaming keeps MiB"}};
  launch(o.ranks(1), [&](Communicator& comm) {
    const std::int64_t heads = 4, width = o.quick ? 32 : 256;
    for (std::int64_t seq = o.quick ? 32 : 256; seq <= (o.quick ? 64 : 4096); seq *= 2) {
      const GptSizes s{.width = width, .heads = heads, .seq = seq};
      const AttentionJob plain_form(s, AttentionOptions::Form::plain, o.dtype()),
          streaming_form(s, AttentionOptions::Form::streaming, o.dtype());
      Device::current()->tf32 = o.tf32;
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
