// What a model reads: the bytes of a text as they are, or a file of token ids; and the batches that every cut
// of the model sees alike.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "01_mlp/text_model.hpp"
#include "gpt/model.hpp"

namespace tessera::gpt {

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

/// Made-up text: random ids, and the next id as the target. (n, 1) i32 of the whole batch, on the host.
inline Tokens random_tokens(const ModelConfig& config, std::uint64_t seed) {
  const MemoryScope data(MemoryKind::check);
  const Device::Scope host(Device::host());
  const Random random(seed, "tokens");
  std::vector<double> ids;
  for (std::int64_t i = 0; i <= config.tokens; ++i)
    ids.push_back(static_cast<double>(random.bits(static_cast<std::uint64_t>(i)) %
                                      static_cast<std::uint64_t>(config.vocabulary)));
  const auto from = [&](std::int64_t begin) {
    return Tensor::of(config.tokens, 1, {ids.begin() + begin, ids.begin() + begin + config.tokens},
                      DType::i32);
  };
  return {from(0), from(1)};
}

/// The sequences of `seq` tokens that begin at these places of the text, and the tokens that follow each of
/// theirs. (places seq, 1), on the host.
inline Tokens sequences_at(const Corpus& corpus, const std::vector<std::size_t>& places, std::int64_t seq) {
  const MemoryScope data(MemoryKind::check);
  const Device::Scope host(Device::host());
  std::vector<double> ids, targets;
  for (const std::size_t begin : places)
    for (std::size_t i = begin; i < begin + static_cast<std::size_t>(seq); ++i) {
      ids.push_back(corpus.ids.at(i));
      targets.push_back(corpus.ids.at(i + 1));
    }
  const auto count = static_cast<std::int64_t>(ids.size());
  return {Tensor::of(count, 1, ids, DType::i32), Tensor::of(count, 1, targets, DType::i32)};
}

/// The `sequences` sequences of step `step`. Where they begin in the text depends on seed and step alone.
inline Tokens batch_at(const Corpus& corpus, std::int64_t sequences, std::int64_t seq, std::uint64_t seed,
                       std::int64_t step) {
  const Random random(seed, "batches");
  const auto room = static_cast<std::uint64_t>(corpus.size() - seq);
  std::vector<std::size_t> places;
  for (std::int64_t b = 0; b < sequences; ++b)
    places.push_back(random.bits(static_cast<std::uint64_t>(step * sequences + b)) % room);
  return sequences_at(corpus, places, seq);
}

/// Some rows of `batch`, on the device of this rank.
inline Tokens rows_of(const Tokens& batch, Range rows) {
  const MemoryScope data(MemoryKind::check);
  const auto own = [&](const Tensor& x) {
    return x.row_range(rows.begin, rows.end).copy().to(Device::current());
  };
  return {own(batch.ids), own(batch.targets)};
}

/// The rows of `batch` for each of m microbatches, on the device of this rank.
inline std::vector<Tokens> microbatches_of(const Tokens& batch, int microbatches) {
  std::vector<Tokens> parts;
  for (int i = 0; i < microbatches; ++i)
    parts.push_back(rows_of(batch, part(batch.ids.rows(), i, microbatches)));
  return parts;
}

/// The same tokens with ids counted from the first one of this rank's shard of the vocabulary, on its device.
inline Tokens local_tokens(const Tokens& tokens, const ModelConfig& config, const TensorParallel& tp) {
  const Range own = attention_heads::own_ids(config.vocabulary, tp.rank(), tp.size());
  return {attention_heads::local_ids(tokens.ids, own), attention_heads::local_ids(tokens.targets, own)};
}

}  // namespace tessera::gpt
