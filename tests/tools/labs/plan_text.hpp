// Plans of lesson 06 as text, for the lab and for the tests: "f00 s00" is the forward of microbatch 0 in
// chunk 0, then its send.
#pragma once

#include "06_pipeline/schedule.hpp"

namespace tessera::pipeline {

/// One stage: for each instruction the letter of its operation, in the order of Op, its microbatch and its
/// chunk, in one digit each.
inline Instructions instructions_of(const std::string& text) {
  Instructions list;
  for (std::size_t at = 0; at < text.size(); at += 4)
    list.push_back(
        {static_cast<Op>(std::string("rfsgbiwdWR").find(text[at])), text[at + 1] - '0', text[at + 2] - '0'});
  return list;
}

inline Plan plan_of(const std::vector<std::string>& stages) {
  Plan plan;
  for (const std::string& stage : stages) plan.push_back(instructions_of(stage));
  return plan;
}

}  // namespace tessera::pipeline
