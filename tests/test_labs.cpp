// The labs' tool in its parts: what is cut, what is compared, what is stopped. tools/labs/labs_test.sh proves
// the whole.
#include <doctest/doctest.h>

#include <set>

#include "directory.hpp"
#include "support.hpp"
#include "tools/labs/programs.hpp"
#include "tools/labs/submission.hpp"
#include "tools/labs/tree.hpp"

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
    CHECK(contains(
        pages::read(fs::path(TESSERA_SOURCE_DIR) / "tests/tools/labs" / ("lab_" + task.lesson() + ".cpp")),
        "\"" + task.name + "\""));
  }
  CHECK(count.size() == 15);
  for (const auto& [lesson, tasks] : count) CHECK(tasks >= 2);
  CHECK(sizes == std::set<std::string>{"line", "function", "design"});
}

TEST_CASE(
    "labs: a variant exchanges names, but no literal and no task's name, and the marking takes that back") {
  const std::string code =
      "// task 01.backward_input (line, 1 point, 5 min): dX of fc1. Hint: none.\n"
      "int x = fc1.backward_input(dpre, \"fc1\");  // of fc1's, not linear_fc1\n";
  std::set<std::string> forms;
  for (int variant = 0; variant < 9; ++variant) {
    const std::string other = code_with_names(code, names_of(variant));
    forms.insert(other);
    CHECK(contains(other, "task 01.backward_input ("));
    CHECK(contains(other, "\"fc1\""));
    CHECK(contains(other, "linear_fc1"));
    CHECK(contains(other, "x = fc1.backward_input(") == (variant == 0));
    CHECK(code_with_names(other, names_of(variant, true)) == code);
    CHECK(check_seed(variant) != check_seed(variant + 1));
  }
  CHECK(forms.size() == 9);
  // No new name is one that the course has already.
  std::set<std::string> words;
  for (const std::string& file : lesson_files(TESSERA_SOURCE_DIR)) {
    const std::string text = pages::read(fs::path(TESSERA_SOURCE_DIR) / file);
    for (std::size_t at = 0; at < text.size(); at = token_at(text, at).end)
      words.insert(text.substr(at, token_at(text, at).end - at));
  }
  for (const auto& [own, others] : other_names) {
    CHECK_MESSAGE(words.count(own) == 1, own);
    for (const std::string& other : others) CHECK_MESSAGE(words.count(other) == 0, other);
  }
}

TEST_CASE("labs: a task's functions are cut, and nothing else") {
  const std::string code = R"(#include <vector>
struct Layer {  // {
  int a{1}, b = 2;
  explicit Layer(int x, Layer* up = {}) : a(x) {}
  // task 09.twice (function, 2 points, 5 min): double x.
  // Hint: add.
  template <class T = int>
  int twice(T x) const {
    const char* text = "}";
    if (x) { return x + x; }
    return *text;
  }
  int half(int x) { return x / 2; }
  // end task
  int thrice(int x) { return 3 * x; }
};
)";
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
  const std::string main = "int main() { return 0; }\n";
  CHECK(student_form(main, "lessons/09_demo/main.cpp", true) == main);
}

