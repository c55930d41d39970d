// A check: what the ranks computed against what the whole computes, element by element within a bound, and
// where it fails, which of the known mistakes would give just that.
#pragma once

#include <string>
#include <vector>

#include "tensor/slice.hpp"

namespace tessera {

/// A matrix on the host in f64.
struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> values;
  static Matrix from(const Tensor& tensor);
  double at(std::int64_t row, std::int64_t col) const {
    return values[static_cast<std::size_t>(row * cols + col)];
  }
  double& at(std::int64_t row, std::int64_t col) {
    return values[static_cast<std::size_t>(row * cols + col)];
  }
};

struct RankResult {
  Slice slice;   // what of the whole this rank holds
  Matrix local;  // what it computed there
};

/// The whole's values and how far from them a right result may lie.
struct Truth {
  Matrix value, bound;
  double baseline_error = 0;  // of the unsplit run in the same dtype
};

/// A named wrong answer: what the whole would look like after this mistake. rank >= 0: on that rank only.
struct Mistake {
  std::string name;  // "dX equals rank 1's own term: was it all-reduced?"
  Matrix value;
  int rank = -1;
};

struct Check {
  std::string identity;  // "dX = dY1 A1' + dY2 A2'"
  std::string tier;      // "exact", "float"
  double error = 0;      // of the worst element: the one with the largest share of its bound
  double bound = 0;      // of that element
  double used = 0;       // error / bound
  double baseline_error = 0;
  bool ok = false;
  int rank = 0;                   // that holds the worst element
  std::int64_t row = 0, col = 0;  // its place in the whole
  std::string diagnosis;          // empty, or the mistake that fits
  std::string group;              // checks of one group share a line of the table: "gradients"
};

/// Compares every rank's part with its slice of the truth. NaN never passes.
Check check(const std::string& name, const std::string& identity, const std::string& tier, const Truth& truth,
            const std::vector<RankResult>& results, const std::vector<Mistake>& mistakes = {});

}  // namespace tessera
