#include "12_experts/experts.hpp"
#include "lab.hpp"

using namespace tessera;
using namespace tessera::experts;

namespace {

std::vector<std::string> words_of(const std::vector<std::int64_t>& numbers) {
  std::vector<std::string> words;
  for (const std::int64_t number : numbers) words.push_back(std::to_string(number));
  return words;
}

const Task of_largest("12.top_k", [](Trial& t) {
  const int experts = t.size(3, 8);
  Tensor p = t.in("p", t.size(), experts);
  p.column_range(2, 3).copy_from(p.column_range(0, 1));  // equal ones
  t.out("the chosen experts, token by token", words_of(top_k(p, t.size(1, 3))));
});

}  // namespace
