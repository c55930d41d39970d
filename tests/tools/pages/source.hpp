// Parts of sources between anchors, and the programs that a page builds of them in steps.
#pragma once

#include <cstdlib>
#include <map>
#include <optional>
#include <regex>

#include "text.hpp"

namespace pages {

inline const std::regex anchor_line(R"(\s*(?://|#) ((?:begin|end) [\w.-]+(?:, (?:begin|end) [\w.-]+)*)\s*)");
inline const std::regex task_line(R"(\s*// task [\w.]+ \([^()]*\):.*)");
inline const std::regex comment_line(R"(\s*//.*)");

/// Without anchors, and without a lab task's comment: its first line and the comment lines right below it.
inline Lines without_markers(const Lines& lines) {
  Lines kept;
  bool in_task = false;
  for (const std::string& line : lines) {
    in_task = std::regex_match(line, task_line) || (in_task && std::regex_match(line, comment_line));
    if (!in_task && !std::regex_match(line, anchor_line)) kept.push_back(line);
  }
  return kept;
}

inline Lines excerpt(const fs::path& file, const std::string& name) {
  Lines part;
  int begins = 0, ends = 0;
  for (const std::string& line : split(read(file))) {
    std::smatch match;
    const bool anchor = std::regex_match(line, match, anchor_line);
    const std::string list = anchor ? ", " + match[1].str() + "," : "";
    if (list.find(", end " + name + ",") != std::string::npos) ++ends;
    if (begins == 1 && ends == 0) part.push_back(line);
    if (list.find(", begin " + name + ",") != std::string::npos) ++begins;
  }
  if (begins != 1 || ends != 1)
    throw Fault(format("{} has {} lines `// begin {}` and {} lines `// end {}`: it takes one of each",
                       file.string(), begins, name, ends, name));
  part = without_markers(part);
  std::size_t indent = std::string::npos;
  for (const std::string& line : part) indent = std::min(indent, line.find_first_not_of(' '));
  for (std::string& line : part) line.erase(0, std::min(indent, line.size()));
  while (!part.empty() && part.back().empty()) part.pop_back();
  while (!part.empty() && part.front().empty()) part.erase(part.begin());
  return part;
}

inline std::string language(const fs::path& file) {
  static const std::map<std::string, std::string> names = {{".cpp", "cpp"}, {".hpp", "cpp"},
                                                           {".cu", "cuda"}, {".cmake", "cmake"},
                                                           {".sh", "bash"}, {".json", "json"}};
  const auto found = names.find(file.extension().string());
  return found == names.end() ? "text" : found->second;
}

/// "KIND step=3b exit=1 REST": step and exit may be left out.
struct Marker {
  std::string kind, step, rest;
  int exit = 0;
};

inline Marker parse(const std::string& text) {
  static const std::regex form(R"(\s*(\w+)\s*(?:step=([0-9][a-z]?)\s*)?(?:exit=([0-9])\s*)?(.*?)\s*)");
  std::smatch match;
  if (!std::regex_match(text, match, form)) return {};
  return {match[1], match[2], match[4], std::atoi(match[3].str().c_str())};
}

inline std::optional<Marker> marker_in(const std::string& line) {
  static const std::regex comment(R"(<!-- ((?:excerpt|run|picture) .*)-->\s*)");
  std::smatch match;
  if (!std::regex_match(line, match, comment)) return std::nullopt;
  return parse(match[1]);
}

struct Place {  // of an excerpt
  std::string file, name;
  explicit Place(const Marker& marker) {
    std::istringstream in(marker.rest);
    std::string more;
    if (!(in >> file >> name) || in >> more) throw Fault("an excerpt takes a file and an anchor");
  }
};

/// An excerpt as a page shows it.
inline Lines excerpt_block(const fs::path& root, const Place& place) {
  Lines block = {"```" + language(place.file)};
  append(block, excerpt(root / place.file, place.name));
  block.emplace_back("```");
  return block;
}

// Programs that a page builds in steps.

struct Program {
  Lines lines;
  int exit = 0;
};

/// All programs of a page by their step. `sources` receives the files that its parts come from.
inline std::map<std::string, Program> assemble(const fs::path& root, const Lines& page,
                                               std::vector<std::string>& sources) {
  std::vector<std::pair<int, Lines>> parts;  // from which step on, and what
  std::map<std::string, Program> programs;
  for (std::size_t i = 0; i < page.size(); ++i) {
    if (const auto marker = marker_in(page[i]);
        marker && marker->kind == "excerpt" && !marker->step.empty()) {
      const Place place(*marker);
      parts.push_back({std::stoi(marker->step), excerpt(root / place.file, place.name)});
      sources.push_back(place.file);
      programs[marker->step];
    } else if (page[i].rfind("```cpp step=", 0) == 0) {
      const Marker block = parse(page[i].substr(3));
      Program& program = programs[block.step];
      program.exit = block.exit;
      while (++i < page.size() && page[i] != "```") program.lines.push_back(page[i]);
    }
  }
  for (auto& [step, program] : programs) {
    Lines whole;
    for (const auto& [from, lines] : parts)
      if (from <= std::stoi(step)) append(whole, lines), whole.emplace_back();
    append(whole, program.lines);
    program.lines = whole;
  }
  return programs;
}

}  // namespace pages
