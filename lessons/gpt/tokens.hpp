// What a model reads: a text, each byte of which is a token, or a file of token ids; and the batches, which
// are the same under every cut of the model.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "01_mlp/text_model.hpp"
#include "gpt/model.hpp"

namespace tessera::gpt {

struct Corpus {
  std::vector<std::uint16_t> ids;
  bool bytes = true;  // the ids are the bytes of a text

  std::int64_t size() const { return static_cast<std::int64_t>(ids.size()); }
};

inline Corpus corpus_of(const std::string& text) {
  Corpus corpus;
  for (const char byte : text) corpus.ids.push_back(static_cast<unsigned char>(byte));
  return corpus;
}

// begin tokens
/// Reads ids that stand one after the other, little-endian, `width` bytes each. Width 0 means 2 bytes, unless
/// the file begins with llm.c's header of 256 int32. Its first three are 20240520, 1 and the number of ids
/// for uint16 ids (GPT-2's); or 20240801, 7 and the number of ids for uint32 ids (Llama 3's). nanoGPT's
/// prepare.py writes uint16 without a header. Every id must be below 65536. Throws UsageError where the file
/// is none of these.
inline Corpus read_tokens(const std::string& path, std::int64_t width = 0) {
  const auto refuse = [&](const std::string& fault) { throw UsageError("--tokens {}: {}", path, fault); };
  std::string raw;
  try {
    raw = read_file(path);
  } catch (const UsageError& error) {
    refuse(format("{}; a file of uint16 ids would work", error.what()));
  }
  for (const auto& [begin, kind] : {std::pair{"\x93NUMPY", "NumPy's .npy"},
                                    {"PK\3\4", "a .zip, .npz or .pt"},
                                    {"PAR1", "Parquet"},
                                    {"ARROW1", "Arrow"},
                                    {"MMIDIDX", "Megatron's .idx"},
                                    {"\x1f\x8b", "gzip"}})
    if (raw.starts_with(begin))
      refuse(
          format("is {}; a file of its ids alone, like numpy's ids.astype('uint16').tofile(FILE), would work",
                 kind));
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = bytes; i-- > 0;) value = value << 8 | static_cast<unsigned char>(raw[at + i]);
    return value;
  };
  std::size_t bytes = width > 0 ? static_cast<std::size_t>(width) : 2, begin = 0;
  const std::uint64_t magic = raw.size() >= 1024 ? number(0, 4) : 0;
  if (magic == 20240522) refuse("is llm.c's file of an evaluation; one of its files of tokens would work");
  if (magic == 20240520 || magic == 20240801) {
    const std::uint64_t version = magic == 20240520 ? 1 : 7, promised = number(8, 4);
    bytes = magic == 20240520 ? 2 : 4, begin = 1024;
    if (number(4, 4) != version)
      refuse(format("is llm.c's version {}; version {} would work", number(4, 4), version));
    if (promised * bytes != raw.size() - begin)
      refuse(format("llm.c's header promises {} ids, there are {}", promised, (raw.size() - begin) / bytes));
  }
  if (raw.size() % bytes != 0)
    refuse(format("has {} bytes, no multiple of {}; uint16 ids take two each", raw.size(), bytes));
  Corpus corpus{{}, false};
  std::uint64_t upper = 0, beyond = 0;  // the bits of ids 1, 3, 5, ..., and of ids 2, 3, 6, 7, ...
  for (std::size_t at = begin; at < raw.size(); at += bytes) {
    const std::uint64_t id = number(at, bytes);
    if (id > 65535)
      refuse(format("id {} at place {} is no uint16: ids up to 65535 would work", id, (at - begin) / bytes));
    if (corpus.size() % 2 == 1) upper |= id;
    if (corpus.size() % 4 >= 2) beyond |= id;
    corpus.ids.push_back(static_cast<std::uint16_t>(id));
  }
  if (width == 0 && begin == 0 && upper == 0 && corpus.size() >= 4 && corpus.size() % 2 == 0)
    refuse(format("every second id is 0, as where ids take more bytes: --token-bytes {} would work",
                  beyond == 0 && corpus.size() % 4 == 0 ? 8 : 4));
  return corpus;
}
// end tokens

