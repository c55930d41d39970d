// What came out: losses, and what the model writes; for people, and for programs.
#pragma once

#include "08_three_d/screen.hpp"

namespace tessera::three_d {

/// Bytes as a terminal may show them, ids as numbers.
inline std::string readable(const std::vector<std::uint16_t>& ids, bool bytes) {
  std::string out;
  for (const std::uint16_t id : ids)
    if (!bytes)
      out += format("{}{}", out.empty() ? "" : " ", id);
    else if (id == '\n' || (id >= ' ' && id < 127))
      out += static_cast<char>(id);
    else
      out += "?";
  return out;
}

/// What came out, for people.
inline std::string results(const Config& s, const Trained& t, bool stable) {
  std::string out;
  const std::int64_t all = whole_sequences(s);
  if (s.eval)
    out += format("\n  Loss {}, unsplit {}: the mean over {} tokens, {} sequences of {}; perplexity {}\n",
                  number(t.loss), number(t.reference_loss), all * s.seq(), all, s.seq(),
                  number(std::exp(t.loss)));
  if (!stable && !t.losses.empty())
    out += format("\n{}  loss {} to {} in {} steps, {} tokens a second\n", plot(t.losses, t.unsplit),
                  number(t.losses.front()), number(t.losses.back()), t.losses.size(),
                  number(std::round(t.tokens_per_second)));
  if (s.weights && s.text.bytes && s.training.model.vocabulary != 256)
    out +=
        "  The bytes of a text are not GPT-2's tokens: --tokens FILE reads a text that was cut into them.\n";
  if (t.text.empty() || (stable && !s.eval)) return out;
  const auto apart =
      std::mismatch(t.text.begin(), t.text.end(), t.reference_text.begin()).first - t.text.begin();
  out +=
      format("\n  {} tokens, temperature {}, after the text's first; the unsplit model {}:\n", s.sample,
             s.temperature,
             apart == s.sample + 1 ? "writes the same" : format("goes its own way from token {} on", apart));
  return out + readable(t.text, s.text.bytes) + "\n";
}

/// The lesson's own keys of the JSON.
inline void record(Proof& proof, const Config& s, const Trained& t) {
  proof.record("loss", t.losses);
  proof.record("baseline_loss", t.unsplit);
  proof.record("tokens_per_second", t.tokens_per_second);
  if (s.eval) {
    proof.record("eval.loss", t.loss);
    proof.record("eval.baseline_loss", t.reference_loss);
    proof.record("eval.tokens", whole_sequences(s) * s.seq());
  }
  if (s.sample > 0) proof.record("sample", std::vector<std::int64_t>(t.text.begin(), t.text.end()));
}

}  // namespace tessera::three_d
