// Attention in both forms: against plain loops in double, under every mask, with grouped kv heads, dropout,
// views, and lengths that no tile divides. And what the streaming form promises: memory linear in the length,
// and no more time.
#include <algorithm>
#include <array>
#include <chrono>

#include "ops/attention.hpp"
#include "reference.hpp"

using namespace tessera;
using namespace tessera::test;

namespace {

using Form = AttentionOptions::Form;

/// q, k, v and their gradients as columns of fused tensors, and dy.
struct Problem {
  AttentionOptions options;
  Index d;
  DType dtype;
  Tensor qkv, dqkv, dy;

  Problem(const AttentionOptions& o, Index width, DType type, double size = 1)
      : options(o), d(width), dtype(type) {
    const Index tokens = o.batch * o.seq, columns = (o.heads + 2 * o.kv_heads) * d;
    qkv = tensor_of(uniform("qkv", tokens, columns, size), dtype);
    dqkv = tensor_of(filled(tokens, columns, sentinel), dtype);
    dy = tensor_of(uniform("dy", tokens, o.heads * d), dtype);
    if (o.mask == Mask::padding) {
      std::vector<double> lengths;  // the first sequence ends early, the second is whole
      for (Index b = 0; b < o.batch; ++b) lengths.push_back(b % 2 == 0 ? (o.seq + 2) / 3.0 : o.seq);
      options.lengths = ids_of(lengths);
    }
  }
  /// Part 0 to 2: q, k, v.
  Tensor part(const Tensor& fused, int i) const {
    const Index q = options.heads * d, kv = options.kv_heads * d, ends[] = {0, q, q + kv, q + 2 * kv};
    return fused.column_range(ends[i], ends[i + 1]);
  }
  Tensor forward(Form form, AttentionSaved&& saved = {}) { return forward(form, saved); }
  Tensor forward(Form form, AttentionSaved& saved) {
    options.form = form;
    return attention(part(qkv, 0), part(qkv, 1), part(qkv, 2), options, saved);
  }
  void backward(const AttentionSaved& saved) const {
    attention_backward(dy, saved, options, part(dqkv, 0), part(dqkv, 1), part(dqkv, 2));
  }
  /// o, dq, dk, dv.
  std::array<Tensor, 4> all(Form form) {
    AttentionSaved saved;
    dqkv.copy_from(tensor_of(filled(dqkv.rows(), dqkv.cols(), sentinel), dtype));
    const Tensor o = forward(form, saved);
    backward(saved);
    return {o, part(dqkv, 0).copy(), part(dqkv, 1).copy(), part(dqkv, 2).copy()};
  }
};

/// The same by plain loops in double; beside each value the sum of the absolute terms that make it, and the
/// units of round-off that their errors stay below.
struct Reference {
  std::array<Matrix, 4> value, size;  // o, dq, dk, dv
  double units = 0;

