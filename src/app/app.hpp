// App does what the program of every lesson does: it reads the flags, chooses where to run, runs the lesson
// in both tiers on every rank, prints the screen, writes the files, and returns the exit code. 0: all checks
// hold; 1: a check failed; 2: the command line asks for something impossible; 3: the run broke.
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
  std::string formula;        // one line
  std::string why;            // the sentence to remember
  std::string code;           // "column_split.hpp:31"
  std::string question = "Cut = whole?";
};

/// What a lesson supplies. `prove` runs on every rank, once in each tier. The other functions run once, in
/// the process that prints.
struct LessonParts {
  /// The number of ranks, where the lesson's own flags say it and there is no --ranks.
  std::function<int()> ranks = {};
  /// Runs after parsing and before everything else. Throws UsageError.
  std::function<void(int ranks)> check = [](int) {};
  std::function<void(Proof&, Communicator&)> prove;
  std::function<std::string()> by_hand;                     // the 2 x 2 example
  std::function<std::vector<Equation>(int ranks)> picture;  // for --svg
  std::function<std::string()> drawing = {};  // the SVG itself, where the picture has no equations
  std::function<std::string()> first = [] { return ""; };  // stands above the tables; may be empty
  std::function<std::string()> more = [] { return ""; };   // further tables of this lesson; may be empty
  /// Why the lesson has no exact tier; "" where it has one.
  std::function<std::string()> inexact = [] { return ""; };
};

/// The flags that mean the same in every lesson.
struct Options {
  std::int64_t ranks = 4, seed = 1, memory_per_rank = INT64_MAX, timeout = 60;
  std::string dtype = "f32", math = "f32";
  std::optional<DeviceKind> device;    // without a value: choose
  std::optional<Transport> transport;  // the same
  bool verify = true;
  std::string json, dump, svg, trace;
  bool exact = false, no_baseline = false, quiet = false, stable = false;

  DType type() const { return dtype == "f64" ? DType::f64 : dtype == "bf16" ? DType::bf16 : DType::f32; }
  /// Operands or results are rounded to fewer bits than sums have. So no formula bounds the error, and the
  /// sums of --exact must be small.
  bool coarse() const { return dtype == "bf16" || math == "tf32"; }
  void add_to(Flags& flags, bool with_ranks);
  void check_files() const;  ///< Throws UsageError where one of the files cannot be written.
  Choice choose_transport(bool ranks_given) const;
};

class App {
 public:
  enum Ranks {
    one_rank,    ///< the lesson runs on one rank
    many_ranks,  ///< the lesson has the flag --ranks
    own_ranks    ///< the lesson's own flags give the number: LessonParts::ranks
  };
  explicit App(LessonText text, Ranks ranks = many_ranks);

  /// Adds a flag for a size of the lesson; a size is at least 1.
  void size(const std::string& name, std::int64_t& target, const std::string& help);
  Flags& flags() { return flags_; }  ///< For the lesson's other flags.
  /// Demands that the ranks divide this size. Else the program ends with exit code 2, and names the --ranks
  /// that do.
  void ranks_divide(const std::string& flag, const std::int64_t& size);

  /// Says how many bytes of the host's memory the run takes, its unsplit reference included, for a lesson
  /// that can do without the reference: --no-baseline.
  void memory(std::function<double(int ranks)> bytes) { memory_ = std::move(bytes); }

  int run(int argc, char** argv, const LessonParts& parts);
  const Options& options() const { return options_; }

 private:
  struct Divided {
    std::string flag;
    const std::int64_t* size;
  };
  void check_divisions(int ranks) const;
  void check_all(int ranks, const LessonParts& parts) const;
  int run_checked(int argc, char** argv, const LessonParts& parts);

  LessonText text_;
  std::string sizes_;  // their flags, for a message
  Ranks ranks_;
  Flags flags_;
  Options options_;
  std::vector<Divided> divided_;
  std::function<double(int ranks)> memory_;  // null: the lesson has no --no-baseline
};

/// A function that draws how much of `all` is done. It draws on stderr, where that is a terminal, on rank 0,
/// and only after two seconds.
std::function<void(std::int64_t done)> progress_bar(Communicator& comm, const std::string& what,
                                                    std::int64_t all);

/// Runs `body` and returns its exit code, or prints its exception as "error: ..." and returns the code for
/// that.
int guarded(const std::function<int()>& body);

}  // namespace tessera
