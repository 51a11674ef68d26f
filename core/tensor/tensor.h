#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>

#include "core/device/stream.h"
#include "core/tensor/dtype.h"

namespace yard {

using Index = std::int64_t;

/// The extents of a tensor, outermost first; at most four axes, none negative.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<Index> extents);
  explicit Shape(std::span<const Index> extents);
  int rank() const noexcept { return rank_; }
  Index operator[](int axis) const { return extents_[static_cast<std::size_t>(axis)]; }
  Index elements() const noexcept;
  bool operator==(const Shape&) const = default;
  std::string text() const;  // "(2, 3)"

 private:
  std::array<Index, 4> extents_{};
  int rank_ = 0;
};
std::ostream& operator<<(std::ostream&, const Shape&);

/// A counted handle to contiguous row-major values on one device. Copies alias; nothing is strided; const means the handle, not the values.
class Tensor {
 public:
  Tensor() = default;
  /// Uninitialised values, from the stream's allocator.
  Tensor(Stream& stream, Shape shape, DType dtype = DType::f32);
  static Tensor zeros(Stream& stream, Shape shape, DType dtype = DType::f32);
  /// Uninitialised values on the host, in memory that the stream's device copies to and from fastest. Must outlive every such copy.
  static Tensor on_host(Stream& stream, Shape shape, DType dtype = DType::f32);
  /// A tensor with these values on the stream's device.
  template <class T>
  static Tensor of(Stream& stream, Shape shape, std::span<const T> values);

  bool defined() const noexcept { return storage_ != nullptr; }
  const Shape& shape() const noexcept { return shape_; }
  DType dtype() const noexcept { return dtype_; }
  Device device() const noexcept { return device_; }
  Index elements() const noexcept { return shape_.elements(); }
  std::size_t bytes() const noexcept { return static_cast<std::size_t>(elements()) * size_of(dtype_); }
  /// The first axis: what communicators, slices and row_range count.
  Index length() const noexcept { return shape_.rank() == 0 ? 0 : shape_[0]; }
  /// The matrix view that ops use: all axes but the last, and the last.
  Index rows() const noexcept { return cols() == 0 ? 0 : elements() / cols(); }
  Index cols() const noexcept { return shape_.rank() == 0 ? 0 : shape_[shape_.rank() - 1]; }

  /// The same values in another shape of as many elements.
  Tensor reshaped(Shape shape) const;
  /// The entries [first, first + count) of the first axis; aliases.
  Tensor row_range(Index first, Index count) const;
  /// `count` elements from `first` of the flat values, in the given shape; aliases.
  Tensor flat_range(Index first, Shape shape) const;
  /// A copy on the stream's device or on the host; on the host the values are there when it returns.
  Tensor to(Stream& stream, Device device) const;
  /// A copy on the stream's device, in the order of the stream.
  Tensor clone(Stream& stream) const;

  /// The values; throws when T is not the dtype.
  template <class T>
  T* data() const {
    require(DTypeOf<T>::value);
    return static_cast<T*>(raw());
  }
  void* raw() const noexcept { return static_cast<std::byte*>(base_) + offset_; }
  /// The values, for the host to read and write; throws when they are on a GPU.
  template <class T>
  std::span<T> values() const {
    require_host();
    return {data<T>(), static_cast<std::size_t>(elements())};
  }

 private:
  Tensor(const std::shared_ptr<Allocator>& from, Device device, Shape shape, DType dtype);
  void require(DType wanted) const;
  void require_host() const;
  std::shared_ptr<const Buffer> storage_;
  void* base_ = nullptr;
  std::size_t offset_ = 0;  // bytes
  Shape shape_;
  DType dtype_ = DType::f32;
  Device device_;
};

template <class T>
Tensor Tensor::of(Stream& stream, Shape shape, std::span<const T> values) {
  check(shape.elements() == static_cast<Index>(values.size()), "a tensor of shape ", shape, " cannot hold ", values.size(), " values");
  Tensor result(stream, shape, DTypeOf<T>::value);
  stream.copy(result.raw(), values.data(), result.bytes());
  return result;
}

/// Calls body(T{}) with the C++ type of a floating dtype: float or BFloat16.
template <class Body>
decltype(auto) with_float_type(DType dtype, Body&& body) {
  if (dtype == DType::f32) return body(float{});
  if (dtype == DType::bf16) return body(BFloat16{});
  fail("expected an f32 or bf16 tensor, got ", name_of(dtype));
}

}  // namespace yard