  explicit Reference(const Problem& p) {
    const AttentionOptions& o = p.options;
    const Matrix q = elements_of(p.part(p.qkv, 0)), k = elements_of(p.part(p.qkv, 1)),
                 v = elements_of(p.part(p.qkv, 2)), dy = elements_of(p.dy);
    value = size = {filled(q.rows, q.cols, 0), filled(q.rows, q.cols, 0), filled(k.rows, k.cols, 0),
                    filled(k.rows, k.cols, 0)};
    const auto add = [&](int which, Index i, Index j, double term, double magnitude) {
      value[which](i, j) += term;
      size[which](i, j) += magnitude;
    };
    const std::vector<double> lengths =
        o.mask == Mask::padding ? o.lengths.values() : std::vector<double>(o.batch, o.seq);
    const double scale = 1 / std::sqrt(static_cast<double>(p.d));
    double largest = 0;  // scale sum |q||k|
    const Random random(o.seed, "dropout");
    const Index all_heads = o.all_heads > 0 ? o.all_heads : o.heads;
    for (Index b = 0; b < o.batch; ++b)
      for (Index h = 0; h < o.heads; ++h)
        for (Index i = 0; i < o.seq; ++i) {
          const Index row = b * o.seq + i, c = h * p.d, kv = h / (o.heads / o.kv_heads) * p.d;
          const Index end = o.mask == Mask::causal ? i + 1 : static_cast<Index>(lengths[b]);
          std::vector<double> prob(end), kept = prob, dp = prob, dp_size = prob;
          double sum = 0, delta = 0, delta_size = 0;
          for (Index j = 0; j < end; ++j) {
            double score = 0, magnitude = 0;
            for (Index x = 0; x < p.d; ++x) {
              score += scale * q(row, c + x) * k(b * o.seq + j, kv + x);
              magnitude += scale * std::abs(q(row, c + x) * k(b * o.seq + j, kv + x));
            }
            largest = std::max(largest, magnitude);
            sum += prob[j] = std::exp(score);
          }
          for (std::size_t j = 0; j < prob.size(); ++j) {
            prob[j] /= sum;
            const Index global = ((((o.first_batch + b) * all_heads + o.first_head + h) * o.seq) + i) * o.seq;
            const bool drop = random.bits(static_cast<std::uint64_t>(global) + j) < o.dropout * 0x1p32;
            kept[j] = drop ? 0 : 1 / (1 - o.dropout);
            const Index key = b * o.seq + static_cast<Index>(j);
            for (Index x = 0; x < p.d; ++x) {
              const double weight = prob[j] * kept[j], g = dy(row, c + x);
              add(0, row, c + x, weight * v(key, kv + x), weight * std::abs(v(key, kv + x)));
              add(3, key, kv + x, weight * g, weight * std::abs(g));
              dp[j] += kept[j] * g * v(key, kv + x);
              dp_size[j] += kept[j] * std::abs(g * v(key, kv + x));
            }
            delta += prob[j] * dp[j];
            delta_size += prob[j] * dp_size[j];
          }
          for (std::size_t j = 0; j < prob.size(); ++j) {
            const Index key = b * o.seq + static_cast<Index>(j);
            const double ds = scale * prob[j] * (dp[j] - delta);
            const double magnitude = scale * prob[j] * (dp_size[j] + delta_size);
            for (Index x = 0; x < p.d; ++x) {
              add(1, row, c + x, ds * k(key, kv + x), magnitude * std::abs(k(key, kv + x)));
              add(2, key, kv + x, ds * q(row, c + x), magnitude * std::abs(q(row, c + x)));
            }
          }
        }
    // A score is off by (d + 2) u of its absolute terms. exp makes of that, and of the rounding of score -
    // largest or of score - log_sum, a relative error; each tile may scale once more. The sums over keys and
    // over the group's queries add their lengths, at worst; 4 sqrt(n) u is what a sum of n terms comes to.
    const auto terms = [](Index n) { return std::min<double>(n, 4 * std::sqrt(static_cast<double>(n))); };
    const double tiles = static_cast<double>(o.seq) / 64 + 2;
    const double p_units = terms(p.d + 2) * largest + 2 * largest + std::log(static_cast<double>(o.seq)) +
                           4 * tiles + terms(o.seq) + 12;
    units = 2 * p_units + 2 * terms(p.d) + 2 * terms(o.seq * o.heads / o.kv_heads) + 16;
  }

  /// "" where o, dq, dk and dv are right in a dtype of unit round-off u, else the first that is not.
  std::string wrong(const std::array<Tensor, 4>& results, double u) const {
    for (const int k : {0, 1, 2, 3}) {
      const std::string fault = test::wrong(results[k], value[k].rows, value[k].cols, [&](Index i, Index j) {
        return Bounded{value[k](i, j), units * u * size[k](i, j)};
      });
      if (!fault.empty()) return format("{}{}", std::array{"o", "dq", "dk", "dv"}[k], fault);
    }
    return "";
  }
};

constexpr Mask masks[] = {Mask::causal, Mask::none, Mask::padding};
constexpr Form forms[] = {Form::plain, Form::streaming};

/// Each mask, with kv heads for all, for two and for one, without and with dropout.
template <class Body>
void on_every_attention(const std::vector<Index>& lengths, const Body& body) {
  Thin thin;
  for (const Index seq : lengths)
    for (const Mask mask : masks)
      for (const Index kv_heads : {1, 2, 4})
        for (const double rate : {0.0, 0.3}) {
          if (thin.skips()) continue;
          INFO(seq, " tokens, mask ", static_cast<int>(mask), ", ", kv_heads, " kv heads, dropout ", rate);
          AttentionOptions options{.batch = 2, .seq = seq, .heads = 4, .kv_heads = kv_heads, .mask = mask};
          options.dropout = rate, options.seed = 9;
          body(options);
        }
}

}  // namespace

