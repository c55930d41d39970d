// Lesson 08: where one axis breaks the combined run, the lesson names it.
#include "08_three_d/harness/proof.hpp"
#include "12_experts/harness/reference.hpp"
#include "13_all_axes/compose.hpp"
#include "models.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::three_d;

namespace {

using Faulty = std::function<bool(const std::string& group, OpType op)>;

/// Passes every call on to another communicator. Where a call is faulty and its group has more than one rank,
/// what it brings is a hundredth too large.
class Broken final : public Communicator {
 public:
  Broken(Communicator& inner, Faulty faulty)
      : Communicator(inner.rank(), inner.size(), inner.name(), std::make_shared<Journal>()),
        inner_(inner),
        faulty_(std::move(faulty)) {}
  Broken(std::unique_ptr<Communicator> inner, const Faulty& faulty) : Broken(*inner, faulty) {
    owned_ = std::move(inner);
  }
  std::string transport() const override { return inner_.transport(); }

 private:
  struct Waiting final : Work {
    Request request;
    std::function<void()> then = [] {};
    void wait() override {
      if (request.pending()) request.wait();
      then();
    }
    void abandon() override {}
  };
  void spoil(const Tensor& x, OpType op) const {
    if (x.size() > 0 && size() > 1 && faulty_(name(), op) && x.dtype() != DType::i32)
      x.copy_from(scale(x, 1.01));
  }
  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    auto work = std::make_shared<Waiting>();
    if (call.op == OpType::all_reduce) {
      out.copy_from(inner_.all_reduce(in, call.reduce));
      spoil(out, call.op);
    } else if (call.op == OpType::reduce_scatter) {
      const Tensor stacked = in.reshape(size(), in.size() / size());
      out.copy_from(inner_.reduce_scatter(stacked, 0).reshape(out.rows(), out.cols()));
      spoil(out, call.op);
    } else if (call.op == OpType::all_to_all) {
      std::vector<std::int64_t> sent, received;
      for (int i = 0; i < size(); ++i) {
        sent.push_back(call.part_sent(i, size()).size());
        received.push_back(call.part_received(i, size()).size());
      }
      out.copy_from(inner_.all_to_all(in, sent, received));
      spoil(out, call.op);
    } else if (call.op == OpType::all_gather) {
      out.copy_from(inner_.all_gather(in.reshape(1, in.size()), 0).reshape(out.rows(), out.cols()));
    } else if (call.op == OpType::broadcast) {
      inner_.broadcast(out, call.peer);
    } else if (call.op == OpType::send) {
      work->request = inner_.isend(in, call.peer);
    } else if (call.op == OpType::recv) {
      work->request = inner_.irecv(out, call.peer);
      work->then = [this, out] { spoil(out, OpType::recv); };
    } else {
      expect(call.op == OpType::barrier, "no call of a trainer");
      inner_.barrier();
    }
    return work;
  }
  std::unique_ptr<Communicator> do_split(const Call& call, const std::string& name) override {
    auto group = inner_.split(call.color, call.key, name);
    if (!group) return group;
    return std::make_unique<Broken>(std::move(group), faulty_);
  }

  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
  Faulty faulty_;
};

Config small() {
  Config s = run_on_text({2, 2, 2}, {.vocabulary = 128, .tied = true}, 4, 2);
  s.steps = 4;
  return s;
}

/// What the claim about the losses says where some groups are faulty; "" where it holds.
std::string diagnosis(const Config& s, const Faulty& faulty) {
  return on_rank_0(s.sizes.ranks(), [&](Communicator& real) {
    std::string found = "no claim";
    Broken world(real, faulty);
    Proof proof(real, {Tier::floating, DType::f64, 3});
    prove(proof, world, s);
    for (const Check& check : proof.finish().checks)
      if (contains(check.identity, "loss of each")) found = check.ok ? "" : check.diagnosis;
    return found;
  });
}

}  // namespace

TEST_CASE("a fault on one axis: the combined run differs, and each axis alone tells which it is") {
  CHECK(diagnosis(small(), [](const std::string&, OpType) { return false; }) == "");
  for (const std::string axis : {"tp", "pp", "dp", "cp"}) {
    Config s = small();
    const std::string third = axis == "cp" ? "cp" : "dp";
    if (axis == "cp") {
      s.sizes = {2, 2, 1, 2}, s.training.microbatches = 4;
      context_parallel::use_in(s.training, 2, gpt::Way::ring, true);
    }
    const std::string found =
        diagnosis(s, [&](const std::string& group, OpType) { return group.ends_with(axis); });
    CAPTURE(found);
    CHECK(found.ends_with(": look at " + axis));
    for (const std::string& other : {std::string("tp"), std::string("pp"), third})
      CHECK(contains(found, other + (other == axis ? " is off by " : " holds")));
  }
}

TEST_CASE(
    "two faulty axes are both named, an axis that is not cut never, and a fault may lie where axes meet") {
  const auto two = [](const std::string& group, OpType) {
    return group.ends_with("tp") || group.ends_with("dp");
  };
  CHECK(diagnosis(small(), two).ends_with(": look at tp and dp"));
  Config s = small();
  s.sizes = {2, 1, 2};
  const std::string found = diagnosis(s, two);
  CHECK(found.ends_with(": look at tp and dp"));
  CHECK(!contains(found, "pp"));
  const auto combined = [](const std::string& group, OpType) {
    return group == "tp";
  };  // where tp runs alone, its group is tp-alone-tp
  CHECK(contains(diagnosis(small(), combined), "dp holds: the fault is where they meet"));
}

TEST_CASE("a fault of what stands on an axis is told from a fault of the axis") {
  struct Fault {
    std::string name, group, stands_on;
    OpType op;
  };
  for (const auto& [name, group, stands_on, op] :
       {Fault{"sequence parallel", "tp", "tp", OpType::reduce_scatter},
        {"ZeRO", "dp", "dp", OpType::reduce_scatter},
        {"ep", "ep", "dp", OpType::all_to_all}}) {
    Config s = small();
    s.sizes = {2, 1, 2};
    gpt::ModelConfig& m = s.training.model;
    if (name == "ep") s.sizes.ep = 2, m.ep = 2, m.experts = 4;
    m.sequence_parallel = name == "sequence parallel", s.training.zero = name == "ZeRO" ? 2 : 0;
    all_axes::compose(s.training);
    if (name == "ep") s.training.parts.reference = experts::reference_step;
    const std::string found = diagnosis(s, [&, of = group, faulty = op](const std::string& one, OpType call) {
      return one.ends_with(of) && call == faulty;
    });
    CAPTURE(found);
    CHECK(found.ends_with(": look at " + name));
    CHECK(contains(found, stands_on + " holds"));
    // The axis itself is broken: then what stands on it is not named.
    const std::string axis = diagnosis(s, [&, of = stands_on](const std::string& one, OpType call) {
      return one.ends_with(of) && (call == OpType::all_reduce || call == OpType::reduce_scatter);
    });
    CAPTURE(axis);
    CHECK(axis.ends_with(": look at " + stands_on));
  }
}
