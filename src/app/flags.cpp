#include "app/flags.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>

#include "report/table.hpp"
#include "tensor/error.hpp"

namespace tessera {

namespace {

/// The whole of `text` as a number, or false.
template <class Number>
bool to_number(const std::string& text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const auto& word : words) text += (text.empty() ? "" : "|") + word;
  return text;
}

/// Edit distance, for "did you mean".
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::int64_t parse_size(const std::string& flag, const std::string& text) {
  const auto digits = text.find_first_not_of("0123456789");
  const std::string unit = digits == std::string::npos ? "B" : text.substr(digits);
  const std::vector<std::string> units = {"B", "KiB", "MiB", "GiB", "TiB"};
  const auto found = std::find(units.begin(), units.end(), unit);
  std::int64_t value = 0;
  if (found == units.end() || !to_number(text.substr(0, digits), value) || value <= 0 ||
      value > INT64_MAX >> (10 * (found - units.begin())))
    throw UsageError(format("{} {} is no size: write 48MiB, 512KiB, 2GiB or 4096B", flag, text));
  return value << (10 * (found - units.begin()));
}

void Flags::add(std::string name, std::string value, std::string help, std::string start, bool takes_value,
                std::function<void(const std::string&)> set) {
  flags_.push_back(
      {std::move(name), std::move(value), std::move(help), std::move(start), std::move(set), takes_value});
}

void Flags::number(const std::string& name, std::int64_t& target, std::int64_t least, std::int64_t most,
                   const std::string& help) {
  add(name, "N", help, target < least ? "" : std::to_string(target), true,
      [=, &target](const std::string& text) {
        if (!to_number(text, target) || target < least || target > most)
          throw UsageError(format("{} {}: a whole number from {} to {} would work", name, text, least, most));
      });
}

void Flags::real(const std::string& name, double& target, double least, double most,
                 const std::string& help) {
  add(name, "X", help, tessera::number(target), true, [=, &target](const std::string& text) {
    double value = NAN;
    if (!to_number(text, value) || !(least <= value && value <= most))
      throw UsageError(format("{} {}: a number from {:g} to {:g} would work", name, text, least, most));
    target = value;
  });
}

void Flags::choice(const std::string& name, std::string& target, const std::vector<std::string>& choices,
                   const std::string& help) {
  add(name, joined(choices), help, target, true, [=, &target](const std::string& text) {
    if (std::find(choices.begin(), choices.end(), text) == choices.end())
      throw UsageError(format("{} {}: {} would work", name, text, joined(choices)));
    target = text;
  });
}

void Flags::text(const std::string& name, std::string& target, const std::string& placeholder,
                 const std::string& help) {
  add(name, placeholder, help, target, true, [=, &target](const std::string& text) {
    if (text.empty()) throw UsageError(format("{} needs a {}", name, placeholder));
    target = text;
  });
}

void Flags::toggle(const std::string& name, bool& target, const std::string& help) {
  add(name, "", help, "", false, [&target](const std::string&) { target = true; });
}

void Flags::size(const std::string& name, std::int64_t& bytes, const std::string& help) {
  add(name, "48MiB", help, "", true,
      [=, &bytes](const std::string& text) { bytes = parse_size(name, text); });
}

bool Flags::parse(int argc, char** argv) const {
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--help" || word == "-h") {
      std::cout << help(i + 1 < argc && std::string(argv[i + 1]) == "all");
      return false;
    }
    const auto equals = word.find('=');
    const bool attached = word.starts_with("--") && equals != std::string::npos;
    const std::string name = attached ? word.substr(0, equals) : word;
    const auto flag =
        std::find_if(flags_.begin(), flags_.end(), [&](const Flag& f) { return f.name == name; });
    if (flag == flags_.end()) {
      const auto near = std::min_element(flags_.begin(), flags_.end(), [&](const Flag& a, const Flag& b) {
        return distance(a.name, name) < distance(b.name, name);
      });
      throw UsageError(
          format("there is no flag {}{}; --help all lists them", name,
                 distance(near->name, name) <= 3 ? format(", did you mean {}?", near->name) : ""));
    }
    std::string value;
    if (attached) {
      if (!flag->takes_value) throw UsageError(format("{} takes no value", name));
      value = word.substr(equals + 1);
    } else if (flag->takes_value) {
      if (++i == argc) throw UsageError(format("{} needs a value: {} {}", name, name, flag->value));
      value = argv[i];
    }
    flag->set(value);
    flag->given = true;
    flag->text = flag->takes_value ? value : "on";
  }
  return true;
}

bool Flags::given(const std::string& name) const {
  return std::any_of(flags_.begin(), flags_.end(), [&](const Flag& f) { return f.name == name && f.given; });
}

std::vector<Flags::Value> Flags::values() const {
  std::vector<Value> values;
  for (const Flag& flag : flags_)
    if (flag.given || !flag.start.empty())
      values.push_back(
          {flag.name.substr(2), flag.given ? flag.text : flag.start, flag.value == "N" || flag.value == "X"});
  return values;
}

std::string Flags::help(bool all) const {
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < flags_.size() && (all || i < shown_); ++i) {
    const Flag& flag = flags_[i];
    rows.push_back({flag.name + (flag.value.empty() ? "" : " " + flag.value),
                    flag.help + (flag.start.empty() ? "" : " (" + flag.start + ")")});
  }
  return usage_ + "\n" + table(rows, "ll", 2) + (all ? "" : "  --help all          the other flags\n");
}

}  // namespace tessera
