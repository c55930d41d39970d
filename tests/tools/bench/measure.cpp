// Turns, products, and the report.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>

#include "bench.hpp"
#include "ops/attention.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"
#include "tensor/slice.hpp"

namespace tessera::bench {

LaunchOptions Options::ranks(int n) const {
  LaunchOptions options;
  options.ranks = n;
  options.device = device;
  return options;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n == 0 ? 0 : (values[n / 2] + values[(n - 1) / 2]) / 2;
}

double seconds(Communicator& comm, const Job& job) {
  Device& device = *Device::current();
  device.synchronize();
  comm.barrier();
  const auto begin = std::chrono::steady_clock::now();
  job();
  device.synchronize();
  comm.barrier();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Seconds that all cores have been busy, the hypervisor's share included; 0 where /proc does not say.
double busy_seconds() {
  std::ifstream file("/proc/stat");
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, waiting = 0, interrupts = 0, soft = 0, stolen = 0;
  file >> cpu >> user >> nice >> system >> idle >> waiting >> interrupts >> soft >> stolen;
  return (user + nice + system + interrupts + soft + stolen) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double own_seconds() {
  double seconds = 0;
  for (const auto whose : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage used{};
    getrusage(whose, &used);
    for (const timeval& t : {used.ru_utime, used.ru_stime})
      seconds += static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  }
  return seconds;
}

}  // namespace

Others::Others() : busy_(busy_seconds()), own_(own_seconds()), began_(now()) {}

double Others::share() const {
  const double others = busy_seconds() - busy_ - (own_seconds() - own_);
  const double tick = 2.0 / static_cast<double>(sysconf(_SC_CLK_TCK));  // the kernel counts in whole ticks
  return (others - tick) / ((now() - began_) * static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN)));
}

bool is_disturbed(Communicator& comm, const Others& others) {
  const Tensor answer = Tensor::of(1, 1, {others.share() > 0.1 ? 1.0 : 0.0}, DType::i32);
  comm.broadcast(answer, 0);
  return answer.values()[0] != 0;
}

std::vector<Turn> in_turns(Communicator& comm, std::int64_t turns, const Job& a, const Job& b) {
  return undisturbed<Turn>(comm, turns, [&] {
    const double first_a = seconds(comm, a), first_b = seconds(comm, b);
    const double second_b = seconds(comm, b), second_a = seconds(comm, a);
    return Turn{(first_a + second_a) / 2, (first_b + second_b) / 2};
  });
}

std::string both(const std::vector<Turn>& turns) {
  std::vector<double> a, b;
  for (const Turn& turn : turns) a.push_back(1e3 * turn.a), b.push_back(1e3 * turn.b);
  return format("{} ms and {} ms", number(median(a)), number(median(b)));
}

std::vector<double> a_over_b(const std::vector<Turn>& turns) {
  std::vector<double> ratios;
  for (const Turn& turn : turns) ratios.push_back(turn.a / turn.b);
  return ratios;
}

std::vector<double> b_over_a(const std::vector<Turn>& turns) {
  std::vector<double> ratios;
  for (const Turn& turn : turns) ratios.push_back(turn.b / turn.a);
  return ratios;
}

Tensor numbers(std::int64_t rows, std::int64_t cols, double scale) {
  return add_bias(Tensor::zeros(rows, cols, DType::f32),
                  generate(1, "bench", Slice::whole(1, cols), DType::f32, Fill::uniform, scale));
}

void Products::add(std::int64_t m, std::int64_t n, std::int64_t k, bool ta, bool tb) {
  const auto whole = [](std::int64_t rows, std::int64_t cols) {
    return Stack{numbers(rows, cols), rows, cols};
  };
  const Stack a = ta ? whole(k, m) : whole(m, k), b = tb ? whole(n, k) : whole(k, n);
  all_.push_back({whole(m, n), a, b, ta, tb, 0, 1, 1});
}

