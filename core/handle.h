#pragma once

#include <utility>

namespace yard {

/// The sole owner of a C handle. `Traits` says what it holds:
///   using Type = ...;  static Type null();  static void destroy(Type) noexcept;
/// `null` is a function because MPI_COMM_NULL is no constant expression.
template <class Traits>
class Handle {
 public:
  using Type = typename Traits::Type;
  Handle() = default;
  explicit Handle(Type value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, Traits::null())) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      reset();
      value_ = std::exchange(other.value_, Traits::null());
    }
    return *this;
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() { reset(); }

  Type get() const noexcept { return value_; }
  explicit operator bool() const noexcept { return value_ != Traits::null(); }
  /// Gives the handle up without destroying it.
  Type release() noexcept { return std::exchange(value_, Traits::null()); }
  void reset() noexcept {
    if (value_ != Traits::null()) Traits::destroy(std::exchange(value_, Traits::null()));
  }

 private:
  Type value_ = Traits::null();
};

}  // namespace yard
