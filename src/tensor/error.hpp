// Errors: one place, one sentence each.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tessera {

/// The command line cannot be honoured (exit code 2). The message says what can.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The run broke: a wrong program, a failed call (exit code 3).
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The parts, streamed one after the other: str("rank ", 3) is "rank 3".
template <class... Parts>
std::string str(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

/// std::source_location, which clang knows from version 16 on: as a default argument, the caller's place.
struct Where {
  std::string_view file;
  int line;
  static constexpr Where current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

/// "file.cpp:31" without the directories, which differ from machine to machine.
inline std::string place(const Where& where) {
  return str(where.file.substr(where.file.find_last_of('/') + 1), ":", where.line);
}

/// Throws Error with `what` unless `holds`.
inline void expect(bool holds, std::string_view what, Where where = Where::current()) {
  if (!holds) throw Error(str(place(where), ": ", what));
}

/// Throws Error that prints both values unless they are equal.
template <class A, class B>
void expect_eq(const A& a, const B& b, std::string_view what, Where where = Where::current()) {
  if (!(a == b)) throw Error(str(place(where), ": ", what, ": ", a, " is not ", b));
}

}  // namespace tessera
