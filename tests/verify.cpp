// ./tessera verify proves every identity and every lesson, in both tiers, in f32, in f64 and, in the floating
// tier, in bf16, for 20 shapes, at each number of ranks. It runs on what was asked for and never falls back.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <regex>

#include "app/app.hpp"
#include "app/screen.hpp"
#include "comm/launch.hpp"
#include "course.hpp"
#include "report/table.hpp"
#include "tensor/error.hpp"
#include "tensor/file.hpp"

using namespace tessera;

namespace {

struct Row {
  std::string claim;
  std::int64_t held = 0, failed = 0;
  std::optional<double> exact_error;  // the worst; none where the claim has no exact tier
  std::map<DType, double> used;       // the worst share of a bound
  std::string fault;
};

/// "4" or "2-8".
std::vector<int> parse_ranks(const std::string& text) {
  static const std::regex range(R"((\d{1,2})(-(\d{1,2}))?)");
  std::smatch match;
  const bool fits = std::regex_match(text, match, range);
  const int first = fits ? std::stoi(match[1]) : 0,
            last = fits && match[3].matched ? std::stoi(match[3]) : first;
  if (first < 1 || last > 64 || first > last)
    throw UsageError(format("--ranks {}: 4, or 2-8, would work, of 1 to 64", text));
  std::vector<int> ranks(last - first + 1);
  std::iota(ranks.begin(), ranks.end(), first);
  return ranks;
}

void enter(Row& row, const Outcome& outcome, DType dtype, int ranks, const identities::MatrixSizes& s) {
  for (const Check& check : outcome.checks) {
    ++(check.ok ? row.held : row.failed);
    if (outcome.tier == Tier::exact)
      row.exact_error = std::max(row.exact_error.value_or(0), check.error);
    else
      row.used[dtype] = std::max(row.used[dtype], check.used);
    if (!check.ok && row.fault.empty())
      row.fault = format("{} at {} ranks, {}, ({}, {}, {}): {}, rank {}, element ({}, {}) off by {}. {}",
                         row.claim, ranks, name(dtype), s.n, s.k, s.m, check.identity, check.rank, check.row,
                         check.col, number(check.error), check.diagnosis);
  }
  for (const std::string& note : outcome.notes) {
    ++row.failed;
    if (row.fault.empty()) row.fault = format("{} at {} ranks: {}", row.claim, ranks, note);
  }
}

int verify(int argc, char** argv) {
  Options options;
  std::string ranks_text = "2-8";
  std::int64_t shapes = 20;
  Flags flags(
      "verify: every identity and gradient, both tiers, each dtype, 20 shapes, at each number of ranks");
  flags.text("--ranks", ranks_text, "2-8", "numbers of ranks");
  flags.number("--shapes", shapes, 1, 1000, "rectangular shapes a claim");
  options.add_to(flags, false);
  const auto fixed_flags = {"--dtype", "--math",  "--exact",       "--dump",
                            "--svg",   "--trace", "--no-baseline", "--memory-per-rank"};
  for (const char* fixed : fixed_flags) flags.hide(fixed);
  if (!flags.parse(argc, argv)) return 0;
  for (const char* fixed : fixed_flags)
    if (flags.given(fixed))
      throw UsageError(
          "{} is for ./tessera run, since verify sweeps both tiers and all dtypes: without {} it would work",
          fixed, fixed);
  flags.advise([&] { options.check_files(); });
  std::vector<int> all_ranks = parse_ranks(ranks_text);
  if (const int launched = mpi::launched_size(); launched > 0 && !flags.given("--ranks")) {
    all_ranks = {launched};
    ranks_text = std::to_string(launched);
  }

  // Refused before anything runs: the largest number of ranks is the one that may lack a GPU.
  std::vector<Choice> choices;
  for (const int ranks : all_ranks) {
    Options with = options;
    with.ranks = ranks;
    choices.push_back(with.choose_transport(flags.given("--ranks")));
    choices.back().options.ranks = ranks;
  }
  const bool prints = is_printing_process();
  if (prints && !options.quiet)
    std::cout << "verify: ranks " << ranks_text << ", " << name(choices.back().options.transport) << ", "
              << name(choices.back().options.device) << "\n  CPU math " << blas_name() << "; NCCL "
              << nccl::version() << "; " << cuda_device_count() << " GPUs; " << sysconf(_SC_NPROCESSORS_ONLN)
              << " cores" << std::endl;

  const auto start = std::chrono::steady_clock::now();
  std::vector<Row> rows;
  const std::vector<Claim> claims = course();
  for (const Choice& choice : choices)
    launch(choice.options, [&](Communicator& comm) {
      const auto progress = progress_bar(comm, format("claims at {} ranks", comm.size()), std::ssize(claims));
      for (std::size_t i = 0; i < claims.size(); ++i) {
        for (int index = 0; index < shapes; ++index)
          for (const Tier tier : claims[i].tiers)
            for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
              if (tier == Tier::exact && dtype == DType::bf16) continue;  // most sums are beyond 256
              const auto shape = sweep_shape(index, comm.size());
              Proof proof(comm, {tier, dtype, static_cast<std::uint64_t>(options.seed + index)});
              claims[i].prove(proof, comm, shape);
              const Outcome outcome = proof.finish();
              if (comm.rank() != 0) continue;
              if (rows.size() <= i) rows.push_back({claims[i].name});
              enter(rows[i], outcome, dtype, comm.size(), shape);
            }
        if (!options.quiet) progress(i + 1);
      }
    });
  if (!prints) return 0;

  std::int64_t held = 0, failed = 0;
  std::vector<std::vector<std::string>> cells = {
      {"", "checks", "exact", "f32: bound used", "f64: bound used", "bf16: bound used"}};
  nlohmann::ordered_json json = {
      {"ranks", all_ranks}, {"shapes", shapes}, {"claims", nlohmann::ordered_json::array()}};
  const auto cell = [&](double used) { return percent(used, options.stable); };
  for (Row& row : rows) {
    held += row.held;
    failed += row.failed;
    cells.push_back({row.claim, std::to_string(row.held + row.failed),
                     row.exact_error ? number(*row.exact_error) : "", cell(row.used[DType::f32]),
                     cell(row.used[DType::f64]),
                     cell(row.used[DType::bf16]) + (row.failed > 0 ? format("  FAIL: {}", row.failed) : "")});
    auto& claim = json["claims"].emplace_back();
    claim = {{"name", row.claim}, {"held", row.held}, {"failed", row.failed}, {"exact_error", nullptr}};
    if (row.exact_error) claim["exact_error"] = *row.exact_error;
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16})
      claim[format("{}_bound_used", name(dtype))] = row.used[dtype];
    claim["fault"] = row.fault;
  }
  json["ok"] = failed == 0;
  if (!options.quiet) std::cout << table(cells, "lrrrrr", 2);
  for (const Row& row : rows)
    if (!row.fault.empty()) std::cout << "  FAIL " << row.fault << "\n";
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << held << " checks hold" << (failed > 0 ? format(", {} failed", failed) : "")
            << (options.stable ? "" : format(", in {} s", number(seconds))) << std::endl;
  if (!options.json.empty()) write_file(options.json, json.dump(2) + "\n");
  return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return guarded([&] { return verify(argc, argv); });
}