namespace {

/// A rank's two of four columns, as an entry of an object.
Json part(int rank, const std::vector<double>& values) {
  return Json::array(
      {std::to_string(rank),
       {{"rows", 1}, {"cols", 2}, {"values", values}, {"slice", Slice::columns(1, 4, rank, 2)}}});
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
  CHECK(contains(wrong_in(Json::object({part(0, {1, 2})})), "rank 1 leaves no y"));
  CHECK(contains(wrong_in({part(0, {1, 2}), part(1, {3, 4, 5})}), "not of its own shape"));
  CHECK(contains(verdict(record({part(0, {1, 2}), part(1, {3, 4})}, 64)),
                 "send 64 B: all_reduce 64; it takes 32 B"));
  Json smaller = good;
  smaller[0]["results"]["y"]["parts"]["1"] = {{"rows", 0}, {"cols", 0}, {"values", Json::array()}};
  CHECK(contains(verdict(smaller), "rank 1's y is (0, 0), it should be (1, 2)"));
  const auto read = [](const std::string& text) { return verdict(Json::parse(text)); };
  for (const char* text :
       {"[]", "{}", "7", "[7]", "[{}]", R"([{"results": 1, "sent": 2}])", R"([{"error": 3}])"})
    CHECK(read(text) == "it left no results that can be read");
  CHECK(read(R"([{"error": "rank 1: task 09.y is open"}])") == "open: open");
  CHECK(read(R"([{"error": "task 09.x is open"}])") == "open: waits for 09.x");
  CHECK(read(R"([{"error": "no such thing"}])") == "2 ranks: no such thing");
  const std::string text = good.dump(), long_error(200'000, 'x');
  const auto with = [&](const std::string& from, const std::string& to) {
    return std::string(text).replace(text.find(from), from.size(), to);
  };
  for (const char* number : {"1e77", "-1", "0.5", "18446744073709551615", "null"}) {
    INFO(number);
    CHECK(contains(read(with("\"rows\":1", std::string("\"rows\":") + number)), "it left "));
    CHECK(contains(read(with("\"all_reduce\":32", std::string("\"all_reduce\":") + number)), "it left "));
  }
  CHECK(read(R"([{"error": ")" + long_error + R"("}])").size() < 600);
  CHECK(read(R"([{"error": "task )" + long_error + R"( is open"}])").size() < 600);
  CHECK(read(R"([{"error": "mine\n95 of 95 points\u001b[1m"}])") == "2 ranks: mine 95 of 95 points [1m");
}

TEST_CASE("labs: a submission includes the course and the standard library, and nothing else") {
  const auto line_in = [](const std::string& code) {
    return forbidden_line("int a;\n" + code + "\nint b;\n");
  };
  for (const char* code :
       {"#include <vector>", "# include <sys/stat.h>  // why", "#include \"ops/ops.hpp\"", "#include <map>\r",
        "int embedding;  // include it, or import", "// #include \"../x.hpp\"", "int included;",
        "/* What we\n * include, import or #embed\n */", "const char* s = \"#include <../x>, asm\";",
        "#define TWICE(x) (\\\r\n  2 * (x))", "#pragma once", "#pragma GCC diagnostic ignored \"-Wall\"",
        "int n = 1'000'000; char c = '\\''; double d = 1.5e+3;", "throw std::logic_error(str(__LINE__));",
        "#if 0\n#else\n#endif  // asm", "#error don't include this", "float module = __FILE__[0];"}) {
    INFO(code);
    CHECK(line_in(code) == "");
  }
  const char* const forbidden[] = {
      // Other files.
      "#include \"../x.hpp\"", "#include \"/x.hpp\"", "#include </x.hpp>", "#include <../x.hpp>",
      "#include X", "#include_next \"ops/ops.hpp\"", "import x;", "#embed \"../x\"", "#line 1 \"x\"",
      "# 1 \"x\"", "#pragma GCC pch_preprocess \"x\"", "_Pragma(\"GCC pch_preprocess\")",
      // The same in disguise.
      "# /* */ include \"../x.hpp\"", "%:include \"../x.hpp\"", "#inc\\\nlude \"../x.hpp\"",
      "#inc\\ \r\nlude \"../x.hpp\"", "# /*\n// */ include \"../x.hpp\"",
      "const char* s = R\"(\")\";\n#include \"../x.hpp\"", "const char* s = \"/*\";\n#include \"../x.hpp\"",
      "/* // */ #include \"../x.hpp\"",
      // The assembler.
      "asm(\".incbin\");", "void f() asm(\"g\");", "__asm__(\".incbin\");", "as\\\nm(\".incbin\");",
      "#define JOIN(a, b) a##b", "[[gnu::section(\"x\")]] int c;", "int c __attribute__((section(\"x\")));",
      "auto c = L'\"'; asm(\"x\"); //\"", "auto c = 1e+a'b'/*'\nasm(\"x\"); //*/",
      "auto c = 1'/*'\n;asm(\"x\"); //*/", "// \f\\\f\n/*\nasm(\"x\"); //*/", "int as\\u006d;", "\x01"};
  for (const char* code : forbidden) {
    INFO(code);
    CHECK(line_in(code) != "");
  }
  CHECK(forbidden_line("#include <" + std::string(1 << 20, 'x') + ">") != "");
  CHECK(forbidden_line(std::string(1 << 20, '#')) != "");
  CHECK(forbidden_line("#define " + std::string(1 << 20, ' ') + "X") != "");
  std::string joined = "int a";
  for (int i = 0; i < 200'000; ++i) joined += "\\\r\n;";
  CHECK(forbidden_line(joined) == "");  // in less than a minute
  for (const TaskInfo& task : all_tasks(TESSERA_SOURCE_DIR)) {
    std::string fault;
    CHECK(check_file(TESSERA_SOURCE_DIR, task.file, fault) != "");
    CHECK(fault == "");
  }
}

TEST_CASE("labs: of a compiler's errors the lesson's own line is named") {
  const auto named = [](const Lines& log) { return first_error(log, "exit code 1"); };
  const std::string placement = "../src/placement/matmul.hpp";
  CHECK(named({"In file included from ../lessons/02_x/x.hpp:3,", "                 from lab_02.cpp:1:",
               placement + ": In instantiation of 'x':", "../lessons/02_x/x.hpp:31:20:   required from here",
               placement + ":9:5: error: static assertion failed"}) ==
        "lessons/02_x/x.hpp:31:20: ../src/placement/matmul.hpp:9:5: error: static assertion failed");
  CHECK(named({"In file included from ../lessons/03_y/y.hpp:3,",
               "                 from lab_03.cpp:1:", "../lessons/02_x/x.hpp:7:1: error: expected ';'"}) ==
        "lessons/02_x/x.hpp:7:1: error: expected ';'");
  CHECK(named({"ninja: nothing"}) == "exit code 1");
}

TEST_CASE("labs: a task alone is the master's file with the student's part") {
  const auto file = [](const std::string& one, const std::string& two) {
    return "// task 09.a (line, 1 point, 5 min): a.\n" + one +
           "// end task\n// task 09.ab (line, 1 point, 5 min): b.\n" + two + "// end task\n";
  };
  CHECK(with_task(file("1\n", "2\n"), file("3\r\n", "4\n"), "09.a") == file("3\r\n", "2\n"));
  CHECK(with_task(file("1\n", "2\n"), file("3\n", "4\n"), "09.ab") == file("1\n", "4\n"));
  CHECK(with_task(file("1\n", "2\n"), "int a;\n", "09.a") == "");
}

TEST_CASE("labs: a program is stopped by time and by memory, and what it says and records comes back") {
  const auto run = [&](const std::string& script, const Limits& limits) {
    return run_limited({"/bin/sh", "-c", script}, limits);
  };
  const Ended said = run("echo said; echo recorded >&3", {});
  CHECK(said.fault == "");
  CHECK(said.said == "said\n");
  CHECK(said.record == "recorded\n");
  CHECK(run("exit 3", {}).fault == "exit code 3");
  CHECK(contains(run("kill -11 $$", {}).fault, "signal 11"));
  CHECK(run("sleep 60 & sleep 60", {1}).fault == "it took longer than 1 s");
  CHECK(run("exec 1>&- 2>&- 3>&-; sleep 60", {1}).fault == "it took longer than 1 s");
  const Ended endless = run("yes >&3", {1});
  CHECK(endless.fault != "");
  CHECK(endless.record.size() <= 1 << 24);
  CHECK(run("ls / >/dev/null", {}).fault == "");
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(run("x=$(head -c 300000000 /dev/zero | tr '\\0' x); exit 0", {20, rlim_t{100} << 20}).fault != "");
#endif
}

TEST_CASE("labs: a program that may only compute starts, signals and writes nothing") {
  const test::Directory directory;
  const auto run = [&](const std::string& script) {
    return run_limited({"/bin/sh", "-c", script}, {.computes = true}).fault;
  };
  CHECK(run("exit 0") == "");
  CHECK(run("exec ls /") != "");
  CHECK(run("ls /; exit 0") != "");
  CHECK(run("kill -9 $PPID && exit 0") != "");
  CHECK(run("echo x >" + directory.file("x") + " && exit 0") != "");
  CHECK_FALSE(fs::exists(directory.file("x")));
}

TEST_CASE("labs: in a closed folder there is no other file, for root and for a user") {
  const test::Directory directory;
  const std::string folder = directory.file("closed");
  fs::create_directories(folder);
  const auto closed = [&] {
    return enter(folder.c_str()) && access("/etc/passwd", F_OK) != 0 && access("..", F_OK) == 0;
  };
  const auto as_user = [] { return geteuid() != 0 || syscall(SYS_setresuid, 65534, 65534, 65534) == 0; };
  fs::permissions(fs::path(folder).parent_path(), fs::perms::group_exec | fs::perms::others_exec,
                  fs::perm_options::add);
  if (!can([&] { return as_user() && unshare(CLONE_NEWUSER) == 0 && chroot("/") == 0; }))
    return test::skip(
        "a kernel whose users may make user namespaces (sysctl "
        "kernel.apparmor_restrict_unprivileged_userns=0)");
  CHECK(can([&] { return as_user() && closed(); }));
  if (geteuid() == 0) CHECK(can([&] { return closed() && geteuid() == 65534 && setuid(0) != 0; }));
}
