// A term's own names: a solution of another term compiles in a variant's tree only after its names are
// changed.
#pragma once

#include <array>
#include <map>

#include "tasks.hpp"

namespace tessera::labs {

/// Names of the lessons that tasks use, and which of its other names each variant gives.
inline const std::map<std::string, std::array<std::string, 3>> other_names = {
    {"backward_input", {"input_gradient", "gradient_of_input", "back_to_input"}},
    {"backward_weight", {"weight_gradient", "gradient_of_weight", "add_to_weights"}},
    {"bring_and_sum", {"carry_and_sum", "pass_and_sum", "send_on_and_sum"}},
    {"by_expert", {"expert_order", "rows_by_expert", "expert_sorted"}},
    {"by_rank", {"rank_order", "rows_by_rank", "rank_sorted"}},
    {"dpre", {"d_inner", "d_before_f", "dslope_place"}},
    {"dy_own", {"own_dy", "dy_here", "dy_of_rank"}},
    {"fc1", {"layer_in", "widening", "fc_in"}},
    {"fc2", {"layer_out", "narrowing", "fc_out"}},
    {"own_gradients", {"shard_gradients", "gradients_here", "gradients_of_rank"}},
    {"own_weights", {"shard_weights", "weights_here", "weights_of_rank"}},
    {"virtual_stage", {"chain_place", "stage_of_chunk", "global_stage"}},
    {"warm_up", {"lead_in", "forwards_ahead", "filling"}},
    {"y_own", {"own_y", "y_here", "y_of_rank"}},
};

/// Names and what takes their place. Variant 0 has the master's. `back`: from the variant's to the master's.
inline std::map<std::string, std::string> names_of(int variant, bool back = false) {
  std::map<std::string, std::string> names;
  for (std::size_t i = 0; const auto& [own, others] : other_names) {
    if (variant == 0) break;
    const std::string& other = others.at((static_cast<std::size_t>(variant) / (i % 2 == 0 ? 1 : 3) + i) % 3);
    names.insert(back ? std::pair(other, own) : std::pair(own, other));
    ++i;
  }
  return names;
}

/// A text with these words exchanged, but for those that end the name of a task: 01.backward_input.
inline std::string with_names(const std::string& text, const std::map<std::string, std::string>& names) {
  std::string out;
  for (std::size_t at = 0, end = 0; at < text.size(); at = end) {
    for (end = at; end < text.size() && in_word(text[end]);) ++end;
    const auto found = names.find(text.substr(at, end - at));
    const bool task =
        at > 1 && text[at - 1] == '.' && std::isdigit(static_cast<unsigned char>(text[at - 2])) != 0;
    if (end == at) ++end;
    out += found == names.end() || task ? text.substr(at, end - at) : found->second;
  }
  return out;
}

/// The same for C++, whose literals stay.
inline std::string code_with_names(const std::string& code, const std::map<std::string, std::string>& names) {
  std::string out;
  for (std::size_t at = 0, end = 0; at < code.size(); at = end) {
    const Token token = token_at(code, at);
    end = token.end;
    const std::string piece = code.substr(at, end - at);
    const bool literal = token.kind == Token::Kind::literal || token.kind == Token::Kind::raw;
    out += literal ? piece : with_names(piece, names);
  }
  return out;
}

/// The seed of the records that students of a variant have. No marking of theirs uses it.
inline std::uint64_t check_seed(int variant) {
  return 1 + std::uint64_t{1000003} * static_cast<unsigned>(variant);
}

}  // namespace tessera::labs
