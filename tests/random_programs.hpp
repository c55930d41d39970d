// Random programs for a communicator: every rank makes the same calls over nested groups, and a sequential
// model says what each rank must get. With one fault planted in one rank, such a program must end, and the
// message must name the rank, the group and both calls.
#pragma once

#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "comm_suite.hpp"
#include "tensor/random.hpp"

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

enum class Fault {
  none,
  rows,
  shape,
  dtype,
  dtype_of_nothing,
  reduce,
  root,
  axis_of_all_gather,
  axis_of_reduce_scatter,
  other_op,
  left_out,
  twice,
  other_group,
  other_peer,
  message_shape,
  throws,
  returns,
  never_waits
};
inline constexpr int faults = static_cast<int>(Fault::never_waits);  // kinds of them

class RandomProgram {
 public:
  RandomProgram(std::uint64_t seed, int ranks, Fault fault = Fault::none)
      : dice_(seed), ranks_(ranks), fault_(fault) {
    families_.push_back(world());
    for (int i = 1; i < 5; ++i) families_.push_back(split_of(families_[index(dice_.below(i))], i));
    for (int i = 0; i < 12; ++i) steps_.push_back(random_step());
    simulate();
    if (fault != Fault::none) plant();
  }

  /// Throws where a rank gets something else than the model.
  void run(Communicator& world) const {
    std::vector<std::unique_ptr<Communicator>> made;
    std::vector<Communicator*> groups = {&world};
    const int me = world.rank();
    for (std::size_t i = 1; i < families_.size(); ++i) {
      const Family& family = families_[i];
      Communicator* parent = groups[index(family.parent)];
      made.push_back(parent ? parent->split(family.color[index(me)], family.key[index(me)], family.name)
                            : nullptr);
      groups.push_back(made.back().get());
      expect_eq(groups.back() ? groups.back()->size() : 0, static_cast<int>(family.members[index(me)].size()),
                "size of a group");
    }
    std::vector<std::pair<Request, std::function<void()>>> later;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      if (fault_ != Fault::none && i == planted_) {
        if (groups[index(family_)] && !run_planted(groups)) return;
      }
      const Step& step = steps_[i];
      if (Communicator* group = groups[index(step.family)]) run_step(step, i, me, *group, later);
    }
    // Each rank waits in an order of its own.
    for (std::size_t k = 0; k < later.size(); ++k) {
      auto& [request, check] = later[(k + index(me)) % later.size()];
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
    switch (fault_) {
      case Fault::left_out:
        return {theirs, {rank}};
      case Fault::twice:
        return {ours(right_)};
      case Fault::other_peer:
        return {ours(wrong_)};
      case Fault::throws:
        return {{rank + ": unwell"}};
      case Fault::returns:
        return {theirs, {rank + " has returned after "}};
      case Fault::never_waits:
        return {{format("{} never waited for its {}", rank, right_.text())}};
      case Fault::other_group:
        return {{rank}, {right_.group, wrong_.group}};
      default:
        return {{"the calls do not match: "}, theirs, ours(wrong_)};
    }
  }

 private:
  static std::size_t index(int i) { return static_cast<std::size_t>(i); }

  /// The groups that one split makes: by rank of the world.
  struct Family {
    int parent = -1;
    std::string name;
    std::vector<int> color, key;
    std::vector<std::vector<int>> members;  // in group order; empty where the rank is in no group
  };
  struct Step {
    enum Kind {
      all_reduce,
      maximum,
      all_gather,
      reduce_scatter,
      broadcast,
      shift,
      pair,
      barrier,
      later
    } kind;
    int family;
    std::int64_t rows, cols;
    DType dtype;
    int axis, number;                          // number: draws the root, the distance, the pair
    std::vector<std::vector<double>> in, out;  // by rank of the world, as the model has them
  };

  Family world() const {
    Family family{-1, "world", {}, {}, {}};
    std::vector<int> all;
    for (int r = 0; r < ranks_; ++r) all.push_back(r);
    family.members.assign(index(ranks_), all);
    return family;
  }

