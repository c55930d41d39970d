#include "report/table.hpp"

#include <algorithm>
#include <cstdio>

#include "report/check.hpp"
#include "tensor/error.hpp"

namespace tessera {

std::string table(const Cells& rows, const std::string& alignment, int indent) {
  std::vector<std::size_t> width(alignment.size());
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) width[i] = std::max(width[i], row[i].size());
  std::string text;
  for (const auto& row : rows) {
    std::string line(static_cast<std::size_t>(indent), ' ');
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string space(width[i] - row[i].size(), ' ');
      line += (i > 0 ? "  " : "") + (alignment[i] == 'r' ? space + row[i] : row[i] + space);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string side_by_side(const std::vector<std::string>& names, const std::vector<Tensor>& tensors) {
  std::int64_t height = 0;
  for (const Tensor& tensor : tensors) height = std::max(height, tensor.rows());
  std::vector<std::string> lines(static_cast<std::size_t>(height + 1), "    ");
  for (std::size_t m = 0; m < names.size(); ++m) {
    const bool is_line = names[m] == "|";
    std::vector<std::string> block(lines.size(), is_line ? "|" : "");  // the name, and the rows below it
    block[0] = names[m];
    const Matrix matrix = is_line ? Matrix{} : Matrix::from(tensors[m]);
    std::size_t cell = 0, widest = 0;
    for (const double value : matrix.values) cell = std::max(cell, number(value).size());
    for (std::int64_t i = 0; i < matrix.rows; ++i)
      for (std::int64_t j = 0; j < matrix.cols; ++j)
        block[static_cast<std::size_t>(i + 1)] +=
            format("{:>{}}", number(matrix.at(i, j)), cell + (j > 0 ? 1 : 0));
    for (const std::string& line : block) widest = std::max(widest, line.size());
    const bool by_a_line = is_line || (m + 1 < names.size() && names[m + 1] == "|");
    for (std::size_t i = 0; i < block.size(); ++i)
      lines[i] += format("{:<{}}", block[i], widest + (by_a_line ? 1 : 3));
  }
  std::string text;
  for (const std::string& line : lines) text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  return text;
}

std::string progress_line(const std::string& what, std::int64_t done, std::int64_t all, double seconds) {
  if (done >= all) return "\r\033[K";
  const auto filled = static_cast<std::size_t>(30 * done / all);
  const double left = seconds * static_cast<double>(all - done) / static_cast<double>(done);
  return format("\r  {} [{}{}] {}/{}, {} s left\033[K", what, std::string(filled, '#'),
                std::string(30 - filled, ' '), done, all, static_cast<std::int64_t>(left + 1));
}

std::string bytes(std::int64_t count) { return format("{} B", count); }

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value == 0 ? 0.0 : value);  // no "-0"
  return text;
}

}  // namespace tessera
