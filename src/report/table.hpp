// Text in columns, and numbers in the form in which people write them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tensor/error.hpp"
#include "tensor/tensor.hpp"

namespace tessera {

using Cells = std::vector<std::vector<std::string>>;
/// A row of cells from text and whole numbers.
template <class... Values>
std::vector<std::string> row_of(const Values&... values) {
  return {format("{}", values)...};
}

/// Rows of cells; each column is as wide as its widest cell. `alignment` has a letter for each column: 'r'
/// sets it flush right, 'l' flush left. Each line is indented and has no trailing spaces.
std::string table(const Cells& rows, const std::string& alignment, int indent);

/// Small matrices side by side, each under its name. The name "|" stands for a line between its neighbours;
/// its tensor is {}.
std::string side_by_side(const std::vector<std::string>& names, const std::vector<Tensor>& tensors);

/// "\r  training [#####     ] 120/300, 3 s left". It is drawn over the line before it, and cleared at the
/// end.
std::string progress_line(const std::string& what, std::int64_t done, std::int64_t all, double seconds);

std::string bytes(std::int64_t count);  ///< "62080 B", exact, since a formula is compared with it.
std::string number(double value);       ///< Four significant digits at most: "0.0312", "4", "-1.5".

}  // namespace tessera