  Family split_of(const Family& parent, int number) {
    Family family{0, format("g{}", number), {}, {}, {}};
    for (std::size_t i = 0; i < families_.size(); ++i)
      if (&families_[i] == &parent) family.parent = static_cast<int>(i);
    for (int r = 0; r < ranks_; ++r) {
      family.color.push_back(dice_.below(5) == 0 ? -1 : dice_.below(2));
      family.key.push_back(dice_.below(3));
    }
    for (int r = 0; r < ranks_; ++r) {
      std::vector<std::pair<std::pair<int, int>, int>> order;  // (key, rank in the parent), rank in the world
      const auto& around = parent.members[index(r)];
      for (std::size_t i = 0; i < around.size(); ++i)
        if (family.color[index(r)] >= 0 && family.color[index(around[i])] == family.color[index(r)])
          order.push_back({{family.key[index(around[i])], static_cast<int>(i)}, around[i]});
      std::sort(order.begin(), order.end());
      auto& members = family.members.emplace_back();
      for (const auto& [_, member] : order) members.push_back(member);
    }
    return family;
  }

  Step random_step() {
    Step step{};
    step.kind = static_cast<Step::Kind>(dice_.below(fault_ == Fault::none ? 9 : 8));
    step.family = dice_.below(static_cast<int>(families_.size()));
    step.rows = dice_.below(6), step.cols = dice_.below(6);
    step.dtype = std::array{DType::f32, DType::f64, DType::i32}[index(dice_.below(3))];
    step.axis = dice_.below(2);
    step.number = dice_.below(1000);
    return step;
  }

  /// Shape of a rank's input: reduce_scatter needs n parts.
  static std::pair<std::int64_t, std::int64_t> shape_of(const Step& step, int n) {
    const bool parts = step.kind == Step::reduce_scatter;
    return {step.rows * (parts && step.axis == 0 ? n : 1), step.cols * (parts && step.axis == 1 ? n : 1)};
  }

  /// What the ranks hold goes into their next inputs, so that an error would be seen in all that follows.
  void simulate() {
    std::vector<int> held(index(ranks_), 0);
    for (Step& step : steps_) {
      step.in.resize(index(ranks_)), step.out.resize(index(ranks_));
      const auto& members = families_[index(step.family)].members;
      for (int r = 0; r < ranks_; ++r) {
        const auto [rows, cols] = shape_of(step, static_cast<int>(members[index(r)].size()));
        for (std::int64_t i = 0; i < rows * cols; ++i)
          step.in[index(r)].push_back(element(r + held[index(r)], i));
      }
      for (int r = 0; r < ranks_; ++r)
        if (!members[index(r)].empty()) step.out[index(r)] = result_of(step, r, members[index(r)]);
      for (int r = 0; r < ranks_; ++r)
        if (step.kind != Step::later)
          for (const double value : step.out[index(r)])
            held[index(r)] = (31 * held[index(r)] + static_cast<int>(value) + 10000) % 997;
    }
  }

  static std::vector<double> result_of(const Step& step, int rank, const std::vector<int>& members) {
    const int n = static_cast<int>(members.size());
    int me = 0;
    while (members[index(me)] != rank) ++me;
    const auto of = [&](int r) -> const std::vector<double>& { return step.in[index(members[index(r)])]; };
    std::vector<double> sum = of(0);
    for (int r = 1; r < n; ++r)
      for (std::size_t i = 0; i < sum.size(); ++i)
        sum[i] = step.kind == Step::maximum ? std::max(sum[i], of(r)[i]) : sum[i] + of(r)[i];
    std::vector<double> out;
    switch (step.kind) {
      case Step::all_reduce:
      case Step::maximum:
      case Step::later:
        return sum;
      case Step::all_gather:
        for (std::int64_t i = 0; i < n * step.rows * step.cols; ++i) {
          const std::int64_t row = i / (step.axis == 1 ? n * step.cols : step.cols),
                             col = i % (step.axis == 1 ? n * step.cols : step.cols);
          const int from = static_cast<int>(step.axis == 0 ? row / step.rows : col / step.cols);
          const std::int64_t at =
              step.axis == 0 ? row % step.rows * step.cols + col : row * step.cols + col % step.cols;
          out.push_back(of(from)[static_cast<std::size_t>(at)]);
        }
        return out;
      case Step::reduce_scatter:
        for (std::int64_t i = 0; i < step.rows * step.cols; ++i) {
          const std::int64_t row = i / step.cols + (step.axis == 0 ? me * step.rows : 0),
                             col = i % step.cols + (step.axis == 1 ? me * step.cols : 0);
          out.push_back(
              sum[static_cast<std::size_t>(row * (step.axis == 1 ? n * step.cols : step.cols) + col)]);
        }
        return out;
      case Step::broadcast:
        return of(step.number % n);
      case Step::shift:
        return of((me + n - step.number % n) % n);
      case Step::pair:
        return n > 1 && me == receiver(step, n) ? of(step.number % n) : of(me);
      case Step::barrier:
        return {};
    }
    return out;
  }
  static int receiver(const Step& step, int n) {
    return (step.number % n + 1 + step.number / n % (n - 1)) % n;
  }

