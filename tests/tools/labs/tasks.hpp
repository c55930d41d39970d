// The lab tasks as the sources mark them, and sources with their bodies cut out.
//
//   // task 02.forward (line, 1 point, 10 min): what to write. Shapes. Hint: ...
//   void forward(...) { ... }
//   // end task
//
// stands above one or more whole functions. Size, points and time are those of the list,
// the check and the mark.
#pragma once

#include <functional>
#include <set>

#include "../pages/source.hpp"

namespace tessera::labs {

namespace fs = std::filesystem;
using pages::Lines;

const char* const labs_folder = "tests/tools/labs";  // of the programs that call the tasks
const char* const recorded =
    "tests/tools/labs/expected.json";  // what they should give; there: a student's tree

struct TaskInfo {
  std::string name, size;  // "02.forward"; "line", "function" or "design"
  int points = 0, minutes = 0;
  std::string text, file;          // what to do; where, from the root
  std::size_t begin = 0, end = 0;  // in the file's text
  std::string lesson() const { return name.substr(0, 2); }
};

/// The tasks of one source, in their order.
inline std::vector<TaskInfo> tasks_of(const std::string& code, const std::string& file) {
  static const std::regex head(
      R"(// task (\d\d\.\w+) \((line|function|design), (\d+) points?, (\d+) min\): (.*(?:\n *// .*)*))"),
      more(R"(\n *// )");
  std::vector<TaskInfo> tasks;
  for (std::sregex_iterator it(code.begin(), code.end(), head), last; it != last; ++it) {
    const std::smatch& match = *it;
    const auto begin = static_cast<std::size_t>(match.position());
    const std::size_t end = code.find("// end task", begin);
    if (end > code.find("// task ", begin + 1) || end == std::string::npos)
      throw pages::Fault(file + ": " + match[1].str() + " has no `// end task`");
    tasks.push_back({match[1], match[2], std::stoi(match[3]), std::stoi(match[4]),
                     std::regex_replace(match[5].str(), more, " "), file, begin, end});
  }
  return tasks;
}

/// Sources of the lessons below root, in their order: "lessons/02_column_split/column_split.hpp".
inline std::vector<std::string> lesson_files(const fs::path& root) {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root / "lessons"))
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), root).string());
  std::sort(files.begin(), files.end());
  return files;
}

/// The folder in lessons/ that a file lies in: "02_column_split".
inline std::string folder_of(const std::string& file) {
  const fs::path path(file);
  return std::next(path.begin())->string();
}

inline std::vector<TaskInfo> all_tasks(const fs::path& root) {
  std::vector<TaskInfo> tasks;
  for (const std::string& file : lesson_files(root))
    for (const TaskInfo& task : tasks_of(pages::read(root / file), file)) tasks.push_back(task);
  return tasks;
}

/// The piece of C++ that begins at `at`: a comment, a literal (raw: one that ends at a word of its own), a
/// word or a number, or one character of anything else.
struct Token {
  enum class Kind { comment, literal, raw, word, other } kind;
  std::size_t end;
};

inline bool in_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || (c & 0x80) != 0;
}

inline Token token_at(const std::string& code, std::size_t at) {
  using Kind = Token::Kind;
  const auto behind = [&](const std::string& text, std::size_t from) {
    const std::size_t found = code.find(text, from);
    return found == std::string::npos ? code.size() : found + text.size();
  };
  if (code.compare(at, 2, "//") == 0) return {Kind::comment, std::min(code.find('\n', at), code.size())};
  if (code.compare(at, 2, "/*") == 0) return {Kind::comment, behind("*/", at + 2)};
  std::size_t end = at;
  if (std::isdigit(static_cast<unsigned char>(code[at])) != 0) {  // 1'000, 1.5e+3
    const auto sign = [&] {
      return std::string_view("+-").find(code[end]) < 2 && std::string_view("eEpP").find(code[end - 1]) < 4;
    };
    while (end < code.size() && (in_word(code[end]) || code[end] == '.' || (end > at && sign()) ||
                                 (code[end] == '\'' && in_word(code[end + 1]))))
      ++end;
    return {Kind::word, end};
  }
  while (end < code.size() && in_word(code[end])) ++end;
  const std::string word = code.substr(at, end - at);
  const char quote = end < code.size() ? code[end] : ' ';
  static const std::set<std::string> prefixes = {"", "L", "u", "U", "u8", "R", "LR", "uR", "UR", "u8R"};
  if ((quote != '"' && quote != '\'') || prefixes.count(word) == 0)
    return word.empty() ? Token{Kind::other, at + 1} : Token{Kind::word, end};
  if (quote == '"' && word.ends_with('R')) {
    const std::size_t bracket = code.find('(', end);
    if (bracket == std::string::npos) return {Kind::raw, code.size()};
    return {Kind::raw, behind(")" + code.substr(end + 1, bracket - end - 1) + "\"", bracket)};
  }
  for (++end; end < code.size() && code[end] != quote && code[end] != '\n'; ++end)
    if (code[end] == '\\' && end + 1 < code.size()) ++end;
  return {Kind::literal, std::min(end + (code[end] == quote ? 1 : 0), code.size())};  // at most its line
}

