// ./tessera lab: writes a student's tree, checks it, marks it. See notebooks_md/teaching.md.
#include <atomic>
#include <cstdio>
#include <future>
#include <iostream>
#include <map>
#include <random>
#include <set>

#include "judge.hpp"
#include "process.hpp"
#include "submission.hpp"
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

const char* const recorded = "tests/tools/labs/expected.json";  // there: this is a student's tree
constexpr std::uint64_t check_seed = 1;
constexpr auto any_bytes = Json::error_handler_t::replace;  // a message may hold no UTF-8

struct Options {
  fs::path root, build;
  std::vector<std::string> words;  // the command and its arguments
  std::map<std::string, std::vector<std::string>> flags;
  std::string flag(const std::string& name, const std::string& otherwise) const {
    return flags.count(name) > 0 ? flags.at(name).back() : otherwise;
  }
};

struct Mark {
  TaskInfo task;
  Verdict verdict;
};

class Labs {
 public:
  explicit Labs(Options options) : o_(std::move(options)), scratch_(o_.build / "labs") {
    fs::create_directories(scratch_);
  }

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
    const Json expected = reference(o_.root, check_seed, lessons);
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
    for (const Json& task : Json::parse(pages::read(o_.root / recorded)))
      if (const std::string lesson = lesson_of(task); only.empty() || lesson == only)
        lessons.insert(lesson), expected.push_back(task);
    if (lessons.empty()) throw UsageError("there is no lesson " + only);
    const std::vector<Mark> marks = mark(expected, check_seed, "lab_", build(lessons, "lab_"),
                                         std::max(1U, std::thread::hardware_concurrency()));
    show(marks, !only.empty());
    return std::all_of(marks.begin(), marks.end(), [](const Mark& mark) { return passed(mark); }) ? 0 : 1;
  }

  int grade(const fs::path& student) {
    if (fs::exists(o_.root / recorded)) throw UsageError("this is a student's tree: only the master marks");
    const std::uint64_t seed = number("--seed", std::random_device()());
    seconds_ = static_cast<int>(std::min<std::uint64_t>(number("--seconds", 20), 3600));
    std::set<std::string> lessons;
    for (const TaskInfo& task : all_tasks(o_.root))
      if (task.lesson() == o_.flag("--only", task.lesson())) lessons.insert(task.lesson());
    if (lessons.empty()) throw UsageError("--only takes a lesson");
    const Json expected = reference(o_.root, seed, lessons);
    std::map<std::string, std::string> faults = submit(student, lessons);
    for (const auto& [lesson, fault] : build(lessons, "graded_"))
      if (faults[lesson].empty()) faults[lesson] = fault;
    const std::vector<Mark> marks = mark(expected, seed, "graded_", faults, 1);
    show(marks, false);
    const fs::path file = o_.flag("--json", "");
    if (!file.empty()) pages::write(file, gradescope(marks, seed).dump(2, ' ', false, any_bytes) + "\n");
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
  static std::string lesson_of(const Json& task) { return task.at("name").get<std::string>().substr(0, 2); }
  static bool passed(const Mark& mark) { return mark.verdict.state == Verdict::State::passed; }

  /// One task's record, from the program that holds its lesson. "": how the program ended.
  std::pair<Json, std::string> record(const std::string& program, const std::string& task, std::uint64_t seed,
                                      const std::string& mode) const {
    const fs::path answer = scratch_ / (task + ".json"), output = scratch_ / (task + ".txt");
    fs::remove(answer);
    std::vector<std::string> words = {(o_.build / "bin" / (program + task.substr(0, 2))).string(), task,
                                      std::to_string(seed), answer.string()};
    if (!mode.empty()) words.push_back(mode);
    std::string fault = run_limited(words, output, {seconds_, rlim_t{4} << 30, true});
    std::error_code none;
    const bool regular = fs::is_regular_file(fs::symlink_status(answer, none));
    if (fault.empty() && !regular) fault = "it ended before it had any results";
    if (fault.empty()) {
      Json json;
      if (fs::file_size(answer) < 1 << 24) json = Json::parse(pages::read(answer), nullptr, false);
      if (json.is_array()) return {json, ""};
      fault = "it left no results that can be read";
    }
    const Lines said = fs::file_size(output) < 1 << 20 ? pages::split(pages::read(output)) : Lines();
    for (const std::string& line : said)
      if (const std::size_t at = line.find("what():"); at != std::string::npos && fault.size() < 300)
        fault += ":" + line.substr(at + 7, 300);
    return {Json(), fault};
  }

  /// The master's records of all tasks of the lessons, with what comes out where a sum is forgotten.
  Json reference(const fs::path& root, std::uint64_t seed, const std::set<std::string>& lessons) {
    for (const auto& [lesson, fault] : build(lessons, "lab_"))
      if (!fault.empty()) throw Error(str("lab_", lesson, ": ", fault));
    Json tasks = Json::array();
    for (const TaskInfo& task : all_tasks(root)) {
      if (lessons.count(task.lesson()) == 0) continue;
      auto [trials, fault] = record("lab_", task.name, seed, "reference");
      for (const Json& trial : trials)
        if (trial.contains("error")) fault += trial.at("error");
      if (!fault.empty()) throw Error(str("the master's ", task.name, ": ", fault));
      const Json silent = record("lab_", task.name, seed, "silent").first;
      for (std::size_t i = 0; i < trials.size(); ++i)
        if (i < silent.size() && !trials[i].at("sent").empty() && silent[i].contains("results"))
          for (const auto& [name, result] : silent[i].at("results").items())
            if (result.contains("parts"))
              trials[i]["mistakes"][name][name + " equals rank RANK's own term: was it all-reduced?"] =
                  result.at("parts");
      tasks.push_back({{"name", task.name}, {"points", task.points}, {"trials", trials}});
    }
    return tasks;
  }

  /// Builds the programs of the lessons. What is wrong with each, "" where nothing is.
  std::map<std::string, std::string> build(const std::set<std::string>& lessons,
                                           const std::string& program) const {
    const fs::path log = scratch_ / "build.txt";
    const bool ninja = fs::exists(o_.build / "build.ninja");
    const auto make = [&](const std::vector<std::string>& more, int seconds) {
      std::vector<std::string> words = {"cmake", "--build", o_.build.string(), "--parallel",
                                        std::to_string(std::thread::hardware_concurrency())};
      pages::append(words, more);
      return run_limited(words, log, {seconds});
    };
    std::vector<std::string> all = {"--target"};
    for (const std::string& lesson : lessons) all.push_back(program + lesson);
    pages::append(all, ninja ? Lines{"--", "-k", "0"} : Lines{"--", "-k"});
    std::map<std::string, std::string> faults;
    const bool fine = lessons.size() > 1 && make(all, 900).empty();
    for (const std::string& lesson : lessons) {
      const std::string ended = fine ? "" : make({"--target", program + lesson}, 180);
      if (!ended.empty())
        faults[lesson] = "it does not compile: " + first_error(pages::split(pages::read(log)), ended);
      else
        faults[lesson] = "";
    }
    return faults;
  }

  /// What a compiler says first, and at which line of a lesson; `otherwise` where it says nothing.
  static std::string first_error(const Lines& log, const std::string& otherwise) {
    std::string error, where;
    for (std::string line : log) {
      if (const std::size_t at = line.find("lessons/"); at != std::string::npos) line.erase(0, at);
      if (error.empty() &&
          (line.find("error:") != std::string::npos || line.find("undefined reference") != std::string::npos))
        error = line;
      if (where.empty() && line.rfind("lessons/", 0) == 0) where = line.substr(0, line.find_first_of(" ,"));
      if (!where.empty() && !error.empty()) break;
    }
    if (error.empty()) return otherwise;
    return error.rfind("lessons/", 0) == 0 || where.empty() ? error : where + ", " + error;
  }

  /// Puts together what is built for each lesson: the master's lessons, but the files of that lesson which
  /// have tasks are the student's. Says what is wrong with those.
  std::map<std::string, std::string> submit(const fs::path& student,
                                            const std::set<std::string>& lessons) const {
    if (!fs::is_directory(student)) throw UsageError(student.string() + " is no folder");
    std::map<std::string, std::set<std::string>> files;  // with tasks, by lesson
    for (const TaskInfo& task : all_tasks(o_.root)) files[task.lesson()].insert(task.file);
    std::map<std::string, std::string> faults;
    for (const std::string& lesson : lessons)
      for (const std::string& file : lesson_files(o_.root)) {
        std::string code = pages::read(o_.root / file);
        if (files.at(lesson).count(file) > 0) {
          try {
            code = "#line 1 \"" + file + "\"\n" + submitted(student, file);
          } catch (const pages::Fault& fault) {
            faults[lesson] = fault.what();
          }
        }
        const fs::path to = o_.build / "submission" / lesson / fs::relative(file, "lessons");
        if (!fs::exists(to) || pages::read(to) != code) pages::write(to, code);
      }
    return faults;
  }

  /// Runs each task, `at_once` of them side by side. Marks are given for one at a time, which has the machine
  /// to itself: a limit of time is a limit of that task's.
  std::vector<Mark> mark(const Json& expected, std::uint64_t seed, const std::string& program,
                         const std::map<std::string, std::string>& faults, unsigned at_once) const {
    std::vector<Mark> marks(expected.size());
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
      for (std::size_t i; (i = next++) < marks.size();) {
        const std::string name = expected[i].at("name"), fault = faults.at(lesson_of(expected[i]));
        marks[i] = {{.name = name, .points = expected[i].at("points")}, wrong(fault)};
        if (!fault.empty()) continue;
        const auto [answer, ended] = record(program, name, seed, "");
        marks[i].verdict = ended.empty() ? judge(name, expected[i].at("trials"), answer) : wrong(ended);
      }
    };
    std::vector<std::future<void>> workers;
    for (unsigned n = 0; n < at_once; ++n) workers.push_back(std::async(std::launch::async, work));
    for (std::future<void>& worker : workers) worker.get();
    return marks;
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
      own += passed(mark) ? mark.task.points : 0, of += mark.task.points;
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
          (mark.verdict.state != Verdict::State::wrong && !(all && !passed(mark))))
        continue;
      last = mark.verdict.state == Verdict::State::wrong ? mark.verdict.text : "";  // a lesson's is said once
      std::printf("%s: %s\n", mark.task.name.c_str(), mark.verdict.text.c_str());
    }
    std::printf("%d of %d points\n", reached, most);
  }

  /// Gradescope's results.json: gradescope-autograders.readthedocs.io, "Autograder specifications".
  static Json gradescope(const std::vector<Mark>& marks, std::uint64_t seed) {
    Json tests = Json::array();
    int score = 0;
    for (const Mark& mark : marks) {
      const int own = passed(mark) ? mark.task.points : 0;
      score += own;
      tests.push_back({{"name", mark.task.name},
                       {"score", own},
                       {"max_score", mark.task.points},
                       {"status", passed(mark) ? "passed" : "failed"},
                       {"output", mark.verdict.text}});
    }
    return {{"score", score}, {"output", str("Tessera, seed ", seed)}, {"tests", tests}};
  }

  Options o_;
  fs::path scratch_;
  int seconds_ = 20;  // for a task
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
