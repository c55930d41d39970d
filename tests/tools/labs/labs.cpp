// ./tessera lab: writes a student's tree, checks it, marks it. See notebooks_md/teaching.md.
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <random>

#include "app/app.hpp"
#include "marking.hpp"
#include "tree.hpp"

namespace tessera::labs {
namespace {

constexpr auto any_bytes = Json::error_handler_t::replace;  // a message may hold no UTF-8

struct Options {
  fs::path root = ".", build, json;
  std::string folder, lesson;      // of a tree; "" for all lessons
  std::vector<std::string> empty;  // lessons of which a tree has signatures alone
  std::string first;               // the first lesson that a tree leaves open
  int variant = 0;
  std::uint64_t seed = std::random_device()();
  int seconds = task_limits.seconds;
};

class Labs {
 public:
  explicit Labs(Options options)
      : o_(std::move(options)), is_master_(!fs::exists(o_.root / recorded)), programs_{o_.root, o_.build} {}

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

  int make_tree() {
    const fs::path to = o_.folder;
    if (!is_master_) throw UsageError("this is a student's tree: only the master makes them");
    if (fs::exists(to) && !fs::is_empty(to))
      throw UsageError(to.string() + " is there already, and not empty");
    const std::set<std::string> lessons = chosen_lessons("");
    for (const std::string& lesson : o_.empty) {
      chosen_lessons(lesson);
      if (lesson < o_.first)
        throw UsageError(format("--from {} solves lesson {}, and --empty opens it", o_.first, lesson));
    }
    chosen_lessons(o_.first);
    programs_.build_master(lessons);
    Json expected = programs_.reference(check_seed(o_.variant), lessons);
    for (Json& task : expected) task["seed"] = check_seed(o_.variant);
    write_tree(o_.root, to, {{o_.empty.begin(), o_.empty.end()}, o_.first, o_.variant});
    pages::write(to / recorded, expected.dump() + "\n");
    std::printf("%s: a student's tree, %zu tasks. There: ./tessera lab check\n", to.string().c_str(),
                expected.size());
    if (o_.variant > 0)
      std::printf(
          "Variant %d: its numbers and sizes are of another seed, and %zu names differ. Mark it with "
          "--variant %d.\n",
          o_.variant, names_of(o_.variant).size(), o_.variant);
    return 0;
  }

  int check() {
    if (is_master_)
      throw UsageError(
          "this is the master, whose tasks are solved: ./tessera lab new DIR makes a student's tree");
    const std::string only = o_.lesson.substr(0, 2);  // of 02_column_split
    Json expected = Json::array();
    Faults faults;
    for (const Json& task : Json::parse(pages::read(o_.root / recorded)))
      if (const std::string lesson = lesson_of(task); only.empty() || lesson == only) {
        expected.push_back(task);
        check_file(o_.root, task.at("file"), faults[lesson]);
      }
    if (faults.empty()) throw UsageError("there is no lesson " + only);
    programs_.build("lab_", faults);
    const std::vector<Mark> marks =
        mark(expected, expected[0].at("seed"), (o_.build / "bin/lab_").string(), task_limits, faults,
             std::max(1U, std::thread::hardware_concurrency()));
    show(marks, !o_.lesson.empty());
    return std::all_of(marks.begin(), marks.end(), [](const Mark& mark) { return mark.passed(); }) ? 0 : 1;
  }

  /// Marks a submission. All that is expected lies in this process alone, and this process cannot be read.
  int grade() {
    if (!is_master_) throw UsageError("this is a student's tree: only the master marks");
    if (!fs::is_directory(o_.folder)) throw UsageError(o_.folder + " is no folder");
    if (o_.seed == check_seed(o_.variant))
      throw UsageError(
          format("--seed {} is that of the records which students have: take any other", o_.seed));
    const std::set<std::string> lessons = chosen_lessons(o_.lesson);
    prctl(PR_SET_DUMPABLE, 0);
    umask(022);  // the closed folder is read by another user
    programs_.build_master(lessons);
    Marking marking(programs_, o_.folder, o_.seconds, o_.variant);
    const std::string protection = marking.close_folder(lessons);
    std::printf("Protection: %s.\n", protection.c_str());
    const std::vector<Mark> marks = marking.marks(programs_.reference(o_.seed, lessons), o_.seed);
    show(marks, false);
    if (o_.json.empty()) return 0;
    fs::remove(o_.json);  // a link there is not followed
    const std::string output = format("Tessera, seed {}. Protection: {}", o_.seed, protection);
    pages::write(o_.json, gradescope(marks, output).dump(2, ' ', false, any_bytes) + "\n");
    if (!fs::exists(o_.json)) throw Error("cannot write " + o_.json.string());
    return 0;
  }

