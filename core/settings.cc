#include "core/settings.h"

#include <vector>

namespace yard {

std::string divisors_text(Index of) {
  std::vector<Index> divisors;
  for (Index i = 1; i <= of && divisors.size() < 8; ++i) {
    if (of % i == 0) divisors.push_back(i);
  }
  std::string text;
  for (std::size_t i = 0; i < divisors.size(); ++i)
    text += (i == 0 ? "" : i + 1 == divisors.size() ? " or " : ", ") + std::to_string(divisors[i]);
  return text;
}

}  // namespace yard