/// The brace that closes the one at `at`.
inline std::size_t closing(const std::string& code, std::size_t at) {
  int depth = 0;
  for (std::size_t i = at; i < code.size(); i = token_at(code, i).end) {
    if (code[i] == '{') ++depth;
    if (code[i] == '}' && --depth == 0) return i;
  }
  throw pages::Fault("a brace is not closed");
}

/// Code whose functions throw "task NAME is open". name_of says the task of the function whose body begins at
/// `at` and whose own name is `function`, or "" where the body stays.
inline std::string cut(
    const std::string& code,
    const std::function<std::string(std::size_t at, const std::string& function)>& name_of) {
  static const std::regex parameters(R"(template *<[^<>]*>)"), scope(R"(\b(namespace|struct|class)\b)"),
      called(R"((operator\W+|\w+) *\()");
  std::string out, head;  // head: the declaration so far
  int parentheses = 0;
  for (std::size_t at = 0, end = 0; at < code.size(); at = end) {
    const bool directive = code[at] == '#' && (at == 0 || code[at - 1] == '\n');
    const Token token = token_at(code, at);
    end = directive ? code.find('\n', at) : token.end;
    const std::string text = code.substr(at, end - at);
    if (text != "{") {
      const bool declares = token.kind == Token::Kind::word || token.kind == Token::Kind::other;
      if (declares && !directive) head += text;
      parentheses += (text == "(") - (text == ")");
      if (parentheses == 0 && (text == ";" || text == "}")) head.clear();
      out += text;
      continue;
    }
    head = std::regex_replace(head, parameters, "");
    const std::size_t bracket = head.find('('), equals = head.find('=');
    if (parentheses == 0 && bracket == std::string::npos && std::regex_search(head, scope)) {
      head.clear();
      out += text;
      continue;
    }
    const std::size_t close = closing(code, at), line = code.rfind('\n', close) + 1;
    const bool function = parentheses == 0 && bracket != std::string::npos &&
                          (equals > bracket || head.find("operator") != std::string::npos);
    std::smatch match;
    const bool named = function && std::regex_search(head, match, called);
    const std::string name = named ? name_of(at, match[1]) : "", body = code.substr(at + 1, close - at - 1);
    const std::string open = "throw std::logic_error(\"task " + name + " is open\");";
    const std::string indent(code.find_first_not_of(' ', line) - line, ' ');
    if (name.empty() || body.find_first_not_of(" \n") == std::string::npos)
      out += code.substr(at, close - at + 1);
    else if (line <= at)
      out += "{ " + open + " }";
    else
      out += "{\n" + indent + "  " + open + "\n" + indent + "}";
    if (function) head.clear();
    end = close + 1;
  }
  if (out == code) return out;
  const std::string first = "#include ";
  return out.insert(out.find(first) == 0 ? 0 : out.find("\n" + first) + 1,
                    "#include <stdexcept>  // what an open task throws\n"
                    "#pragma GCC diagnostic ignored \"-Wunused-parameter\"\n");
}

/// The names of the functions of a task, which stands in this source.
inline std::set<std::string> functions_of(const std::string& code, const TaskInfo& task) {
  std::set<std::string> names;
  cut(code, [&](std::size_t at, const std::string& function) {
    if (at > task.begin && at < task.end) names.insert(function);
    return "";
  });
  return names;
}

/// The master's source with one of its tasks as a student's has it; "" where that has no such task.
inline std::string with_task(const std::string& master, const std::string& student, const std::string& task) {
  const auto place_in = [&](const std::string& code) {
    const std::size_t begin = code.find("// task " + task + " ");
    return std::pair(begin, code.find("// end task", begin));
  };
  const auto [begin, end] = place_in(master);
  const auto [from, to] = place_in(student);
  return to == std::string::npos
             ? ""
             : master.substr(0, begin) + student.substr(from, to - from) + master.substr(end);
}

/// A student's form of a source: its tasks open; with `all`, every function of it but main.
inline std::string student_form(const std::string& code, const std::string& file, bool all) {
  const std::vector<TaskInfo> tasks = tasks_of(code, file);
  const std::string lesson = folder_of(file).substr(0, 2);
  return cut(code, [&](std::size_t at, const std::string& function) -> std::string {
    for (const TaskInfo& task : tasks)
      if (at > task.begin && at < task.end) return task.name;
    return all && function != "main" ? lesson + "." + function : "";
  });
}

}  // namespace tessera::labs
