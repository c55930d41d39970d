// Random programs for a communicator: every rank makes the same calls over nested groups, and a sequential
// model says what each rank must get. With one fault planted in one rank, such a program must end, and the
// message must name the rank, the group and both calls.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "comm_suite.hpp"
#include "tensor/slice.hpp"

namespace tessera::test {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_(seed, "random programs") {}
  /// One of 0, 1, ..., n - 1.
  int below(int n) { return static_cast<int>(random_.bits(drawn_++) % static_cast<std::uint64_t>(n)); }

 private:
  Random random_;
  std::uint64_t drawn_ = 0;
};

/// What may be wrong with one rank's calls.
inline const std::vector<std::string> fault_names = {
    // A call that does not match the others' in its arguments.
    "rows", "shape", "dtype", "dtype of nothing", "reduce", "root", "axis of all_gather",
    "axis of reduce_scatter", "parts of all_to_all", "message shape",
    // One that is not the others' call, or none.
    "other op", "left out", "twice", "other group", "other peer", "throws", "returns", "never waits"};

class RandomProgram {
 public:
  RandomProgram(std::uint64_t seed, int ranks, std::string fault = "")
      : dice_(seed), ranks_(ranks), fault_(std::move(fault)) {
    families_.push_back(world());
    for (int i = 1; i < 5; ++i) families_.push_back(split_of(dice_.below(i), i));
    for (int i = 0; i < 12; ++i) steps_.push_back(random_step());
    simulate();
    if (!fault_.empty()) plant();
  }

