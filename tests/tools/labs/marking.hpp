// A submission's programs, built from its files that have tasks and from the master's others, in a fresh
// folder which is all that they see.
#pragma once

#include <sys/stat.h>

#include <sstream>

#include "programs.hpp"
#include "submission.hpp"
#include "variant.hpp"

namespace tessera::labs {

class Marking {
 public:
  Marking(const Programs& master, const fs::path& student, int seconds, int variant)
      : master_(master),
        student_(student),
        names_(names_of(variant, true)),
        closed_(master.folder / "labs/marking") {
    limits_.seconds = seconds;
    fs::remove_all(closed_);
  }
  ~Marking() {
    std::error_code none;
    fs::remove_all(closed_, none);
  }
  Marking(const Marking&) = delete;
  Marking& operator=(const Marking&) = delete;

  /// Copies the libraries that the programs load into the folder, and says in one line what keeps these
  /// programs from all else.
  std::string close_folder(const std::set<std::string>& lessons) {
    fs::create_directories(closed_ / "lib");
    std::vector<std::string> words = {"ldd"};
    for (const std::string& lesson : lessons)
      words.push_back((master_.folder / "bin/lab_").string() + lesson);
    std::istringstream loaded(run_limited(words, {}).said);
    std::string before;
    for (std::string word; loaded >> word; before = word) {
      // "libm.so.6 => /lib/libm.so.6", "/lib64/ld-linux.so.2"
      if (word[0] != '/' || word.back() == ':') continue;
      const fs::path to =
          closed_ / (before == "=>" ? "lib" / fs::path(word).filename() : fs::path(word).relative_path());
      fs::create_directories(to.parent_path());
      fs::copy_file(word, to, fs::copy_options::skip_existing);
    }
    if (can([&] { return enter(closed_.c_str()); })) limits_.folder = closed_;
    return (limits_.folder.empty()
                ? "none for files, since this machine allows no user namespace: what is marked can read "
                  "what you can, the solutions too (mark as root, in a container)"
                : format("what is marked runs as {} and sees no file but its own",
                         geteuid() == 0 ? "user nobody" : "you, in a user namespace,")) +
           (can([] { return only_compute(""); })
                ? "; it can only compute"
                : "; this kernel has no seccomp, so it may start and end other programs");
  }

  /// Every task of `expected`. The files that have tasks are the student's, all else is the master's.
  std::vector<Mark> marks(const Json& expected, std::uint64_t seed) const {
    Files files;
    Faults faults;
    for (const Json& task : expected) {
      const std::string lesson = lesson_of(task), file = task.at("file");
      files[lesson][file] = submitted(file, faults[lesson]);
    }
    put_together(files, faults);
    std::vector<Mark> marks = mark(expected, seed, program(), limits_, faults, 1);
    mark_alone(expected, seed, faults, marks);
    return marks;
  }

 private:
  using Files = std::map<std::string, std::map<std::string, std::string>>;  // sources, by lesson and name

  /// A student's file with the master's names.
  std::string submitted(const std::string& file, std::string& fault) const {
    return code_with_names(check_file(student_, file, fault), names_);
  }

  std::string program() const {
    return ((limits_.folder.empty() ? closed_ : fs::path("/")) / "graded_").string();
  }

  /// A task may be wrong because another of its lesson is, which it calls. So it is marked again, with all
  /// other tasks as the master has them. Each round builds one such task of each lesson.
  void mark_alone(const Json& expected, std::uint64_t seed, const Faults& whole,
                  std::vector<Mark>& marks) const {
    std::set<std::string> wrong;
    for (const Mark& mark : marks)
      if (!mark.passed()) wrong.insert(mark.task.name);
    std::map<std::string, int> again;                          // tasks of a lesson
    std::map<int, std::map<std::string, std::size_t>> rounds;  // of each lesson a place in marks
    for (std::size_t i = 0; i < marks.size(); ++i) {
      const std::string lesson = marks[i].task.lesson();
      if (!marks[i].passed() && marks[i].verdict.text != "open" && whole.at(lesson).empty() &&
          names_one_of(wrong, marks[i].task.name))
        rounds[again[lesson]++][lesson] = i;
    }
    for (const auto& [number, round] : rounds) {
      Files files;
      Faults faults;
      Json tasks = Json::array();
      for (const auto& [lesson, i] : round) {
        const std::string file = expected[i].at("file");
        std::string& code = files[lesson][file];
        code =
            with_task(pages::read(master_.root / file), submitted(file, faults[lesson]), marks[i].task.name);
        if (code.empty() || !forbidden_line(code).empty()) faults[lesson] = "it cannot be marked alone";
        tasks.push_back(expected[i]);
      }
      put_together(files, faults);
      std::size_t n = 0;
      const std::vector<Mark> alone = mark(tasks, seed, program(), limits_, faults, 1);
      for (const auto& [lesson, i] : round)
        if (const Mark& one = alone[n++]; one.verdict.state != Verdict::State::wrong) marks[i] = one;
    }
  }

  /// Does the task, or what its lab does with it, name a function of another of its lesson that is one of
  /// `others`?
  bool names_one_of(const std::set<std::string>& others, const std::string& name) const {
    const std::string lab = pages::read(master_.root / labs_folder / ("lab_" + name.substr(0, 2) + ".cpp"));
    const std::size_t begin = lab.find("\"" + name + "\"");
    std::string text = lab.substr(begin, lab.find("Task ", begin) - begin);
    std::set<std::string> own, called;
    for (const TaskInfo& task : all_tasks(master_.root)) {
      if (task.lesson() != name.substr(0, 2)) continue;
      const std::string code = pages::read(master_.root / task.file);
      if (task.name == name) text += code.substr(task.begin, task.end - task.begin);
      if (task.name == name || others.count(task.name) > 0)
        (task.name == name ? own : called).merge(functions_of(code, task));
    }
    return std::any_of(called.begin(), called.end(), [&](const std::string& function) {
      return own.count(function) == 0 && text.find(function) != std::string::npos;
    });
  }

  /// Builds programs of these files, by lesson and name, in the place of the master's, in the closed folder.
  void put_together(const Files& files, Faults& faults) const {
    for (const auto& [lesson, own] : files) {
      const fs::path to = master_.folder / "submission" / lesson;
      fs::remove_all(to);
      fs::remove(master_.folder / "bin" / ("graded_" + lesson));
      for (const std::string& file : lesson_files(master_.root)) {
        const std::string code = own.count(file) > 0 ? "#line 1 \"" + file + "\"\n" + own.at(file)
                                                     : pages::read(master_.root / file);
        pages::write(to / fs::relative(file, "lessons"), code);
      }
    }
    master_.build("graded_", faults);
    for (const auto& [lesson, fault] : faults) {
      const std::string program = "graded_" + lesson;
      if (fault.empty()) fs::rename(master_.folder / "bin" / program, closed_ / program);
    }
  }

  const Programs& master_;
  fs::path student_;
  std::map<std::string, std::string> names_;
  fs::path closed_;
  Limits limits_ = task_limits;
};

}  // namespace tessera::labs