 private:
  /// The lesson of this number, or all lessons where it is "".
  std::set<std::string> chosen_lessons(const std::string& only) const {
    std::set<std::string> all;
    for (const TaskInfo& task : all_tasks(o_.root)) all.insert(task.lesson());
    if (only.empty()) return all;
    if (all.count(only) == 0)
      throw UsageError(format("there is no lesson {}, of {} to {}", only, *all.begin(), *all.rbegin()));
    return {only};
  }

  /// A line a lesson, then a line for each task that is wrong; with `all`, for each that is open too.
  static void show(const std::vector<Mark>& marks, bool all) {
    struct Line {
      int own = 0, of = 0;
      std::array<std::string, 3> names = {"  passes:", "  open:", "  wrong:"};
    };
    std::map<std::string, Line> lessons;
    Line sum;
    for (const Mark& mark : marks) {
      for (Line* line : {&lessons[mark.task.lesson()], &sum})
        line->own += mark.points(), line->of += mark.task.points;
      lessons[mark.task.lesson()].names.at(static_cast<std::size_t>(mark.verdict.state)) +=
          " " + mark.task.name.substr(3);
    }
    for (const auto& [lesson, line] : lessons) {
      std::printf("%s %2d/%d", lesson.c_str(), line.own, line.of);
      for (const std::string& names : line.names)
        if (!names.ends_with(':')) std::printf("%s", names.c_str());
      std::printf("\n");
    }
    std::string last;
    for (const Mark& mark : marks) {
      const bool wrong = mark.verdict.state == Verdict::State::wrong;
      if (mark.verdict.text == last || !(wrong || (all && !mark.passed()))) continue;
      last = wrong ? mark.verdict.text : "";  // a lesson's is said once
      std::printf("%s: %s\n", mark.task.name.c_str(), mark.verdict.text.c_str());
    }
    std::printf("%d of %d points\n", sum.own, sum.of);
  }

  /// Gradescope's results.json: gradescope-autograders.readthedocs.io, "Autograder specifications".
  static Json gradescope(const std::vector<Mark>& marks, const std::string& output) {
    Json tests = Json::array();
    int score = 0;
    for (const Mark& mark : marks) {
      score += mark.points();
      tests.push_back({{"name", mark.task.name},
                       {"score", mark.points()},
                       {"max_score", mark.task.points},
                       {"status", mark.passed() ? "passed" : "failed"},
                       {"output", mark.verdict.text}});
    }
    return {{"score", score}, {"output", output}, {"tests", tests}};
  }

  Options o_;
  bool is_master_;
  Programs programs_;
};

int run(int argc, char** argv) {
  Options o;
  CLI::App app("./tessera lab: writes a student's tree, checks it, marks it");
  app.require_subcommand(1);
  app.add_option("--root", o.root)->group("");
  app.add_option("--build", o.build)->group("");
  const CLI::App* list = app.add_subcommand("list", "the tasks with their points and times");
  CLI::App* make = app.add_subcommand("new", "writes a student's tree");
  make->add_option("DIR", o.folder)->required();
  make->add_option("--empty", o.empty, "NN, a lesson of which the tree has signatures and tests alone")
      ->allow_extra_args(false);
  make->add_option("--from", o.first, "NN, the first lesson that is open: those before it are solved");
  CLI::App* check = app.add_subcommand("check", "what passes, what is open, what is wrong and where");
  check->add_option("LESSON", o.lesson);
  CLI::App* grade =
      app.add_subcommand("grade", "marks DIR: unseen sizes and numbers, the master's own tests");
  grade->add_option("DIR", o.folder)->required();
  grade->add_option("--json", o.json, "a file for the marks");
  grade->add_option("--seed", o.seed, "decides the sizes and numbers");
  for (CLI::App* each : {make, grade})
    each->add_option("--variant", o.variant, "N, a term's own names, sizes and numbers of the tasks")
        ->check(CLI::Range(0, 999));
  grade->add_option("--only", o.lesson, "NN, one lesson");
  grade->add_option("--seconds", o.seconds, "that a task may take")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  o.root = fs::absolute(o.root);
  o.build = fs::absolute(o.build.empty() ? o.root / "build" : o.build);
  Labs labs(o);
  return *list ? labs.list() : *make ? labs.make_tree() : *check ? labs.check() : labs.grade();
}

}  // namespace
}  // namespace tessera::labs

int main(int argc, char** argv) {
  return tessera::guarded([&] { return tessera::labs::run(argc, argv); });
}
