// Lesson 08: where one axis breaks the combined run, the lesson names it.
#include "08_three_d/harness/proof.hpp"
#include "12_experts/harness/reference.hpp"
#include "13_all_axes/compose.hpp"
#include "models.hpp"
#include "support.hpp"
#include "tools/labs/relay.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::three_d;

namespace {

using Faulty = std::function<bool(const std::string& group, OpType op)>;

/// Where a call is faulty and its group has more than one rank, what it brings is a hundredth too large.
class Broken final : public labs::Relay {
 public:
  Broken(Communicator& of, Faulty faulty) : Relay(of), faulty_(std::move(faulty)) {}
  Broken(std::unique_ptr<Communicator> of, const Faulty& faulty) : Broken(*of, faulty) {
    own_ = std::move(of);
  }

 private:
  struct Spoiled final : Begun {
    Tensor out;
    void wait() override {
      Begun::wait();
      out.copy_from(scale(out, 1.01));
    }
  };
  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    const bool sums_or_moves = call.op == OpType::all_reduce || call.op == OpType::reduce_scatter ||
                               call.op == OpType::all_to_all || call.op == OpType::recv;
    if (!sums_or_moves || size() == 1 || out.size() == 0 || out.dtype() == DType::i32 ||
        !faulty_(name(), call.op))
      return Relay::do_call(call, in, out);
    auto spoiled = std::make_shared<Spoiled>();
    spoiled->out = out;
    return begin(std::move(spoiled), call, in, out);
  }
  std::unique_ptr<Communicator> do_split(const Call& call, const std::string& name) override {
    auto group = of_.split(call.color, call.key, name);
    return group ? std::make_unique<Broken>(std::move(group), faulty_) : nullptr;
  }

  std::unique_ptr<Communicator> own_;
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
