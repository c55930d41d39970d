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

/// The words of a page as a reader meets them, on one line: also those of comments in code, but neither the
/// code itself, nor outputs, headings, pictures, links' targets and other pages' names, nor references at the
/// end.
inline std::string prose(const Lines& page) {
  static const std::regex other("`[^`]*`|\\[[^\\]]*\\]\\([^)]*\\.md[^)]*\\)|<!--.*-->|!\\[.*"),
      target(R"(\]\([^)]*\))");
  std::string words, fence;
  for (const std::string& line : page) {
    if (line == "## References") break;
    if (line.rfind("```", 0) == 0)
      fence = fence.empty() ? line : "";
    else if (fence.rfind("```cpp", 0) == 0)
      words += line.find("// ") == std::string::npos ? "" : line.substr(line.find("// ") + 3) + " ";
    else if (fence.empty() && line.rfind("#", 0) != 0 && line.rfind("| [", 0) != 0 &&
             line.rfind("| ...", 0) != 0)
      words += std::regex_replace(std::regex_replace(line, other, " "), target, "]") + " ";
  }
  return words;
}

/// The glossary's rows, `| term | Chinese | [page](file) | meaning |`: the page has the term in bold where it
/// explains it, and neither that page nor one before uses it sooner. Pages are read in the order of their
/// names, "start here" first and "a GPT by hand" second.
inline Lines broken_terms(const Lines& glossary, const fs::path& folder) {
  static const std::regex row(R"(\| ([^|]+) \| [^|]+ \| \[[^\]]*\]\((\w+\.md)\) \| [^|]+ \|)");
  const auto place = [](const std::string& file) {
    return file == "00_start_here.md" ? "00" : file == "00_gpt.md" ? "00_a" : file;
  };
  std::vector<std::pair<std::string, std::string>> pages;  // name, prose
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (std::regex_match(name, std::regex(R"(\d\d_\w+\.md)")))
      pages.emplace_back(place(name), prose(split(read(entry.path()))));
  }
  std::sort(pages.begin(), pages.end());
  Lines broken;
  std::smatch match;
  int terms = 0;
  for (const std::string& line : glossary) {
    if (!std::regex_match(line, match, row)) continue;
    ++terms;
    const std::string term = match[1], page = place(match[2]);
    const bool name = std::any_of(term.begin(), term.end(), [](unsigned char c) { return std::isupper(c); });
    const std::regex word("(^|[^\\w-])" + term + "(s|es)?($|[^\\w-])",
                          name ? std::regex::ECMAScript : std::regex::icase);  // ZeRO is not zero
    const auto first = std::find_if(pages.begin(), pages.end(),
                                    [&](const auto& one) { return std::regex_search(one.second, word); });
    const std::string found = first == pages.end() ? "no page" : first->first;
    std::smatch use;
    if (found == page) std::regex_search(first->second, use, word);
    std::size_t stars = 0;  // an odd number of ** before the term: it is in bold
    const std::string before = found == page ? use.prefix().str() + use[1].str() : "**";
    for (std::size_t at = 0; (at = before.find("**", at)) != std::string::npos; at += 2) ++stars;
    if (found != page) broken.push_back("\"" + term + "\" first stands on " + found + ", not on " + page);
    if (stars % 2 == 0)
      broken.push_back("\"" + term + "\" is used on " + page + " before it is explained, in bold");
  }
  if (terms == 0) broken.emplace_back("has no row `| term | Chinese | [page](file) | meaning |`");
  return broken;
}

}  // namespace pages