  /// Throws where a rank gets something else than the model.
  void run(Communicator& world) const {
    std::vector<std::unique_ptr<Communicator>> made;
    std::vector<Communicator*> groups = {&world};
    const int me = world.rank();
    for (std::size_t i = 1; i < families_.size(); ++i) {
      const Family& family = families_[i];
      Communicator* parent = groups[family.parent];
      made.push_back(parent ? parent->split(family.color[me], family.key[me], family.name) : nullptr);
      groups.push_back(made.back().get());
      expect_eq(groups.back() ? groups.back()->size() : 0, static_cast<int>(family.members[me].size()),
                "size of a group");
    }
    std::vector<std::pair<Request, std::function<void()>>> later;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      if (!fault_.empty() && i == planted_ && groups[family_] && !run_planted(groups)) return;
      if (Communicator* group = groups[steps_[i].family]) run_step(steps_[i], i, me, *group, later);
    }
    // Each rank waits in an order of its own.
    for (std::size_t k = 0; k < later.size(); ++k) {
      auto& [request, check] = later[(k + me) % later.size()];
      request.wait();
      check();
    }
  }

  /// What the message must contain, each element in one of its forms.
  std::vector<std::vector<std::string>> must_say() const {
    const std::string rank = format("rank {}", faulty_);
    std::vector<std::string> theirs;  // the right call, of any other rank
    for (const int member : members_)
      if (member != faulty_)
        for (const char* verb : {" calls ", " waits in "})
          theirs.push_back(format("rank {}{}{}", member, verb, right_.text()));
    const auto ours = [&](const Call& call) {
      return std::vector{format("{} calls {}", rank, call.text()),
                         format("{} waits in {}", rank, call.text())};
    };
    if (fault_ == "left out") return {theirs, {rank}};
    if (fault_ == "twice") return {ours(right_)};
    if (fault_ == "other peer") return {ours(wrong_)};
    if (fault_ == "throws") return {{rank + ": unwell"}};
    if (fault_ == "returns") return {theirs, {rank + " has returned after "}};
    if (fault_ == "never waits") return {{format("{} never waited for its {}", rank, right_.text())}};
    if (fault_ == "other group") return {{rank}, {right_.group, wrong_.group}};
    return {{"the calls do not match: "}, theirs, ours(wrong_)};
  }

 private:
  /// The groups that one split makes: by rank of the world.
  struct Family {
    int parent = -1;
    std::string name;
    std::vector<int> color, key;
    std::vector<std::vector<int>> members;  // in group order; empty where the rank is in no group
  };
  struct Step {
    // The kinds that end in `later` are requests, waited for at the end of the program.
    enum Kind {
      all_reduce,
      maximum,
      all_gather,
      reduce_scatter,
      broadcast,
      shift,
      pair,
      barrier,
      all_to_all,
      all_reduce_later,
      reduce_scatter_later
    };
    Kind kind;
    int family;
    std::int64_t rows, cols;
    DType dtype;
    int axis, number;                          // number: draws the root, the distance, the pair
    std::vector<std::vector<double>> in, out;  // by rank of the world, as the model has them

    /// Part r of n of the larger tensor: all_gather's result, or reduce_scatter's input.
    Slice part(int r, int n) const {
      return axis == 0 ? Slice::rows(n * rows, cols, r, n) : Slice::columns(rows, n * cols, r, n);
    }
    /// How many rows of an all_to_all go from one rank of the group to another.
    std::int64_t count(int from, int to) const { return (number + 3 * from + 5 * to + from * to) % 4; }
    /// The counts of rank me: what it sends, and what it receives.
    std::array<std::vector<std::int64_t>, 2> counts(int me, int n) const {
      std::array<std::vector<std::int64_t>, 2> both;
      for (int r = 0; r < n; ++r) both[0].push_back(count(me, r)), both[1].push_back(count(r, me));
      return both;
    }
    bool later() const { return kind == all_reduce_later || kind == reduce_scatter_later; }
    bool scatters() const { return kind == reduce_scatter || kind == reduce_scatter_later; }
    int root(int n) const { return number % n; }
    int receiver(int n) const { return (root(n) + 1 + number / n % (n - 1)) % n; }
  };

  Family world() const {
    std::vector<int> all(ranks_);
    std::iota(all.begin(), all.end(), 0);
    return {-1, "world", {}, {}, std::vector(ranks_, all)};
  }

  Family split_of(int parent, int number) {
    Family family{parent, format("g{}", number), {}, {}, {}};
    for (int r = 0; r < ranks_; ++r) {
      family.color.push_back(dice_.below(5) == 0 ? -1 : dice_.below(2));
      family.key.push_back(dice_.below(3));
    }
    for (int r = 0; r < ranks_; ++r) {
      auto& members = family.members.emplace_back();
      for (const int member : families_[parent].members[r])
        if (family.color[r] >= 0 && family.color[member] == family.color[r]) members.push_back(member);
      std::stable_sort(members.begin(), members.end(),
                       [&](int a, int b) { return family.key[a] < family.key[b]; });
    }
    return family;
  }

  Step random_step() {
    Step step{};
    step.kind = static_cast<Step::Kind>(dice_.below(fault_.empty() ? 11 : 9));
    step.family = dice_.below(static_cast<int>(families_.size()));
    step.rows = dice_.below(6), step.cols = dice_.below(6);
    step.dtype = std::array{DType::f32, DType::f64, DType::i32}[dice_.below(3)];
    step.axis = step.kind == Step::reduce_scatter_later ? 0 : dice_.below(2);
    step.number = dice_.below(1000);
    return step;
  }

  /// Shape of the input of rank me: reduce_scatter and all_to_all need n parts.
  static std::pair<std::int64_t, std::int64_t> shape_of(const Step& step, int me, int n) {
    if (step.kind == Step::all_to_all) {
      const auto sent = step.counts(me, n)[0];
      return {std::accumulate(sent.begin(), sent.end(), std::int64_t{0}), step.cols};
    }
    if (!step.scatters() || n == 0) return {step.rows, step.cols};
    const Slice part = step.part(0, n);
    return {part.whole_rows, part.whole_cols};
  }

  /// Results go into the ranks' next inputs, so that an error shows in all that follows.
  void simulate() {
    std::vector<int> held(ranks_, 0);
    for (Step& step : steps_) {
      step.in.resize(ranks_), step.out.resize(ranks_);
      const auto& members = families_[step.family].members;
      for (int r = 0; r < ranks_; ++r) {
        const auto [rows, cols] = shape_of(step, place(r, members[r]), static_cast<int>(members[r].size()));
        for (std::int64_t i = 0; i < rows * cols; ++i) step.in[r].push_back(element(r + held[r], i));
      }
      for (int r = 0; r < ranks_; ++r)
        if (!members[r].empty()) step.out[r] = result_of(step, r, members[r]);
      for (int r = 0; r < ranks_; ++r)
        if (!step.later())
          for (const double value : step.out[r])
            held[r] = (31 * held[r] + static_cast<int>(value) + 10000) % 997;
    }
  }

  /// The number of a rank of the world among the members of its group.
  static int place(int rank, const std::vector<int>& members) {
    return static_cast<int>(std::find(members.begin(), members.end(), rank) - members.begin());
  }

  static std::vector<double> result_of(const Step& step, int rank, const std::vector<int>& members) {
    const int n = static_cast<int>(members.size()), me = place(rank, members);
    const auto of = [&](int r) -> const std::vector<double>& { return step.in[members[r]]; };
    if (step.kind == Step::all_to_all) {
      std::vector<double> parts;
      for (int r = 0; r < n; ++r) {
        auto from = of(r).begin();
        for (int to = 0; to < me; ++to) from += step.count(r, to) * step.cols;
        parts.insert(parts.end(), from, from + step.count(r, me) * step.cols);
      }
      return parts;
    }
    std::vector<double> sum = of(0);
    for (int r = 1; r < n; ++r)
      for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] = step.kind == Step::maximum ? std::max(sum[i], of(r)[i]) : sum[i] + of(r)[i];
    const auto larger = [&](const std::vector<double>& values) {
      return Tensor::of(step.part(0, n).whole_rows, step.part(0, n).whole_cols, values);
    };
    if (step.kind == Step::all_gather) {
      const Tensor all = larger(std::vector<double>(n * sum.size()));
      for (int r = 0; r < n; ++r) step.part(r, n).insert(all, Tensor::of(step.rows, step.cols, of(r)));
      return all.values();
    }
    if (step.scatters()) return step.part(me, n).extract(larger(sum)).values();
    if (step.kind == Step::broadcast) return of(step.root(n));
    if (step.kind == Step::shift) return of((me + n - step.number % n) % n);
    if (step.kind == Step::pair) return n > 1 && me == step.receiver(n) ? of(step.root(n)) : of(me);
    return step.kind == Step::barrier ? std::vector<double>() : sum;
  }

  static void run_step(const Step& step, std::size_t number, int rank, Communicator& group,
                       std::vector<std::pair<Request, std::function<void()>>>& later) {
    const int n = group.size(), me = group.rank();
    const auto [rows, cols] = shape_of(step, me, n);
    const Tensor x = Tensor::of(rows, cols, step.in[rank], step.dtype);
    const std::vector<double>& expected = step.out[rank];
    const std::string what =
        format("step {} of kind {} in group {}", number, static_cast<int>(step.kind), group.name());
    if (step.kind == Step::barrier) return group.barrier();
    if (step.later()) {
      const bool scatters = step.scatters();
      const Tensor out = scatters ? Tensor::empty(step.rows, step.cols, step.dtype) : x;
      later.emplace_back(scatters ? group.ireduce_scatter(x, out) : group.iall_reduce(x),
                         [out, expected, what] { require_equal(out, expected, what); });
      return;
    }
    Tensor result = x;
    if (step.kind == Step::all_reduce) result = group.all_reduce(x);
    if (step.kind == Step::maximum) result = group.all_reduce(x, Reduce::max);
    if (step.kind == Step::all_gather) result = group.all_gather(x, step.axis);
    if (step.kind == Step::reduce_scatter) result = group.reduce_scatter(x, step.axis);
    const auto [sent, received] = step.counts(me, n);
    if (step.kind == Step::all_to_all) result = group.all_to_all(x, sent, received);
    if (step.kind == Step::broadcast) group.broadcast(x, step.root(n));
    if (const int by = step.number % n; step.kind == Step::shift && by > 0) {
      result = empty_like(x);
      Request receive = group.irecv(result, (me + n - by) % n), send = group.isend(x, (me + by) % n);
      (rank % 2 == 0 ? receive : send).wait();
      (rank % 2 == 0 ? send : receive).wait();
    }
    if (step.kind == Step::pair && n > 1) {
      if (me == step.root(n)) group.send(x, step.receiver(n));
      if (me == step.receiver(n)) group.recv(result = empty_like(x), step.root(n));
    }
    require_equal(result, expected, what);
  }

  /// Chooses where the fault goes: a group of at least two ranks (three for a wrong peer), and one of them.
  void plant() {
    const int least = fault_ == "other peer" ? 3 : 2;
    family_ = 0;
    for (int tries = 0; tries < 20; ++tries) {
      const int family = dice_.below(static_cast<int>(families_.size()));
      const auto& members = families_[family].members[dice_.below(ranks_)];
      if (std::ssize(members) >= least && (fault_ != "other group" || std::ssize(members) < ranks_)) {
        family_ = family, members_ = members;
        break;
      }
    }
    if (members_.empty()) members_ = families_[0].members[0];
    if (fault_ == "other group" && std::ssize(members_) == ranks_) fault_ = "left out";
    const int n = static_cast<int>(members_.size());
    const int at = dice_.below(n);  // a rank of the group
    faulty_ = members_[at];
    planted_ = dice_.below(static_cast<int>(steps_.size()));
    std::string group;
    for (const int member : members_) group += format("{}{}", group.empty() ? "" : ", ", member);
    group = family_ == 0 ? "world" : format("{} {{{}}}", families_[family_].name, group);

    right_ = {.op = OpType::all_reduce, .rows = 9, .cols = 11};
    group.copy(right_.group, sizeof right_.group - 1);
    wrong_ = right_;
    const auto both = [&](OpType op, int parts) {
      right_.op = wrong_.op = op;
      right_.rows = wrong_.rows = 9 * parts, right_.cols = wrong_.cols = 11 * parts;
      right_.axis = 0, wrong_.axis = 1;
    };
    const auto message = [&](int to) {  // the sender is faulty
      right_.op = OpType::recv, right_.peer = at, wrong_.op = OpType::send, wrong_.peer = to % n;
    };
    const std::map<std::string, std::function<void()>> faulty_calls = {
        {"rows", [&] { wrong_.rows = 10; }},
        {"shape", [&] { std::swap(wrong_.rows, wrong_.cols); }},
        {"dtype", [&] { wrong_.dtype = DType::f64; }},
        {"dtype of nothing", [&] { right_.cols = wrong_.cols = 0, wrong_.dtype = DType::i32; }},
        {"reduce", [&] { wrong_.reduce = Reduce::max; }},
        {"other op", [&] { wrong_.op = OpType::all_gather, wrong_.axis = 0; }},
        {"other group", [&] { std::strcpy(wrong_.group, "world"); }},
        {"root",
         [&] { right_.op = wrong_.op = OpType::broadcast, right_.peer = (at + 1) % n, wrong_.peer = at; }},
        {"axis of all_gather", [&] { both(OpType::all_gather, n); }},
        {"axis of reduce_scatter", [&] { both(OpType::reduce_scatter, n); }},
        {"parts of all_to_all",
         [&] {
           right_.op = OpType::all_to_all, right_.rows = 2 * n;
           const std::vector<std::int64_t> even(n, 2);
           right_.set_parts(at, n, even, even);
           wrong_ = right_;
           wrong_.sent[(at + 1) % n] = 3, wrong_.rows = 2 * n + 1;
         }},
        {"message shape", [&] { message(at + 1), wrong_.rows = 10; }},
        {"other peer", [&] { message(at + 2); }}};
    if (const auto found = faulty_calls.find(fault_); found != faulty_calls.end()) found->second();
    for (Call* call : {&right_, &wrong_})
      if (call->peer >= 0) call->peer_in_world = members_[call->peer];
  }

  static void make(const Call& call, Communicator& group) {
    const Tensor x = Tensor::zeros(call.rows, call.cols, call.dtype);
    if (call.op == OpType::all_reduce) group.all_reduce(x, call.reduce);
    if (call.op == OpType::all_gather) group.all_gather(x, call.axis);
    if (call.op == OpType::reduce_scatter) group.reduce_scatter(x, call.axis);
    if (call.op == OpType::all_to_all)
      group.all_to_all(x, {call.sent, call.sent + call.parts}, {call.received, call.received + call.parts});
    if (call.op == OpType::broadcast) group.broadcast(x, call.peer);
    if (call.op == OpType::send) group.send(x, call.peer);
    if (call.op == OpType::recv) group.recv(x, call.peer);
  }

  /// Makes the planted call, if this rank is in the group. False: the rank is to return.
  bool run_planted(const std::vector<Communicator*>& groups) const {
    Communicator &group = *groups[family_], &world = *groups[0];
    if (families_[family_].members[world.rank()] != members_) return true;  // another group
    const bool message = right_.op == OpType::recv;
    if (world.rank() != faulty_) {
      const int sender =
          (group.rank() + group.size() - 1) % group.size();  // whose message would be for this rank
      if (!message || members_[sender] == faulty_) make(right_, group);
      return true;
    }
    if (fault_ == "throws") throw Error("unwell");
    if (fault_ == "returns") return false;
    if (fault_ == "left out") return true;
    if (fault_ == "never waits") return group.iall_reduce(Tensor::zeros(9, 11, DType::f32)), true;
    if (fault_ == "twice")
      make(right_, group), make(right_, group);
    else if (fault_ == "other group")
      make(right_, world);
    else
      make(wrong_, group);
    return true;
  }

  Dice dice_;
  int ranks_;
  std::string fault_;  // one of `fault_names`, "" for none
  std::vector<Family> families_;
  std::vector<Step> steps_;
  // Where the fault is.
  int family_ = 0, faulty_ = 0;
  std::size_t planted_ = 0;
  std::vector<int> members_;
  Call right_{}, wrong_{};
};

/// Number `number` of the wrong programs; every kind of fault comes up in turn.
inline RandomProgram wrong_program(int number, int ranks) {
  return {1000 + static_cast<std::uint64_t>(number), ranks, fault_names[number % fault_names.size()]};
}

/// What the message lacks; "" where it says all that it must.
inline std::string missing_from(const std::string& message, const RandomProgram& program) {
  for (const auto& forms : program.must_say())
    if (std::none_of(forms.begin(), forms.end(), [&](const auto& form) { return contains(message, form); }))
      return forms.empty() ? "nothing to say" : forms.front();
  return "";
}

}  // namespace tessera::test
