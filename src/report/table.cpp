#include "report/table.hpp"

#include <algorithm>
#include <cstdio>

#include "tensor/error.hpp"

namespace tessera {

std::string table(const std::vector<std::vector<std::string>>& rows, const std::string& alignment,
                  int indent) {
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

std::string side_by_side(const std::vector<std::pair<std::string, Matrix>>& matrices, int indent) {
  std::int64_t height = 0;
  for (const auto& [name, matrix] : matrices) height = std::max(height, matrix.rows);
  std::vector<std::vector<std::string>> lines(static_cast<std::size_t>(height + 1));
  for (const auto& [name, matrix] : matrices) {
    std::vector<std::string> block(static_cast<std::size_t>(height + 1), name == "|" ? "|" : "");
    if (name != "|") block[0] = name;
    std::size_t cell = 0, widest = 0;
    for (const double value : matrix.values) cell = std::max(cell, number(value).size());
    for (std::int64_t i = 0; i < matrix.rows; ++i)
      for (std::int64_t j = 0; j < matrix.cols; ++j) {
        const std::string digits = number(matrix.at(i, j));
        block[static_cast<std::size_t>(i + 1)] +=
            std::string(cell - digits.size() + (j > 0 ? 1 : 0), ' ') + digits;
      }
    for (const auto& line : block) widest = std::max(widest, line.size());
    for (std::size_t i = 0; i < block.size(); ++i)
      lines[i].push_back(block[i] + std::string(widest - block[i].size(), ' '));
  }
  std::string text;
  for (const auto& line : lines) {
    std::string joined(static_cast<std::size_t>(indent), ' ');
    for (std::size_t i = 0; i < line.size(); ++i) {
      const bool by_a_line =
          matrices[i].first == "|" || (i + 1 < line.size() && matrices[i + 1].first == "|");
      joined += line[i] + (by_a_line ? " " : "   ");
    }
    text += joined.substr(0, joined.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string side_by_side(const std::vector<std::string>& names, const std::vector<Tensor>& tensors) {
  std::vector<std::pair<std::string, Matrix>> matrices;
  for (std::size_t i = 0; i < names.size(); ++i)
    matrices.emplace_back(names[i], tensors[i].defined() ? Matrix::from(tensors[i]) : Matrix{});
  return side_by_side(matrices, 4);
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