TEST_CASE_ON_EVERY_DEVICE("attention and its gradients against plain loops, in both forms") {
  for (const DType dtype : {DType::f32, DType::f64})
    on_every_attention({1, 5, 197}, [&](const AttentionOptions& options) {  // 197: two tiles
      Problem problem(options, 3, dtype, 2);
      const Reference reference(problem);
      for (const Form form : forms) {
        INFO(name(dtype), form == Form::plain ? ", plain" : ", streaming");
        poison(options.batch * options.seq, options.heads * 3, dtype);
        CHECK(reference.wrong(problem.all(form), unit_roundoff(dtype)) == "");
      }
    });
}

TEST_CASE_ON_EVERY_DEVICE("attention: scores far apart, and one head of unequal width") {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const double size : {1.0, 10.0})  // scores up to 1,000: exp alone would overflow
      for (const Form form : forms) {
        Problem problem({.batch = 1, .seq = thinned > 1 ? 201 : 401, .mask = Mask::none}, 17, dtype, size);
        CHECK(Reference(problem).wrong(problem.all(form), unit_roundoff(dtype)) == "");
      }
}

TEST_CASE_ON_EVERY_DEVICE(
    "attention: lengths and widths around those of tiles, and more sequences than a grid has rows") {
  std::size_t turn = 0;
  for (const auto& [seq, d] :
       {std::pair<Index, Index>{1, 1}, {63, 65}, {64, 33}, {65, 80}, {130, 131}, {97, 64}})
    for (const DType dtype : {DType::f32, DType::f64}) {
      if (thinned > 1 && seq > 65) continue;
      INFO(seq, " tokens, ", d, " columns, ", name(dtype));
      const Mask mask = masks[turn++ % 3];
      Problem problem(
          {.batch = 2, .seq = seq, .heads = 2, .kv_heads = 1, .mask = mask, .dropout = 0.1, .seed = 3}, d,
          dtype, 2);
      const Reference reference(problem);
      poison(2 * seq, 2 * d, dtype);
      const auto results = problem.all(Form::streaming), again = problem.all(Form::streaming);
      CHECK(reference.wrong(results, unit_roundoff(dtype)) == "");
      for (int k = 0; k < 4; ++k) CHECK(results[k].values() == again[k].values());  // bit by bit
    }
  const Index many = thinned > 1 ? 1000 : 66000;  // a token alone attends to itself
  Problem problem({.batch = many, .seq = 1}, 1, DType::f64);
  const auto [o, dq, dk, dv] = problem.all(Form::streaming);
  CHECK(o.values() == problem.part(problem.qkv, 2).values());
  CHECK(dv.values() == problem.dy.values());
  CHECK(dq.values() == std::vector<double>(many, 0));
  Problem none({.batch = 0, .seq = 70}, 8, DType::f32);
  CHECK(none.all(Form::streaming)[0].rows() == 0);
}

TEST_CASE_ON_EVERY_DEVICE("attention: some heads of some sequences drop what the whole drops") {
  for (const Form form : forms) {
    AttentionOptions options{.batch = 3, .seq = 201, .heads = 4, .kv_heads = 4, .dropout = 0.4, .seed = 2};
    Problem whole(options, 2, DType::f64);
    const auto expected = whole.all(form);
    options.batch = 1, options.heads = options.kv_heads = 2;
    options.first_batch = 1, options.first_head = 1, options.all_heads = 4;
    Problem part(options, 2, DType::f64);
    const auto mine = [](const Tensor& t) { return t.row_range(201, 402).column_range(2, 6); };
    for (const int i : {0, 1, 2}) part.part(part.qkv, i).copy_from(mine(whole.part(whole.qkv, i)));
    part.dy.copy_from(mine(whole.dy));
    const auto found = part.all(form);
    for (std::size_t i = 0; i < 4; ++i) {
      const Matrix truth = elements_of(mine(expected[i]));
      CHECK(wrong(found[i], 201, 4, [&](Index r, Index c) { return Bounded{truth(r, c), 1e-13}; }) == "");
    }
  }
}

