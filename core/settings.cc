#include "core/settings.h"

#include <vector>

namespace yard {

std::string divisors_text(Index of) {
  std::vector<Index> divisors;
  std::vector<Index> larger;  // descending; found with the smaller ones, since a number may be a prime in the billions
  for (Index i = 1; i <= of / i && divisors.size() < 8; ++i) {
    if (of % i != 0) continue;
    divisors.push_back(i);
    if (i != of / i) larger.push_back(of / i);
  }
  for (; !larger.empty() && divisors.size() < 8; larger.pop_back()) divisors.push_back(larger.back());
  std::string text;
  for (std::size_t i = 0; i < divisors.size(); ++i)
    text += (i == 0 ? "" : i + 1 == divisors.size() ? " or " : ", ") + std::to_string(divisors[i]);
  return text;
}

}  // namespace yard