void Products::attention(const GptSizes& s) {
  AttentionOptions options;
  options.seq = s.seq;
  const std::int64_t d = s.width / s.heads, step = options.streams() ? attention_tile_keys : s.seq;
  const Tensor in = numbers(s.tokens(), 3 * s.width), out = numbers(s.tokens(), 3 * s.width);
  const Tensor scores = numbers(s.batch * s.heads * s.seq, step);
  for (std::int64_t first = 0; first < s.seq;
       first += step) {  // a causal tile: queries from its first key on
    const std::int64_t keys = std::min(step, s.seq - first), queries = s.seq - first;
    const auto heads_of = [&](const Tensor& x, std::int64_t rows) {
      return Stack{x, rows, d, 0, s.seq * x.ld(), d};
    };
    const Stack p{scores, queries, keys, 0, s.heads * s.seq * step, s.seq * step};
    const Stack q = heads_of(in, queries), k = heads_of(in, keys);
    const auto take = [&](const Stack& c, const Stack& a, bool ta, const Stack& b, bool tb, bool onto) {
      all_.push_back({c, a, b, ta, tb, onto ? 1.0 : 0.0, s.batch, s.heads});
    };
    for (int i = 0; i < (options.streams() ? 3 : 2); ++i)  // scores, dp, and the scores again
      take(p, q, false, k, true, false);
    for (int i = 0; i < 2; ++i) {
      take(heads_of(out, queries), p, false, k, false, first > 0);  // o, dq
      take(heads_of(out, keys), p, true, q, false, false);          // dv, dk
    }
  }
}

void Products::run() const {
  for (const One& one : all_)
    kernels_of(one.c.of).gemm(one.c, one.beta, one.a, one.ta, one.b, one.tb, one.outer, one.inner);
}

void Report::ratio(const std::string& name, std::vector<double> turns, std::optional<Target> target,
                   const std::string& what) {
  const auto [least, most] = std::minmax_element(turns.begin(), turns.end());
  ratios_.push_back({name, what, median(turns), *least, *most, target});
}

void Report::table(const std::string& title, const std::vector<std::vector<std::string>>& rows) {
  tables_.push_back({title, rows});
}

std::string Report::text(bool judged) const {
  std::string out;
  if (!ratios_.empty()) {
    std::vector<std::vector<std::string>> rows = {{"", "median", "min", "max", "target", ""}};
    for (const Ratio& r : ratios_) {
      const std::string side = !r.target ? "" : r.target->side == Target::at_most ? "<= " : ">= ";
      const std::string verdict = !judged || !r.target ? "" : r.target->met_by(r.median) ? "met" : "MISSED";
      rows.push_back({r.name, number(r.median), number(r.min), number(r.max),
                      r.target ? side + number(r.target->value) : "", verdict});
    }
    out += tessera::table(rows, "lrrrrl", 2);
    for (const Ratio& r : ratios_) out += format("  {}: {}\n", r.name, r.what);
  }
  for (const Table& t : tables_)
    out += "\n" + t.title + "\n" + tessera::table(t.rows, "l" + std::string(t.rows[0].size() - 1, 'r'), 2);
  return out;
}

nlohmann::ordered_json Report::json() const {
  nlohmann::ordered_json json = {{"ratios", nlohmann::ordered_json::array()},
                                 {"tables", nlohmann::ordered_json::array()}};
  for (const Ratio& r : ratios_) {
    nlohmann::ordered_json one = {
        {"name", r.name}, {"median", r.median}, {"min", r.min}, {"max", r.max}, {"target", nullptr}};
    if (r.target) {
      one["target"] = r.target->value;
      one["target_is"] = r.target->side == Target::at_most ? "at most" : "at least";
      one["met"] = r.target->met_by(r.median);
    }
    one["what"] = r.what;
    json["ratios"].push_back(one);
  }
  for (const Table& t : tables_) json["tables"].push_back({{"title", t.title}, {"rows", t.rows}});
  return json;
}

}  // namespace tessera::bench
