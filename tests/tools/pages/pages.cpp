// The page tool. It regenerates what stands between markers in the Markdown pages, or with --check says what
// would change. A marker is an HTML comment on a line of its own, and `<!-- end -->` closes it:
//
//   <!-- excerpt FILE NAME -->         FILE's lines from `// begin NAME` to `// end NAME`, without markers
//   <!-- run COMMAND -->               the command and its output; [exit=N] where N is not 0
//   <!-- picture COMMAND -> PATH -->   an image that the command writes to OUT; PATH starts at the page
//
// A link [text](FILE#L1 "PIECE") gets the number of the line of FILE that holds PIECE. The glossary's terms
// are looked up: each on its page, and on none before it. Its letters have one meaning each on all pages.
// Messages of static assertions are looked up in the code.
//
// A page may also build a program in steps. `excerpt step=3 ...` adds a part from step 3 on; a fenced block
// opened by "```cpp step=3" ends that step's program and no other. "3b" is a variation of step 3.
// `run step=3 ./NAME ARGUMENTS` runs it. `<!-- continues PAGE.md -->` on a page takes the steps of PAGE.md
// first.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "command.hpp"
#include "directory.hpp"
#include "references.hpp"
#include "source.hpp"
#include "text.hpp"

namespace pages {
namespace {

struct Options {
  bool check = false, steps = false;
  fs::path root = ".", bin = "build/bin", keep;
  std::string cxx = "g++";
  std::vector<std::string> pages;
};

class Tool {
 public:
  explicit Tool(Options options) : options_(std::move(options)) {}

  int main() {
    for (const std::string& page : options_.pages) {
      page_ = page;
      binaries_.clear();
      try {
        if (options_.steps)
          steps(split(read(options_.root / page)));
        else
          regenerate();
      } catch (const Fault& error) {
        fault(0, error.what());
      }
    }
    std::printf("%zu pages, %d blocks, %d links, %d steps: %d faults\n", options_.pages.size(), blocks_,
                links_, steps_, faults_);
    return faults_ == 0 ? 0 : 1;
  }

 private:
  void fault(std::size_t line, const std::string& what) {
    ++faults_;
    std::printf("%s", page_.string().c_str());
    if (line > 0) std::printf(":%zu", line);
    std::printf(": %s%s", what.c_str(), what.ends_with("\n") ? "" : "\n");
  }

  void regenerate() {
    const std::string before = read(options_.root / page_);
    const Lines page = split(before);
    Lines now;
    bool fenced = false;
    for (std::size_t i = 0; i < page.size(); ++i) {
      now.push_back(fenced ? page[i] : with_lines(page[i], i));
      if (page[i].rfind("```", 0) == 0) fenced = !fenced;
      if (!fenced && page[i] == "<!-- end -->")
        fault(i + 1, "`<!-- end -->` closes nothing that this tool knows");
      const auto marker = fenced ? std::nullopt : marker_in(page[i]);
      if (!marker) continue;
      std::size_t end = i + 1;
      while (end < page.size() && page[end] != "<!-- end -->" && !marker_in(page[end])) ++end;
      if (end == page.size() || page[end] != "<!-- end -->") {
        fault(i + 1, "no `<!-- end -->` after this marker");
        continue;
      }
      ++blocks_;
      const Lines is(page.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                     page.begin() + static_cast<std::ptrdiff_t>(end));
      Lines should_be = is;
      try {
        should_be = make(*marker, is, page);
      } catch (const Fault& error) {
        fault(i + 1, error.what());
      }
      if (options_.check && is != should_be)
        fault(i + 1, "`" + marker->rest + "` gives something else\n" + short_diff(is, should_be));
      append(now, should_be);
      now.push_back(page[end]);
      i = end;
    }
    if (!options_.check && join(now) != before) {
      write(options_.root / page_, join(now));
      std::printf("%s: rewritten\n", page_.string().c_str());
    }
    check_links(now);
    for (const std::string& message : unsaid(now, options_.root / "src/placement"))
      fault(0, "no static assertion says \"" + message + "\"");
    if (page_.filename() == "glossary.md")
      for (const auto& broken : {broken_terms, broken_letters})
        for (const std::string& what : broken(now, (options_.root / page_).parent_path())) fault(0, what);
  }

