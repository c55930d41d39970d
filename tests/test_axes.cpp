// Lesson 08: where one axis breaks the combined run, the lesson names it.
#include "08_three_d/harness/proof.hpp"
#include "models.hpp"
#include "support.hpp"
#include "tools/labs/forwarding.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::three_d;

namespace {

using Faulty = std::function<bool(const std::string& group)>;

/// What comes over a faulty group of more than one rank is a hundredth too large.
class Broken final : public Forwarding {
 public:
  Broken(Communicator& inner, Faulty faulty) : Forwarding(inner), faulty_(std::move(faulty)) {}
  Broken(std::unique_ptr<Communicator> inner, Faulty faulty)
      : Forwarding(std::move(inner)), faulty_(std::move(faulty)) {}

 private:
  void spoil(const Tensor& x) const {
    if (size() > 1 && faulty_(name()) && x.dtype() != DType::i32) x.copy_from(scale(x, 1.01));
  }
  Start do_all_reduce(const Call& call, const Key& key, const Tensor& in, const Tensor& out) override {
    auto work = Forwarding::do_all_reduce(call, key, in, out);
    spoil(out);
    return work;
  }
  Start do_recv(const Call& call, const Key&, const Tensor& x) override {
    return start(inner().irecv(x, call.peer), [this, x] { spoil(x); });
  }
  std::unique_ptr<Communicator> around(std::unique_ptr<Communicator> group) const override {
    return std::make_unique<Broken>(std::move(group), faulty_);
  }

  Faulty faulty_;
};

Config small() {
  Config s;
  s.sizes = {2, 2, 2};
  s.training.model = model_of({.vocabulary = 128, .tied = true});
  s.training.microbatches = 2;
  s.batch = 4;
  s.training.model.tokens = 16;
  s.steps = 4;
  s.text =
      gpt::corpus_of("to be or not to be, that is the question: whether it is nobler in the mind to suffer");
  return s;
}

/// What the claim about the losses says where some groups are faulty; "" where it holds.
std::string diagnosis(const Config& s, const Faulty& faulty) {
  std::string found = "no claim";
  on_ranks(s.sizes.ranks(), [&](Communicator& real) {
    Broken world(real, faulty);
    Proof proof(real, {Tier::floating, DType::f64, 3});
    prove(proof, world, s);
    for (const Check& check : proof.finish().checks)
      if (contains(check.identity, "loss of each")) found = check.ok ? "" : check.diagnosis;
  });
  return found;
}

}  // namespace

TEST_CASE("a fault on one axis: the combined run differs, and each axis alone tells which it is") {
  CHECK(diagnosis(small(), [](const std::string&) { return false; }) == "");
  for (const std::string axis : {"tp", "pp", "dp"}) {
    const std::string found =
        diagnosis(small(), [&](const std::string& group) { return group.ends_with(axis); });
    CAPTURE(found);
    CHECK(found.ends_with(": look at " + axis));
    for (const std::string other : {"tp", "pp", "dp"})
      CHECK(contains(found, other + (other == axis ? " is off by " : " holds")));
  }
}

TEST_CASE("two faulty axes are both named, an axis that is not cut never; a fault may lie where axes meet") {
  const auto two = [](const std::string& group) { return group.ends_with("tp") || group.ends_with("dp"); };
  CHECK(diagnosis(small(), two).ends_with(": look at tp and dp"));
  Config s = small();
  s.sizes = {2, 1, 2};
  const std::string found = diagnosis(s, two);
  CHECK(found.ends_with(": look at tp and dp"));
  CHECK(!contains(found, "pp"));
  const auto combined = [](const std::string& group) { return group == "tp"; };  // alone it is tp-alone-tp
  CHECK(contains(diagnosis(small(), combined), "dp holds: the fault is where they meet"));
}
