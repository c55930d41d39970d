// The labs' tool in its parts: what is cut, what is compared, what is stopped.
// labs/labs_test.sh proves the whole.
#include <doctest/doctest.h>

#include <set>

#include "directory.hpp"
#include "tools/labs/judge.hpp"
#include "tools/labs/process.hpp"
#include "tools/labs/submission.hpp"
#include "support.hpp"

using namespace tessera;
using namespace tessera::labs;
using test::contains;

TEST_CASE("labs: every lesson has two tasks or more, in three sizes, with points and a time") {
  std::map<std::string, int> count;
  std::set<std::string> names, sizes;
  for (const TaskInfo& task : all_tasks(TESSERA_SOURCE_DIR)) {
    INFO(task.name);
    ++count[task.lesson()];
    sizes.insert(task.size);
    CHECK(names.insert(task.name).second);
    CHECK(task.points > 0);
    CHECK(task.minutes > 0);
    CHECK(contains(task.text, "Hint: "));
    CHECK(
        contains(pages::read(fs::path(TESSERA_SOURCE_DIR) / "tests/tools/labs" / ("lab_" + task.lesson() + ".cpp")),
                 "\"" + task.name + "\""));
  }
  CHECK(count.size() == 9);
  for (const auto& [lesson, tasks] : count) CHECK(tasks >= 2);
  CHECK(sizes == std::set<std::string>{"line", "function", "design"});
}

TEST_CASE("labs: a task's functions are cut, and nothing else") {
  const std::string code =
      "#include <vector>\n"
      "struct Layer {  // {\n"
      "  int a{1}, b = 2;\n"
      "  explicit Layer(int x, Layer* up = {}) : a(x) {}\n"
      "  // task 09.twice (function, 2 points, 5 min): double x.\n"
      "  // Hint: add.\n"
      "  template <class T = int>\n"
      "  int twice(T x) const {\n"
      "    const char* text = \"}\";\n"
      "    if (x) { return x + x; }\n"
      "    return *text;\n"
      "  }\n"
      "  int half(int x) { return x / 2; }\n"
      "  // end task\n"
      "  int thrice(int x) { return 3 * x; }\n"
      "};\n";
  std::string right = code;
  const auto replace = [&](const std::string& from, const std::string& to) {
    right.replace(right.find(from), from.size(), to);
  };
  replace("#include",
          "#include <stdexcept>  // what an open task throws\n"
          "#pragma GCC diagnostic ignored \"-Wunused-parameter\"\n#include");
  replace("    const char* text = \"}\";\n    if (x) { return x + x; }\n    return *text;\n",
          "    throw std::logic_error(\"task 09.twice is open\");\n");
  replace("{ return x / 2; }", "{ throw std::logic_error(\"task 09.twice is open\"); }");
  CHECK(student_form(code, "lessons/09_demo/demo.hpp", false) == right);
  replace("{ return 3 * x; }", "{ throw std::logic_error(\"task 09.thrice is open\"); }");
  CHECK(student_form(code, "lessons/09_demo/demo.hpp", true) == right);
  CHECK(student_form("int main() { return 0; }\n", "lessons/09_demo/main.cpp", true) ==
        "int main() { return 0; }\n");
}

namespace {

Json part(int rank, const std::vector<double>& values) {  // two of four columns
  return {{"rank", rank},
          {"rows", 1},
          {"cols", 2},
          {"values", values},
          {"whole", {1, 4}},
          {"row_ranges", {{0, 1}}},
          {"col_ranges", {{2 * rank, 2 * rank + 2}}}};
}

Json record(const Json& parts, int bytes) {
  return {{{"ranks", 2},
           {"sent", {{"all_reduce", bytes}}},
           {"results", {{"y", {{"identity", "Y = X A"}, {"parts", parts}}}}}}};
}

std::string verdict(const Json& answer) {
  Json right = record({part(0, {1, 2}), part(1, {3, 4})}, 32);
  right[0]["mistakes"]["y"]["y equals rank RANK's own term."] = {part(0, {5, 5}), part(1, {6, 7})};
  const Verdict verdict = judge("09.y", right, answer);
  return verdict.state == Verdict::State::open ? "open: " + verdict.text : verdict.text;
}

}  // namespace

