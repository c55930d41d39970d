// Shared by the tests of buckets: sums that are made at the moment of the call.
#pragma once

#include <functional>

#include "comm/communicator.hpp"
#include "ops/ops.hpp"
#include "tensor/error.hpp"

namespace tessera::test {

/// Two equal ranks in one, and sums made at the moment of the call: what a gradient gets later is not in
/// them. On other transports a bucket that is posted too early may well come out right.
class AtOnce final : public Communicator {
 public:
  explicit AtOnce(std::function<void()> at_call = [] {})
      : Communicator(0, 2, "dp", std::make_shared<Journal>()), at_call_(std::move(at_call)) {}
  std::string transport() const override { return "at once"; }

 private:
  struct Done final : Work {
    void wait() override {}
    void abandon() override {}
  };
  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    expect(call.op == OpType::all_reduce && call.reduce == Reduce::sum, "only sums");
    at_call_();
    out.copy_from(add(in, in));
    return std::make_shared<Done>();
  }
  std::unique_ptr<Communicator> do_split(const Call&, const std::string&) override { return {}; }

  std::function<void()> at_call_;
};

}  // namespace tessera::test