TEST_CASE_ON_EVERY_DEVICE(
    "attention: automatic streams from 256 tokens on, and on GPUs, and keeps no probabilities then") {
  for (const Index seq : {255, 256}) {
    Problem problem({.seq = seq}, 4, DType::f32);
    AttentionSaved saved;
    problem.forward(Form::automatic, saved);
    const bool streams = seq >= 256 || Device::current()->kind() == DeviceKind::cuda;
    CHECK(saved.p.defined() == !streams);
    CHECK(saved.log_sum.defined() == streams);
    problem.backward(saved);
    for (const double g : problem.dqkv.values()) CHECK(g != sentinel);
  }
}

TEST_CASE_ON_EVERY_DEVICE("attention: NaN is not hidden, and stays in its head") {
  for (const Form form : forms)
    for (const int operand : {0, 1, 2}) {
      Problem problem({.seq = 203, .heads = 2, .kv_heads = 2, .mask = Mask::none}, 3, DType::f32);
      const Tensor x = problem.part(problem.qkv, operand);
      x.row_range(5, 6).column_range(0, 1).copy_from(tensor_of(filled(1, 1, not_a_number), DType::f32));
      const Matrix o = elements_of(problem.forward(form));
      const bool all = operand > 0;  // a key or a value reaches every query, a query only itself
      CHECK(std::isnan(o(5, 0)));
      CHECK(std::isnan(o(202, 0)) == all);
      for (Index i = 0; i < o.rows; ++i) CHECK_FALSE(std::isnan(o(i, 3) + o(i, 4) + o(i, 5)));
    }
}

TEST_CASE_ON_EVERY_DEVICE("attention refuses what does not fit") {
  const Tensor q = Tensor::zeros(10, 12, DType::f32), k = Tensor::zeros(10, 6, DType::f32);
  AttentionSaved saved;
  const AttentionOptions good{.batch = 2, .seq = 5, .heads = 4, .kv_heads = 2};
  const auto refuses = [&](AttentionOptions o, const Tensor& keys, const char* why) {
    CHECK_THROWS_WITH_AS(attention(q, keys, k, o, saved), doctest::Contains(why), Error);
  };
  CHECK_NOTHROW(attention(q, k, k, good, saved));
  refuses(good, q, "q (10, 12) f32, k (10, 12) f32");
  refuses(good, Tensor::zeros(10, 6, DType::f64), "k (10, 6) f64");
  refuses({.batch = 2, .seq = 5, .heads = 4, .kv_heads = 3}, k, "4 heads of queries and 3");
  refuses({.batch = 3, .seq = 5, .heads = 4, .kv_heads = 2}, k, "3 sequences of 5");
  refuses({.batch = 2, .seq = 5, .heads = 4, .kv_heads = 2, .dropout = 1}, k, "dropout of 1");
  AttentionOptions padded = good;
  padded.mask = Mask::padding, padded.lengths = ids_of({1, 2, 3});
  refuses(padded, k, "lengths (3, 1) i32");
}

TEST_CASE("attention: one thread and two give the same bits") {
  const Device::Scope scope(Device::make(DeviceKind::cpu));
  for (const Form form : forms)
    for (const Mask mask : masks) {
      Problem problem({.batch = 2, .seq = 210, .heads = 4, .kv_heads = 2, .mask = mask, .dropout = 0.1}, 8,
                      DType::f32);
      const auto run = [&](int threads) {
        set_math_threads(threads);
        std::vector<std::vector<double>> values;
        for (const Tensor& tensor : problem.all(form)) values.push_back(tensor.values());
        set_math_threads(1);
        return values;
      };
      CHECK(run(1) == run(2));
    }
}

TEST_CASE_ON_EVERY_DEVICE("attention in steady state asks the system for no memory") {
  for (const Form form : forms) {
    Problem problem({.seq = 300, .dropout = 0.1}, 8, DType::f32);
    std::vector<std::int64_t> asked, held;
    for (int step = 0; step < 4; ++step) {
      AttentionSaved saved;
      problem.forward(form, saved);
      problem.backward(saved);
      asked.push_back(Device::current()->system_allocations());
      held.push_back(Device::current()->memory.now());
    }
    CHECK(asked[3] == asked[0]);
    CHECK(held[3] == held[0]);
  }
}

