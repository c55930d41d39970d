// What a submission's file may be. `lab check` and `lab grade` ask the same.
#pragma once

#include "tasks.hpp"

namespace tessera::labs {

/// Line ends as on Unix, and lines that end with a backslash joined to the next.
inline std::string joined_lines(const std::string& code) {
  const auto newline = [&](std::size_t at) {
    return code.compare(at, 2, "\r\n") == 0 ? 2 : code.compare(at, 1, "\n") == 0 ? 1 : 0;
  };
  std::string out;
  for (std::size_t at = 0; at < code.size(); ++at) {
    const std::size_t end = code[at] == '\\' ? code.find_first_not_of(" \t", at + 1) : std::string::npos;
    if (end < code.size() && newline(end) > 0)
      at = end + newline(end) - 1;
    else if (newline(at) < 2)
      out += code[at];
  }
  return out;
}

/// The first line that may not stand in a submission, "" where there is none. It may include the course and
/// the standard library alone, since the master's solution lies on this disk; so may the assembler, which is
/// why there is no asm, nor a name of the compiler's own by which it could be reached. This reads what the
/// compiler sees: comments are taken out, and the text of literals does not count.
inline std::string forbidden_line(const std::string& source) {
  static const std::regex directive(
      R"(\s*#\s*((define|undef|ifdef|ifndef|if|elif|else|endif|error|warning)\b.*|)"
      R"(pragma\s+(once|GCC\s+diagnostic|omp)\b.*|)"
      R"(include\s*("\w+(/\w+)*\.hpp"|<\w+(/\w+)*(\.\w+)?>)\s*)?)");
  static const std::set<std::string> refused = {"asm", "gnu", "clang", "import"},
                                     usual = {"__FILE__", "__LINE__", "__func__", "__VA_ARGS__", "_Exit"};
  const std::string code = joined_lines(source) + "\n";
  std::string line;
  bool blank = true, directs = false;  // so far, on this line
  bool bad = std::any_of(code.begin(), code.end(), [](char c) {
    return static_cast<unsigned char>(c) < ' ' && c != '\n' && c != '\t';
  });
  if (bad) return "a control character";
  for (std::size_t at = 0, end = 0; at < code.size(); at = end) {
    const Token token = token_at(code, at);
    const Token::Kind kind = token.kind;
    end = token.end;
    const std::string text = code.substr(at, end - at);
    if (kind == Token::Kind::comment) {
      line += ' ';
    } else if (text == "\n") {
      if (bad || (directs && (line.size() > 2000 || !std::regex_match(line, directive))))
        return line.substr(line.find_first_not_of(" \t"), 100);
      line.clear();
      blank = true, directs = false;
    } else {
      if (blank) directs = text == "#";
      blank &= text == " " || text == "\t";
      const bool own = text.find("__") != std::string::npos ||
                       (text.size() > 1 && text[0] == '_' && text[1] >= 'A' && text[1] <= 'Z');
      if (kind == Token::Kind::word) bad |= refused.count(text) > 0 || (own && usual.count(text) == 0);
      if (kind == Token::Kind::other)
        bad |= text == "\\" || code.compare(at, 2, "##") == 0 || code.compare(at, 2, "%:") == 0;
      bad |= kind == Token::Kind::raw;
      line += text;
    }
  }
  return "";
}

/// A student's file without byte order mark; "" where it may not be marked, and why in `fault`.
inline std::string check_file(const fs::path& student, const std::string& file, std::string& fault) try {
  const fs::path path = fs::weakly_canonical(student / file);
  if (!fs::exists(path)) throw pages::Fault(file + " is missing");
  if (path != fs::weakly_canonical(student) / file) throw pages::Fault(file + " is a link");
  if (!fs::is_regular_file(path) || fs::file_size(path) > 1 << 20)
    throw pages::Fault(file + " is no file of at most a MiB");
  std::string code = pages::read(path);
  if (code.rfind("\xef\xbb\xbf", 0) == 0) code.erase(0, 3);
  const std::string line = forbidden_line(code);
  if (!line.empty()) throw pages::Fault(file + ": `" + line + "` is not allowed here");
  return code;
} catch (const std::exception& why) {
  return fault = why.what(), "";
}

}  // namespace tessera::labs
