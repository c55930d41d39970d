// The picture of a cut, as SVG: matrices as blocks, one colour a rank, shapes written in. Legible on light
// and on dark pages.
#pragma once

#include <string>
#include <vector>

#include "tensor/slice.hpp"

namespace tessera {

/// One matrix of an equation: its name, its size in drawing units, and how it lies over the ranks.
struct Block {
  enum class Cut {
    replicated,  ///< every rank holds it: grey
    columns,
    rows,
    partial  ///< one full-size block a rank, one behind the other
  };
  std::string name, rows, cols;  // "A", "96", "192": written beside it
  Cut cut = Cut::replicated;
  double height = 60, width = 60;
  int strips = 1;  ///< lines within a rank's rows or columns: its heads
};

/// A line of the picture: blocks, and between them signs ("=") and arrows for what is sent ("all-reduce").
struct Equation {
  struct Term {
    std::string sign;  // where not empty, the term is this word
    Block block;
    bool arrow = false;
  };
  std::string title;
  std::vector<Term> terms;
  Equation& add(const Block& block);
  Equation& say(const std::string& sign);
  Equation& send(const std::string& collective);
};

/// The whole picture for `ranks` ranks; `alt` is read out in its place.
std::string svg(const std::vector<Equation>& equations, int ranks, const std::string& alt);

/// What other pictures take from this one. A colour for each number,
/// then repeated, and what is legible on it.
const char* colour(int number);
const char* ink(int number);
/// The beginning of a picture, which is read out as `alt`. `style`: more CSS.
std::string svg_open(double width, double height, const std::string& alt, const std::string& style = "");
std::string svg_text(double x, double y, const std::string& words, const std::string& style = "");
std::string svg_rectangle(double x, double y, double w, double h, const std::string& fill,
                          const std::string& style = " stroke=\"#808080\"");

}  // namespace tessera
