// A slice in a record: as the program of a lab writes it, and as the judge reads it.
#pragma once

#include <nlohmann/json.hpp>

#include "tensor/slice.hpp"

namespace tessera {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Range, begin, end)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Slice, whole_rows, whole_cols, row_ranges, col_ranges)

}  // namespace tessera