/// Throws UsageError where an id has no row in the embedding, or where the ids are no more than a sequence:
/// its last target would be missing. `what` names them in the message: "--text README.md".
inline void check_ids(const Corpus& corpus, std::int64_t vocabulary, std::int64_t seq,
                      const std::string& what) {
  const char* unit = corpus.bytes ? " bytes" : " ids";
  if (corpus.size() < 2)
    throw UsageError("{}: {}{} are too few; two or more would work", what, corpus.size(), unit);
  if (corpus.size() <= seq)
    throw UsageError("{}: {}{} are less than a sequence: --seq {} or less would work", what, corpus.size(),
                     unit, corpus.size() - 1);
  const auto most = std::max_element(corpus.ids.begin(), corpus.ids.end());
  if (*most >= vocabulary)
    throw UsageError("{}: {}{} at place {} is outside of a vocabulary of {}: --vocab {} or more would work",
                     what, corpus.bytes ? "byte " : "id ", *most, most - corpus.ids.begin(), vocabulary,
                     *most + 1);
}

/// The whole batch of a made-up text: random ids, each with the next one as its target. (n, 1) i32, on the
/// host.
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

/// The sequences of `seq` tokens that begin at these places of the text, each token with the next one as its
/// target. (number of places times seq, 1) i32, on the host.
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

// begin masked
/// BERT's objective (Devlin et al. 2019, section 3.1): of the ids of step `step` 15% are to be guessed. Of
/// these 80% are hidden behind [MASK], which is the last id of the vocabulary, 10% are another id and 10% are
/// as they were. Seed, step and place decide which, so that every cut hides the same. The loss is the mean
/// over what is to be guessed in the *whole* batch: microbatches and ranks have more or less of it, and a
/// mean of their means would be another number.
inline Tokens masked(const Tokens& batch, std::int64_t vocabulary, std::uint64_t seed, std::int64_t step) {
  const MemoryScope data(MemoryKind::check);
  const Device::Scope host(Device::host());
  const Random random(seed, "masks");
  std::vector<double> ids = batch.ids.values(), weights(ids.size());
  const auto draw = [&](std::size_t i, int number) {
    return random.bits(3 * (static_cast<std::uint64_t>(step) * ids.size() + i) + number);
  };
  for (std::size_t i = 0; i < ids.size(); ++i) {
    weights[i] = draw(i, 0) % 100 < 15 ? 1 : 0;
    const auto fate = draw(i, 1) % 10;
    if (weights[i] == 1 && fate < 9)
      ids[i] = fate < 8 ? static_cast<double>(vocabulary - 1)
                        : static_cast<double>(draw(i, 2) % static_cast<std::uint64_t>(vocabulary));
  }
  const double guessed = std::accumulate(weights.begin(), weights.end(), 0.0);
  for (double& weight : weights) weight *= static_cast<double>(ids.size()) / std::max(guessed, 1.0);
  return {Tensor::of(batch.ids.rows(), 1, ids, DType::i32), batch.ids,
          Tensor::of(batch.ids.rows(), 1, weights, DType::f64)};
}
// end masked

/// Some rows of `batch`, on the device of this rank.
inline Tokens rows_of(const Tokens& batch, Range rows) {
  const MemoryScope data(MemoryKind::check);
  const auto own = [&](const Tensor& x) {
    return x.row_range(rows.begin, rows.end).copy().to(Device::current());
  };
  return {own(batch.ids), own(batch.targets), batch.weights.defined() ? own(batch.weights) : Tensor()};
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
  return {attention_heads::local_ids(tokens.ids, own), attention_heads::local_ids(tokens.targets, own),
          tokens.weights};
}

}  // namespace tessera::gpt