  static void run_step(const Step& step, std::size_t number, int rank, Communicator& group,
                       std::vector<std::pair<Request, std::function<void()>>>& later) {
    const int n = group.size(), me = group.rank();
    const auto [rows, cols] = shape_of(step, n);
    const Tensor x = Tensor::of(rows, cols, step.in[index(rank)], step.dtype);
    const std::vector<double>& expected = step.out[index(rank)];
    const std::string what =
        format("step {} of kind {} in group {}", number, static_cast<int>(step.kind), group.name());
    Tensor result = x;
    switch (step.kind) {
      case Step::all_reduce:
        result = group.all_reduce(x);
        break;
      case Step::maximum:
        result = group.all_reduce(x, Reduce::max);
        break;
      case Step::all_gather:
        result = group.all_gather(x, step.axis);
        break;
      case Step::reduce_scatter:
        result = group.reduce_scatter(x, step.axis);
        break;
      case Step::broadcast:
        group.broadcast(x, step.number % n);
        break;
      case Step::barrier:
        return group.barrier();
      case Step::later:
        later.emplace_back(group.iall_reduce(x), [x, expected, what] { require_equal(x, expected, what); });
        return;
      case Step::shift: {
        const int by = step.number % n;
        if (by == 0) break;
        result = empty_like(x);
        Request receive = group.irecv(result, (me + n - by) % n), send = group.isend(x, (me + by) % n);
        if (rank % 2 == 0)
          receive.wait(), send.wait();
        else
          send.wait(), receive.wait();
        break;
      }
      case Step::pair:
        if (n > 1 && me == step.number % n) group.send(x, receiver(step, n));
        if (n > 1 && me == receiver(step, n)) group.recv(result = empty_like(x), step.number % n);
        break;
    }
    require_equal(result, expected, what);
  }

