// Text in columns, and numbers as people write them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "report/check.hpp"

namespace tessera {

/// Rows of cells, each column as wide as its widest cell. Columns named in `right` ("rrl": by position) are
/// flush right. Each line is indented and has no trailing spaces.
std::string table(const std::vector<std::vector<std::string>>& rows, const std::string& alignment,
                  int indent);

/// Small matrices side by side, each under its name; "|" as a name draws a line between its neighbours.
std::string side_by_side(const std::vector<std::pair<std::string, Matrix>>& matrices, int indent);

/// "\r  training [#####     ] 120/300, 3 s left": redraws its own line, and clears it at the end.
std::string progress_line(const std::string& what, std::int64_t done, std::int64_t all, double seconds);

std::string bytes(std::int64_t count);  ///< "62080 B", exact: it is compared with a formula.
std::string number(double value);       ///< Four significant digits at most: "0.0312", "4", "-1.5".

}  // namespace tessera
