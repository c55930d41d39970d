// What lesson 12 claims, and how it is checked: used by its main, by the tests and by ./tessera verify.
#pragma once

#include "08_three_d/mesh.hpp"
#include "12_experts/harness/reference.hpp"
#include "report/table.hpp"

namespace tessera::experts {

/// The layer with this rank's experts; its gradients lie in `gradients`, the router's and then the experts'.
inline Experts build_layer(Proof& proof, const Config& c, const three_d::Mesh& mesh) {
  const double scale = 1 / std::sqrt(double(c.width));
  const Slice router = Slice::whole(c.width, c.experts);
  Experts layer{.router = {proof.weight("router.weight", "WE", router, c.router_scale * scale), c.top_k,
                           c.capacity, c.aux},
                .experts = {},
                .ep = mesh.ep.get(),
                .batch = mesh.dp_cp.get()};
  for (std::int64_t i = 0; i < c.experts; ++i) {
    const auto weight = [&](const char* name, const char* axes, std::int64_t rows, std::int64_t cols,
                            double size) {
      const bool here = owner(i, c, mesh.sizes.ep) == mesh.ep->rank();  // rank 0 gets to know of every weight
      return proof.weight(expert_name(i) + name, axes,
                          here ? Slice::whole(rows, cols) : Slice::nothing_of(rows, cols), size);
    };
    const Tensor a = weight("c_fc.weight", "WF", c.width, c.ffn, scale),
                 c1 = weight("c_fc.bias", "1F", 1, c.ffn, 1),
                 b = weight("c_proj.weight", "FW", c.ffn, c.width, scale / 2),
                 c2 = weight("c_proj.bias", "1W", 1, c.width, 1);
    if (a.size() > 0) layer.experts.push_back({a, c1, b, c2});
  }
  return layer;
}

/// What the ranks send: rows as many as the choices make, whose counts every rank knows after the routing.
inline void expect_bytes(Proof& proof, const Config& c, const three_d::Mesh& mesh, const Table& rows) {
  const std::int64_t p = proof.ranks(), ep = mesh.sizes.ep, groups = p / ep, e = proof.element_bytes(),
                     g = proof.wide_bytes();
  std::int64_t moved = 0;
  for (int from = 0; from < p; ++from)
    for (int to = 0; to < p; ++to) moved += from == to ? 0 : rows[from][to];
  const std::int64_t sent = 2 * moved * c.width * e, numbers = groups * (ep - 1) * c.experts * 4;
  const std::string even = bytes(2 * (ep - 1) * c.tokens * c.top_k * c.width * e / ep);
  proof.expect_traffic("fwd", "all_to_all", "counts, X, Y", 3 * groups, numbers + sent,
                       format("{} + 2 x {} rows x {} W; even: {}", numbers, moved, e, even), "ep");
  proof.expect_traffic("bwd", "all_to_all", "dY, dX", 2 * groups, sent,
                       format("2 x {} rows x {} W; even: {}", moved, e, even), "ep");
  if (c.aux > 0)
    proof.expect_traffic("fwd", "all_reduce", "f, P", 1, 2 * (p - 1) * 2 * c.experts * g,
                         format("2 (p-1) {} 2 E", g), "dp");
  const std::int64_t router = 2 * (p - 1) * c.width * c.experts * g,
                     of_experts = 2 * (groups - 1) * c.experts * c.of_expert() * g;
  const std::string router_formula = format("2 (p-1) {} W E", g),
                    formula = format("2 (p/ep-1) {} E (2 W F + F + W)", g);
  if (ep == 1)
    proof.expect_traffic("step", "all_reduce", "router, experts", 2, router + of_experts,
                         router_formula + " + " + formula, "dp");
  else
    proof.expect_traffic("step", "all_reduce", "router", 1, router, router_formula, "dp"),
        proof.expect_traffic("step", "all_reduce", "experts", ep, of_experts, formula, "expert_dp");
}

/// What a rank holds after the backward: X Y dX dY of its n tokens; probabilities, gates and their gradient;
/// of its m choices the experts' output, the gate and two numbers; and of the R rows that came X dY, before
/// and after gelu, the gradient before it, and two numbers.
inline void expect_memory(Proof& proof, const Config& c, const three_d::Mesh& mesh, const Choices& choices,
                          const Choices& unsplit, const Table& rows) {
  const std::int64_t e = proof.element_bytes(), g = proof.wide_bytes(), w = c.width, one = c.of_expert(),
                     router = w * c.experts;
  const auto held = [&](std::int64_t n, std::int64_t m, std::int64_t r) {
    return n * (4 * w * e + (c.top_k > 1 ? 3 : 2) * c.experts * g) + m * (w * e + g + 8) +
           r * ((2 * w + 3 * c.ffn) * e + 8);
  };
  const int rank = mesh.dp_cp->rank();
  const Range own = data_parallel::own_rows(c.tokens, rank, proof.ranks()), all{0, c.tokens};
  std::int64_t came = 0;
  for (const auto& from : rows) came += from[rank];
  const std::int64_t kept = unsplit.count(all, 0, c.experts);
  proof.expect_weights("router, experts", "their gradients", router + c.experts * one,
                       router + c.experts / mesh.sizes.ep * one, "(W E + E/ep (2 W F + F + W))");
  proof.expect_memory(MemoryKind::activation, "activations", held(c.tokens, kept, kept),
                      held(own.size(), choices.count(own, 0, c.experts), came),
                      format("n ({} W + {} E) + m ({} W + {}) + R ({} (2 W + 3 F) + 8)", 4 * e,
                             (c.top_k > 1 ? 3 : 2) * g, e, g + 8, e));
}

/// The lesson's run with its checks, as main makes it. Returns p (N, E), on the host.
inline Tensor prove(Proof& proof, Communicator& world, const Config& c) {
  const int p = world.size(), rank = world.rank();
  const three_d::Mesh mesh(world, {.dp = p, .ep = c.ep_of(p)});
  proof.axes({{'W', c.width}, {'E', c.experts}});
  const Slice own = c.own(c.width, rank, p);
  const Tensor x = proof.input("X", "NW", own), dy = proof.input("dY", "NW", own);
  const GradientBuffer gradients({c.width * c.experts, c.experts / mesh.sizes.ep * c.of_expert()}, 1,
                                 proof.dtype());
  const Experts layer = build_layer(proof, c, mesh);
  Experts::Saved saved;
  Tensor y, dx;
  {
    const Phase phase = world.phase("fwd");
    y = layer.forward(x, saved);
  }
  {
    const Phase phase = world.phase("bwd");
    dx = layer.backward_input(dy, saved);
    layer.backward_weight(saved);
  }
  {
    const Phase phase = world.phase("step");
    sum_gradients(gradients.all(0), gradients.all(1), *mesh.dp_cp, *mesh.expert_dp);
  }
  proof.measure_memory();

  proof.result("Y", "NW", "Y  = sum of g_i E_i(X) over the chosen i", y, own);
  proof.result("dX", "NW", "dX = sum of E_i' g_i dY + dZ Wr'", dx, own);
  proof.result("drouter.weight", "WE", "dWr = X' dZ, dg_i = <dY, E_i(X)>", layer.router.dw,
               Slice::whole(c.width, c.experts));
  if (c.aux > 0)
    proof.result("aux", "11", "aux = alpha E sum f_i P_i, over all tokens",
                 Tensor::of(1, 1, {saved.router.aux}), Slice::whole(1, 1));
  for (std::int64_t i = 0; i < c.experts; ++i) {
    const bool here = owner(i, c, mesh.sizes.ep) == mesh.ep->rank();
    for (const auto& [name, rows, cols, gradient] :
         {std::tuple{"c_fc.weight", c.width, c.ffn, &mlp::Mlp::da},
          {"c_fc.bias", std::int64_t{1}, c.ffn, &mlp::Mlp::dc1},
          {"c_proj.weight", c.ffn, c.width, &mlp::Mlp::db},
          {"c_proj.bias", std::int64_t{1}, c.width, &mlp::Mlp::dc2}})
      proof.result(
          "d" + expert_name(i) + name, "??", format("d{}{}", expert_name(i), name),
          here ? layer.experts[i % std::ssize(layer.experts)].*gradient : Tensor::empty(0, 0, proof.dtype()),
          here ? Slice::whole(rows, cols) : Slice::nothing_of(rows, cols), "dA dc1 dB dc2 of each expert");
  }
  proof.measured_baseline([c, p](const auto& in) {
    Reference reference(in, c, p);
    reference.forward(in("X"));
    reference.backward(in("dY"));
    return reference.found;
  });

  const CheckScope scope(world);
  const auto whole = [&](const char* name, std::int64_t rows, std::int64_t cols) {
    const Tensor made = proof.other_slice(name, Slice::whole(rows, cols));
    return cast(made, arithmetic(made.dtype()));
  };
  const Tensor probabilities =
      softmax(matmul(whole("X", c.tokens, c.width), whole("router.weight", c.width, c.experts)));
  const Choices choices(probabilities, c, p);
  const Table rows = rows_sent(choices, c, p);
  expect_bytes(proof, c, mesh, rows);
  expect_memory(proof, c, mesh, choices, Choices(probabilities, c, 1), rows);
  for (std::size_t from = 0; from < rows.size(); ++from)
    proof.record(format("rows_sent.rank{}", from), rows[from]);
  return probabilities.to(Device::host());
}

}  // namespace tessera::experts
