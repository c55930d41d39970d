// What a submission's file may be.
#pragma once

#include "tasks.hpp"

namespace tessera::labs {

/// The first line that includes anything but the course and the standard library, "" where none does: the
/// master's solution lies on this disk. The words are looked for wherever no // stands before them, so that
/// no comment and no string hides a directive.
inline std::string forbidden_line(std::string code) {
  static const std::regex allowed(R"(\s*#\s*include\s*("\w+(/\w+)*\.hpp"|<\w+(/\w+)*(\.\w+)?>)\s*(//.*)?)");
  const auto in_word = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  for (std::size_t at = 0; (at = code.find('\\', at)) != std::string::npos;) {  // lines that go on
    const std::size_t end = code.find_first_not_of(" \t\r", at + 1);
    if (end < code.size() && code[end] == '\n')
      code.erase(at, end + 1 - at);
    else
      ++at;
  }
  for (const std::string& line : pages::split(code)) {
    const std::size_t slashes = line.find("//");
    const bool comment =
        line.find('"') >= slashes && line.find("*/", std::min(slashes, line.size())) == std::string::npos;
    const std::string text = comment ? line.substr(0, slashes) : line;
    for (const std::string word : {"include", "include_next", "import", "embed"})
      for (std::size_t at = 0; (at = text.find(word, at)) != std::string::npos; at += word.size()) {
        const std::size_t end = at + word.size();
        const bool whole = (at == 0 || !in_word(text[at - 1])) && (end == text.size() || !in_word(text[end]));
        if (whole && (line.size() > 200 || !std::regex_match(line, allowed))) return line.substr(0, 100);
      }
  }
  return "";
}

/// A student's file. Throws Fault where it may not be marked.
inline std::string submitted(const fs::path& student, const std::string& file) {
  const fs::path path = fs::weakly_canonical(student / file);
  if (!fs::is_regular_file(path) || fs::file_size(path) > 1 << 20) throw pages::Fault(file + " is missing");
  if (path != fs::weakly_canonical(student) / file) throw pages::Fault(file + " is a link");
  const std::string code = pages::read(path), line = forbidden_line(code);
  if (!line.empty()) throw pages::Fault(file + ": `" + line + "` is not allowed here");
  return code;
}

}  // namespace tessera::labs
