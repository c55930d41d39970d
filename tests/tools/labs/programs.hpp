// The programs that run the tasks of each lesson: built by this tree's CMake, run with limits, judged by
// their records.
#pragma once

#include <atomic>
#include <cstdio>
#include <future>
#include <map>
#include <set>

#include "judge.hpp"
#include "process.hpp"
#include "tasks.hpp"

namespace tessera::labs {

struct Mark {
  TaskInfo task;
  Verdict verdict;
  bool passed() const { return verdict.state == Verdict::State::passed; }
  int points() const { return passed() ? task.points : 0; }
};

using Faults =
    std::map<std::string, std::string>;  // lessons, and what is wrong with each; "" where nothing is

inline std::string lesson_of(const Json& task) { return task.at("name").get<std::string>().substr(0, 2); }

/// One task's record, from the program that holds its lesson; and what went wrong, "" where nothing did.
inline std::pair<Json, std::string> record(const std::string& program, const std::string& task,
                                           std::uint64_t seed, const std::string& mode,
                                           const Limits& limits) {
  std::vector<std::string> words = {program + task.substr(0, 2), task, std::to_string(seed)};
  if (!mode.empty()) words.push_back(mode);
  Ended ended = run_limited(words, limits);
  if (ended.fault.empty() && ended.record.empty()) ended.fault = "it ended before it had any results";
  if (ended.fault.empty()) {
    Json json = Json::parse(ended.record, nullptr, false);
    if (json.is_array()) return {std::move(json), ""};
    ended.fault = "it left no results that can be read";
  }
  if (const std::size_t at = ended.said.find("what():"); at != std::string::npos)
    ended.fault += ":" + ended.said.substr(at + 7, ended.said.find('\n', at) - at - 7);
  return {Json(), ended.fault};
}

/// Runs each task, `at_once` of them side by side. Marks are given for one at a time, which has the machine
/// to itself: a limit of time is a limit of that task's.
inline std::vector<Mark> mark(const Json& expected, std::uint64_t seed, const std::string& program,
                              const Limits& limits, const Faults& faults, unsigned at_once) {
  std::vector<Mark> marks(expected.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i; (i = next++) < marks.size();) {
      const std::string name = expected[i].at("name"), fault = faults.at(lesson_of(expected[i]));
      marks[i] = {{.name = name, .points = expected[i].at("points")}, wrong(fault)};
      if (!fault.empty()) continue;
      const auto [answer, ended] = record(program, name, seed, "", limits);
      marks[i].verdict = ended.empty() ? judge(name, expected[i].at("trials"), answer) : wrong(ended);
    }
  };
  std::vector<std::future<void>> workers;
  for (unsigned n = 0; n < at_once; ++n) workers.push_back(std::async(std::launch::async, work));
  for (std::future<void>& worker : workers) worker.get();
  return marks;
}

/// What a compiler says first, with the lesson's line that led there; `otherwise` where it says nothing.
inline std::string first_error(const Lines& log, const std::string& otherwise) {
  std::string error, where;
  for (std::string line : log) {
    const bool includes = line.rfind("In file included", 0) == 0 || line.rfind("     ", 0) == 0;
    if (const std::size_t at = line.find("lessons/"); at != std::string::npos) line.erase(0, at);
    if (error.empty() &&
        (line.find("error:") != std::string::npos || line.find("undefined reference") != std::string::npos))
      error = line;
    if (where.empty() && !includes && line.rfind("lessons/", 0) == 0)
      where = line.substr(0, line.find_first_of(" ,"));
    if (!where.empty() && !error.empty()) break;
  }
  if (error.empty()) return otherwise;
  return error.rfind("lessons/", 0) == 0 || where.empty() ? error : where + " " + error;
}

/// On a terminal, this line in the place of the one before.
inline void progress(const std::string& line) {
  if (isatty(STDERR_FILENO) == 1) std::fprintf(stderr, "\r%s\033[K", line.c_str());
}

/// How far a build is that says "[12/58] Building ...", as ninja and make do.
inline void show_steps(const std::string& said) {
  const std::size_t at = said.rfind("\n["), end = said.find(']', at == std::string::npos ? 0 : at);
  if (at != std::string::npos && end != std::string::npos)
    progress("  building " + said.substr(at + 1, end - at));
}

struct Programs {
  fs::path root, folder;  // the sources; the build

  /// Builds the programs of the lessons that have no fault, and says what is wrong with each.
  void build(const std::string& program, Faults& faults) const {
    const std::string jobs = std::to_string(std::thread::hardware_concurrency());
    const auto make = [&](const std::vector<std::string>& more, int seconds) {
      std::vector<std::string> words = {"cmake", "--build", folder, "--parallel", jobs, "--target"};
      pages::append(words, more);
      Ended ended = run_limited(words, {seconds, rlim_t{16} << 30}, show_steps);
      progress("");
      return ended;
    };
    std::vector<std::string> all;
    for (const auto& [lesson, fault] : faults)
      if (fault.empty()) all.push_back(program + lesson);
    if (all.empty()) return;
    pages::append(all, fs::exists(folder / "build.ninja") ? Lines{"--", "-k", "0"} : Lines{"--", "-k"});
    if (make(all, 900).fault.empty()) return;
    for (auto& [lesson, fault] : faults) {
      if (!fault.empty()) continue;
      const Ended one = make({program + lesson}, 180);
      if (!one.fault.empty())
        fault = "it does not compile: " + first_error(pages::split(one.said), one.fault);
    }
  }

  /// The same, and the master must have no fault.
  void build_master(const std::set<std::string>& lessons) const {
    Faults faults;
    for (const std::string& lesson : lessons) faults[lesson];
    build("lab_", faults);
    for (const auto& [lesson, fault] : faults)
      if (!fault.empty()) throw Error(format("lab_{}: {}", lesson, fault));
  }

  /// The master's records of all tasks of the lessons, with what comes out where a sum is forgotten.
  Json reference(std::uint64_t seed, const std::set<std::string>& lessons) const {
    const std::string program = (folder / "bin/lab_").string();
    Json tasks = Json::array();
    for (const TaskInfo& task : all_tasks(root)) {
      if (lessons.count(task.lesson()) == 0) continue;
      progress("  records what is expected of " + task.name);
      auto [trials, fault] = record(program, task.name, seed, "reference", task_limits);
      for (const Json& trial : trials)
        if (trial.contains("error")) fault += trial.at("error");
      if (!fault.empty()) throw Error(format("the master's {}: {}", task.name, fault));
      const Json silent = record(program, task.name, seed, "silent", task_limits).first;
      for (std::size_t i = 0; i < trials.size(); ++i)
        if (i < silent.size() && !trials[i].at("sent").empty() && silent[i].contains("results"))
          for (const auto& [name, result] : silent[i].at("results").items())
            if (result.contains("parts"))
              trials[i]["mistakes"][name][name + " equals rank RANK's own term: was it all-reduced?"] =
                  result.at("parts");
      tasks.push_back(
          {{"name", task.name}, {"points", task.points}, {"file", task.file}, {"trials", trials}});
    }
    progress("");
    return tasks;
  }
};

}  // namespace tessera::labs
