// Turns, products, and the report.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>

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
  file >> cpu;
  double ticks = 0, value = 0;
  for (const bool busy :
       {true, true, true, false, false, true, true, true})  // neither idle nor waiting for a disk
    if (file >> value && busy) ticks += value;
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

/// Seconds that the cores have been busy with this process and its children.
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

Turns in_turns(Communicator& comm, std::int64_t turns, const Job& a, const Job& b) {
  const auto turn = [&] {
    const double first_a = seconds(comm, a), first_b = seconds(comm, b);
    const double second_b = seconds(comm, b), second_a = seconds(comm, a);
    return std::pair{(first_a + second_a) / 2, (first_b + second_b) / 2};
  };
  Turns all;
  for (const auto& [of_a, of_b] : undisturbed<std::pair<double, double>>(comm, turns, turn))
    all.a.push_back(of_a), all.b.push_back(of_b);
  return all;
}

std::vector<double> Turns::a_over_b() const {
  std::vector<double> ratios;
  std::transform(a.begin(), a.end(), b.begin(), std::back_inserter(ratios), std::divides());
  return ratios;
}

std::string Turns::both() const {
  return format("{} ms and {} ms", number(1e3 * median(a)), number(1e3 * median(b)));
}

Tensor numbers(std::int64_t rows, std::int64_t cols, double scale, DType dtype) {
  return add_bias(Tensor::zeros(rows, cols, dtype),
                  generate(1, "bench", Slice::whole(1, cols), dtype, Fill::uniform, scale));
}

void Products::add(std::int64_t m, std::int64_t n, std::int64_t k, bool ta, bool tb) {
  const auto whole = [&](std::int64_t rows, std::int64_t cols) {
    return Stack{numbers(rows, cols, 1, dtype_), rows, cols};
  };
  const Stack a = ta ? whole(k, m) : whole(m, k), b = tb ? whole(n, k) : whole(k, n);
  all_.push_back({whole(m, n), a, b, ta, tb, 0, 1, 1});
}

void Products::attention(const GptSizes& s) {
  AttentionOptions options;
  options.seq = s.seq;
  const std::int64_t d = s.width / s.heads, step = options.streams() ? attention_tile_keys : s.seq;
  const Tensor in = numbers(s.tokens(), 3 * s.width, 1, dtype_),
               out = numbers(s.tokens(), 3 * s.width, 1, dtype_);
  const Tensor scores = numbers(s.batch * s.heads * s.seq, step, 1, dtype_);
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
  nlohmann::ordered_json& one = json_["ratios"].emplace_back();
  one = {{"name", name}, {"median", median(turns)}, {"min", *least}, {"max", *most}, {"target", nullptr}};
  if (target) {
    one["target"] = target->value;
    one["target_is"] = target->text();
    one["met"] = target->met_by(median(turns));
    failed_ = failed_ || (target->side == Target::exactly && !target->met_by(median(turns)));
  }
  one["what"] = what;
}

void Report::table(const std::string& title, const std::vector<std::vector<std::string>>& rows) {
  json_["tables"].push_back({{"title", title}, {"rows", rows}});
}

std::string Report::text(bool judged) const {
  std::vector<std::vector<std::string>> rows = {{"", "median", "min", "max", "target", ""}};
  std::string out, explained;
  for (const auto& r : json_["ratios"]) {
    auto& row = rows.emplace_back(std::vector{r["name"].get<std::string>()});
    for (const char* key : {"median", "min", "max"}) row.push_back(number(r[key].get<double>()));
    const bool has_target = !r["target"].is_null();
    row.push_back(has_target ? r["target_is"].get<std::string>() + " " + number(r["target"].get<double>())
                             : "");
    const bool judge = has_target && (judged || r["target_is"] == "exactly");
    row.emplace_back(!judge ? "" : r["met"].get<bool>() ? "met" : "MISSED");
    explained += format("  {}: {}\n", row[0], r["what"].get<std::string>());
  }
  if (rows.size() > 1) out = tessera::table(rows, "lrrrrl", 2) + explained;
  for (const auto& t : json_["tables"])
    out += format("\n{}\n{}", t["title"].get<std::string>(),
                  tessera::table(t["rows"], "l" + std::string(t["rows"][0].size() - 1, 'r'), 2));
  return out;
}

}  // namespace tessera::bench