  /// The line with its links to lines of code as they should be.
  std::string with_lines(const std::string& line, std::size_t i) {
    try {
      const std::string should_be = pinned(line, (options_.root / page_).parent_path());
      if (options_.check && should_be != line) fault(i + 1, "a link to a line of code is off: " + should_be);
      return should_be;
    } catch (const Fault& error) {
      fault(i + 1, error.what());
      return line;
    }
  }

  Lines make(const Marker& marker, const Lines& is, const Lines& page) {
    if (marker.kind == "excerpt") return excerpt_block(options_.root, Place(marker));
    return marker.kind == "run" ? make_run(marker, page) : make_picture(marker, is);
  }

  Lines make_run(const Marker& marker, const Lines& page) {
    std::string command = resolve(marker.rest, options_.bin);
    if (!marker.step.empty())
      command.replace(0, command.find(' '), quoted(compiled(marker.step, page).string()));
    const Lines output = run_expecting(options_.root, command, marker.exit).output;
    const std::string shown = std::regex_replace(marker.rest, std::regex(" --stable"), "");
    // The reader's own program stands in the text; a command of the house becomes a cell that can be run.
    Lines lines =
        marker.step.empty() ? Lines{"```bash", shown, "```", "", "```text"} : Lines{"```text", "$ " + shown};
    append(lines, output);
    lines.emplace_back("```");
    return lines;
  }

  Lines make_picture(const Marker& marker, const Lines& is) {
    const std::size_t arrow = marker.rest.rfind(" -> ");
    if (arrow == std::string::npos) throw Fault("a picture takes `COMMAND -> PATH`");
    const std::string path = marker.rest.substr(arrow + 4);
    const fs::path out = scratch_ / "picture", target = (options_.root / page_).parent_path() / path;
    fs::remove(out);
    const std::string command =
        std::regex_replace(marker.rest.substr(0, arrow), std::regex(R"(\bOUT\b)"), out.string());
    run_expecting(options_.root, resolve(command, options_.bin), marker.exit);
    if (!fs::exists(out)) throw Fault("`" + marker.rest.substr(0, arrow) + "` writes no OUT");
    const std::string is_file = fs::exists(target) ? read(target) : "", should_be = read(out);
    if (is_file != should_be && options_.check)
      throw Fault(path + " is not what the command draws\n" + short_diff(split(is_file), split(should_be)));
    if (is_file != should_be) write(target, should_be);
    // The words are the author's: they stay.
    std::smatch alt;
    const std::string body = join(is), stem = fs::path(path).stem().string();
    const bool has_words = std::regex_search(body, alt, std::regex(R"(!\[([^\]]+)\])"));
    return {"![" + (has_words ? alt[1].str() : stem) + "](" + path + ")"};
  }

