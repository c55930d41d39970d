#include "report/picture.hpp"

#include <algorithm>
#include <sstream>

#include "tensor/error.hpp"

namespace tessera {

namespace {

// Okabe and Ito's colours, told apart by people who see few colours; then repeated.
const char* colour(int rank) {
  static constexpr const char* colours[] = {"#0072b2", "#e69f00", "#009e73", "#cc79a7",
                                            "#56b4e9", "#d55e00", "#f0e442", "#8c6d31"};
  return colours[rank % 8];
}

constexpr double gap = 16, top = 52, bottom = 40, offset = 6;

std::string text(double x, double y, const std::string& words, const std::string& style = "") {
  std::string escaped;
  for (const char c : words) escaped += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return str("<text x=\"", x, "\" y=\"", y, "\"", style, ">", escaped, "</text>\n");
}

std::string rectangle(double x, double y, double w, double h, const char* fill) {
  return str("<rect x=\"", x, "\" y=\"", y, "\" width=\"", w, "\" height=\"", h, "\" fill=\"", fill,
             "\" stroke=\"#808080\"/>\n");
}

/// Rather too wide than too narrow: the reader's font is not known here.
double word_width(const std::string& word) { return 8.0 * static_cast<double>(word.size()); }

double width_of(const Equation::Term& term, int ranks) {
  if (!term.sign.empty()) return word_width(term.sign) + (term.arrow ? gap : 0);
  return term.block.width + (term.block.cut == Block::Cut::partial ? offset * (ranks - 1) : 0);
}

double height_of(const Equation& equation, int ranks) {
  double height = 0;
  for (const auto& term : equation.terms)
    height = std::max(height,
                      term.block.height + (term.block.cut == Block::Cut::partial ? offset * (ranks - 1) : 0));
  return height;
}

std::string arrow(double x, double y, double width) {
  return str("<path d=\"M", x, ' ', y, 'h', width, "m-7-4l7 4l-7 4\" fill=\"none\" class=\"arrow\"/>\n");
}

void draw(std::ostream& out, const Block& b, int ranks, double x, double y) {
  const int parts = ranks * b.strips;
  switch (b.cut) {
    case Block::Cut::replicated:
      out << rectangle(x, y, b.width, b.height, "#b0b0b0");
      break;
    case Block::Cut::columns:
      for (int i = 0; i < parts; ++i)
        out << rectangle(x + b.width * i / parts, y, b.width / parts, b.height, colour(i / b.strips));
      break;
    case Block::Cut::rows:
      for (int i = 0; i < parts; ++i)
        out << rectangle(x, y + b.height * i / parts, b.width, b.height / parts, colour(i / b.strips));
      break;
    case Block::Cut::partial:
      for (int r = ranks - 1; r >= 0; --r)
        out << rectangle(x + offset * r, y + offset * r, b.width, b.height, colour(r));
      break;
  }
  const double deep = b.cut == Block::Cut::partial ? offset * (ranks - 1) : 0;
  out << text(x + b.width / 2, y - 8, b.name, " class=\"name\"")
      << text(x + b.width / 2, y + b.height + deep + 16, b.rows + " x " + b.cols, " class=\"shape\"");
}

}  // namespace

Equation& Equation::add(const Block& block) {
  terms.push_back({"", block, false});
  return *this;
}

Equation& Equation::say(const std::string& sign) {
  terms.push_back({sign, {}, false});
  terms.back().block.height = 0;
  return *this;
}

Equation& Equation::send(const std::string& collective) {
  say(collective).terms.back().arrow = true;
  return *this;
}

std::string svg(const std::vector<Equation>& equations, int ranks, const std::string& alt) {
  double width = 260, height = 0;
  for (const auto& equation : equations) {
    double line = gap;
    for (const auto& term : equation.terms) line += width_of(term, ranks) + gap;
    width = std::max({width, line, 2 * gap + 1.2 * word_width(equation.title)});
    height += top + height_of(equation, ranks) + bottom;
  }
  const double legend = gap + 74.0 * ranks + 130;
  width = std::max(width, legend);
  std::ostringstream out;
  out << "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " << width << ' ' << height + 30
      << "\" role=\"img\" font-family=\"sans-serif\" font-size=\"14\" text-anchor=\"middle\">\n<title>" << alt
      << "</title>\n<style>text{fill:#1f2328}.name{font-style:italic;font-size:16px}.shape{font-size:11px}"
         ".page{fill:#fff}.arrow{stroke:#1f2328}@media(prefers-color-scheme:dark){text{fill:#e6edf3}"
         ".page{fill:#0d1117}.arrow{stroke:#e6edf3}}</style>\n"
         "<rect width=\"100%\" height=\"100%\" rx=\"6\" class=\"page\"/>\n";
  double y = 0;
  for (const auto& equation : equations) {
    const double tall = height_of(equation, ranks);
    out << text(gap, y + 20, equation.title, " text-anchor=\"start\" font-weight=\"bold\"");
    double x = gap;
    for (const auto& term : equation.terms) {
      const double wide = width_of(term, ranks);
      const double middle = y + top + tall / 2;
      if (term.sign.empty())
        draw(out, term.block, ranks, x, middle - term.block.height / 2);
      else
        out << text(x + wide / 2, middle + (term.arrow ? -7 : 5), term.sign);
      if (term.arrow) out << arrow(x, middle, wide);
      x += wide + gap;
    }
    y += top + tall + bottom;
  }
  double x = gap;
  for (int r = 0; ranks > 1 && r < ranks; ++r, x += 74)  // one rank: nothing is cut, all is grey
    out << rectangle(x, y + 4, 14, 14, colour(r))
        << text(x + 20, y + 16, str("rank ", r), " text-anchor=\"start\"");
  out << rectangle(x, y + 4, 14, 14, "#b0b0b0")
      << text(x + 20, y + 16, ranks > 1 ? "on every rank" : "whole", " text-anchor=\"start\"");
  out << "</svg>\n";
  return out.str();
}

}  // namespace tessera
