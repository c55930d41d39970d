// The page tool on a small tree of its own: it writes what is right, and names each fault.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "command.hpp"
#include "directory.hpp"

using namespace pages;
using tessera::test::contains;

namespace {

/// A tree with one source, one lesson's program, and one page; every test starts from a page without faults.
struct Tree {
  tessera::test::Directory directory;
  const fs::path root = directory.path();

  Tree() {
    write(root / "src/twice.hpp",
          "#pragma once\n"
          "namespace demo {\n"
          "  // begin twice\n"
          "  int twice(int x) {\n"
          "    // task 09.twice (line, 1 point, 5 min): double x. Shapes: none.\n"
          "    // Hint: add.\n"
          "    return x + x;\n"
          "    // end task\n"
          "  }\n"
          "  // end twice, begin thrice\n"
          "  int thrice(int x) { return 3 * x; }\n"
          "  // end thrice\n"
          "}\n");
    program("echo \"lesson with $*\"");
    page(
        "<!-- excerpt src/twice.hpp twice -->\n"
        "<!-- end -->\n"
        "<!-- run ./tessera run 09 --ranks 2 --stable -->\n"
        "<!-- end -->\n"
        "<!-- picture echo '<svg/>' > OUT -> pictures/nine.svg -->\n"
        "![nine ranks](nowhere.svg)\n"
        "<!-- end -->\n"
        "A [link](../src/twice.hpp#twice), `a [code](span.md)`, and [outside](https://example.org).\n");
    REQUIRE(tool("").exit == 0);
    REQUIRE(tool("--check").exit == 0);
  }

  void page(const std::string& text) const { write(root / "notebooks_md/09.md", text); }
  std::string page() const { return read(root / "notebooks_md/09.md"); }
  void program(const std::string& body) const {
    write(root / "bin/09_demo", "#!/bin/sh\n" + body + "\n");
    fs::permissions(root / "bin/09_demo", fs::perms::owner_all);
  }
  Result tool(const std::string& flags) const {
    return run(root, std::string(TESSERA_PAGES) + " --bin bin " + flags);
  }
  /// --check fails, and its output has every one of these.
  void faulty(const std::vector<std::string>& parts) const {
    const std::string before = page();
    const Result result = tool("--check");
    const std::string said = join(result.output);
    CHECK(result.exit == 1);
    for (const std::string& part : parts) CHECK_MESSAGE(contains(said, part), said);
    CHECK(page() == before);
  }
  void replace(const fs::path& file, const std::string& from, const std::string& to) const {
    std::string text = read(root / file);
    REQUIRE(text.find(from) != std::string::npos);
    write(root / file, text.replace(text.find(from), from.size(), to));
  }
};

}  // namespace

TEST_CASE("pages: blocks are written from their sources") {
  const Tree tree;
  CHECK(tree.page() ==
        "<!-- excerpt src/twice.hpp twice -->\n"
        "```cpp\n"
        "int twice(int x) {\n"
        "  return x + x;\n"
        "}\n"
        "```\n"
        "<!-- end -->\n"
        "<!-- run ./tessera run 09 --ranks 2 --stable -->\n"
        "```bash\n"
        "./tessera run 09 --ranks 2\n"
        "```\n"
        "\n"
        "```text\n"
        "lesson with --ranks 2 --stable\n"
        "```\n"
        "<!-- end -->\n"
        "<!-- picture echo '<svg/>' > OUT -> pictures/nine.svg -->\n"
        "![nine ranks](pictures/nine.svg)\n"
        "<!-- end -->\n"
        "A [link](../src/twice.hpp#twice), `a [code](span.md)`, and [outside](https://example.org).\n");
  CHECK(read(tree.root / "notebooks_md/pictures/nine.svg") == "<svg/>\n");
}

TEST_CASE("pages: a changed excerpt is shown, then rewritten") {
  const Tree tree;
  tree.replace("src/twice.hpp", "x + x", "2 * x");
  tree.faulty({"09.md:1: `src/twice.hpp twice` gives something else", "    -   return x + x;",
               "    +   return 2 * x;"});
  CHECK(tree.tool("").exit == 0);
  CHECK(tree.tool("--check").exit == 0);
}

