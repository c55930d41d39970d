// Lesson 08 at work: token files, GPT-2's weights from a file, the loss of a text and texts of the model's
// own, under every cut.
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "08_three_d/harness/layouts.hpp"
#include "directory.hpp"
#include "fixture.hpp"
#include "models.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::test;
using namespace tessera::three_d;

namespace {

const std::string trained_files = fixtures + "gpt2/model.safetensors";

/// A temporary file, removed with this object.
class Scratch {
  const Directory directory_;

 public:
  explicit Scratch(const std::string& bytes = "") { std::ofstream(path, std::ios::binary) << bytes; }
  const std::string path = directory_.file("file");
};

/// Hugging Face's model and the text of its fixture, of which it found the loss.
Config pretrained(const std::string& file = trained_files) {
  Config s;
  s.weights = std::make_shared<const gpt::WeightsFile>(file);
  s.training.model = model_of({.width = s.weights->width,
                               .heads = 8,
                               .layers = s.weights->layers,
                               .vocabulary = s.weights->vocabulary,
                               .batch = 2,
                               .seq = s.weights->positions,
                               .tied = true});
  s.training.model.tokens = 192;
  s.training.model.positions = s.weights->positions;
  s.eval = true;
  s.text = gpt::read_tokens(fixtures + "gpt2/tokens.bin");
  return s;
}

/// Loss and text of the model under a layout; they are the same on every rank.
Results run(Config s, const ParallelSizes& sizes, DType dtype) {
  s.sizes = sizes;
  return on_rank_0(sizes.ranks(), [&](Communicator& world) {
    const Results mine = run_with_layout(world, s, sizes, dtype, 3);
    const auto last = static_cast<double>(mine.text.empty() ? 0 : mine.text.back());
    const Tensor own = Tensor::of(1, 2, {mine.loss, last});
    expect(world.all_reduce(own, Reduce::max).values() == own.values(), "losses or last tokens differ");
    return mine;
  });
}

}  // namespace

TEST_CASE("token files: nanoGPT's, llm.c's, and what is neither") {
  using Ids = std::vector<std::uint16_t>;
  const auto ids_in = [](const std::string& bytes) { return gpt::read_tokens(Scratch(bytes).path).ids; };
  const auto fault = [&](const std::string& bytes) { return message_from([&] { ids_in(bytes); }); };
  CHECK(ids_in(little_endian({0, 1, 255, 256, 50256, 65535}, 2)) == Ids{0, 1, 255, 256, 50256, 65535});
  CHECK(!gpt::read_tokens(Scratch("ab").path).bytes);
  const auto llm_c = [&](std::size_t at, std::uint64_t value) {
    std::vector<std::uint64_t> header(256);
    header[0] = 20240520, header[1] = 1, header[2] = 3;
    header[at] = value;
    return little_endian(header, 4) + little_endian({7, 8, 50256}, 2);
  };
  CHECK(ids_in(llm_c(3, 0)) == Ids{7, 8, 50256});
  CHECK(contains(fault(llm_c(1, 7)), "llm.c's version 7; version 1"));
  CHECK(contains(fault(llm_c(2, 4)), "llm.c's header promises 4 ids, there are 3"));
  CHECK(contains(fault(llm_c(2, UINT32_MAX)), "llm.c's header promises 4294967295 ids, there are 3"));
  CHECK(contains(fault(llm_c(0, 20240522)), "is llm.c's file of an evaluation"));
  CHECK(fault(llm_c(0, 20240521)).empty());  // not llm.c's: ids like any other
  const auto llama = [](std::uint64_t id) {
    std::vector<std::uint64_t> header(256);
    header[0] = 20240801, header[1] = 7, header[2] = 3;
    return little_endian(header, 4) + little_endian({7, id, 50256}, 4);
  };
  CHECK(ids_in(llama(8)) == Ids{7, 8, 50256});
  CHECK(contains(fault(llama(128000)), "id 128000 at place 1 is no uint16"));
  for (const std::string begin : {"\x93NUMPY\1", "PK\3\4", "PAR1", "ARROW1", "MMIDIDX", "\x1f\x8b"})
    CHECK(contains(fault(begin + std::string(60, '\1')), "a file of its ids alone"));

  // Wider ids without a header are no uint16; with their width they are read.
  const std::vector<std::uint64_t> ids_of_text = {464, 2068, 7586, 21831, 18045, 625};
  for (const int bytes : {4, 8}) {
    const std::string wide = little_endian(ids_of_text, bytes);
    CHECK(contains(
        fault(wide),
        format("every second id is 0, as where ids take more bytes: --token-bytes {} would", bytes)));
    const Scratch file(wide);
    CHECK(gpt::read_tokens(file.path, bytes).ids == Ids(ids_of_text.begin(), ids_of_text.end()));
    CHECK(gpt::read_tokens(file.path, 2).size() == bytes / 2 * 6);
  }
}

