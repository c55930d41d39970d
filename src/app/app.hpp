// App: what every lesson's executable does. It reads the flags, chooses where to run, runs the lesson in both
// tiers on every rank, prints the screen, writes the files, and returns the exit code: 0 all checks hold, 1 a
// check failed, 2 the command line cannot be honoured, 3 the run broke.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "app/flags.hpp"
#include "app/proof.hpp"
#include "comm/launch.hpp"
#include "report/picture.hpp"

namespace tessera {

struct LessonText {
  std::string number, title;  // "02", "column split"
  std::string formula;        // one line; sizes are added by the lesson
  std::string why;            // the sentence to take home
  std::string code;           // "column_split.hpp:31"
  std::string question = "Cut = whole?";
};

/// What a lesson supplies. prove runs on every rank, once a tier;
/// the others run once, where output is printed.
struct LessonParts {
  std::function<int()> ranks = {};  // where the lesson's own flags say how many, and there is no --ranks
  std::function<void(int ranks)> check = [](int) {
  };  // after parsing, before anything runs: throws UsageError
  std::function<void(Proof&, Communicator&)> prove;
  std::function<std::string()> by_hand;                     // the 2 x 2 example
  std::function<std::vector<Equation>(int ranks)> picture;  // for --svg
  std::function<std::string()> drawing = {};  // in its place where there are no equations: the SVG
  std::function<std::string()> first = [] { return ""; };  // what stands above the tables; may be empty
  std::function<std::string()> more;                       // further tables of this lesson; may be empty
  std::function<std::string()> inexact = [] {
    return "";
  };  // why there is no exact tier, where there is none
};

/// The flags that mean the same in every lesson.
struct Options {
  std::int64_t ranks = 4, seed = 1, memory_per_rank = INT64_MAX, timeout = 60;
  std::string device = "auto", transport = "auto", dtype = "f32", verify = "on";
  std::string json, dump, svg, trace;
  bool exact = false, no_baseline = false, quiet = false, stable = false;

  DType type() const { return dtype == "f64" ? DType::f64 : DType::f32; }
  void add_to(Flags& flags, bool with_ranks);
  void check_files() const;  ///< Throws UsageError where one of the files could not be written.
  Choice choose_transport(bool ranks_given) const;
};

class App {
 public:
  enum Ranks { one_rank, many_ranks, own_ranks };
  explicit App(LessonText text, Ranks ranks = many_ranks);

  /// A size of the lesson: a flag of its own, at least 1.
  void size(const std::string& name, std::int64_t& target, const std::string& help);
  Flags& flags() { return flags_; }  ///< For the lesson's flags that are no sizes.
  /// The ranks must divide this size: refused by exit code 2, with the --ranks that do.
  void ranks_divide(const std::string& flag, const std::int64_t& size);

  int run(int argc, char** argv, const LessonParts& parts);
  const Options& options() const { return options_; }

 private:
  struct Divided {
    std::string flag;
    const std::int64_t* size;
  };
  void check_divisions(int ranks) const;
  int run_checked(int argc, char** argv, const LessonParts& parts);

  LessonText text_;
  Ranks ranks_;
  Flags flags_;
  Options options_;
  std::vector<Divided> divided_;
};

/// Runs `body`, prints what it throws as "error: ..." and turns it into the exit code.
int guarded(const std::function<int()>& body);

}  // namespace tessera
