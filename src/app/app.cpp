#include "app/app.hpp"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <thread>

#include "app/screen.hpp"
#include "ops/kernels.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"
#include "tensor/file.hpp"
#include "tensor/safetensors.hpp"

namespace tessera {

void Options::add_to(Flags& flags, bool with_ranks) {
  // The flags that matter most come first; together with the lesson's own sizes they are eight.
  if (with_ranks) flags.number("--ranks", ranks, 1, 64, "ranks to cut over");
  flags.choice("--dtype", dtype, {"f32", "f64", "bf16"}, "type of all numbers");
  flags.choice("--device", device,
               {{std::nullopt, "auto"}, {DeviceKind::cpu, "cpu"}, {DeviceKind::cuda, "cuda"}},
               "where to compute");
  flags.choice("--transport", transport,
               {{std::nullopt, "auto"},
                {Transport::threads, "threads"},
                {Transport::mpi, "mpi"},
                {Transport::nccl, "nccl"}},
               "how ranks communicate");
  flags.toggle("--exact", exact, "compute with small integers: the difference must be 0");
  flags.rest();
  flags.number("--seed", seed, 0, INT64_MAX, "seed of all random numbers");
  flags.text("--json", json, "FILE", "write the results there, for programs");
  flags.text("--dump", dump, "FILE", "write inputs, shards, outputs and gradients there, as safetensors");
  flags.text("--svg", svg, "FILE", "write the picture of the cut there");
  flags.text("--trace", trace, "FILE", "write the timeline there, for Perfetto");
  flags.size("--memory-per-rank", memory_per_rank, "an allocation beyond it fails");
  flags.toggle("--no-baseline", no_baseline,
               "no unsplit run: 8 rows or columns of each result are recomputed");
  flags.choice("--math", math, {"f32", "tf32"}, "tf32: products of f32 on a GPU's tensor cores");
  flags.choice("--verify", verify, {{true, "on"}, {false, "off"}},
               "MPI and NCCL compare calls between ranks first");
  flags.number("--timeout", timeout, 1, 86400, "seconds that one call may wait");
  flags.toggle("--quiet", quiet, "print the verdict only");
  flags.toggle("--stable", stable, "leave out what differs from machine to machine");
}

void Options::check_files() const {
  for (const std::string& path : {json, dump, svg, trace})
    if (!path.empty()) check_writable(path);
}

Choice Options::choose_transport(bool ranks_given) const {
  const int count = static_cast<int>(ranks);
  Choice choice =
      tessera::choose_transport(ranks_given ? std::optional(count) : std::nullopt, count, device, transport);
  choice.options.timeout = std::chrono::seconds(timeout);
  choice.options.verify = verify;
  choice.options.memory_per_rank = memory_per_rank;
  choice.options.trace = !trace.empty();
  choice.options.tf32 = math == "tf32";
  if (math == "tf32" && (choice.options.device != DeviceKind::cuda || dtype != "f32"))
    throw UsageError(
        "--math tf32 is for products of f32 on GPUs: without --math it would work, or with --device cuda "
        "--dtype f32");
  return choice;
}

App::App(LessonText text, Ranks ranks)
    : text_(std::move(text)),
      ranks_(ranks),
      flags_(format("{} {}: {}", text_.number, text_.title, text_.formula)) {
  if (ranks == one_rank) options_.ranks = 1;
}

void App::size(const std::string& name, std::int64_t& target, const std::string& help) {
  flags_.number(name, target, 1, 1 << 20, help);
  sizes_ += " " + name;
}

void App::ranks_divide(const std::string& flag, const std::int64_t& size) {
  divided_.push_back({flag, &size});
}

void App::check_divisions(int ranks) const {
  const auto all_divided = [&](std::int64_t n) {
    return std::all_of(divided_.begin(), divided_.end(), [n](const Divided& d) { return *d.size % n == 0; });
  };
  if (all_divided(ranks)) return;
  std::string undivided, better;
  for (const Divided& one : divided_) {
    if (*one.size % ranks == 0) continue;
    undivided += format("{}{} {}", undivided.empty() ? "" : " and ", one.flag, *one.size);
    better += format(" {} {}", one.flag, (*one.size / ranks + 1) * ranks);
  }
  throw UsageError("--ranks {} does not divide {}: --ranks {} would work, or{}", ranks, undivided,
                   fitting(64, all_divided), better);
}

std::function<void(std::int64_t done)> progress_bar(Communicator& comm, const std::string& what,
                                                    std::int64_t all) {
  const bool draws = comm.rank() == 0 && isatty(STDERR_FILENO) == 1;
  return [=, &comm, began = comm.journal().now()](std::int64_t done) {
    const double seconds = comm.journal().now() - began;
    if (draws && seconds > 2) std::cerr << progress_line(what, done, all, seconds) << std::flush;
  };
}

int guarded(const std::function<int()>& body) {
  wait_passively();
  // Where several processes find the same fault, one of them prints it. The others wait a moment before they
  // end, since a launcher stops all processes as soon as one has failed.
  const auto say = [](const std::string& message) {
    if (is_printing_process())
      std::cerr << "error: " << message << std::endl;
    else
      std::this_thread::sleep_for(std::chrono::milliseconds(500));
  };
  try {
    const int code = body();
    if (std::cout.flush()) return code;
    say(format("the output cannot be written: {}", std::strerror(errno)));
  } catch (const UsageError& error) {
    say(error.what());
    return 2;
  } catch (const std::exception& error) {
    say(error.what());
  }
  return 3;
}

int App::run(int argc, char** argv, const LessonParts& parts) {
  return guarded([&] {
    int code = 0;
    flags_.advise([&] { code = run_checked(argc, argv, parts); });
    return code;
  });
}

void App::check_all(int ranks, const LessonParts& parts) const {
  check_divisions(ranks);
  options_.check_files();
  parts.check(ranks);
  if (const std::string why = parts.inexact(); options_.exact && !why.empty())
    throw UsageError("--exact: {}; without --exact it would work", why);
  if (options_.no_baseline && !memory_)
    throw UsageError("--no-baseline is for lessons 01 to 04: without --no-baseline it would work");
  if (options_.no_baseline && options_.coarse())
    throw UsageError("--no-baseline: the error is measured on the unsplit run: --dtype f32 would work");
  if (options_.no_baseline || !memory_) return;
  const double needed = memory_(ranks) * (options_.type() == DType::f64 ? 2 : 1),
               free = static_cast<double>(available_memory());
  if (needed > free)
    throw UsageError(
        "the run and its unsplit reference need {:.3g} GB of memory, and {:.3g} GB are free on this "
        "machine: --no-baseline would work, or smaller{}",
        1e-9 * needed, 1e-9 * free, sizes_);
}

int App::run_checked(int argc, char** argv, const LessonParts& parts) {
  options_.add_to(flags_, ranks_ == many_ranks);
  if (!flags_.parse(argc, argv)) return 0;
  if (parts.ranks) options_.ranks = parts.ranks();
  const bool ranks_given = parts.ranks || flags_.given("--ranks");
  RunReport report{text_, options_.choose_transport(ranks_given), options_, &flags_, {}, 0};
  check_all(report.choice.options.ranks, parts);
  const bool prints = is_printing_process(), colour = isatty(STDOUT_FILENO) == 1 && mpi::launched_size() == 0;
  const bool talks = prints && !options_.quiet;
  if (talks) std::cout << heading(report) << std::endl << parts.by_hand() << std::endl;

  const auto start = std::chrono::steady_clock::now();
  int code = 0;
  launch(report.choice.options, [&](Communicator& comm) {
    std::vector<Outcome> outcomes;
    for (const Tier tier : {Tier::exact, Tier::floating}) {
      const bool unasked = options_.coarse() && !options_.exact;  // most sizes have larger sums
      if (tier == Tier::exact ? !parts.inexact().empty() || unasked : options_.exact) continue;
      Proof proof(comm, {tier, options_.type(), static_cast<std::uint64_t>(options_.seed),
                         !options_.dump.empty(), !options_.no_baseline, options_.math == "tf32"});
      try {
        parts.prove(proof, comm);
        outcomes.push_back(proof.finish());
      } catch (const OutOfMemory& error) {
        throw UsageError("{}: smaller{} would work", error.what(), sizes_);
      }
    }
    // Every process ends with rank 0's verdict.
    const Phase phase = comm.phase("check");
    if (comm.rank() == 0) report.outcomes = std::move(outcomes);
    const Tensor failed = Tensor::of(1, 1, {comm.rank() == 0 && !report.ok() ? 1.0 : 0.0}, DType::i32);
    comm.broadcast(failed, 0);
    const bool writes = comm.rank() == 0 || !prints;  // one thread of each process
    if (failed.values()[0] != 0 && writes) code = 1;
  });
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!prints) return code;

  if (talks) {
    for (const std::string& part : {parts.first(), memory_table(report), traffic_table(report)})
      if (!part.empty()) std::cout << part << std::endl;
  }
  if (talks || code != 0) std::cout << check_table(report, colour);
  if (talks) {
    if (const std::string more = parts.more(); !more.empty()) std::cout << std::endl << more;
    std::cout << std::endl << text_.why << std::endl;
  }
  if (options_.quiet) std::cout << text_.number << " " << text_.title << ": ";
  std::cout << verdict(report, colour);

  if (const char* lines = std::getenv("TESSERA_SUMMARY"); lines != nullptr)  // ./tessera run's table
    std::ofstream(lines, std::ios::app) << summary(report);
  if (!options_.json.empty()) write_file(options_.json, to_json(report));
  if (!options_.trace.empty()) write_file(options_.trace, to_trace(report));
  if (!options_.svg.empty())
    write_file(options_.svg,
               parts.drawing ? parts.drawing()
                             : svg(parts.picture(report.choice.options.ranks), report.choice.options.ranks,
                                   text_.number + " " + text_.title + ": " + text_.formula));
  if (!options_.dump.empty()) save_safetensors(options_.dump, report.outcomes.back().dump);
  return code;
}

}  // namespace tessera
