// Lines of text, files, and what differs between two of them.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor/error.hpp"

namespace pages {

namespace fs = std::filesystem;
using tessera::format;
using Lines = std::vector<std::string>;

/// What is wrong with one block. The tool collects these and goes on, so that one run names every fault.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline Lines split(const std::string& text) {
  Lines lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

inline std::string join(const Lines& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

inline std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Fault("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write(const fs::path& path, const std::string& text) {
  if (path.has_parent_path()) fs::create_directories(path.parent_path());
  std::ofstream out(path, std::ios::binary);
  if (!(out << text).flush()) throw Fault("cannot write " + path.string());
}

inline std::string without_trailing_space(const std::string& line) {
  return line.substr(0, line.find_last_not_of(" \t\r") + 1);
}

inline void append(Lines& lines, const Lines& more) { lines.insert(lines.end(), more.begin(), more.end()); }

/// The lines that differ, between the equal ones before and after, six of each side at most.
inline std::string short_diff(const Lines& is, const Lines& should_be) {
  std::size_t head = 0, tail = 0;
  const std::size_t shorter = std::min(is.size(), should_be.size());
  while (head < shorter && is[head] == should_be[head]) ++head;
  while (tail < shorter - head && is[is.size() - 1 - tail] == should_be[should_be.size() - 1 - tail]) ++tail;
  std::string text;
  const auto side = [&](const char* sign, const Lines& lines) {
    const std::size_t end = lines.size() - tail;
    for (std::size_t i = head; i < std::min(end, head + 6); ++i) text += sign + lines[i] + "\n";
    if (end > head + 6) text += format("    ... {} more lines\n", end - head - 6);
  };
  side("    - ", is);
  side("    + ", should_be);
  return text;
}

}  // namespace pages