  void check_links(const Lines& page) {
    static const std::regex code("`[^`]*`"),
        link(R"re(\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s*(\S+)|<img [^>]*src="([^"]+)")re");
    bool fenced = false;
    for (std::size_t i = 0; i < page.size(); ++i) {
      if (page[i].rfind("```", 0) == 0) fenced = !fenced;
      if (fenced) continue;
      const std::string line = std::regex_replace(page[i], code, "");
      for (std::sregex_iterator it(line.begin(), line.end(), link), last; it != last; ++it) {
        std::string target = (*it)[1].str() + (*it)[2].str() + (*it)[3].str();  // one of them
        target = target.substr(0, target.find('#'));
        if (target.empty() || target.find("://") != std::string::npos || target.rfind("mailto:", 0) == 0)
          continue;
        ++links_;
        if (!fs::exists((options_.root / page_).parent_path() / target))
          fault(i + 1, "dead link to " + target);
      }
    }
  }

  /// The page behind the one that it continues.
  Lines with_steps_before(const Lines& page) const {
    static const std::string mark = "<!-- continues ";
    Lines whole;
    for (const std::string& line : page)
      if (line.rfind(mark, 0) == 0)
        whole = split(read((options_.root / page_).parent_path() /
                           line.substr(mark.size(), line.find(" -->") - mark.size())));
    append(whole, page);
    return whole;
  }

  fs::path compiled(const std::string& step, const Lines& page) {
    if (binaries_.empty()) {
      std::vector<std::string> sources;
      programs_ = assemble(options_.root, with_steps_before(page), sources);
    }
    const auto found = programs_.find(step);
    if (found == programs_.end()) throw Fault("the page builds no step " + step);
    fs::path& binary = binaries_[step];
    if (!binary.empty()) return binary;
    const fs::path folder = options_.keep.empty() ? scratch_ : options_.keep;
    const std::string stem = page_.stem().string() + "_step_" + step;
    write(folder / (stem + ".cpp"), join(found->second.lines));
    std::string command = options_.cxx + " -std=c++20 -Wall -Wextra -Werror -pthread ";
    command += quoted((folder / (stem + ".cpp")).string()) + " -o " + quoted((scratch_ / stem).string());
    run_expecting(".", command, 0);
    return binary = scratch_ / stem;
  }

  /// Every step compiles, runs, and exits as its block says; the last one is the source itself.
  void steps(const Lines& page) {
    std::vector<std::string> sources;
    const auto programs = assemble(options_.root, with_steps_before(page), sources);
    if (programs.empty()) throw Fault("builds no program in steps");
    for (const auto& [step, program] : programs) {
      ++steps_;
      try {
        run_expecting(options_.root, quoted(compiled(step, page).string()), program.exit);
        std::printf("step %-3s %4zu lines, exit %d\n", step.c_str(), program.lines.size(), program.exit);
      } catch (const Fault& error) {
        fault(0, std::string("step ").append(step).append(": ").append(error.what()));
      }
    }
    if (sources.empty()) return;
    Lines is = programs.rbegin()->second.lines, should_be = split(read(options_.root / sources[0]));
    should_be.erase(should_be.begin(),
                    std::find_if(should_be.begin(), should_be.end(), [](const std::string& line) {
                      return std::regex_match(line, anchor_line);
                    }));
    should_be = without_markers(should_be);
    for (Lines* lines : {&is, &should_be}) std::erase(*lines, "");
    if (is != should_be) fault(0, "the last step is not " + sources[0] + "\n" + short_diff(is, should_be));
  }

  Options options_;
  const tessera::test::Directory directory_;
  const fs::path scratch_ = directory_.path();
  fs::path page_;
  std::map<std::string, Program> programs_;  // of page_
  std::map<std::string, fs::path> binaries_;
  int faults_ = 0, blocks_ = 0, links_ = 0, steps_ = 0;
};

int tool(int argc, char** argv) {
  Options o;
  CLI::App app("Regenerates README.md and notebooks_md/*.md, or the pages named.");
  app.add_flag("--check", o.check, "change nothing, say what would change");
  app.add_flag("--steps", o.steps, "compile and run every step of the program that a page builds");
  app.add_option("--keep", o.keep, "a folder for these programs");
  app.add_option("--root", o.root, "of the tree")->check(CLI::ExistingDirectory);
  app.add_option("--bin", o.bin, "of the lessons' programs");
  app.add_option("--cxx", o.cxx, "the compiler");
  app.add_option("PAGE", o.pages);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  o.root = fs::canonical(o.root);
  o.bin = fs::absolute(o.bin);  // commands run in root
  if (!o.keep.empty()) o.keep = fs::absolute(o.keep);
  if (o.pages.empty()) {
    if (fs::exists(o.root / "README.md")) o.pages.emplace_back("README.md");
    if (fs::is_directory(o.root / "notebooks_md"))
      for (const auto& entry : fs::directory_iterator(o.root / "notebooks_md"))
        if (entry.path().extension() == ".md")
          o.pages.push_back("notebooks_md/" + entry.path().filename().string());
    std::sort(o.pages.begin(), o.pages.end());
  }
  return Tool(o).main();
}

}  // namespace
}  // namespace pages

int main(int argc, char** argv) { return pages::tool(argc, argv); }