TEST_CASE(
    "batches: no step repeats the sequences of the step before, and each place of the text can be drawn") {
  gpt::Corpus text;
  for (std::uint16_t i = 0; i < 1000; ++i) text.ids.push_back(i);  // an id is its place
  const auto begins = [&](std::int64_t step) {
    const auto ids = gpt::batch_at(text, 4, 6, 3, step).ids.values();
    return std::vector<double>{ids[0], ids[6], ids[12], ids[18]};
  };
  for (const double one : begins(1)) CHECK(std::ranges::count(begins(0), one) == 0);
  text.ids.resize(8);  // two places for a sequence of 6 and its last target
  std::set<double> drawn;
  for (std::int64_t step = 0; step < 8; ++step)
    for (const double one : begins(step)) drawn.insert(one);
  CHECK(drawn == std::set<double>{0, 1});
}

TEST_CASE("Hugging Face's GPT-2 from its file has the loss that it found, under every cut") {
  const double truth = load_fixture("gpt2.safetensors").at("loss").values()[0];
  Config s = pretrained();
  Thin thin;
  for (const int ranks : {1, 2, 4, 8})
    for (const ParallelSizes& sizes : factorisations(ranks))
      for (const std::int64_t batch : {1, 5}) {  // of a microbatch; 5 leaves the last one with padding
        if (thin.skips()) continue;
        INFO(text(sizes), ", batch ", batch);
        s.training.model.attention.options.batch = batch;
        CHECK(std::abs(run(s, sizes, DType::f64).loss - truth) <= 1e-10 * truth);
      }
  s.training.model.attention.options.batch = 2;
  s.training.chunks = 2, s.training.microbatches = 4;
  s.training.schedule = pipeline::Schedule::interleaved;
  CHECK(std::abs(run(s, {1, 4, 2}, DType::f64).loss - truth) <= 1e-10 * truth);
  const Results f32 = run(s, {2, 2, 2}, DType::f32);
  CHECK(std::abs(f32.loss - truth) <= 1e-5);
}

TEST_CASE("a text of the model's own is the same under every cut, and begins with the text's first token") {
  Config s = pretrained();
  s.sample = thinned > 1 ? 14 : 30;  // more than a sequence
  for (const double temperature : {0.0, 1.0}) {
    s.temperature = temperature;
    const auto whole = run(s, {1, 1, 1}, DType::f64).text;
    REQUIRE(static_cast<std::int64_t>(whole.size()) == s.sample + 1);
    CHECK(whole[0] == s.text.ids[0]);
    Thin thin;
    for (const ParallelSizes& sizes : factorisations(8))
      if (!thin.skips()) CHECK(run(s, sizes, DType::f64).text == whole);
  }
}