TEST_CASE("labs: the judge names rank, element, identity and mistake, and believes nothing") {
  const Json good = record({part(1, {3, 4}), part(0, {1, 2})}, 32);
  CHECK(verdict(good) == "");
  const auto wrong_in = [&](const Json& parts) { return verdict(record(parts, 32)); };
  CHECK(contains(wrong_in({part(0, {1, 2}), part(1, {3, 9})}),
                 "rank 1, element (0, 3) of y, which should be Y = X A"));
  CHECK(contains(wrong_in({part(0, {1, 2}), part(1, {6, 7})}), "y equals rank 1's own term."));
  CHECK(contains(wrong_in({part(0, {1, 2}), part(1, {3, NAN})}), "rank 1, element (0, 3)"));  // null in JSON
  CHECK(contains(wrong_in(Json::array({part(0, {1, 2})})), "rank 1 leaves no y"));
  CHECK(contains(wrong_in({part(0, {1, 2}), part(1, {3, 4, 5})}), "not of its own shape"));
  CHECK(contains(verdict(record({part(0, {1, 2}), part(1, {3, 4})}, 64)),
                 "send 64 B: all_reduce 64; it takes 32 B"));
  Json smaller = good;
  smaller[0]["results"]["y"]["parts"][0] = {{"rank", 1},
                                            {"rows", 0},
                                            {"cols", 0},
                                            {"values", Json::array()},
                                            {"whole", {0, 0}},
                                            {"row_ranges", Json::array()},
                                            {"col_ranges", Json::array()}};
  CHECK(contains(verdict(smaller), "rank 1's y is (0, 0), it should be (1, 2)"));
  const char* const unreadable = "it left no results that can be read";
  for (const char* text :
       {"[]", "{}", "7", "[7]", "[{}]", R"([{"results": 1, "sent": 2}])", R"([{"error": 3}])"})
    CHECK(verdict(Json::parse(text)) == unreadable);
  CHECK(verdict(Json::parse(R"([{"error": "rank 1: task 09.y is open"}])")) == "open: open");
  CHECK(verdict(Json::parse(R"([{"error": "task 09.x is open"}])")) == "open: waits for 09.x");
  CHECK(verdict(Json::parse(R"([{"error": "no such thing"}])")) == "2 ranks: no such thing");
}

TEST_CASE("labs: a submission includes the course and the standard library, and nothing else") {
  for (const char* code :
       {"#include <vector>", "# include <sys/stat.h>  // why", "#include \"ops/ops.hpp\"",
        "int embedding;  // include it, or import", "// #include \"../x.hpp\"", "int included;"})
    CHECK(forbidden_line(std::string("int a;\n") + code + "\nint b;\n") == "");
  for (const char* code :
       {"#include \"../x.hpp\"", "#include \"/x.hpp\"", "#include </x.hpp>", "#include <../x.hpp>",
        "#include X", "#include_next \"ops/ops.hpp\"", "# /* */ include \"../x.hpp\"",
        "%:include \"../x.hpp\"", "#inc\\\nlude \"../x.hpp\"", "#inc\\ \nlude \"../x.hpp\"",
        "# /*\n// */ include \"../x.hpp\"", "const char* s = R\"(\")\";\n#include \"../x.hpp\"",
        "const char* s = \"/*\";\n#include \"../x.hpp\"", "import x;", "#embed \"../x\"",
        "/* // */ #include \"../x.hpp\""}) {
    INFO(code);
    CHECK(forbidden_line(std::string("int a;\n") + code + "\nint b;\n") != "");
  }
  CHECK(forbidden_line("#include <" + std::string(1 << 20, 'x') + ">") != "");
  for (const TaskInfo& task : all_tasks(TESSERA_SOURCE_DIR))
    CHECK(submitted(TESSERA_SOURCE_DIR, task.file) != "");
}

TEST_CASE("labs: a program is stopped by time, by memory, and where it starts another") {
  const test::Directory directory;
  const fs::path output = directory.file("output");
  const auto run = [&](const std::string& script, const Limits& limits) {
    return run_limited({"/bin/sh", "-c", script}, output, limits);
  };
  CHECK(run("echo said", {}) == "");
  CHECK(pages::read(output) == "said\n");
  CHECK(run("exit 3", {}) == "exit code 3");
  CHECK(contains(run("kill -11 $$", {}), "signal 11"));
  CHECK(run("sleep 60 & sleep 60", {1}) == "it took longer than 1 s");
  CHECK(run("ls / >/dev/null", {}) == "");
  CHECK(run("exec ls /", {20, RLIM_INFINITY, true}) != "");  // no other program
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(run("x=$(head -c 300000000 /dev/zero | tr '\\0' x); exit 0", {20, rlim_t{100} << 20}) != "");
#endif
}
