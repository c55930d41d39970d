// What lesson 12 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "08_three_d/mesh.hpp"
#include "12_experts/harness/reference.hpp"
#include "report/table.hpp"

namespace tessera::experts {

/// What the ranks send: how many rows follows from the choices.
inline void expect_bytes(Proof& proof, const Choices& choices) {
  const Config& c = choices.c;
  const std::int64_t p = choices.ranks, ep = c.ep_of(choices.ranks), groups = p / ep,
                     e = proof.element_bytes(), g = proof.wide_bytes();
  std::int64_t moved = 0;
  for (int rank = 0; rank < p; ++rank) moved += choices.rows_to(rank) - choices.rows(rank, rank);
  const std::int64_t sent = 2 * moved * c.width * e, numbers = (p - groups) * c.experts * 4;
  const std::string rows = format("2 x {} rows x {} W; even: {}", moved, e,
                                  bytes(2 * (ep - 1) * c.tokens * c.top_k * c.width * e / ep));
  proof.expect_traffic("fwd", "all_to_all", "counts, X, Y", 3 * groups, numbers + sent,
                       format("{} + {}", numbers, rows), "ep");
  proof.expect_traffic("bwd", "all_to_all", "dY, dX", 2 * groups, sent, rows, "ep");
  if (c.aux > 0)
    proof.expect_traffic("fwd", "all_reduce", "shares, means", 1, 2 * (p - 1) * 2 * c.experts * g,
                         format("2 (p-1) {} 2 E", g), "dp");
  const std::int64_t router = 2 * (p - 1) * c.width * c.experts * g,
                     all = 2 * (groups - 1) * c.experts * c.of_expert() * g;
  const std::string of_router = format("2 (p-1) {} W E", g),
                    of_all = format("2 (p/ep-1) {} E (2 W F + F + W)", g);
  if (ep == 1)
    return proof.expect_traffic("step", "all_reduce", "router, experts", 2, router + all,
                                of_router + " + " + of_all, "dp");
  proof.expect_traffic("step", "all_reduce", "router", 1, router, of_router, "dp");
  proof.expect_traffic("step", "all_reduce", "experts", ep, all, of_all, "expert_dp");
}

/// What a rank holds after the backward. Of its n tokens: X, Y, dX, dY, probabilities, gates and their
/// gradient. Of its C choices: the expert's output, the gate and two i32. Of the R rows that came: X, dY,
/// what is before and after gelu, the gradient before it, and two i32.
inline void expect_memory(Proof& proof, const Choices& choices, const Choices& unsplit, int rank) {
  const Config& c = choices.c;
  const std::int64_t e = proof.element_bytes(), g = proof.wide_bytes(), w = c.width, one = c.of_expert(),
                     router = w * c.experts, tables = (c.top_k > 1 ? 3 : 2) * g;
  const auto held = [&](const Choices& of, int r) {
    const Range own = c.own(r, of.ranks);
    return own.size() * (4 * w * e + tables * c.experts) + of.count(own, {0, c.experts}) * (w * e + g + 8) +
           of.rows_to(r) * ((2 * w + 3 * c.ffn) * e + 8);
  };
  proof.expect_weights("router, experts", "their gradients", router + c.experts * one,
                       router + c.experts / c.ep_of(choices.ranks) * one, "(W E + E/ep (2 W F + F + W))");
  proof.expect_memory(
      MemoryKind::activation, "activations", held(unsplit, 0), held(choices, rank),
      format("n ({} W + {} E) + C ({} W + {}) + R ({} (2 W + 3 F) + 8)", 4 * e, tables, e, g + 8, e));
}

/// The lesson's run with its checks, as main makes it. Returns the choices.
inline Choices prove(Proof& proof, Communicator& world, const Config& c) {
  const int p = world.size(), rank = world.rank();
  const three_d::Mesh mesh(world, {.dp = p, .ep = c.ep_of(p)});
  const Slice own{c.tokens, c.width, {c.own(rank, p)}, {{0, c.width}}},
      router = Slice::whole(c.width, c.experts);
  const std::int64_t held = c.experts / mesh.sizes.ep;
  const auto here = [&](std::int64_t expert) { return expert / held == mesh.ep->rank(); };
  const Tensor x = proof.input("X", "NW", own), dy = proof.input("dY", "NW", own),
               wr = proof.weight("router.weight", "WE", router, c.router_scale / std::sqrt(double(c.width)));
  const GradientBuffer gradients({wr.size(), held * c.of_expert()}, 1, proof.dtype());
  Experts layer{{wr, c.top_k, c.capacity, c.aux}, {}, mesh.ep.get(), {mesh.dp_cp.get()}};
  const auto slice = [&](const Weight& w, bool mine) {
    return mine ? Slice::whole(w.rows, w.cols) : Slice::nothing_of(w.rows, w.cols);
  };
  for (std::int64_t i = 0; i < c.experts; ++i) {
    std::vector<Tensor> w;  // rank 0 gets to know of every weight, also of those that others have
    for (const Weight& one : c.weights())
      w.push_back(proof.weight(expert_name(i) + one.name, "??", slice(one, here(i)),
                               1 / std::sqrt(double(one.rows))));
    if (here(i)) layer.experts.push_back({w[0], w[1], w[2], w[3]});
  }

  Experts::Saved saved;
  Tensor y, dx;
  in_phase(world, "fwd", [&] { y = layer.forward(x, saved); });
  in_phase(world, "bwd", [&] {
    dx = layer.backward_input(dy, saved);
    layer.backward_weight(saved);
  });
  in_phase(world, "step",
           [&] { sum_gradients(gradients.all(0), gradients.all(1), *mesh.dp_cp, *mesh.expert_dp); });
  proof.measure_memory();

  const CheckScope scope(world);
  proof.result("Y", "NW", "Y  = sum of g_i E_i(X) over the chosen i", y, own);
  proof.result("dX", "NW", "dX = sum of E_i' g_i dY + dZ Wr'", dx, own);
  proof.result("drouter.weight", "WE", "dWr = X' dZ, dg_i = <dY, E_i(X)>", layer.router.dw, router);
  proof.result("aux", "11", "aux = alpha E sum share_i mean_i, over all tokens",
               Tensor::of(1, 1, {saved.router.aux}), Slice::whole(1, 1));
  for (std::int64_t i = 0; i < c.experts; ++i)
    for (const Weight& one : c.weights())
      proof.result("d" + expert_name(i) + one.name, "??", format("d{}{}", expert_name(i), one.name),
                   here(i) ? layer.experts[i % held].*one.gradient : Tensor::empty(0, 0, proof.dtype()),
                   slice(one, here(i)), "dA dc1 dB dc2 of each expert");
  proof.measured_baseline([c, p](const auto& in) {
    LayerReference reference(in, c, p);
    reference.forward(in("X"));
    reference.backward(in("dY"));
    return reference.found;
  });

  const auto whole = [&](const char* name, const Slice& slice) {
    return cast(proof.other_slice(name, slice), arithmetic(proof.dtype()));
  };
  const auto all =
      softmax(matmul(whole("X", Slice::whole(c.tokens, c.width)), whole("router.weight", router))).values();
  const Choices choices(all, c, p);
  expect_bytes(proof, choices);
  proof.record("load.ranks", choices.of_ranks()), proof.record("load.experts", choices.of_experts());
  expect_memory(proof, choices, Choices(all, c, 1), rank);
  return choices;
}

}  // namespace tessera::experts
