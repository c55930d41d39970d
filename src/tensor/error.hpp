// Errors: one place, one sentence each.
#pragma once

#include <concepts>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <version>
#ifdef __cpp_lib_format
#include <format>
#else
#ifdef __CUDACC__  // fmt 9 takes nvcc for a compiler without constexpr, and then does not compile in C++20
#define FMT_USE_CONSTEXPR 1
#endif
#include <fmt/core.h>
#endif

namespace tessera {

/// Every message is a format string, which the compiler checks against its arguments: format("rank {}", 3).
/// A double is written as {:g}, with six digits; {} would write every digit that it has.
#ifdef __cpp_lib_format
using std::format, std::format_string;
#else
using fmt::format, fmt::format_string;
#endif

/// The values as text, one behind the other: join(std::vector{2, 3, 5}) is "2, 3, 5".
template <class Values>
std::string join(const Values& values, std::string_view between = ", ") {
  std::string text;
  std::string_view gap;
  for (const auto& value : values) {
    text += format("{}{}", gap, value);
    gap = between;
  }
  return text;
}

/// The command line cannot be honoured (exit code 2). The message, or format string, says what can.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
  template <class First, class... More>
  UsageError(format_string<First, More...> text, First&& first, More&&... more)
      : runtime_error(format(text, std::forward<First>(first), std::forward<More>(more)...)) {}
};

/// Throws UsageError with this format string where something is `wrong`.
template <class... Args>
void refuse_if(bool wrong, format_string<const Args&...> text, const Args&... args) {
  if (wrong) throw UsageError(format(text, args...));
}

/// The machine has too little memory. The message says how much was asked for.
struct OutOfMemory : UsageError {
  using UsageError::UsageError;
};

/// The run broke: a wrong program, a failed call (exit code 3).
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The caller's place, as a default argument. clang 14 with libstdc++ 12 lacks std::source_location.
struct Where {
  const char* file;
  int line;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

/// "file.cpp:31" without the directories, which differ from machine to machine.
inline std::string place(const Where& where) {
  const std::string_view file = where.file;
  return format("{}:{}", file.substr(file.find_last_of('/') + 1), where.line);
}

/// Throws Error with `what` unless `holds`.
inline void expect(bool holds, std::string_view what, Where where = Where::here()) {
  if (!holds) throw Error(format("{}: {}", place(where), what));
}

/// The same, with a message that is made only where it is needed: for checks that every call makes.
template <std::invocable Say>
void expect(bool holds, const Say& say, Where where = Where::here()) {
  if (!holds) throw Error(format("{}: {}", place(where), say()));
}

/// Throws Error that prints both values unless they are equal.
template <class A, class B>
void expect_eq(const A& a, const B& b, std::string_view what, Where where = Where::here()) {
  if (!(a == b)) throw Error(format("{}: {}: {} is not {}", place(where), what, a, b));
}

}  // namespace tessera