TEST_CASE("pages: a missing or doubled anchor") {
  const Tree tree;
  tree.replace("src/twice.hpp", "end twice, begin thrice", "begin thrice");
  tree.faulty({"09.md:1: ", "0 lines `// end twice`"});
  tree.replace("src/twice.hpp", "begin thrice", "end twice, begin thrice");
  tree.replace("src/twice.hpp", "#pragma once", "// begin twice");
  tree.faulty({"2 lines `// begin twice`"});
}

TEST_CASE("pages: a failing command, another output, no program") {
  const Tree tree;
  tree.program("echo broken; exit 3");
  tree.faulty({"09.md:8: `", "exits 3, not 0", "    | broken"});
  const std::string before = tree.page();
  CHECK(tree.tool("").exit == 1);
  CHECK(tree.page() == before);  // what cannot be made again stays
  tree.program("echo other");
  tree.faulty({"    - lesson with --ranks 2 --stable", "    + other"});
  fs::remove(tree.root / "bin/09_demo");
  tree.faulty({"no program 09 in "});
}

TEST_CASE("pages: a failure that is meant to be shown") {
  const Tree tree;
  tree.page("<!-- run exit=2 ./tessera run 09 -->\n<!-- end -->\n");
  tree.program("echo no >&2; exit 2");
  CHECK(tree.tool("").exit == 0);
  CHECK(contains(tree.page(), "```text\nno\n```"));
  tree.program("echo no >&2; exit 0");
  tree.faulty({"exits 0, not 2"});
  tree.page("<!-- run false | cat -->\n<!-- end -->\n");
  tree.faulty({"exits 1, not 0"});
}

TEST_CASE("pages: a changed picture, a dead link, a marker that is not closed: all named in one run") {
  const Tree tree;
  write(tree.root / "notebooks_md/pictures/nine.svg", "<svg>old</svg>\n");
  tree.page(
      tree.page() +
      "[gone](gone.md) <img width=\"9\" src=\"lost.svg\"> [in a fence]\n```text\n[not](a-link.md)\n```\n" +
      "<!-- excerpt src/twice.hpp thrice -->\n");
  tree.faulty({"pictures/nine.svg is not what the command draws", "dead link to gone.md",
               "dead link to lost.svg", "no `<!-- end -->` after this marker", ": 4 faults"});
  tree.page("<!-- exerpt src/twice.hpp twice -->\n<!-- end -->\n");
  tree.faulty({"closes nothing"});
}

TEST_CASE("pages: a program in steps is assembled, compiled, run, and ends as its source") {
  const Tree tree;
  write(tree.root / "src/all.cpp",
        "// The head is not part of any step.\n"
        "// begin one\n#include <cstdio>\nint one() { return 1; }\n"
        "// end one, begin main\nint main() { std::printf(\"%d\\n\", one()); }\n// end main\n");
  const std::string steps =
      "<!-- excerpt step=1 src/all.cpp one -->\n<!-- end -->\n"
      "```cpp step=1\nint main() { return one() - 1; }\n```\n"
      "```cpp step=1b exit=1\nint main() { return one(); }\n```\n"
      "<!-- excerpt step=2 src/all.cpp main -->\n<!-- end -->\n"
      "<!-- run step=2 ./all -->\n<!-- end -->\n";
  tree.page(steps);
  CHECK(tree.tool("").exit == 0);
  CHECK(contains(tree.page(), "```text\n$ ./all\n1\n```"));
  CHECK(tree.tool("--steps notebooks_md/09.md").exit == 0);

  const std::string one = steps.substr(0, steps.find("<!-- excerpt step=2"));  // on two pages the same
  write(tree.root / "notebooks_md/08.md", one);
  tree.page("<!-- continues 08.md -->\n" + steps.substr(one.size()));
  CHECK(tree.tool("--steps notebooks_md/09.md").exit == 0);

  tree.page(steps + "```cpp step=3\nint main() { int unused; }\n```\n");
  const Result broken = tree.tool("--steps notebooks_md/09.md");
  CHECK(broken.exit == 1);
  CHECK(contains(join(broken.output), "step 3: "));

  tree.page(steps);
  tree.replace("src/all.cpp", "// begin one", "// begin zero\nint zero = 0;\n// end zero, begin one");
  CHECK(contains(join(tree.tool("--steps notebooks_md/09.md").output), "the last step is not src/all.cpp"));
}

