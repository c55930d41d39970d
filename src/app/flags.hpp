// The command line of a lesson: parsing, messages and --help all come from one table of flags.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tensor/error.hpp"

namespace CLI {
class App;
}

namespace tessera {

/// The word of a value, from the list that Flags::choice takes.
template <class Value>
std::string word_of(const std::vector<std::pair<Value, std::string>>& words, const Value& value) {
  for (const auto& [one, word] : words)
    if (one == value) return word;
  return "";
}

/// CLI11 parses; the messages say what would work, and the layout of --help is ours.
class Flags {
 public:
  explicit Flags(const std::string& usage);
  ~Flags();

  /// A flag with an integer of [least, most]. This and the following functions take the name of the flag
  /// ("--ranks"), the variable that gets the value, and one line of help.
  template <class Integer>
  void number(const std::string& name, Integer& target, std::int64_t least, std::int64_t most,
              const std::string& help);
  void real(const std::string& name, double& target, double least, double most, const std::string& help);
  void choice(const std::string& name, std::string& target, const std::vector<std::string>& choices,
              const std::string& help);
  /// The same for a value of an enumeration, of which each has a word.
  template <class Value>
  void choice(const std::string& name, Value& target,
              const std::vector<std::pair<Value, std::string>>& choices, const std::string& help) {
    std::vector<std::string> words;
    for (const auto& [value, word] : choices) words.push_back(word);
    choose(
        name, words, [=, &target] { return word_of(choices, target); }, help,
        [=, &target](std::size_t i) { target = choices[i].first; });
  }
  void text(const std::string& name, std::string& target, const std::string& placeholder,
            const std::string& help);
  void toggle(const std::string& name, bool& target, const std::string& help);
  void size(const std::string& name, std::int64_t& bytes, const std::string& help);  ///< "48MiB"

  /// Flags that are added after this call stand only in --help all.
  void rest();
  /// --help leaves this flag out. `given` still says whether the command line has it, for a refusal.
  void hide(const std::string& name);
  /// Throws UsageError that says what would work.
  /// Returns false where the user asked for help, which is then printed.
  bool parse(int argc, char** argv) const;
  bool given(const std::string& name) const;
  /// As if the flag had been given, for what a file says. Throws UsageError.
  void set(const std::string& name, const std::string& text);
  /// Runs `body`. Where it throws a UsageError about a file, the message also names the file's flag, and says
  /// what would work.
  void advise(const std::function<void()>& body) const;
  std::string help(bool all) const;
  /// Every flag that has a value, as its variable has it now, for config{} of the JSON: what the lesson used,
  /// also where a file's sizes took the place of the flag's.
  struct Value {
    std::string name, text;
    bool is_number;
  };
  std::vector<Value> values() const;

 private:
  std::string with_advice(const std::string& message) const;
  /// A flag with one of these words. `set` gets the word's index, and `show` gives the present one.
  void choose(const std::string& name, const std::vector<std::string>& words,
              const std::function<std::string()>& show, const std::string& help,
              std::function<void(std::size_t)> set);
  /// `value` is the placeholder in --help ("N"), empty for a toggle; `show` is the variable's value as text.
  void add(const std::string& name, const std::string& value, const std::string& help,
           const std::function<std::string()>& show, std::function<void(const std::string&)> set);
  std::unique_ptr<CLI::App> app_;
  std::size_t shown_ = SIZE_MAX;
};

/// The whole numbers from 1 to `most` that fit, for a message: "1, 2, 4".
template <class Fits>
std::string fitting(std::int64_t most, const Fits& fits) {
  std::vector<std::int64_t> found;
  for (std::int64_t n = 1; n <= most; ++n)
    if (fits(n)) found.push_back(n);
  return join(found);
}

/// "48MiB", "512KiB", "2GiB", "1000B", "1000" in bytes. Throws UsageError.
std::int64_t parse_size(const std::string& flag, const std::string& text);

}  // namespace tessera
