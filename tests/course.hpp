// Everything in the course that claims an identity, as one list: the suite sweeps it, ./tessera verify prints
// it.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "identities/identities.hpp"

namespace tessera {

struct Claim {
  std::string name;  // "02 column split"
  std::function<void(Proof&, Communicator&, const identities::MatrixSizes&)> prove;
  std::vector<Tier> tiers = {Tier::exact, Tier::floating};
};

/// Shapes are (tokens, width, ffn), and the ranks divide each.
std::vector<Claim> course();

/// MatrixSizes number `index` of a sweep: rectangular, all sides unequal in general, multiples of p.
inline identities::MatrixSizes sweep_shape(int index, int p) {
  const Random random(20, "shapes");
  const auto side = [&](int which, unsigned most) {
    return p *
           static_cast<std::int64_t>(1 + random.bits(static_cast<std::uint64_t>(3 * index + which)) % most);
  };
  return index == 0 ? identities::MatrixSizes{p, p, p, 0}
                    : identities::MatrixSizes{side(0, 11), side(1, 17), side(2, 23), index};
}

}  // namespace tessera
