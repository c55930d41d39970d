// What a page says of other files: lines of code by their number, what the compiler says of them, and terms
// by the page that brings them up.
#pragma once

#include <cctype>
#include <map>
#include <regex>
#include <set>

#include "messages.hpp"
#include "text.hpp"

namespace pages {

/// [text](file#L12 "piece"): the number becomes that of the one line of the file that holds the piece.
inline std::string pinned(const std::string& line, const fs::path& folder) {
  static const std::regex link(R"re(\]\(([^)\s#]+)#L\d+ "([^"]+)"\))re");
  std::string result, rest = line;
  for (std::smatch match; std::regex_search(rest, match, link); rest = match.suffix()) {
    const std::string file = match[1], piece = match[2];
    const Lines lines = split(read(folder / file));
    const auto holds = [&](const std::string& one) { return one.find(piece) != std::string::npos; };
    const auto found = std::find_if(lines.begin(), lines.end(), holds);
    if (found == lines.end()) throw Fault(format("{} holds no \"{}\"", file, piece));
    if (std::any_of(found + 1, lines.end(), holds))
      throw Fault(format("{} holds \"{}\" more than once", file, piece));
    result += match.prefix().str() + format("]({}#L{} \"{}\")", file, found - lines.begin() + 1, piece);
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
    std::smatch use;
    const auto first = std::find_if(pages.begin(), pages.end(), [&](const auto& one) {
      return std::regex_search(one.second, use, word);
    });
    const std::string found = first == pages.end() ? "no page" : first->first;
    if (found != page)
      broken.push_back(format("\"{}\" first stands on {}, not on {}", term, found, page));
    else if (tessera::test::count_of(use.prefix().str() + use[1].str(), "**") % 2 ==
             0)  // behind an odd one it is bold
      broken.push_back(format("\"{}\" is used on {} before it is explained, in bold", term, page));
  }
  if (terms == 0) broken.emplace_back("has no row `| term | Chinese | [page](file) | meaning |`");
  return broken;
}

/// The letters that a page uses: X where a formula has dX, X_1 or x_1; the capitals in the shapes that
/// comments of its code give; and those in a formula of bytes at the end of a line of output. Indices and the
/// base e are none.
inline std::set<std::string> letters_of(const Lines& page) {
  static const std::regex other("`[^`]*`|<!--.*-->"), index(R"(_(\{[^{}]*\}|\w))"),
      word(R"([A-Za-z]+|\\Psi)"),
      command(R"(\\(begin|end)\{[^}]*\}(\{[^}]*\})?|\\text\{[^}]*\}|d?\\(?!Psi)[a-zA-Z]+|\^\{?T\}?)"),
      shape(R"(// .*?(\([^()]*, [^()]*\)))"), bytes(R"( B  (.*)$)");
  std::set<std::string> letters;
  const auto take = [&](const std::string& text, bool small) {
    for (std::sregex_iterator it(text.begin(), text.end(), word), end; it != end; ++it) {
      std::string one = it->str();
      if (one.size() == 2 && one[0] == 'd') one.erase(0, 1);
      const bool capital = std::isupper(static_cast<unsigned char>(one[0])) != 0;
      if (one == "\\Psi" || (one.size() == 1 && (capital || small))) letters.insert(one);
    }
  };
  std::string fence, formulas;
  for (const std::string& line : page) {
    std::smatch match;
    if (line == "## References") break;
    if (line.rfind("```", 0) == 0)
      fence = fence.empty() ? line : "";
    else if (fence.empty())
      formulas += std::regex_replace(line, other, " ") + "\n";
    else if (std::regex_search(line, match, fence == "```text" ? bytes : shape))
      take(match[1], false);
  }
  std::istringstream parts(std::regex_replace(formulas, std::regex(R"(\$\$)"), "$$"));
  std::string part;
  for (bool formula = false; std::getline(parts, part, '$'); formula = !formula)
    if (formula)
      take(std::regex_replace(std::regex_replace(std::regex_replace(part, command, " "), index, " "), index,
                              " "),
           true);
  for (const char* none : {"e", "i", "j", "k"}) letters.erase(none);
  return letters;
}

/// The glossary's rows `| $N$ | pages | meaning |`: each letter has one row. A page may use those of every
/// page; any other it states in a paragraph `Letters: $N$ meaning; $W$ meaning.`, in the words of the table.
/// Then x is an element of X.
inline Lines broken_letters(const Lines& glossary, const fs::path& folder) {
  static const std::regex row(R"(\| \$([^$]+)\$ \| ([^|]+) \| ([^|]+) \|.*)"),
      one(R"(\$([^$]+)\$ (.*?)(; |\.( |$)))");
  std::map<std::string, std::string> meanings;
  std::set<std::string> everywhere;
  Lines broken;
  std::smatch match;
  for (const std::string& line : glossary) {
    if (!std::regex_match(line, match, row)) continue;
    if (!meanings.emplace(match[1], match[3]).second)
      broken.push_back(format("${}$ has two rows", match[1].str()));
    if (match[2] == "every page") everywhere.insert(match[1]);
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".md" || name == "glossary.md") continue;
    const Lines page = split(read(entry.path()));
    std::set<std::string> known = everywhere;
    std::string stated;
    bool inside = false;
    for (const std::string& line : page) {
      inside = !line.empty() && (inside || line.rfind("Letters: ", 0) == 0);
      if (inside) stated += line + " ";
    }
    for (std::sregex_iterator it(stated.begin(), stated.end(), one), end; it != end; ++it) {
      const std::string letter = (*it)[1], meaning = (*it)[2];
      const auto found = meanings.find(letter);
      const std::string right = found == meanings.end() ? "nothing" : found->second;
      if (right != meaning)
        broken.push_back(format("{} says that ${}$ is {}, and the table: {}", name, letter, meaning, right));
      known.insert(letter.substr(0, letter.find('_')));
    }
    for (const std::string& letter : letters_of(page)) {
      std::string capital = letter;
      capital[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(letter[0])));
      if (known.count(letter) + known.count(capital) == 0)
        broken.push_back(format("{} uses ${}$ and does not state it", name, letter));
    }
  }
  return broken;
}

}  // namespace pages
