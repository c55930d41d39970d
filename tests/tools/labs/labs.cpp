// ./tessera lab: writes a student's tree, checks it, marks it. See notebooks_md/teaching.md.
#include <sys/stat.h>

#include <cstdio>
#include <iostream>
#include <random>

#include "marking.hpp"
#include "tree.hpp"

namespace tessera::labs {
namespace {

const char* const usage =
    "./tessera lab new DIR [--empty NN]...   a student's tree; of lessons NN signatures and tests alone\n"
    "./tessera lab check [DIR] [LESSON]      what passes, what is open, what is wrong and where\n"
    "./tessera lab grade DIR --json FILE [--seed N] [--only NN] [--seconds N]\n"
    "                                        marks DIR: unseen sizes and numbers, the master's own tests; a "
    "task\n"
    "                                        may take 20 s, or N\n"
    "./tessera lab list                      the tasks with their points and times\n";

constexpr std::uint64_t check_seed = 1;  // of the records that students have: no marking uses it
constexpr auto any_bytes = Json::error_handler_t::replace;  // a message may hold no UTF-8

struct Options {
  fs::path root, build;
  std::vector<std::string> words;  // the command and its arguments
  std::map<std::string, std::vector<std::string>> flags;
  std::string flag(const std::string& name, const std::string& otherwise) const {
    return flags.count(name) > 0 ? flags.at(name).back() : otherwise;
  }
};

class Labs {
 public:
  explicit Labs(Options options) : o_(std::move(options)), programs_{o_.root, o_.build} {}

  int list() const {
    int points = 0, minutes = 0;
    for (const TaskInfo& task : all_tasks(o_.root)) {
      std::printf("%-18s %-8s %2d %s %3d min\n", task.name.c_str(), task.size.c_str(), task.points,
                  task.points == 1 ? "point, " : "points,", task.minutes);
      points += task.points, minutes += task.minutes;
    }
    std::printf("%d points, about %d hours\n", points, (minutes + 30) / 60);
    return 0;
  }

  int make_tree(const fs::path& to) {
    if (fs::exists(o_.root / recorded))
      throw UsageError("this is a student's tree: only the master makes them");
    if (fs::exists(to) && !fs::is_empty(to))
      throw UsageError(to.string() + " is there already, and not empty");
    std::set<std::string> empty, lessons;
    for (const TaskInfo& task : all_tasks(o_.root)) lessons.insert(task.lesson());
    if (o_.flags.count("--empty") > 0)
      empty.insert(o_.flags.at("--empty").begin(), o_.flags.at("--empty").end());
    for (const std::string& lesson : empty)
      if (lessons.count(lesson) == 0) throw UsageError("--empty takes a lesson: " + joined(lessons));
    programs_.build_master(lessons);
    const Json expected = programs_.reference(check_seed, lessons);
    write_tree(o_.root, to, empty);
    pages::write(to / recorded, expected.dump() + "\n");
    std::printf("%s: a student's tree, %zu tasks. There: ./tessera lab check\n", to.string().c_str(),
                expected.size());
    return 0;
  }

  int check() {
    if (!fs::exists(o_.root / recorded))
      throw UsageError(
          "this is the master, whose tasks are solved: ./tessera lab new DIR makes a student's tree");
    const std::string only = o_.words.size() > 1 ? o_.words[1].substr(0, 2) : "";  // 02_column_split
    Json expected = Json::array();
    std::set<std::string> lessons;
    std::map<std::string, std::set<std::string>> files;
    for (const Json& task : Json::parse(pages::read(o_.root / recorded)))
      if (const std::string lesson = lesson_of(task); only.empty() || lesson == only) {
        expected.push_back(task);
        lessons.insert(lesson);
        files[lesson].insert(task.at("file"));
      }
    if (lessons.empty()) throw UsageError("there is no lesson " + only);
    Faults faults;
    for (const std::string& lesson : lessons)
      for (const std::string& file : files[lesson]) check_file(o_.root, file, faults[lesson]);
    programs_.build(lessons, "lab_", faults);
    const std::vector<Mark> marks = mark(expected, check_seed, (o_.build / "bin/lab_").string(), task_limits,
                                         faults, std::max(1U, std::thread::hardware_concurrency()));
    show(marks, !only.empty());
    return std::all_of(marks.begin(), marks.end(), [](const Mark& mark) { return mark.passed(); }) ? 0 : 1;
  }

