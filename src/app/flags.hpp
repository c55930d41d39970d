// The command line of a lesson: one table of flags, from which parsing, messages and --help all come.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

class Flags {
 public:
  explicit Flags(std::string usage) : usage_(std::move(usage)) {}

  /// An integer of [least, most]. Every add names the flag ("--ranks"),
  /// where the value goes, and one line of help.
  void number(const std::string& name, std::int64_t& target, std::int64_t least, std::int64_t most,
              const std::string& help);
  void real(const std::string& name, double& target, double least, double most, const std::string& help);
  void choice(const std::string& name, std::string& target, const std::vector<std::string>& choices,
              const std::string& help);
  void text(const std::string& name, std::string& target, const std::string& placeholder,
            const std::string& help);
  void toggle(const std::string& name, bool& target, const std::string& help);
  void size(const std::string& name, std::int64_t& bytes, const std::string& help);  ///< "48MiB"

  /// Flags added after this call stand in --help all only.
  void rest() { shown_ = flags_.size(); }
  /// Throws UsageError that says what would work.
  /// Returns false where help was asked for and has been printed.
  bool parse(int argc, char** argv) const;
  bool given(const std::string& name) const;
  std::string help(bool all) const;
  /// Every flag that takes a value or was given, with its value as text: config{} of the JSON.
  struct Value {
    std::string name, text;
    bool is_number;
  };
  std::vector<Value> values() const;

 private:
  struct Flag {
    std::string name, value, help, start;  // "--ranks", "N", "...", the default as text
    std::function<void(const std::string&)> set;
    bool takes_value;
    mutable bool given = false;
    mutable std::string text;  // as it was given
  };
  void add(std::string name, std::string value, std::string help, std::string start, bool takes_value,
           std::function<void(const std::string&)> set);
  std::string usage_;
  std::vector<Flag> flags_;
  std::size_t shown_ = SIZE_MAX;
};

/// "48MiB", "512KiB", "2GiB", "1000B", "1000" in bytes. Throws UsageError.
std::int64_t parse_size(const std::string& flag, const std::string& text);

}  // namespace tessera
