#pragma once

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace yard {

/// A name that all reports list: a phase of a step ("attention.forward") or a kind of collective ("dispatch"). It is defined at namespace
/// scope, in the file that uses it:
///
///     YARD_PHASE kForward{"attention.forward"};
///
/// The linker collects a program's names in one section of constant data. All ranks run the same program and therefore have the same table,
/// without a central list and without code that runs before main. Unregistered names are summed under "other".
struct alignas(64) RegisteredName {
  std::array<char, 64> text{};
  template <std::size_t N>
  constexpr RegisteredName(const char (&name)[N]) {  // NOLINT(google-explicit-constructor,modernize-avoid-c-arrays)
    static_assert(N <= 64, "a registered name has at most 63 characters");
    std::copy_n(name, N, text.begin());
  }
  constexpr operator std::string_view() const { return {text.data()}; }  // NOLINT(google-explicit-constructor)
};

#define YARD_PHASE [[gnu::section("yard_phases"), gnu::used]] static constexpr ::yard::RegisteredName
#define YARD_COLLECTIVE [[gnu::section("yard_collectives"), gnu::used]] static constexpr ::yard::RegisteredName

/// The phases of a step, and the kinds of collectives, that this program defines: each once, in alphabetical order.
std::vector<std::string_view> registered_phases();
std::vector<std::string_view> registered_collectives();

}  // namespace yard