  /// Marks a submission. All that is expected lies in this process alone, and this process cannot be read.
  int grade(const fs::path& student) {
    if (fs::exists(o_.root / recorded)) throw UsageError("this is a student's tree: only the master marks");
    if (!fs::is_directory(student)) throw UsageError(student.string() + " is no folder");
    const std::uint64_t seed = number("--seed", std::random_device()());
    if (seed == check_seed)
      throw UsageError(format("--seed {} is that of the records which students have: take any other", seed));
    const auto seconds = static_cast<int>(std::min<std::uint64_t>(number("--seconds", 20), 3600));
    std::set<std::string> lessons;
    for (const TaskInfo& task : all_tasks(o_.root))
      if (task.lesson() == o_.flag("--only", task.lesson())) lessons.insert(task.lesson());
    if (lessons.empty()) throw UsageError("--only takes a lesson");
    prctl(PR_SET_DUMPABLE, 0);
    umask(022);  // the closed folder is read by another user
    programs_.build_master(lessons);
    Marking marking(programs_, student, seconds);
    const std::string protection = marking.close_folder(lessons);
    std::printf("Protection: %s.\n", protection.c_str());
    const std::vector<Mark> marks = marking.marks(programs_.reference(seed, lessons), seed);
    show(marks, false);
    const fs::path file = o_.flag("--json", "");
    if (file.empty()) return 0;
    fs::remove(file);  // a link there is not followed
    pages::write(file, gradescope(marks, format("Tessera, seed {}. Protection: {}", seed, protection))
                               .dump(2, ' ', false, any_bytes) +
                           "\n");
    if (!fs::exists(file)) throw Error("cannot write " + file.string());
    return 0;
  }

 private:
  std::uint64_t number(const std::string& flag, std::uint64_t otherwise) const {
    const std::string word = o_.flag(flag, std::to_string(otherwise));
    if (word.empty() || word.size() > 18 || word.find_first_not_of("0123456789") != std::string::npos)
      throw UsageError(flag + " takes a number, not '" + word + "'");
    return std::stoull(word);
  }
  static std::string joined(const std::set<std::string>& words) {
    std::string text;
    for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
    return text;
  }

  /// A line a lesson, then a line for each task that is wrong; with `all`, for each that is open too.
  static void show(const std::vector<Mark>& marks, bool all) {
    std::map<std::string, std::array<std::string, 3>> names;
    std::map<std::string, std::pair<int, int>> points;
    int reached = 0, most = 0;
    for (const Mark& mark : marks) {
      const auto state = static_cast<std::size_t>(mark.verdict.state);
      names[mark.task.lesson()].at(state) += " " + mark.task.name.substr(3);
      auto& [own, of] = points[mark.task.lesson()];
      own += mark.passed() ? mark.task.points : 0, of += mark.task.points;
    }
    for (const auto& [lesson, by_state] : names) {
      const auto& [own, of] = points[lesson];
      reached += own, most += of;
      std::printf("%s %2d/%d", lesson.c_str(), own, of);
      const std::array<const char*, 3> says = {"passes:", "open:", "wrong:"};
      for (std::size_t i = 0; i < 3; ++i)
        if (!by_state.at(i).empty()) std::printf("  %s%s", says.at(i), by_state.at(i).c_str());
      std::printf("\n");
    }
    std::string last;
    for (const Mark& mark : marks) {
      if (mark.verdict.text == last ||
          (mark.verdict.state != Verdict::State::wrong && !(all && !mark.passed())))
        continue;
      last = mark.verdict.state == Verdict::State::wrong ? mark.verdict.text : "";  // a lesson's is said once
      std::printf("%s: %s\n", mark.task.name.c_str(), mark.verdict.text.c_str());
    }
    std::printf("%d of %d points\n", reached, most);
  }

  /// Gradescope's results.json: gradescope-autograders.readthedocs.io, "Autograder specifications".
  static Json gradescope(const std::vector<Mark>& marks, const std::string& output) {
    Json tests = Json::array();
    int score = 0;
    for (const Mark& mark : marks) {
      const int own = mark.passed() ? mark.task.points : 0;
      score += own;
      tests.push_back({{"name", mark.task.name},
                       {"score", own},
                       {"max_score", mark.task.points},
                       {"status", mark.passed() ? "passed" : "failed"},
                       {"output", mark.verdict.text}});
    }
    return {{"score", score}, {"output", output}, {"tests", tests}};
  }

  Options o_;
  Programs programs_;
};

Options command_line(int argc, char** argv) {
  Options options;
  const std::set<std::string> known = {"--root", "--build", "--empty",  "--json",
                                       "--seed", "--only",  "--seconds"};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) != 0)
      options.words.push_back(word);
    else if (known.count(word) == 0 || i + 1 == argc)
      throw UsageError(word + (known.count(word) == 0 ? " is no flag of this\n" : " takes a value\n") +
                       usage);
    else
      options.flags[word].emplace_back(argv[++i]);
  }
  options.root = fs::absolute(options.flag("--root", "."));
  options.build = fs::absolute(options.flag("--build", (options.root / "build").string()));
  return options;
}

int run(const Options& options) {
  const std::vector<std::string>& words = options.words;
  const std::string command = words.empty() ? "" : words[0];
  Labs labs(options);
  if (command == "list" && words.size() == 1) return labs.list();
  if (command == "new" && words.size() == 2) return labs.make_tree(words[1]);
  if (command == "check" && words.size() <= 2) return labs.check();
  if (command == "grade" && words.size() == 2) return labs.grade(words[1]);
  throw UsageError(usage);
}

}  // namespace
}  // namespace tessera::labs

int main(int argc, char** argv) {
  try {
    return tessera::labs::run(tessera::labs::command_line(argc, argv));
  } catch (const tessera::UsageError& error) {
    std::cerr << "tessera: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "tessera: " << error.what() << "\n";
    return 3;
  }
}
