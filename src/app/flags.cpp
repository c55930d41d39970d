#include "app/flags.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <iostream>

#include "report/table.hpp"

namespace tessera {

namespace {

/// Reads the whole `text` as a number; returns false where it is not one.
template <class Number>
bool to_number(const std::string& text, Number& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

/// How many letters only one of two words has, in any order.
std::size_t distance(std::string a, std::string b) {
  std::string apart;
  std::ranges::sort(a), std::ranges::sort(b);
  std::ranges::set_symmetric_difference(a, b, std::back_inserter(apart));
  return apart.size();
}

}  // namespace

std::int64_t parse_size(const std::string& flag, const std::string& text) {
  const auto digits = text.find_first_not_of("0123456789");
  const std::string unit = digits == std::string::npos ? "B" : text.substr(digits);
  const std::vector<std::string> units = {"B", "KiB", "MiB", "GiB", "TiB"};
  const auto found = std::ranges::find(units, unit);
  std::int64_t value = 0;
  if (found == units.end() || !to_number(text.substr(0, digits), value) || value <= 0 ||
      value > INT64_MAX >> (10 * (found - units.begin())))
    throw UsageError("{} {} is no size: 48MiB, 512KiB, 2GiB or 4096B would work", flag, text);
  return value << (10 * (found - units.begin()));
}

Flags::Flags(const std::string& usage) : app_(std::make_unique<CLI::App>(usage)) {
  app_->set_help_flag();
  app_->allow_extras();  // parse refuses them: CLI11 would not say which flag was meant
}

Flags::~Flags() = default;

void Flags::add(const std::string& name, const std::string& value, const std::string& help,
                const std::function<std::string()>& show, std::function<void(const std::string&)> set) {
  const auto take = [set = std::move(set)](const CLI::results_t& results) {
    set(results.front());
    return true;
  };
  CLI::Option* option = app_->add_option(name, take, help);
  option->type_name(value)->default_function(show)->take_last()->trigger_on_parse();
  option->capture_default_str();
  if (value.empty()) option->expected(0);
}

namespace {

/// Sets `target` from text, a number of [least, most].
template <class Number>
auto takes(const std::string& name, const char* what, Number& target, Number least, Number most) {
  return [=, &target](const std::string& text) {
    Number value = 0;
    if (!to_number(text, value) || !(least <= value && value <= most))
      throw UsageError("{} {}: a {} from {} to {} would work", name, text, what, least, most);
    target = value;
  };
}

}  // namespace

template <class Integer>
void Flags::number(const std::string& name, Integer& target, std::int64_t least, std::int64_t most,
                   const std::string& help) {
  const auto show = [=, &target] { return target < least ? "" : std::to_string(target); };
  add(name, "N", help, show, takes(name, "whole number", target, Integer(least), Integer(most)));
}

template void Flags::number(const std::string&, int&, std::int64_t, std::int64_t, const std::string&);
template void Flags::number(const std::string&, std::int64_t&, std::int64_t, std::int64_t,
                            const std::string&);

void Flags::real(const std::string& name, double& target, double least, double most,
                 const std::string& help) {
  const auto show = [&target] { return format("{}", target); };
  add(name, "X", help, show, takes(name, "number", target, least, most));
}

void Flags::choice(const std::string& name, std::string& target, const std::vector<std::string>& choices,
                   const std::string& help) {
  choose(
      name, choices, [&target] { return target; }, help,
      [=, &target](std::size_t i) { target = choices[i]; });
}

void Flags::choose(const std::string& name, const std::vector<std::string>& words,
                   const std::function<std::string()>& show, const std::string& help,
                   std::function<void(std::size_t)> set) {
  const std::string all = join(words, "|");
  add(name, all, help, show, [=, set = std::move(set)](const std::string& text) {
    const auto found = std::ranges::find(words, text);
    if (found == words.end()) throw UsageError("{} {}: {} would work", name, text, all);
    set(static_cast<std::size_t>(found - words.begin()));
  });
}

void Flags::text(const std::string& name, std::string& target, const std::string& placeholder,
                 const std::string& help) {
  const auto take = [=, &target](const std::string& text) {
    if (text.empty()) throw UsageError("{0} needs a {1}: {0} {1} would work", name, placeholder);
    target = text;
  };
  add(
      name, placeholder, help, [&target] { return target; }, take);
}

void Flags::toggle(const std::string& name, bool& target, const std::string& help) {
  const auto take = [=, &target](const std::string& text) {
    if (text != "true") throw UsageError("{0} takes no value: {0} alone would work", name);
    target = true;
  };
  add(
      name, "", help, [&target] { return target ? "on" : ""; }, take);
}

void Flags::size(const std::string& name, std::int64_t& bytes, const std::string& help) {
  const auto given = std::make_shared<std::string>();
  const auto take = [=, &bytes](const std::string& text) { bytes = parse_size(name, text), *given = text; };
  add(
      name, "48MiB", help, [given] { return *given; }, take);
}

void Flags::rest() { shown_ = app_->get_options().size(); }

bool Flags::parse(int argc, char** argv) const {
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--help" || word == "-h") {
      std::cout << help(i + 1 < argc && std::string(argv[i + 1]) == "all");
      return false;
    }
    if (word.starts_with("--") && word.ends_with('='))  // CLI11 would take the next word
      throw UsageError("{0} needs a value: {0} VALUE would work", word.substr(0, word.size() - 1));
  }
  const auto flags = app_->get_options();
  try {
    app_->parse(argc, argv);
  } catch (const CLI::ArgumentMismatch&) {  // a flag without a value: the last word, or the one before --
    const CLI::Option* flag = nullptr;
    for (int i = argc - 1; i > 0 && flag == nullptr; --i) flag = app_->get_option_no_throw(argv[i]);
    throw UsageError("{0} needs a value: {0} {1} would work", flag->get_name(), flag->get_type_name());
  }
  if (const auto unknown = app_->remaining(); !unknown.empty()) {
    const std::string name = unknown[0].substr(0, unknown[0].find('='));
    const auto off = [&](const CLI::Option* flag) { return distance(flag->get_name(), name); };
    const auto near = std::ranges::min_element(flags, {}, off);
    throw UsageError("there is no flag {}: {} would work; --help all lists the flags", name,
                     off(*near) <= 3 ? (*near)->get_name() : format("without '{}' it", name));
  }
  return true;
}