TEST_CASE("a text of its own: each token is drawn from what the model says behind the one before, and anew") {
  Config s = pretrained();
  s.sample = s.seq(), s.temperature = 0;
  const std::vector<std::uint16_t> text = run(s, {1, 1, 1}, DType::f64).text;
  std::vector<double> seen(text.begin(), text.end() - 1);
  seen.resize(static_cast<std::size_t>(s.training.model.attention.tokens()));
  on_ranks(1, [&](Communicator& world) {  // one forward over the whole text, whose mask is causal
    const Mesh mesh(world, s.sizes = {1, 1, 1});
    const Trainer model = make_trainer(mesh, s, DType::f64, 3);
    const Tensor ids = Tensor::of(std::ssize(seen), 1, seen, DType::i32);
    const Tensor p = model.forward(model.own_tokens({ids, ids})).probabilities;
    for (std::int64_t i = 0; i < s.sample; ++i) {
      const auto of_all = p.row_range(i, i + 1).values();
      expect_eq(std::ranges::max_element(of_all) - of_all.begin(), text[i + 1], format("token {}", i + 1));
    }
  });
  s.temperature = 1e6;  // as good as uniform: the same draw in each step would repeat one token
  const auto any = run(s, {1, 1, 1}, DType::f64).text;
  CHECK(std::set(any.begin(), any.end()).size() > 8);
}

TEST_CASE("draws are as frequent as their probabilities, on any number of ranks, and 0 takes the likeliest") {
  const std::vector<double> p = {0.5, 0.0, 0.125, 0.25, 0.125};
  constexpr std::int64_t draws = 20000 / thinned;
  const Random random(5, "draws");
  std::vector<std::int64_t> first;
  for (const int ranks : {1, 2, 3, 5})
    for (const double temperature : {1.0, 0.5, 0.0}) {
      const auto drawn = on_rank_0(ranks, [&](Communicator& tp) {
        const Range own = attention_heads::own_ids(5, tp.rank(), ranks);
        const Tensor mine = Tensor::of(1, 5, p).column_range(own.begin, own.end).copy();
        std::vector<std::int64_t> found;
        const std::int64_t count = ranks == 1 ? draws : 300 / thinned;
        for (std::int64_t i = 0; i < count; ++i)
          found.push_back(draw(mine, own, temperature, random, 5 * i, tp));
        return found;
      });
      if (ranks == 1) {
        double sum = 0;  // of p^(1/T)
        for (const double one : p) sum += temperature > 0 ? std::pow(one, 1 / temperature) : 0;
        for (std::size_t id = 0; id < p.size(); ++id) {
          const double wanted = temperature > 0 ? std::pow(p[id], 1 / temperature) / sum
                                : id == 0       ? 1.0
                                                : 0.0;
          const double share = static_cast<double>(std::count(drawn.begin(), drawn.end(), id)) / draws;
          CHECK(std::abs(share - wanted) <= 5 * std::sqrt(wanted * (1 - wanted) / draws));  // five deviations
        }
        if (temperature == 1) first = drawn;
      } else if (temperature == 1) {
        CHECK(std::equal(drawn.begin(), drawn.end(), first.begin()));
      }
    }
  const auto draw_nan = [&](Communicator& tp) {
    draw(Tensor::of(1, 2, {NAN, NAN}), {0, 2}, 1, random, 0, tp);
  };
  CHECK(contains(message_of(1, draw_nan), "the logits are no numbers"));
}

