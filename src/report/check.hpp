// A check compares what the ranks have computed with what the unsplit model computes, element by element and
// within a bound. Where it fails, it looks for a known mistake that would give exactly the wrong result.
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
  Slice slice;   // the part of the whole that this rank holds
  Matrix local;  // what it has computed there
};

/// The right values of a whole matrix, and how far from them a correct result may lie.
struct Truth {
  Matrix value, bound;
  double baseline_error = 0;  // the error of the unsplit run in the same dtype
};

/// A known mistake, and what the whole matrix would look like after it. With rank >= 0 it is that rank's
/// mistake.
struct Mistake {
  std::string name;  // "dX equals rank 1's own term: was it all-reduced?"
  Matrix value;
  int rank = -1;
};

struct Check {
  std::string identity;  // "dX = dY1 A1' + dY2 A2'"
  std::string tier;      // "exact", "float"
  double error = 0;      // the error of the worst element: the one with the largest share of its bound
  double bound = 0;      // the bound of that element
  double used = 0;       // error / bound
  double baseline_error = 0;
  bool ok = false;
  bool scalar = false;            // the whole is one number, which has no place
  int rank = 0;                   // the rank that holds the worst element; -1 where no rank holds it
  std::int64_t row = 0, col = 0;  // the place of the worst element in the whole
  std::int64_t unheld = 0;        // elements of the whole that no rank holds
  std::string diagnosis;          // empty, or the mistake that fits
  std::string group;              // checks of one group share a line of the table: "gradients"
};

/// Compares every rank's part with its slice of the truth. NaN and infinity never pass.
Check check(const std::string& name, const std::string& identity, const std::string& tier, const Truth& truth,
            const std::vector<RankResult>& results, const std::vector<Mistake>& mistakes = {});

}  // namespace tessera
