// lab_NN TASK SEED [reference|silent]: runs a task of lesson NN and writes what came out to file descriptor
// 3, as JSON: a list of trials, each with its results and the bytes that were sent, or the error that ended
// it. This process may hold a student's code. All that it can do for a good mark is to write the right
// numbers.
#include <unistd.h>

#include <cstdio>
#include <map>
#include <mutex>

#include "lab.hpp"
#include "relay.hpp"
#include "slice_json.hpp"

namespace tessera::labs {

namespace {

using Json = nlohmann::json;

std::map<std::string, std::function<void(Trial&)>>& tasks() {
  static std::map<std::string, std::function<void(Trial&)>> all;
  return all;
}

/// Leaves every rank with its own term: the run that shows what comes out where a sum was forgotten.
class Silent final : public Relay {
 public:
  using Relay::Relay;
  explicit Silent(std::unique_ptr<Communicator> of) : Relay(*of), own_(std::move(of)) {}

 private:
  std::shared_ptr<Work> do_call(const Call& call, const Tensor& in, const Tensor& out) override {
    if (call.op == OpType::all_reduce) return copy(in, out), done();
    if (call.op == OpType::reduce_scatter)
      return copy(of_.take_shard(in.reshape(size(), out.size()), 0), out), done();
    return Relay::do_call(call, in, out);
  }
  std::unique_ptr<Communicator> do_split(const Call& call, const std::string& name) override {
    auto group = of_.split(call.color, call.key, name);
    return group ? std::make_unique<Silent>(std::move(group)) : nullptr;
  }

  std::unique_ptr<Communicator> own_;
};

Json json_of(const Tensor& local, const Slice& slice) {
  const bool defined = local.defined();
  return {{"rows", defined ? local.rows() : 0},
          {"cols", defined ? local.cols() : 0},
          {"values", defined ? local.values() : std::vector<double>{}},
          {"slice", slice}};
}

}  // namespace

struct Trial::Record {
  std::mutex mutex;
  Json json = {{"sent", Json::object()}};

  void change(const std::function<void(Json&)>& write) {
    const std::lock_guard lock(mutex);
    write(json);
  }
};

Trial::Trial(std::uint64_t seed, int number, Mode mode)
    : seed_(seed),
      number_(number),
      ranks_((number + 1) % 4 + 1),
      mode_(mode),
      record_(std::make_shared<Record>()) {}

const Json& Trial::record() const { return record_->json; }

int Trial::size(int least, int most) {
  const Random random(seed_, format("sizes of trial {}", number_));
  const auto bits = random.bits(static_cast<std::uint64_t>(drawn_++));
  return least + static_cast<int>(bits % static_cast<std::uint64_t>(most - least + 1));
}
std::pair<int, int> Trial::unequal() {
  const int small = size(), large = small + size(1);
  return ranks_ % 2 == 0 ? std::pair(small, large) : std::pair(large, small);
}
int Trial::cut(int most) { return ranks_ * size(1, most); }

Tensor Trial::in(const std::string& name, const Slice& slice) const {
  return generate(seed_, format("{} of trial {}", name, number_), slice, DType::f64, Fill::uniform, 1);
}

void Trial::on_ranks(int ranks, const std::function<void(Trial&)>& body) {
  LaunchOptions options;
  options.ranks = ranks;
  record_->json["ranks"] = ranks;
  launch(options, [&](Communicator& comm) {
    Silent silent(comm);
    Trial own = *this;
    own.ranks_ = ranks, own.comm_ = mode_ == Mode::silent ? &silent : &comm;
    body(own);
    record_->change([&](Json& json) {
      for (const auto& [key, traffic] : comm.journal().traffic())
        if (traffic.wire > 0)  // of every phase: a student could name one as the checks' own
          json["sent"][key.op] = json["sent"].value(key.op, std::int64_t{0}) + traffic.wire;
    });
  });
}

void Trial::out(const std::string& name, const std::string& identity, const Tensor& local,
                const Slice& slice) {
  const Json part = json_of(local, slice);
  record_->change([&](Json& json) {
    json["results"][name]["identity"] = identity;
    json["results"][name]["parts"][std::to_string(rank())] = part;
  });
}

void Trial::words(const std::string& name, const std::vector<std::string>& words) {
  record_->change([&](Json& json) { json["results"][name]["words"] = words; });
}

void Trial::count(const std::string& what, std::int64_t number) {
  record_->change([&](Json& json) { json["counts"][what] = number; });
}

void Trial::mistake(const std::string& name, const std::string& says, const Tensor& local,
                    const Slice& slice) {
  const Json part = json_of(local, slice);
  record_->change([&](Json& json) { json["mistakes"][name][says][std::to_string(rank())] = part; });
}

Task::Task(const std::string& name, const std::function<void(Trial&)>& run) { tasks()[name] = run; }

}  // namespace tessera::labs

int main(int argc, char** argv) {
  using namespace tessera::labs;
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() < 2 || tasks().count(words[0]) == 0)
    return std::fputs("lab_NN TASK SEED [reference|silent] 3>FILE\n", stderr), 2;
  const Trial::Mode mode = words.size() == 2         ? Trial::Mode::plain
                           : words[2] == "reference" ? Trial::Mode::reference
                                                     : Trial::Mode::silent;
  Json record = Json::array();
  try {
    for (int number = 0; number < 4; ++number) {
      Trial trial(std::stoull(words[1]), number, mode);
      tasks().at(words[0])(trial);
      record.push_back(trial.record());
    }
  } catch (const std::exception& error) {
    record.push_back({{"error", error.what()}});
  }
  const std::string text = record.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (dprintf(3, "%s", text.c_str()) < 0) return std::perror("file descriptor 3"), 1;
  return 0;
}
