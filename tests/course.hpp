// Everything in the course that claims an identity, as one list: the suite sweeps it, ./tessera verify prints
// it.
#pragma once

#include "01_mlp/proof.hpp"
#include "02_column_split/proof.hpp"
#include "03_row_split/proof.hpp"
#include "04_mlp_block/proof.hpp"
#include "identities/identities.hpp"

namespace tessera {

struct Claim {
  std::string name;  // "02 column split"
  std::function<void(Proof&, Communicator&, const identities::Shape&)> prove;
};

/// Shapes are (tokens, width, ffn), and the ranks divide each.
inline std::vector<Claim> course() {
  using identities::Shape;
  std::vector<Claim> claims;
  for (const auto& identity : identities::all())
    claims.push_back({"identity: " + identity.name, identity.prove});
  claims.push_back({"01 MLP, on each rank", [](Proof& proof, Communicator&, const Shape& s) {
                      mlp::prove(proof, {s.n, s.k, s.m});
                    }});
  claims.push_back({"02 column split", [](Proof& proof, Communicator& comm, const Shape& s) {
                      column_split::prove(proof, comm, {s.n, s.k, s.m});
                    }});
  claims.push_back({"03 row split", [](Proof& proof, Communicator& comm, const Shape& s) {
                      row_split::prove(proof, comm, {s.n, s.k, s.m});
                    }});
  for (const auto& [name, f] : {std::pair{"04 MLP block, gelu", mlp_block::Activation::gelu},
                                {"04 MLP block, relu", mlp_block::Activation::relu}})
    claims.push_back({name, [f = f](Proof& proof, Communicator& comm, const Shape& s) {
                        mlp_block::prove(proof, comm, {s.n, s.k, s.m}, f);
                      }});
  return claims;
}

/// Shape number `index` of a sweep: rectangular, all sides unequal in general, multiples of p.
inline identities::Shape sweep_shape(int index, int p) {
  const Random random(20, "shapes");
  const auto side = [&](int which, unsigned most) {
    return p *
           static_cast<std::int64_t>(1 + random.bits(static_cast<std::uint64_t>(3 * index + which)) % most);
  };
  return index == 0 ? identities::Shape{p, p, p} : identities::Shape{side(0, 11), side(1, 17), side(2, 23)};
}

}  // namespace tessera