TEST_CASE_ON_EVERY_DEVICE("streaming attention over 4,096 tokens takes at most 8 MiB beside its results") {
  const Index seq = thinned > 1 ? 512 : 4096, d = 64;
  Problem problem({.seq = seq}, d, DType::f32);
  MemoryLedger& memory = Device::current()->memory;
  AttentionSaved saved;
  const std::int64_t before = memory.now();
  memory.reset_peak();
  problem.forward(Form::streaming, saved);
  const std::int64_t kept = memory.now() - before;
  CHECK(kept == saved.o.bytes() + saved.log_sum.bytes());
  CHECK(memory.peak() - before - kept <= 8 << 20);
  memory.reset_peak();
  problem.backward(saved);
  CHECK(memory.peak() - before - kept <= 8 << 20);
  // Twice the tokens take twice the memory.
  const auto beside = [&](Index tokens) {
    Problem other({.seq = tokens}, 8, DType::f32);
    AttentionSaved result;
    other.forward(Form::streaming, result);
    const std::int64_t start = memory.now();
    memory.reset_peak();
    other.backward(result);
    return memory.peak() - start;
  };
  CHECK(beside(1024) == 2 * beside(512));
}

TEST_CASE("streaming attention under a causal mask takes no more than twice plain's time") {
  if (thinned > 1) return skip("a build without a sanitizer: this one measures time");
  const Device::Scope scope(Device::make(DeviceKind::cpu));
  set_math_threads(1);  // more would measure how long they wait for each other where the machine is busy
  Problem problem({.seq = 1024}, 64, DType::f32);
  const auto seconds = [&](Form form) {
    double best = 1e9;
    for (int i = 0; i < 5; ++i) {
      const auto start = std::chrono::steady_clock::now();
      (void)problem.all(form);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  };
  // Sanity alone, the machine may be busy. On a quiet one streaming takes about half.
  CHECK(seconds(Form::streaming) <= 2 * seconds(Form::plain));
}

TEST_CASE(
    "states of a softmax over pieces of the keys merge to that over all, in any order, and none adds "
    "nothing") {
  for (const DType dtype : {DType::f32, DType::f64})
    for (const std::int64_t length : {std::int64_t{0}, std::int64_t{2}, std::int64_t{5}}) {
      AttentionOptions o;
      o.batch = 2, o.seq = 5, o.heads = 4, o.kv_heads = 2;
      o.form = AttentionOptions::Form::streaming;
      const auto made = [&](const char* name, std::int64_t cols) {
        return generate(5, name, Slice::whole(10, cols), dtype, Fill::uniform,
                        40);  // scores beyond exp's range
      };
      const Tensor q = made("q", 12), k = made("k", 6), v = made("v", 6);
      o.mask = Mask::none;
      AttentionSaved all, left, right;
      attention(q, k, v, o, all);
      // Two sets of keys: the tokens before `length`, and those from there on, moved to the front.
      const auto shifted = [&](const Tensor& x) {
        const Tensor y = Tensor::zeros(10, x.cols(), dtype);
        for (std::int64_t b = 0; b < 2; ++b)
          y.row_range(b * 5, b * 5 + 5 - length).copy_from(x.row_range(b * 5 + length, b * 5 + 5));
        return y;
      };
      const auto before = [&](std::int64_t n) {
        o.mask = Mask::padding;
        o.lengths = Tensor::of(2, 1, {static_cast<double>(n), static_cast<double>(n)}, DType::i32);
      };
      before(length), attention(q, k, v, o, left);
      before(5 - length), attention(q, shifted(k), shifted(v), o, right);
      for (const bool swapped : {false, true}) {
        const AttentionSaved &first = swapped ? right : left, &second = swapped ? left : right;
        const Tensor sum = first.o.copy(), log_sum = first.log_sum.copy();
        merge_attention(sum, log_sum, second.o, second.log_sum, o);
        const double u = dtype == DType::f32 ? 1e-6 : 1e-14;
        CHECK(largest_difference(sum, all.o) <= 400 * u);
        CHECK(largest_difference(log_sum, all.log_sum) <= 4000 * u);
      }
      if (length > 0) continue;
      CHECK(left.o.values() == std::vector<double>(10 * 12, 0));
      CHECK(left.log_sum.values() == std::vector<double>(2 * 4 * 5, -INFINITY));
      merge_attention(left.o, left.log_sum, left.o.copy(), left.log_sum.copy(), o);
      CHECK(left.o.values() == std::vector<double>(10 * 12, 0));
    }
}