TEST_CASE("pages: a link to a line of code follows the line") {
  const Tree tree;
  tree.page("See [thrice](../src/twice.hpp#L3 \"3 * x\").\n");
  tree.faulty({"09.md:1: a link to a line of code is off", "#L11 \"3 * x\""});
  CHECK(tree.tool("").exit == 0);
  CHECK(tree.page() == "See [thrice](../src/twice.hpp#L11 \"3 * x\").\n");
  CHECK(tree.tool("--check").exit == 0);
  tree.page("[a](../src/twice.hpp#L1 \"no such\") [b](../src/twice.hpp#L1 \"int x\")\n");
  tree.faulty({"holds no \"no such\""});
  tree.page("[b](../src/twice.hpp#L1 \"int x\")\n");
  tree.faulty({"holds \"int x\" more than once"});
}

TEST_CASE("pages: a static assertion that a page shows stands in the code") {
  const Tree tree;
  write(tree.root / "src/placement/ops.hpp", "static_assert(ok, \"f(Partial): the sum is owed.\");\n");
  tree.page("```text\nerror: static assertion failed: f(Partial): the sum\nis owed.\n```\n");
  CHECK(tree.tool("--check").exit == 0);
  tree.page("```text\nerror: static assertion failed: f(Partial): the sum\nis late.\n```\n");
  tree.faulty({"no static assertion says \"f(Partial): the sum is late.\""});
}

TEST_CASE("pages: a glossary's term stands on its page, and on none before it") {
  const Tree tree;
  write(tree.root / "notebooks_md/01_one.md", "A `bucket` in code is none.\n```text\nbucket\n```\nRanks.\n");
  write(tree.root / "notebooks_md/02_two.md",
        "**Two buckets** for a rank.\n```cpp\nint stage;  // of a tape\n```\nA **tape** and a stage.\n");
  const auto said = [&](const std::string& row) {
    write(tree.root / "notebooks_md/glossary.md", row + "\n");
    return join(tree.tool("--check notebooks_md/glossary.md").output);
  };
  CHECK(contains(said("| bucket | 桶 | [02](02_two.md) | x |"), " 0 faults"));
  CHECK(contains(said("| rank | 秩 | [02](02_two.md) | x |"), "\"rank\" first stands on 01_one.md"));
  CHECK(contains(said("| shard | 片 | [02](02_two.md) | x |"), "\"shard\" first stands on no page"));
  CHECK(contains(said("| stage | 段 | [02](02_two.md) | x |"),
                 "\"stage\" is used on 02_two.md before it is explained"));
  CHECK(contains(said("| tape | 带 | [02](02_two.md) | x |"), "\"tape\" is used on 02_two.md before"));
  CHECK(contains(said("nothing"), "has no row"));
}

TEST_CASE("a file that cannot be written is a fault") { CHECK_THROWS_AS(write("/dev/full", "text"), Fault); }

TEST_CASE("pages: a letter has the meaning of the glossary's table on every page") {
  const Tree tree;
  write(tree.root / "notebooks_md/glossary.md",
        "| rank | 秩 | [02](02_two.md) | x |\n"
        "| $X$ | every page | input |\n| $W$ | where it is used | width |\n| $K$ | where it is used | keys "
        "|\n");
  const auto said = [&](const std::string& page) {
    write(tree.root / "notebooks_md/02_two.md", "A **rank**.\n" + page);
    return join(tree.tool("--check notebooks_md/glossary.md").output);
  };
  CHECK(contains(said("$x_{ik}$, $dX^T$ and `$Q$`.\n"), " 0 faults"));
  CHECK(contains(said("Letters: $K$ keys; $W$ width.\n\n$$\n\\text{K} = X_W W K\n$$\n"), " 0 faults"));
  CHECK(contains(said("Letters: $K$ width.\n\n$K$\n"), "says that $K$ is width, and the table: keys"));
  CHECK(contains(said("Letters: $T$ time.\n"), "says that $T$ is time, and the table: nothing"));
  CHECK(contains(said("$X$ is $(N, W)$.\n"), "02_two.md uses $N$ and does not state it"));
  CHECK(contains(said("```cpp\nT x;  // (N, 4)  N\n```\n"), "uses $N$"));
  CHECK(contains(said("```text\n    X    40 B   20 B  4 (K + 1)\n```\n"), "uses $K$"));
  CHECK(contains(said("```text\n s0 |A.B|\n```\n"), " 0 faults"));
  write(tree.root / "notebooks_md/glossary.md",
        read(tree.root / "notebooks_md/glossary.md") + "| $K$ | every page | width |\n");
  CHECK(contains(said("$X$\n"), "$K$ has two rows"));
}
