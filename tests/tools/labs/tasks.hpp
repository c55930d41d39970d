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

#include "../pages/source.hpp"

namespace tessera::labs {

namespace fs = std::filesystem;
using pages::Lines;

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
      R"( *// task (\d\d\.\w+) \((line|function|design), (\d+) points?, (\d+) min\): (.*))"),
      more(R"( *// (.*))"), end(R"( *// end task)");
  std::vector<TaskInfo> tasks;
  std::size_t at = 0;
  bool text = false, open = false;
  for (const std::string& line : pages::split(code)) {
    std::smatch match;
    if (std::regex_match(line, match, head)) {
      if (open) throw pages::Fault(file + ": " + tasks.back().name + " has no `// end task`");
      tasks.push_back({match[1], match[2], std::stoi(match[3]), std::stoi(match[4]), match[5], file, at, 0});
      text = open = true;
    } else if (text && std::regex_match(line, match, more)) {
      tasks.back().text += " " + match[1].str();
    } else if (open && std::regex_match(line, end)) {
      tasks.back().end = at;
      open = false;
    } else {
      text = false;
    }
    at += line.size() + 1;
  }
  if (open) throw pages::Fault(file + ": " + tasks.back().name + " has no `// end task`");
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

inline std::vector<TaskInfo> all_tasks(const fs::path& root) {
  std::vector<TaskInfo> tasks;
  for (const std::string& file : lesson_files(root))
    for (const TaskInfo& task : tasks_of(pages::read(root / file), file)) tasks.push_back(task);
  return tasks;
}

/// Where the comment, the string or the character that begins at `at` ends; `at` where none begins.
inline std::size_t skip_quiet(const std::string& code, std::size_t at) {
  if (code.compare(at, 2, "//") == 0) return std::min(code.find('\n', at), code.size());
  if (code.compare(at, 2, "/*") == 0) return std::min(code.find("*/", at), code.size() - 2) + 2;
  const char quote = code[at];
  const bool separator =
      quote == '\'' && at > 0 && std::isalnum(static_cast<unsigned char>(code[at - 1]));  // 1'000
  if ((quote != '"' && quote != '\'') || separator) return at;
  std::size_t i = at + 1;
  while (i < code.size() && code[i] != quote) i += code[i] == '\\' ? 2 : 1;
  return i + 1;
}

/// The brace that closes the one at `at`.
inline std::size_t closing(const std::string& code, std::size_t at) {
  int depth = 0;
  for (std::size_t i = at; i < code.size(); ++i) {
    while (i < code.size() && skip_quiet(code, i) > i) i = skip_quiet(code, i);
    if (i < code.size() && code[i] == '{') ++depth;
    if (i < code.size() && code[i] == '}' && --depth == 0) return i;
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
  for (std::size_t i = 0; i < code.size(); ++i) {
    const bool directive = code[i] == '#' && (i == 0 || code[i - 1] == '\n');
    if (const std::size_t end = directive ? code.find('\n', i) : skip_quiet(code, i); end > i) {
      out += code.substr(i, end - i);
      i = end - 1;
      continue;
    }
    if (code[i] != '{') {
      parentheses += (code[i] == '(') - (code[i] == ')');
      head += code[i];
      if (parentheses == 0 && (code[i] == ';' || code[i] == '}')) head.clear();
      out += code[i];
      continue;
    }
    head = std::regex_replace(head, parameters, "");
    const std::size_t bracket = head.find('('), equals = head.find('=');
    if (parentheses == 0 && bracket == std::string::npos && std::regex_search(head, scope)) {
      head.clear();
      out += code[i];
      continue;
    }
    const std::size_t close = closing(code, i), line = code.rfind('\n', close) + 1;
    const bool function = parentheses == 0 && bracket != std::string::npos &&
                          (equals > bracket || head.find("operator") != std::string::npos);
    std::smatch match;
    const bool named = function && std::regex_search(head, match, called);
    const std::string name = named ? name_of(i, match[1]) : "", body = code.substr(i + 1, close - i - 1);
    const std::string open = "throw std::logic_error(\"task " + name + " is open\");";
    const std::string indent(code.find_first_not_of(' ', line) - line, ' ');
    if (name.empty() || body.find_first_not_of(" \n") == std::string::npos)
      out += code.substr(i, close - i + 1);
    else if (line <= i)
      out += "{ " + open + " }";
    else
      out += "{\n" + indent + "  " + open + "\n" + indent + "}";
    if (function) head.clear();
    i = close;
  }
  if (out == code) return out;
  const std::string first = "#include ";
  return out.insert(out.find(first) == 0 ? 0 : out.find("\n" + first) + 1,
                    "#include <stdexcept>  // what an open task throws\n"
                    "#pragma GCC diagnostic ignored \"-Wunused-parameter\"\n");
}

/// A student's form of a source: its tasks open; with `all`, every function of it but main.
inline std::string student_form(const std::string& code, const std::string& file, bool all) {
  const std::vector<TaskInfo> tasks = tasks_of(code, file);
  const std::string lesson = fs::path(file).parent_path().filename().string().substr(0, 2);
  return cut(code, [&](std::size_t at, const std::string& function) -> std::string {
    for (const TaskInfo& task : tasks)
      if (at > task.begin && at < task.end) return task.name;
    return all && function != "main" ? lesson + "." + function : "";
  });
}

}  // namespace tessera::labs