  /// Chooses where the fault goes: a group of at least two ranks (three for a wrong peer), and one of them.
  void plant() {
    const std::size_t least = fault_ == Fault::other_peer ? 3 : 2;
    family_ = 0;
    for (int tries = 0; tries < 20; ++tries) {
      const int family = dice_.below(static_cast<int>(families_.size()));
      const auto& members = families_[index(family)].members[index(dice_.below(ranks_))];
      if (members.size() >= least && (fault_ != Fault::other_group || members.size() < index(ranks_))) {
        family_ = family, members_ = members;
        break;
      }
    }
    if (members_.empty()) members_ = families_[0].members[0];
    if (fault_ == Fault::other_group && members_.size() == index(ranks_)) fault_ = Fault::left_out;
    const int n = static_cast<int>(members_.size());
    const int at = dice_.below(n), other = (at + 1) % n;  // ranks of the group
    faulty_ = members_[index(at)];
    planted_ = index(dice_.below(static_cast<int>(steps_.size())));
    std::string group;
    for (const int member : members_) group += format("{}{}", group.empty() ? "" : ", ", member);
    group = family_ == 0 ? "world" : format("{} {{{}}}", families_[index(family_)].name, group);

    right_ = {.op = OpType::all_reduce, .rows = 9, .cols = 11};
    group.copy(right_.group, sizeof right_.group - 1);
    wrong_ = right_;
    switch (fault_) {
      case Fault::rows:
        wrong_.rows = 10;
        break;
      case Fault::shape:
        std::swap(wrong_.rows, wrong_.cols);
        break;
      case Fault::dtype:
        wrong_.dtype = DType::f64;
        break;
      case Fault::dtype_of_nothing:
        right_.cols = wrong_.cols = 0, wrong_.dtype = DType::i32;
        break;
      case Fault::reduce:
        wrong_.reduce = Reduce::max;
        break;
      case Fault::other_op:
        wrong_.op = OpType::all_gather, wrong_.axis = 0;
        break;
      case Fault::other_group:
        std::strcpy(wrong_.group, "world");
        break;
      case Fault::root:
        right_.op = wrong_.op = OpType::broadcast;
        right_.peer = other, wrong_.peer = at;
        break;
      case Fault::axis_of_all_gather:
      case Fault::axis_of_reduce_scatter:
        right_.op = wrong_.op =
            fault_ == Fault::axis_of_all_gather ? OpType::all_gather : OpType::reduce_scatter;
        right_.rows = wrong_.rows = 9 * n, right_.cols = wrong_.cols = 11 * n;
        right_.axis = 0, wrong_.axis = 1;
        break;
      case Fault::message_shape:  // the sender is faulty
        right_.op = OpType::recv, right_.peer = at, wrong_.op = OpType::send, wrong_.peer = other,
        wrong_.rows = 10;
        break;
      case Fault::other_peer:
        right_.op = OpType::recv, right_.peer = at, wrong_.op = OpType::send, wrong_.peer = (at + 2) % n;
        break;
      default:
        break;
    }
    for (Call* call : {&right_, &wrong_})
      if (call->peer >= 0) call->peer_in_world = members_[index(call->peer)];
  }

  static void make(const Call& call, Communicator& group) {
    const Tensor x = Tensor::zeros(call.rows, call.cols, call.dtype);
    if (call.op == OpType::all_reduce) group.all_reduce(x, call.reduce);
    if (call.op == OpType::all_gather) group.all_gather(x, call.axis);
    if (call.op == OpType::reduce_scatter) group.reduce_scatter(x, call.axis);
    if (call.op == OpType::broadcast) group.broadcast(x, call.peer);
    if (call.op == OpType::send) group.send(x, call.peer);
    if (call.op == OpType::recv) group.recv(x, call.peer);
  }

  /// The planted call. False: the rank returns.
  bool run_planted(const std::vector<Communicator*>& groups) const {
    Communicator &group = *groups[index(family_)], &world = *groups[0];
    if (families_[index(family_)].members[index(world.rank())] != members_) return true;  // another group
    const bool message = right_.op == OpType::recv;
    if (world.rank() != faulty_) {
      const int sender =
          (group.rank() + group.size() - 1) % group.size();  // whose message would be for this rank
      if (!message || members_[index(sender)] == faulty_) make(right_, group);
      return true;
    }
    switch (fault_) {
      case Fault::left_out:
        return true;
      case Fault::twice:
        make(right_, group), make(right_, group);
        return true;
      case Fault::other_group:
        make(right_, world);
        return true;
      case Fault::throws:
        throw Error("unwell");
      case Fault::returns:
        return false;
      case Fault::never_waits:
        group.iall_reduce(Tensor::zeros(9, 11, DType::f32));
        return true;
      default:
        make(wrong_, group);
        return true;
    }
  }

  Dice dice_;
  int ranks_;
  Fault fault_;
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
  return {1000 + static_cast<std::uint64_t>(number), ranks, static_cast<Fault>(1 + number % faults)};
}

/// What the message lacks; "" where it says all that it must.
inline std::string missing_from(const std::string& message, const RandomProgram& program) {
  for (const auto& forms : program.must_say())
    if (std::none_of(forms.begin(), forms.end(),
                     [&](const auto& form) { return message.find(form) != std::string::npos; }))
      return forms.empty() ? "nothing to say" : forms.front();
  return "";
}

}  // namespace tessera::test
