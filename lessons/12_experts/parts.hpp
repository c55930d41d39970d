// Experts in lesson 08's GPT, in place of the MLP of every second block. They stand in lesson 09's region of
// tokens that are cut: else all ranks of tp would have the same tokens, and each would send them. So an
// expert's gradient is owed two sums: over tp, as a norm's is, and over the ranks that hold the same expert.
#pragma once

#include "09_sequence_parallel/parts.hpp"
#include "12_experts/experts.hpp"

namespace tessera::experts {

// begin parts
struct MlpOrExperts {
  std::optional<sequence_parallel::Mlp> mlp;
  std::optional<Experts> experts;
  using X = Placed<Shard<0>>;
  struct Saved {
    sequence_parallel::Mlp::Saved mlp;
    Experts::Saved experts;
  };

  X forward(const X& x, Saved& s, const TensorParallel& tp) const {
    return mlp ? mlp->forward(x, s.mlp, tp) : X(experts->forward(x.local(), s.experts));
  }
  X backward_input(const X& dy, Saved& s, const TensorParallel& tp) const {
    return mlp ? mlp->backward_input(dy, s.mlp, tp) : X(experts->backward_input(dy.local(), s.experts));
  }
  void backward_weight(const Saved& s) const {
    mlp ? mlp->backward_weight(s.mlp) : experts->backward_weight(s.experts);
  }

  /// Makes the one that the layer has, and lists its weights with their gradients.
  static MlpOrExperts make(auto& builder, const std::string& h, std::int64_t layer) {
    const gpt::ModelConfig& m = builder.config();
    if (!m.has_experts(layer)) return {builder.template mlp<sequence_parallel::Mlp>(h), {}};
    const auto made = [&](const std::string& name, std::int64_t rows, std::int64_t cols) {
      return builder.weight(h + "mlp." + name, Slice::whole(rows, cols));
    };
    const auto list = [&](const std::string& name, const Tensor& value, const Tensor& gradient, bool expert) {
      const Slice whole = Slice::whole(value.rows(), value.cols());
      builder.parameters.push_back({h + "mlp." + name, whole, value, gradient, true, expert});
    };
    double share = double(m.own_rows(builder.batch.front()->size())) / double(m.tokens);  // of a microbatch
    for (Communicator* axis : builder.batch) share *= axis->size();
    const Router router{made("router.weight", m.width(), m.experts), m.top_k, 0, share * m.aux};
    list("router.weight", router.w, router.dw, false);
    Experts layer_of{router, {}, builder.ep, builder.batch};
    for (std::int64_t i = 0, own = m.experts / m.ep; i < own; ++i) {
      const std::string name = expert_name(builder.ep->rank() * own + i);
      std::vector<Tensor> w;
      for (const Weight& one : expert_weights(m.width(), m.ffn()))
        w.push_back(made(name + one.name, one.rows, one.cols));
      const mlp::Mlp expert{w[0], w[1], w[2], w[3]};
      layer_of.experts.push_back(expert);
      for (std::size_t k = 0; const Weight& one : expert_weights(m.width(), m.ffn()))
        list(name + one.name, w[k++], expert.*one.gradient, true);
    }
    return {{}, layer_of};
  }
};

struct Parts : sequence_parallel::Parts {
  using Block = attention_heads::TransformerBlock<sequence_parallel::Attention, MlpOrExperts, Shard<0>>;
  static void set_up(Block& block, const gpt::ModelConfig& m, const TensorParallel& tp) {
    block.first_row = tp.rank() * m.own_rows(tp.size());
    block.attn.regather = m.regather;
    if (block.mlp.mlp) block.mlp.mlp->regather = m.regather;
  }
};

/// Lesson 08's trainer with training.model.experts.
inline void use_in(three_d::TrainingConfig& training) {
  sequence_parallel::use_in(training, training.model.regather);
  training.parts.worker = three_d::make_worker<Parts>;
}
// end parts

}  // namespace tessera::experts
