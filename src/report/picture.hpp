// The picture of a cut, as SVG: each matrix is a block, each rank has a colour, and the shapes are written
// beside the blocks. It is legible on light and on dark pages.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

/// One matrix of an equation: its name, its size in drawing units, and how it lies over the ranks.
struct Block {
  enum class Cut {
    replicated,  ///< every rank holds it: grey
    columns,
    rows,
    partial  ///< each rank has a block of the full size; they stand one behind the other
  };
  std::string name, rows, cols;  // "A", "96", "192": written beside it
  Cut cut = Cut::replicated;
  double height = 0, width = 0;
  int strips = 1;  ///< into how many strips the rows or columns of a rank are divided: its heads
};

/// A line of the picture: blocks, with signs ("=") and arrows for collectives ("all-reduce") between them.
struct Equation {
  struct Term {
    std::string sign;  // where it is not empty, the term is this word and not a block
    Block block;
    bool arrow = false;
  };
  std::string title;
  std::vector<Term> terms;
};

/// The size of an axis as text, its length in the drawing, and Block::strips where it is cut.
struct Side {
  std::string size;
  double drawn = 0;
  int strips = 1;
};
/// The lines of a picture from titles and texts like "X(N,W) A(W,F/p) = Y(N,F/p) all-gather -> Y(N,F)": an
/// axis is a letter of `sides`, /p says that it is cut, + in front of a name that the block is partial, ~ is
/// a space in a name. The words between two blocks are one sign, or an arrow if the last of them is ->; |
/// ends a sign.
std::vector<Equation> equations(const std::map<char, Side>& sides,
                                const std::vector<std::pair<std::string, std::string>>& lines);

/// The whole picture for `ranks` ranks; a screen reader reads `alt` in its place.
std::string svg(const std::vector<Equation>& equations, int ranks, const std::string& alt);

// Other pictures use the following as well.

/// The colour of a rank, and a colour for text that is legible on it. After eight ranks the colours repeat.
const char* colour(int number);
const char* ink(int number);
/// The beginning of a picture; a screen reader reads `alt` in its place. `style` is further CSS.
std::string svg_open(double width, double height, const std::string& alt, const std::string& style = "");
std::string svg_text(double x, double y, const std::string& words, const std::string& style = "");
std::string svg_rectangle(double x, double y, double w, double h, const std::string& fill,
                          const std::string& style = " stroke=\"#808080\"");

}  // namespace tessera
