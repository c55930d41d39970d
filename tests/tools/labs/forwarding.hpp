// A communicator around another one, for what falsifies a call: a mistake that is made on purpose.
#pragma once

#include <functional>

#include "comm/communicator.hpp"

namespace tessera {

/// Hands every call to the communicator that it is around. A derived class overrides what it falsifies.
class Forwarding : public Communicator {
 public:
  explicit Forwarding(Communicator& inner) : Forwarding(inner, inner.size()) {}
  explicit Forwarding(std::unique_ptr<Communicator> inner) : Forwarding(*inner) { owned_ = std::move(inner); }
  std::string transport() const override { return inner_.transport(); }

 protected:
  using Start = std::unique_ptr<Work>;
  using Key = TrafficKey;
  Forwarding(Communicator& inner, int size)
      : Communicator(inner.rank(), size, inner.name(), std::make_shared<Journal>()), inner_(inner) {}
  Communicator& inner() const { return inner_; }

  /// Waits for `request`, where there is one, and then calls `after`.
  static Start start(
      Request request = {}, std::function<void()> after = [] {}) {
    struct Waiting final : Work {
      Request request;
      std::function<void()> after;
      void wait() override {
        if (request.pending()) request.wait();
        after();
      }
      void abandon() override {}
    };
    auto work = std::make_unique<Waiting>();
    work->request = std::move(request);
    work->after = std::move(after);
    return work;
  }
  /// The same around a group of the inner one.
  virtual std::unique_ptr<Communicator> around(std::unique_ptr<Communicator> group) const = 0;

  Start do_all_reduce(const Call& call, const Key&, const Tensor& in, const Tensor& out) override {
    return copied(inner_.all_reduce(in, call.reduce), out);
  }
  Start do_all_gather(const Call&, const Key&, const Tensor& in, const Tensor& out) override {
    return copied(inner_.all_gather(in.reshape(1, in.size()), 0), out);
  }
  Start do_reduce_scatter(const Call&, const Key&, const Tensor& in, const Tensor& out) override {
    return copied(inner_.reduce_scatter(in.reshape(size(), out.size()), 0), out);
  }
  Start do_broadcast(const Call& call, const Key&, const Tensor& x) override {
    inner_.broadcast(x, call.peer);
    return start();
  }
  Start do_send(const Call& call, const Key&, const Tensor& x) override {
    return start(inner_.isend(x, call.peer));
  }
  Start do_recv(const Call& call, const Key&, const Tensor& x) override {
    return start(inner_.irecv(x, call.peer));
  }
  Start do_barrier(const Call&) override {
    inner_.barrier();
    return start();
  }
  std::unique_ptr<Communicator> do_split(const Call&, int color, int key, const std::string& name) override {
    auto group = inner_.split(color, key, name);
    return group ? around(std::move(group)) : nullptr;
  }

  /// A call that is done: its result is in `out`, whose shape may be another one.
  static Start copied(const Tensor& result, const Tensor& out) {
    out.copy_from(result.reshape(out.rows(), out.cols()));
    return start();
  }

 private:
  std::unique_ptr<Communicator> owned_;
  Communicator& inner_;
};

}  // namespace tessera