TEST_CASE("weights: prefix, masks, an equal head and f64 are taken, what is no such GPT-2 is refused") {
  const Tensors original = load_safetensors(trained_files);
  const Config s = pretrained();
  const auto loads = [&](const Tensors& tensors) {
    const Scratch file;
    save_safetensors(file.path, tensors);
    return message_from([&] {
      const gpt::WeightsFile weights(file.path);
      ModelConfig model = s.training.model;
      model.layers = weights.layers;
      weights.check(model);
    });
  };
  CHECK(loads(original) == "");
  Tensors bare;  // as GPT2Model saves itself, here in f64
  for (const auto& [name, tensor] : original)
    if (name != "lm_head.weight") bare[name.substr(name.find('.') + 1)] = cast(tensor, DType::f64);
  CHECK(loads(bare) == "");
  const auto without = [&](const std::string& name) {
    Tensors less = bare;
    CHECK(less.erase(name) == 1);
    return loads(less);
  };
  const auto with = [&](const std::string& name, const Tensor& tensor) {
    Tensors more = bare;
    more[name] = tensor;
    return loads(more);
  };
  for (const char* name : {"wte.weight", "wpe.weight", "ln_f.bias", "h.3.mlp.c_fc.weight"})
    CHECK(contains(without(name),
                   format("there is no {}; a GPT-2 with Hugging Face's names would work", name)));
  CHECK(contains(without("h.7.ln_1.weight"), "has 11 tensors that no GPT-2 of 7 layers has"));
  CHECK(contains(with("h.0.mlp.c_fc.weight", Tensor::zeros(128, 32, DType::f64)),
                 "h.0.mlp.c_fc.weight is (128, 32) f64: (32, 128) of floating point would work"));
  CHECK(contains(with("ln_f.bias", Tensor::zeros(1, 32, DType::i32)), "ln_f.bias is (1, 32) i32"));
  CHECK(contains(with("score.weight", Tensor::zeros(2, 32, DType::f32)), "has 1 tensors that no GPT-2"));
  CHECK(with("h.0.attn.bias", Tensor::zeros(1, 1, DType::f32)) == "");
  CHECK(with("h.0.attn.masked_bias", Tensor::zeros(1, 1, DType::f32)) == "");
  CHECK(with("lm_head.weight", bare.at("wte.weight")) == "");
  const Tensor other = bare.at("wte.weight").copy();
  other.data<double>()[66 * 32 + 31] += 1e-9;
  CHECK(contains(with("lm_head.weight", other), "lm_head.weight is not wte.weight"));
  CHECK(contains(with("lm_head.weight", cast(other, DType::f32)), "lm_head.weight is not wte.weight"));
  for (const char* name : {"wte.weight", "wpe.weight"})
    for (const auto& [rows, cols] : {std::pair{0, 32}, {12, 0}, {0, 0}})
      CHECK(contains(with(name, Tensor::zeros(rows, cols, DType::f32)),
                     format("{} is ({}, {}); one that can be read, and has elements", name, rows, cols)));
}

TEST_CASE("weights: BF16 and F16 are read, masks of four axes are not, and I64 is refused by name") {
  const Tensors original = load_safetensors(trained_files);
  for (const std::string dtype : {"BF16", "F16", "I64"}) {
    std::string header = "{", data;  // all elements are 0, and so is every logit
    const auto put = [&](const std::string& name, const std::string& type, const std::string& of,
                         std::int64_t bytes) {
      header += format(R"({}"{}":{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}})",
                       data.empty() ? "" : ",", name, type, of, data.size(), data.size() + bytes);
      data.resize(data.size() + bytes);
    };
    for (const auto& [name, tensor] : original)
      put(name, dtype, format("[{},{}]", tensor.rows(), tensor.cols()),
          tensor.size() * (dtype == "I64" ? 8 : 2));
    put("transformer.h.0.attn.bias", "F32", "[1,1,12,12]", 576);  // as in published files
    header += "}";
    const Scratch file(little_endian({header.size()}, 8) + header + data);
    if (dtype == "I64") {
      refuses<UsageError>([&] { pretrained(file.path); },
                          R"(wte.weight has the dtype "I64"; BF16, F16, F32, F64 and I32 can be read)");
      continue;
    }
    const Config s = pretrained(file.path);
    s.weights->check(s.training.model);
    CHECK(std::abs(run(s, {1, 2, 1}, DType::f64).loss - std::log(67.0)) <= 1e-13);
  }
}

