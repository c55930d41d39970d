// Commands as a page shows them.
#pragma once

#include <regex>
#include <set>

#include "messages.hpp"
#include "text.hpp"

namespace pages {

struct Result {
  int exit = 0;
  Lines output;
};

inline std::string quoted(const std::string& text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word.append("'");
}

/// Runs under bash in `root`, standard error with standard output. A page shows what the CPU gives.
inline Result run(const fs::path& root, const std::string& command) {
  const auto ran = tessera::test::run_command(
      "cd " + quoted(root.string()) + " && LC_ALL=C CUDA_VISIBLE_DEVICES= timeout 300 bash -o pipefail -c " +
      quoted(command) + " 2>&1");
  if (ran.exit < 0) throw Fault("cannot start bash");
  Result result{ran.exit, split(ran.output)};
  for (std::string& out : result.output) out = without_trailing_space(out);
  while (!result.output.empty() && result.output.back().empty()) result.output.pop_back();
  return result;
}

inline Result run_expecting(const fs::path& root, const std::string& command, int exit) {
  Result result = run(root, command);
  if (result.exit == exit) return result;
  Lines tail = result.output;
  if (tail.size() > 6) tail.erase(tail.begin(), tail.end() - 6);
  for (std::string& line : tail) line = "    | " + line;
  throw Fault(format("`{}` exits {}, not {}\n{}", command, result.exit, exit, join(tail)));
}

/// The command with programs of `bin`: `./tessera run 02 ...` becomes the first one whose name starts with
/// 02_ (for `run gpt`: that ends with _gpt), `./tessera lab` the labs' tool, `./tessera plan` lesson 14's
/// program, and build/bin/ this folder.
inline std::string resolve(const std::string& command, const fs::path& bin) {
  static const std::regex lesson(R"(\./tessera run (\w+)(?=\s|$))");
  static const std::pair<std::string, std::string> programs[] = {
      {"./tessera lab ", "tessera_labs "}, {"./tessera plan", "14_plan plan"}, {"build/bin/", ""}};
  for (const auto& [shown, program] : programs)
    if (command.starts_with(shown)) return (bin / program).string() + command.substr(shown.size());
  std::string out, rest = command;
  for (std::smatch match; std::regex_search(rest, match, lesson); rest = match.suffix()) {
    std::set<std::string> found;
    const std::regex name(match[1].str() + R"(_\w+|\d\d_)" + match[1].str());
    if (fs::is_directory(bin))
      for (const auto& entry : fs::directory_iterator(bin))
        if (std::regex_match(entry.path().filename().string(), name)) found.insert(entry.path().string());
    if (found.empty()) throw Fault("no program " + match[1].str() + " in " + bin.string());
    out += match.prefix().str() + *found.begin();
  }
  return out + rest;
}

}  // namespace pages
