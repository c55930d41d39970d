// What a page says of other files: lines of code by their number, what the compiler says of them, and terms
// by the page that brings them up.
#pragma once

#include <map>
#include <regex>

#include "text.hpp"

namespace pages {

/// [text](file#L12 "piece"): the number becomes that of the one line of the file that holds the piece.
inline std::string pinned(const std::string& line, const fs::path& folder) {
  static const std::regex link(R"re(\]\(([^)\s#]+)#L\d+ "([^"]+)"\))re");
  std::string result;
  std::smatch match;
  std::string rest = line;
  while (std::regex_search(rest, match, link)) {
    const std::string file = match[1], piece = match[2];
    const Lines lines = split(read(folder / file));
    std::size_t number = 0;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (lines[i].find(piece) == std::string::npos) continue;
      if (number > 0) throw Fault(file + " holds \"" + piece + "\" more than once");
      number = i + 1;
    }
    if (number == 0) throw Fault(file + " holds no \"" + piece + "\"");
    result.append(match.prefix()).append("](").append(file).append("#L");
    result.append(std::to_string(number)).append(" \"").append(piece).append("\")");
    rest = match.suffix();
  }
  return result + rest;
}

/// The messages of static assertions that a page shows and that no line of src/placement has.
inline Lines unsaid(const Lines& page, const fs::path& placement) {
  static const std::string head = "error: static assertion failed: ";
  std::string code;
  if (fs::is_directory(placement))
    for (const auto& entry : fs::directory_iterator(placement)) code += read(entry.path());
  Lines wrong;
  for (std::size_t i = 0; i < page.size(); ++i) {
    if (page[i].rfind(head, 0) != 0) continue;
    std::string message = page[i].substr(head.size());
    while (i + 1 < page.size() && page[i + 1].rfind("```", 0) != 0) message += " " + page[++i];
    if (code.find("\"" + message + "\"") == std::string::npos) wrong.push_back(message);
  }
  return wrong;
}

/// The words of a page as a reader meets them: without code, links' targets and comments, on one line.
inline std::string prose(const Lines& page) {
  static const std::regex code("`[^`]*`"), target(R"(\]\([^)]*\))"), comment("<!--.*-->");
  std::string words;
  bool fenced = false;
  for (const std::string& line : page) {
    if (line.rfind("```", 0) == 0)
      fenced = !fenced;
    else if (!fenced)
      words += std::regex_replace(std::regex_replace(std::regex_replace(line, code, ""), target, "]"),
                                  comment, "") +
               " ";
  }
  return words;
}

/// The glossary's rows, `| term | Chinese | [page](file) | meaning |`: the page uses the term, and none
/// before it does. Pages are read in the order of their names, "start here" first.
inline Lines broken_terms(const Lines& glossary, const fs::path& folder) {
  static const std::regex row(R"(\| ([^|]+) \| [^|]+ \| \[[^\]]*\]\((\w+\.md)\) \| [^|]+ \|)");
  std::vector<std::pair<std::string, std::string>> pages;  // name, prose
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (std::regex_match(name, std::regex(R"(\d\d_\w+\.md)")))
      pages.emplace_back(name == "00_start_here.md" ? "00" : name, prose(split(read(entry.path()))));
  }
  std::sort(pages.begin(), pages.end());
  Lines broken;
  std::smatch match;
  int terms = 0;
  for (const std::string& line : glossary) {
    if (!std::regex_match(line, match, row)) continue;
    ++terms;
    const std::string term = match[1], file = match[2], page = file == "00_start_here.md" ? "00" : file;
    const std::regex word("(^|[^\\w-])" + term + "(s|es)?($|[^\\w-])", std::regex::icase);
    const auto first = std::find_if(pages.begin(), pages.end(),
                                    [&](const auto& one) { return std::regex_search(one.second, word); });
    const std::string found = first == pages.end() ? "no page" : first->first;
    if (found != page) broken.push_back("\"" + term + "\" first stands on " + found + ", not on " + page);
  }
  if (terms == 0) broken.emplace_back("has no row `| term | Chinese | [page](file) | meaning |`");
  return broken;
}

}  // namespace pages
