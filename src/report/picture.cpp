#include "report/picture.hpp"

#include <algorithm>
#include <regex>
#include <sstream>
#include <utility>

#include "tensor/error.hpp"

namespace tessera {

// The colours of Okabe and Ito, which colour-blind people can tell apart.
const char* colour(int number) {
  static constexpr const char* colours[] = {"#0072b2", "#e69f00", "#009e73", "#cc79a7",
                                            "#56b4e9", "#d55e00", "#f0e442", "#8c6d31"};
  return colours[number % 8];
}

const char* ink(int number) { return number % 8 == 0 || number % 8 == 7 ? "#fff" : "#1f2328"; }

namespace {

constexpr double gap = 16, top = 52, bottom = 40, offset = 6;

std::string escaped(const std::string& words) {
  std::string out;
  for (const char c : words) out += c == '<' ? "&lt;" : c == '&' ? "&amp;" : std::string(1, c);
  return out;
}

/// An estimate on the safe side, since the font of the reader is not known here.
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
  return format("<path d=\"M{:g} {:g}h{:g}m-7-4l7 4l-7 4\" fill=\"none\" class=\"arrow\"/>\n", x, y, width);
}

void draw(std::ostream& out, const Block& b, int ranks, double x, double y) {
  const int parts = ranks * b.strips;
  switch (b.cut) {
    case Block::Cut::replicated:
      out << svg_rectangle(x, y, b.width, b.height, "#b0b0b0");
      break;
    case Block::Cut::columns:
      for (int i = 0; i < parts; ++i)
        out << svg_rectangle(x + b.width * i / parts, y, b.width / parts, b.height, colour(i / b.strips));
      break;
    case Block::Cut::rows:
      for (int i = 0; i < parts; ++i)
        out << svg_rectangle(x, y + b.height * i / parts, b.width, b.height / parts, colour(i / b.strips));
      break;
    case Block::Cut::partial:
      for (int r = ranks - 1; r >= 0; --r)
        out << svg_rectangle(x + offset * r, y + offset * r, b.width, b.height, colour(r));
      break;
  }
  const double deep = b.cut == Block::Cut::partial ? offset * (ranks - 1) : 0;
  out << svg_text(x + b.width / 2, y - 8, b.name, " class=\"name\"")
      << svg_text(x + b.width / 2, y + b.height + deep + 16, b.rows + " x " + b.cols, " class=\"shape\"");
}

}  // namespace

std::string svg_text(double x, double y, const std::string& words, const std::string& style) {
  return format("<text x=\"{:g}\" y=\"{:g}\"{}>{}</text>\n", x, y, style, escaped(words));
}

std::string svg_rectangle(double x, double y, double w, double h, const std::string& fill,
                          const std::string& style) {
  return format("<rect x=\"{:g}\" y=\"{:g}\" width=\"{:g}\" height=\"{:g}\" fill=\"{}\"{}/>\n", x, y, w, h,
                fill, style);
}

std::string svg_open(double width, double height, const std::string& alt, const std::string& style) {
  return format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:g} {:g}\" role=\"img\" "
      "font-family=\"sans-serif\" font-size=\"14\" text-anchor=\"middle\">\n<title>{}</title>\n"
      "<style>text{{fill:#1f2328}}.name{{font-style:italic;font-size:16px}}.shape{{font-size:11px}}"
      ".page{{fill:#fff}}.arrow{{stroke:#1f2328}}"
      "@media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}.page{{fill:#0d1117}}.arrow{{stroke:#e6edf3}}}}"
      "{}</style>\n<rect width=\"100%\" height=\"100%\" rx=\"6\" class=\"page\"/>\n",
      width, height, escaped(alt), style);
}

std::vector<Equation> equations(const std::map<char, Side>& sides,
                                const std::vector<std::pair<std::string, std::string>>& lines) {
  static const std::regex block(R"((\+?)(\S*)\((\w)(/p)?,(\w)(/p)?\))");
  std::vector<Equation> all;
  for (const auto& [title, text] : lines) {
    Equation& one = all.emplace_back(Equation{title, {}});
    std::string sign;
    const auto end_sign = [&](bool arrow) {
      if (!sign.empty()) one.terms.push_back({std::exchange(sign, ""), {}, arrow});
    };
    std::istringstream words(text);
    std::smatch m;
    for (std::string word; words >> word;)
      if (std::regex_match(word, m, block)) {
        end_sign(false);
        const Side &down = sides.at(m.str(3)[0]), &across = sides.at(m.str(5)[0]);
        std::string name = m.str(2);
        std::ranges::replace(name, '~', ' ');
        using enum Block::Cut;
        const Block::Cut cut = m.length(1) > 0   ? partial
                               : m.length(4) > 0 ? rows
                               : m.length(6) > 0 ? columns
                                                 : replicated;
        one.terms.push_back({"",
                             {name, down.size, across.size, cut, down.drawn, across.drawn,
                              cut == rows ? down.strips : across.strips}});
      } else if (word == "->" || word == "|") {
        end_sign(word == "->");
      } else {
        sign += (sign.empty() ? "" : " ") + word;
      }
    end_sign(false);
  }
  return all;
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
  out << svg_open(width, height + 30, alt);
  double y = 0;
  for (const auto& equation : equations) {
    const double tall = height_of(equation, ranks);
    out << svg_text(gap, y + 20, equation.title, " text-anchor=\"start\" font-weight=\"bold\"");
    double x = gap;
    for (const auto& term : equation.terms) {
      const double wide = width_of(term, ranks);
      const double middle = y + top + tall / 2;
      if (term.sign.empty())
        draw(out, term.block, ranks, x, middle - term.block.height / 2);
      else
        out << svg_text(x + wide / 2, middle + (term.arrow ? -7 : 5), term.sign);
      if (term.arrow) out << arrow(x, middle, wide);
      x += wide + gap;
    }
    y += top + tall + bottom;
  }
  double x = gap;
  // With one rank nothing is cut, and everything is grey.
  for (int r = 0; ranks > 1 && r < ranks; ++r, x += 74)
    out << svg_rectangle(x, y + 4, 14, 14, colour(r))
        << svg_text(x + 20, y + 16, format("rank {}", r), " text-anchor=\"start\"");
  out << svg_rectangle(x, y + 4, 14, 14, "#b0b0b0")
      << svg_text(x + 20, y + 16, ranks > 1 ? "on every rank" : "whole", " text-anchor=\"start\"");
  out << "</svg>\n";
  return out.str();
}

}  // namespace tessera
