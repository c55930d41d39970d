// Groups that hand each call on to another group: one that watches, for run.cpp one that forgets the sums,
// and for ../../test_axes.cpp one that spoils what arrives.
#pragma once

#include "lab.hpp"

namespace tessera::labs {

class Relay : public Communicator {
 public:
  explicit Relay(Communicator& of)
      : Communicator(of.rank(), of.size(), of.name(), std::make_shared<Journal>()), of_(of) {}
  std::string transport() const override { return of_.transport(); }

 protected:
  struct Begun : Work {
    Request inner = {};  // a send may wait for a recv that its rank posts later
    void wait() override {
      if (inner.pending()) inner.wait();
    }
    void abandon() override {}
  };
  static std::shared_ptr<Work> done() { return std::make_shared<Begun>(); }
  static void copy(const Tensor& from, const Tensor& to) {
    if (from.raw() != to.raw()) to.copy_from(from.reshape(to.rows(), to.cols()));
  }

  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    return begin(std::make_shared<Begun>(), call, in, out);
  }
  std::shared_ptr<Work> begin(std::shared_ptr<Begun> begun, const Call& call, const Tensor& in,
                              const Tensor& out) {
    if (call.op == OpType::all_reduce) copy(in, out), begun->inner = of_.iall_reduce(out, call.reduce);
    if (call.op == OpType::all_gather) copy(of_.all_gather(in.reshape(1, in.size()), 0), out);
    if (call.op == OpType::reduce_scatter) copy(of_.reduce_scatter(in.reshape(size(), out.size()), 0), out);
    if (call.op == OpType::broadcast) of_.broadcast(out, call.peer);
    if (call.op == OpType::all_to_all) {
      std::vector<std::int64_t> sent, received;
      for (int i = 0; i < size(); ++i) {
        sent.push_back(call.part_sent(i, size()).size());
        received.push_back(call.part_received(i, size()).size());
      }
      copy(of_.all_to_all(in, sent, received), out);
    }
    if (call.op == OpType::barrier) of_.barrier();
    if (call.op == OpType::send) begun->inner = of_.isend(in, call.peer);
    if (call.op == OpType::recv) begun->inner = of_.irecv(out, call.peer);
    return begun;
  }
  std::unique_ptr<Communicator> do_split(const Call&, const std::string&) override { return nullptr; }

  Communicator& of_;
};

/// Counts the sums, sends and receives between whose begin and wait `computed` grows.
class Watched final : public Relay {
 public:
  Watched(Communicator& of, std::function<int()> computed) : Relay(of), computed_(std::move(computed)) {}
  int hidden = 0;

 private:
  struct Counted final : Begun {
    Watched* watched = nullptr;
    int before = 0;
    void wait() override {
      if (inner.pending() && watched->computed_() > before) ++watched->hidden;
      Begun::wait();
    }
  };
  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    auto begun = std::make_shared<Counted>();
    begun->watched = this, begun->before = computed_();
    return begin(std::move(begun), call, in, out);
  }

  std::function<int()> computed_;
};

}  // namespace tessera::labs

using tessera::labs::Watched;