bool Flags::given(const std::string& name) const {
  const CLI::Option* flag = app_->get_option_no_throw(name);
  return flag != nullptr && flag->count() > 0;
}

void Flags::set(const std::string& name, const std::string& text) {
  app_->get_option(name)->add_result(text)->run_callback();
}

void Flags::advise(const std::function<void()>& body) const {
  try {
    body();
  } catch (const UsageError& error) {
    throw UsageError(with_advice(error.what()));
  }
}

std::string Flags::with_advice(const std::string& message) const {
  const auto has = [&](const std::string& part) { return message.find(part) != std::string::npos; };
  for (const CLI::Option* flag : app_->get_options()) {
    const std::string kind = flag->get_type_name();
    if (flag->count() == 0 || (kind != "FILE" && kind != "DIR") || !has(flag->results().back())) continue;
    return (has("--") ? "" : flag->get_name() + ": ") + message +
           (has("would work") ? ""
            : kind == "DIR"   ? "; another folder would work"
                              : "; another file would work");
  }
  return message;
}

std::vector<Flags::Value> Flags::values() const {
  std::vector<Value> values;
  for (CLI::Option* flag : app_->get_options()) {
    flag->capture_default_str();
    const std::string text = flag->get_default_str(), kind = flag->get_type_name();
    if (!text.empty()) values.push_back({flag->get_name().substr(2), text, kind == "N" || kind == "X"});
  }
  return values;
}

void Flags::hide(const std::string& name) { app_->get_option(name)->group(""); }

std::string Flags::help(bool all) const {
  Cells rows;
  std::size_t shown = 0;
  for (const CLI::Option* flag : app_->get_options()) {
    if (!all && shown++ == shown_) break;
    if (flag->get_group().empty()) continue;
    const std::string value = flag->get_type_name(), start = flag->get_default_str();
    rows.push_back({flag->get_name() + (value.empty() ? "" : " " + value),
                    flag->get_description() + (start.empty() ? "" : " (" + start + ")")});
  }
  return app_->get_description() + "\n" + table(rows, "ll", 2) +
         (all ? "" : "  --help all          the other flags\n");
}

}  // namespace tessera
