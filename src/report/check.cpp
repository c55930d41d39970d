#include "report/check.hpp"

#include <algorithm>
#include <cmath>

#include "tensor/error.hpp"

namespace tessera {

Matrix Matrix::from(const Tensor& tensor) { return {tensor.rows(), tensor.cols(), tensor.values()}; }

namespace {

/// Calls visit(row, col, value) for each element; row and col are its place in the whole.
template <class Visit>
void for_each(const RankResult& result, const Visit& visit) {
  for (std::int64_t i = 0; i < result.local.rows; ++i)
    for (std::int64_t j = 0; j < result.local.cols; ++j) {
      const auto [row, col] = result.slice.locate(i, j);
      visit(row, col, result.local.at(i, j));
    }
}

/// True where the result equals `wrong` up to rounding and `wrong` differs from the truth.
bool fits(const RankResult& result, const Truth& truth, const Matrix& wrong) {
  if (wrong.rows != truth.value.rows || wrong.cols != truth.value.cols) return false;
  bool same = true, different = false;
  double scale = 0;
  for (const double value : wrong.values) scale = std::max(scale, std::abs(value));
  for_each(result, [&](std::int64_t row, std::int64_t col, double value) {
    const double slack = 8 * truth.bound.at(row, col) + 1e-6 * scale + 1e-300;
    same = same && std::abs(value - wrong.at(row, col)) <= slack;
    different = different || std::abs(truth.value.at(row, col) - wrong.at(row, col)) > slack;
  });
  return same && different;
}

Matrix scaled(const Matrix& x, double factor) {
  Matrix y = x;
  for (double& value : y.values) value *= factor;
  return y;
}

Matrix transpose(const Matrix& x) {
  Matrix y{x.cols, x.rows, std::vector<double>(x.values.size())};
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t j = 0; j < x.cols; ++j) y.at(j, i) = x.at(i, j);
  return y;
}

/// Where every column of the result is some column of the truth, says which is the first that moved; else "".
std::string moved_column(const RankResult& result, const Truth& truth) {
  std::string moved;
  for (std::int64_t j = 0; j < result.local.cols; ++j) {
    const std::int64_t here = result.slice.locate(0, j).second;
    const auto equals = [&](std::int64_t col) {
      for (std::int64_t i = 0; i < result.local.rows; ++i) {
        const std::int64_t row = result.slice.locate(i, j).first;
        if (!(std::abs(result.local.at(i, j) - truth.value.at(row, col)) <= 2 * truth.bound.at(row, col)))
          return false;
      }
      return true;
    };
    if (equals(here)) continue;
    std::int64_t from = 0;
    while (from < truth.value.cols && !equals(from)) ++from;
    if (from == truth.value.cols) return "";
    if (moved.empty()) moved = format("column {} is column {} of the whole", here, from);
  }
  return moved;
}

std::string diagnose(const std::string& name, const Truth& truth, const RankResult& worst, int rank,
                     int ranks, const std::vector<Mistake>& mistakes) {
  std::vector<Mistake> known = mistakes;
  known.push_back({format("{} is zero: was it ever computed?", name), scaled(truth.value, 0)});
  if (ranks > 1) {
    known.push_back({format("{} is p = {} times too large: was it summed twice, or summed where every rank "
                            "had the whole?",
                            name, ranks),
                     scaled(truth.value, ranks)});
    known.push_back(
        {format("{} is p = {} times too small: was the mean taken in the place of the sum?", name, ranks),
         scaled(truth.value, 1.0 / ranks)});
  }
  known.push_back({format("{} is transposed.", name), transpose(truth.value)});
  for (const Mistake& mistake : known)
    if ((mistake.rank < 0 || mistake.rank == rank) && fits(worst, truth, mistake.value)) return mistake.name;
  const std::string moved = moved_column(worst, truth);
  return moved.empty() ? "" : format("{} has its columns permuted: {}.", name, moved);
}

}  // namespace

Check check(const std::string& name, const std::string& identity, const std::string& tier, const Truth& truth,
            const std::vector<RankResult>& results, const std::vector<Mistake>& mistakes) {
  Check outcome{.identity = identity,
                .tier = tier,
                .baseline_error = truth.baseline_error,
                .ok = true,
                .scalar = truth.value.values.size() == 1};
  double worst = -1;
  std::vector<bool> held(truth.value.values.size());
  for (std::size_t r = 0; r < results.size(); ++r) {
    expect_eq(results[r].slice.whole_rows, truth.value.rows, format("rows of the whole {}", name));
    expect_eq(results[r].slice.whole_cols, truth.value.cols, format("columns of the whole {}", name));
    for_each(results[r], [&](std::int64_t row, std::int64_t col, double value) {
      held[static_cast<std::size_t>(row * truth.value.cols + col)] = true;
      const double error = std::abs(value - truth.value.at(row, col)), bound = truth.bound.at(row, col);
      const bool holds = error <= bound && std::isfinite(error);  // the unsplit run may overflow, too
      double used = error == 0 ? 0 : error / bound;
      if (std::isnan(used)) used = INFINITY;
      if (!holds) outcome.ok = false;
      if (!(used <= worst)) {
        worst = used;
        outcome.error = error;
        outcome.bound = bound;
        outcome.used = used;
        outcome.rank = static_cast<int>(r);
        outcome.row = row;
        outcome.col = col;
      }
    });
  }
  outcome.unheld = std::count(held.begin(), held.end(), false);
  if (!outcome.ok)
    outcome.diagnosis = diagnose(name, truth, results[static_cast<std::size_t>(outcome.rank)], outcome.rank,
                                 static_cast<int>(results.size()), mistakes);
  return outcome;
}

}  // namespace tessera
