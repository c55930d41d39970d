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

class Labs {
 public:
  int run(int argc, char** argv) {
    CLI::App app("./tessera lab: writes a student's tree, checks it, marks it");
    app.require_subcommand(1);
    app.add_option("--root", root_)->group("");
    app.add_option("--build", build_)->group("");
    const CLI::App* list = app.add_subcommand("list", "the tasks with their points and times");
    CLI::App* make = app.add_subcommand("new", "writes a student's tree");
    make->add_option("DIR", folder_)->required();
    make->add_option("--empty", empty_, "NN, a lesson of which the tree has signatures and tests alone")
        ->allow_extra_args(false);
    make->add_option("--from", first_, "NN, the first lesson that is open: those before it are solved");
    CLI::App* check = app.add_subcommand("check", "what passes, what is open, what is wrong and where");
    check->add_option("LESSON", lesson_);
    CLI::App* grade =
        app.add_subcommand("grade", "marks DIR: unseen sizes and numbers, the master's own tests");
    grade->add_option("DIR", folder_)->required();
    grade->add_option("--json", json_, "a file for the marks");
    grade->add_option("--seed", seed_, "decides the sizes and numbers");
    for (CLI::App* each : {make, grade})
      each->add_option("--variant", variant_, "N, a term's own names, sizes and numbers of the tasks")
          ->check(CLI::Range(0, 999));
    grade->add_option("--only", lesson_, "NN, one lesson");
    grade->add_option("--seconds", seconds_, "that a task may take")
        ->check(CLI::Range(1, 3600))
        ->capture_default_str();
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return app.exit(error) == 0 ? 0 : 2;
    }
    root_ = fs::absolute(root_);
    programs_ = {root_, fs::absolute(build_.empty() ? root_ / "build" : build_)};
    is_master_ = !fs::exists(root_ / recorded);
    return *list ? list_tasks() : *make ? make_tree() : *check ? check_tree() : grade_tree();
  }

 private:
  int list_tasks() const {
    int points = 0, minutes = 0;
    for (const TaskInfo& task : all_tasks(root_)) {
      std::printf("%-18s %-8s %2d %s %3d min\n", task.name.c_str(), task.size.c_str(), task.points,
                  task.points == 1 ? "point, " : "points,", task.minutes);
      points += task.points, minutes += task.minutes;
    }
    std::printf("%d points, about %d hours\n", points, (minutes + 30) / 60);
    return 0;
  }

  int make_tree() const {
    const fs::path to = folder_;
    if (!is_master_) throw UsageError("this is a student's tree: only the master makes them");
    if (fs::exists(to) && !fs::is_empty(to))
      throw UsageError(to.string() + " is there already, and not empty");
    const std::set<std::string> lessons = chosen_lessons("");
    for (const std::string& lesson : empty_) {
      chosen_lessons(lesson);
      if (lesson < first_)
        throw UsageError(format("--from {} solves lesson {}, and --empty opens it", first_, lesson));
    }
    chosen_lessons(first_);
    programs_.build_master(lessons);
    Json expected = programs_.reference(check_seed(variant_), lessons);
    for (Json& task : expected) task["seed"] = check_seed(variant_);
    write_tree(root_, to, {{empty_.begin(), empty_.end()}, first_, variant_});
    pages::write(to / recorded, expected.dump() + "\n");
    std::printf("%s: a student's tree, %zu tasks. There: ./tessera lab check\n", to.string().c_str(),
                expected.size());
    if (variant_ > 0)
      std::printf(
          "Variant %d: its numbers and sizes are of another seed, and %zu names differ. Mark it with "
          "--variant %d.\n",
          variant_, names_of(variant_).size(), variant_);
    return 0;
  }

  int check_tree() const {
    if (is_master_)
      throw UsageError(
          "this is the master, whose tasks are solved: ./tessera lab new DIR makes a student's tree");
    const std::string only = lesson_.substr(0, 2);  // of 02_column_split
    Json expected = Json::array();
    Faults faults;
    for (const Json& task : Json::parse(pages::read(root_ / recorded)))
      if (const std::string lesson = lesson_of(task); only.empty() || lesson == only) {
        expected.push_back(task);
        check_file(root_, task.at("file"), faults[lesson]);
      }
    if (faults.empty()) throw UsageError("there is no lesson " + only);
    programs_.build("lab_", faults);
    const std::vector<Mark> marks =
        mark(expected, expected[0].at("seed"), (programs_.folder / "bin/lab_").string(), task_limits, faults,
             std::max(1U, std::thread::hardware_concurrency()));
    show(marks, !lesson_.empty());
    return std::all_of(marks.begin(), marks.end(), [](const Mark& mark) { return mark.passed(); }) ? 0 : 1;
  }

  /// Marks a submission. All that is expected lies in this process alone, and this process cannot be read.
  int grade_tree() const {
    if (!is_master_) throw UsageError("this is a student's tree: only the master marks");
    if (!fs::is_directory(folder_)) throw UsageError(folder_ + " is no folder");
    if (seed_ == check_seed(variant_))
      throw UsageError(format("--seed {} is that of the records which students have: take any other", seed_));
    const std::set<std::string> lessons = chosen_lessons(lesson_);
    prctl(PR_SET_DUMPABLE, 0);
    umask(022);  // the closed folder is read by another user
    programs_.build_master(lessons);
    Marking marking(programs_, folder_, seconds_, variant_);
    const std::string protection = marking.close_folder(lessons);
    std::printf("Protection: %s.\n", protection.c_str());
    const std::vector<Mark> marks = marking.marks(programs_.reference(seed_, lessons), seed_);
    show(marks, false);
    if (json_.empty()) return 0;
    fs::remove(json_);  // a link there is not followed
    const std::string output = format("Tessera, seed {}. Protection: {}", seed_, protection);
    pages::write(json_, gradescope(marks, output).dump(2, ' ', false, any_bytes) + "\n");
    return 0;
  }

  /// The lesson of this number, or all lessons where it is "".
  std::set<std::string> chosen_lessons(const std::string& only) const {
    std::set<std::string> all;
    for (const TaskInfo& task : all_tasks(root_)) all.insert(task.lesson());
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

  fs::path root_ = ".", build_, json_;
  std::string folder_, lesson_;     // of a tree; "" for all lessons
  std::vector<std::string> empty_;  // lessons of which a tree has signatures alone
  std::string first_;               // the first lesson that a tree leaves open
  int variant_ = 0;
  std::uint64_t seed_ = std::random_device()();
  int seconds_ = task_limits.seconds;
  bool is_master_ = true;
  Programs programs_;
};

}  // namespace
}  // namespace tessera::labs

int main(int argc, char** argv) {
  return tessera::guarded([&] { return tessera::labs::Labs().run(argc, argv); });
}
