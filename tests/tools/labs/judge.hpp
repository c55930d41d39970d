// Compares two records of one task, the master's and another's: values, then bytes and other counts. The
// other's is data from an untrusted process: anything may stand in it.
#pragma once

#include <cmath>
#include <regex>

#include "report/check.hpp"
#include "slice_json.hpp"
#include "tensor/error.hpp"

namespace tessera::labs {

using Json = nlohmann::json;

struct Verdict {
  enum class State { passed, open, wrong } state = State::passed;
  std::string text;  // why not
};

/// A wrong answer's text, on one line that fits a page: the other process may have said anything.
inline Verdict wrong(std::string text) {
  if (text.size() > 500) text = text.substr(0, 500) + " ...";
  for (char& c : text)
    if (std::iscntrl(static_cast<unsigned char>(c)) != 0) c = ' ';
  return {Verdict::State::wrong, text};
}

/// A number of the other's record that counts something. Throws Error where it is none, or more than `most`.
inline std::int64_t count_of(const Json& value, std::int64_t most) {
  const bool whole =
      value.is_number_unsigned() || (value.is_number_integer() && value.get<std::int64_t>() >= 0);
  if (!whole || value.get<std::uint64_t>() > static_cast<std::uint64_t>(most))
    throw Error(format("it left {} where a number from 0 to {} stands", value.dump().substr(0, 30), most));
  return value.get<std::int64_t>();
}

/// A rank's matrix, of the master's record or of the other's.
inline Matrix matrix_of(const Json& part) {
  Matrix m{count_of(part.at("rows"), 1 << 20), count_of(part.at("cols"), 1 << 20), {}};
  for (const Json& value : part.at("values"))
    m.values.push_back(value.is_number() ? value.get<double>() : NAN);
  if (m.values.size() != static_cast<std::size_t>(m.rows * m.cols))
    throw Error("a result is not of its own shape");
  return m;
}

/// The ranks' parts as one matrix, zero where nobody has any.
/// Where several have an element, the first counts.
inline Matrix whole_of(const std::vector<RankResult>& parts) {
  const Slice& slice = parts.at(0).slice;
  const Tensor whole = Tensor::zeros(slice.whole_rows, slice.whole_cols, DType::f64);
  for (auto part = parts.rbegin(); part != parts.rend(); ++part)
    part->slice.insert(whole, Tensor::of(part->local.rows, part->local.cols, part->local.values));
  return Matrix::from(whole);
}

/// Compares one result of one trial: "" where it is right, else what is wrong. `mistakes` has for each known
/// mistake, by what is to be said of it, each rank's part of the wrong result.
inline std::string compare(const std::string& name, const Json& right, const Json& is, const Json& mistakes) {
  if (right.contains("words")) {
    const std::vector<std::string> wanted = right.at("words"), found = is.at("words");
    const auto [w, f] = std::mismatch(wanted.begin(), wanted.end(), found.begin(), found.end());
    if (w == wanted.end() && f == found.end()) return "";
    return format("{}, entry {} is `{}`; right is `{}`", name, w - wanted.begin(),
                  f == found.end() ? "nothing more" : *f, w == wanted.end() ? "nothing more" : *w);
  }
  std::vector<RankResult> truth_parts, parts;
  std::vector<std::string> ranks;
  for (const auto& [rank, part] : right.at("parts").items()) {
    if (!is.at("parts").contains(rank)) return format("rank {} leaves no {}", rank, name);
    truth_parts.push_back({part.at("slice"), matrix_of(part)});
    parts.push_back({part.at("slice"), matrix_of(is.at("parts").at(rank))});
    ranks.push_back(rank);
    const Matrix &wanted = truth_parts.back().local, &found = parts.back().local;
    if (wanted.rows != found.rows || wanted.cols != found.cols)
      return format("rank {}'s {} is ({}, {}), it should be ({}, {})", rank, name, found.rows, found.cols,
                    wanted.rows, wanted.cols);
  }
  Truth truth{whole_of(truth_parts), {}, 0};
  double scale = 1;
  for (const double value : truth.value.values) scale = std::max(scale, std::abs(value));
  truth.bound = truth.value;
  for (double& bound : truth.bound.values) bound = 1e-10 * scale;
  std::vector<Mistake> known;
  for (const auto& [says, wrong_parts] : mistakes.items())
    for (std::size_t r = 0; r < ranks.size(); ++r)
      if (const auto part = wrong_parts.find(ranks[r]); part != wrong_parts.end())
        known.push_back({std::regex_replace(says, std::regex("RANK"), ranks[r]),
                         whole_of({{part->at("slice"), matrix_of(*part)}}), static_cast<int>(r)});
  const std::string identity = right.at("identity");
  const Check outcome = check(name, identity, "float", truth, parts, known);
  if (outcome.ok) return "";
  const std::string rank =
      parts.size() > 1 ? format("rank {}, ", ranks[static_cast<std::size_t>(outcome.rank)]) : "";
  return format("{}element ({}, {}) of {}, which should be {}, is off by {:g}{}{}", rank, outcome.row,
                outcome.col, name, identity, outcome.error, outcome.diagnosis.empty() ? "" : ". ",
                outcome.diagnosis);
}

/// All bytes of a record, and in words: "64 B: all_reduce 64".
inline std::pair<std::int64_t, std::string> bytes_of(const Json& sent) {
  std::int64_t all = 0;
  std::string text;
  for (const auto& [op, bytes] : sent.items()) {
    const std::int64_t own = count_of(bytes, std::int64_t{1} << 40);
    text += format("{}{} {}", text.empty() ? ": " : ", ", op, own);
    all += own;
  }
  return {all, format("{} B{}", all, text)};
}

/// The name in "task 02.forward is open", which an open task throws; "" for every other message.
inline std::string open_task(const std::string& error) {
  std::smatch match;
  return std::regex_search(error, match, std::regex(R"(task (\S{1,50}) is open)")) ? match[1].str() : "";
}

/// Compares the records of all trials of a task. The verdict says the first fault.
inline Verdict judge(const std::string& task, const Json& reference, const Json& answer) try {
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const Json &right = reference[i], &is = answer.at(i);
    const int ranks = right.value("ranks", 0);  // 0: the task knows of none
    const std::string where = ranks == 0 ? "" : format("{}{}", ranks, ranks == 1 ? " rank: " : " ranks: ");
    if (is.contains("error")) {
      const std::string error = is.at("error"), open = open_task(error);
      if (open.empty()) return wrong(where + error);
      return {Verdict::State::open, open == task ? "open" : wrong("waits for " + open).text};
    }
    const Json results = right.at("results"), all_mistakes = right.value("mistakes", Json::object());
    for (const auto& [name, result] : results.items()) {
      const Json mistakes = all_mistakes.value(name, Json::object());
      const std::string text = compare(name, result, is.at("results").at(name), mistakes);
      if (!text.empty()) return wrong(where + text);
    }
    const auto [wanted, wanted_text] = bytes_of(right.at("sent"));
    const auto [found, found_text] = bytes_of(is.at("sent"));
    if (wanted != found)
      return wrong(where + "the values are right, but the ranks send " + found_text + "; it takes " +
                   wanted_text);
    const Json counts = right.value("counts", Json::object());
    for (const auto& [what, number] : counts.items())
      if (const Json& counted = is.at("counts").at(what); counted != number)
        return wrong(where + "the values are right, but " +
                     std::regex_replace(what, std::regex("#"), counted.dump()) + "; it takes " +
                     number.dump());
  }
  return {};
} catch (const Json::exception&) {
  return wrong("it left no results that can be read");
} catch (const std::exception& error) {
  return wrong(error.what());
}

}  // namespace tessera::labs
