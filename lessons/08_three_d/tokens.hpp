// What a model reads: the bytes of a text as they are, or a file of token ids.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "01_mlp/text_model.hpp"

namespace tessera::three_d {

struct Corpus {
  std::vector<std::uint16_t> ids;
  bool bytes = true;  // the ids are a text's bytes

  std::int64_t size() const { return static_cast<std::int64_t>(ids.size()); }
};

inline Corpus corpus_of(const std::string& text) {
  Corpus corpus;
  for (const char byte : text) corpus.ids.push_back(static_cast<unsigned char>(byte));
  return corpus;
}

// begin tokens
/// uint16 ids, little-endian, one after the other, as nanoGPT's prepare.py writes them; also behind llm.c's
/// header of 256 int32: 20240520, version 1, the number of ids. Throws UsageError that says what is wrong.
inline Corpus read_tokens(const std::string& path) {
  const auto refuse = [&](const std::string& fault) {
    throw UsageError(format("--tokens {}: {}", path, fault));
  };
  std::ifstream file(path, std::ios::binary);
  if (!file || std::filesystem::is_directory(path)) refuse("cannot be read; a file of uint16 ids would work");
  const std::string raw{std::istreambuf_iterator<char>(file), {}};
  if (raw.size() % 2 != 0)
    refuse(format("has {} bytes, an odd number; uint16 ids take two each", raw.size()));
  Corpus corpus{{}, false};
  const auto byte = [&](std::size_t i) {
    return static_cast<std::uint32_t>(static_cast<unsigned char>(raw[i]));
  };
  for (std::size_t i = 0; i < raw.size(); i += 2)
    corpus.ids.push_back(static_cast<std::uint16_t>(byte(i) | byte(i + 1) << 8));
  constexpr std::size_t header = 512;  // in ids
  const auto word = [&](std::size_t i) {
    return corpus.ids[2 * i] | std::uint32_t{corpus.ids[2 * i + 1]} << 16;
  };
  if (corpus.ids.size() < header || word(0) != 20240520) return corpus;
  if (word(1) != 1) refuse(format("is llm.c's version {}; version 1, of uint16 ids, would work", word(1)));
  if (word(2) != corpus.ids.size() - header)
    refuse(format("llm.c's header promises {} ids, there are {}", word(2), corpus.ids.size() - header));
  corpus.ids.erase(corpus.ids.begin(), corpus.ids.begin() + header);
  return corpus;
}
// end tokens

/// Throws UsageError where an id has no row in the embedding, or no sequence fits in.
/// `what`: "--text README.md".
inline void check_ids(const Corpus& corpus, std::int64_t vocabulary, std::int64_t seq,
                      const std::string& what) {
  const char* unit = corpus.bytes ? " bytes" : " ids";
  if (corpus.size() < 2)
    throw UsageError(format("{}: {}{} are too few; two or more would work", what, corpus.size(), unit));
  if (corpus.size() <= seq)
    throw UsageError(format("{}: {}{} are less than a sequence: --seq {} or less would work", what,
                            corpus.size(), unit, corpus.size() - 1));
  const auto most = std::max_element(corpus.ids.begin(), corpus.ids.end());
  if (*most >= vocabulary)
    throw UsageError(
        format("{}: {}{} at place {} is outside of a vocabulary of {}: --vocab {} or more would work", what,
               corpus.bytes ? "byte " : "id ", *most, most - corpus.ids.begin(), vocabulary, *most + 1));
}

}  // namespace tessera::three_d