TEST_CASE("config.json beside the weights: heads and epsilon are taken, what we do not have is refused") {
  const Directory directory;
  const std::string path = directory.file("model.safetensors");
  std::filesystem::copy_file(trained_files, path);
  const auto configured = [&](const std::string& json) {
    std::ofstream(directory.file("config.json")) << json;
    Config s = pretrained(path);
    s.training.model.attention.heads = s.training.model.attention.kv_heads = s.weights->heads;
    s.training.model.layer_norm_epsilon = s.weights->layer_norm_epsilon;
    return s;
  };
  // numpy's losses, by a GPT-2 that shares no line with this one.
  for (const auto& [heads, epsilon, loss] : {std::tuple{8, "1e-05", 5.076957186766946},
                                             {8, "0.1", 4.998306634071607},
                                             {4, "0.1", 4.983824703071779},
                                             {4, "1e-05", 5.030796674282898}}) {
    const Config s = configured(format(
        R"({{"model_type":"gpt2","activation_function":"gelu_new","n_layer":8,"n_embd":32,"n_positions":12,)"
        R"("vocab_size":67,"n_head":{},"layer_norm_epsilon":{},"task_specific_params":{{"a":{{"b":1}}}}}})",
        heads, epsilon));
    CHECK(std::abs(run(s, {2, 2, 1}, DType::f64).loss - loss) <= 1e-12);
  }
  for (const auto& [json, fault] : std::map<std::string, std::string>{
           {R"({"activation_function":"gelu"})", "the activation_function gelu: gelu_new would work"},
           {R"({"scale_attn_by_inverse_layer_idx":true})", "idx true: false would work"},
           {R"({"scale_attn_weights":false})", "scale_attn_weights false: true would work"},
           {R"({"model_type":"llama"})", "model_type llama: gpt2 would work"},
           {R"({"n_layer":7})", "n_layer 7: 8 would work"},
           {R"({"n_embd":64})", "n_embd 64: 32 would work"},
           {R"({"n_head":0})", "n_head 0: a divisor of the width 32 would work"},
           {R"({"n_head":5})", "n_head 5: a divisor"},
           {R"({"n_head":8.5})", "n_head 8.5: a divisor"},
           {R"({"n_head":-8})", "n_head -8: a divisor"},
           {R"({"n_head":99999999999999999999})", "a divisor"},
           {R"({"layer_norm_epsilon":0})", "layer_norm_epsilon 0: a number between 0 and 1 would work"},
           {R"({"layer_norm_epsilon":"nan"})", "layer_norm_epsilon nan: a number"},
           {R"({"layer_norm_epsilon":null})", "layer_norm_epsilon null: a number"},
           {"[1]", "the file is not a JSON object"},
           {"{", "the file is not JSON"}})
    CHECK_MESSAGE(contains(message_from([&, &json = json] { configured(json); }), fault), json);
}

TEST_CASE("weights: shorter sequences read the first positions of the whole wpe") {
  Config s = pretrained();
  s.training.model.attention.options.seq = 5;
  const double whole = run(s, {1, 1, 1}, DType::f64).loss;
  CHECK(std::abs(run(s, {2, 2, 2}, DType::f64).loss - whole) <= 1e-12 * whole);
  const Tensor wpe = s.weights->read("wpe.weight", Slice::whole(12, 32), DType::f64);
  CHECK(wpe.values() ==
        cast(load_safetensors(trained_files).at("transformer.wpe.weight"), DType::f64).values());
  CHECK(contains(message_from([&] { s.weights->read("wpe.weight", Slice::whole(5, 32), DType::f64); }),
                 "wpe.weight is (12, 32) f32: (5, 32) of floating point would work"));
}

TEST_CASE("weights: a number that is none is named as what it is, with its place") {
  for (const double bad : {NAN, INFINITY, -INFINITY}) {
    Tensors tensors = load_safetensors(trained_files);
    tensors.at("transformer.h.1.mlp.c_fc.weight").data<float>()[3 * 128 + 77] = static_cast<float>(bad);
    const Scratch file;
    save_safetensors(file.path, tensors);
    const Config s = pretrained(file.path);
    CHECK(
        contains(message_from([&] {
                   run(s, {4, 1, 1}, DType::f32);
                 }),
                 format("h.1.mlp.c_fc.weight is {:g} at row 3, column 77: finite numbers would work", bad)));
  }
}
