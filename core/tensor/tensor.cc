#include "core/tensor/tensor.h"

#include <algorithm>
#include <numeric>
#include <ostream>

namespace yard {

Shape::Shape(std::initializer_list<Index> extents) : Shape(std::span<const Index>(extents.begin(), extents.size())) {}

Shape::Shape(std::span<const Index> extents) : rank_(static_cast<int>(extents.size())) {
  check(extents.size() <= extents_.size(), "a tensor has at most ", extents_.size(), " axes, got ", extents.size());
  std::copy(extents.begin(), extents.end(), extents_.begin());
  for (const Index extent : extents) check(extent >= 0, "a tensor's extents are not negative, got ", text());
}

Index Shape::elements() const noexcept {
  return std::accumulate(extents_.begin(), extents_.begin() + rank_, Index{1}, [](Index a, Index b) { return a * b; });
}

std::string Shape::text() const {
  std::string result = "(";
  for (int axis = 0; axis < rank_; ++axis) result += (axis == 0 ? "" : ", ") + std::to_string((*this)[axis]);
  return result + ")";
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) { return out << shape.text(); }

Tensor::Tensor(Stream& stream, Shape shape, DType dtype) : Tensor(stream.allocator(), stream.device(), shape, dtype) {}

Tensor::Tensor(const std::shared_ptr<Allocator>& from, Device device, Shape shape, DType dtype)
    : shape_(shape), dtype_(dtype), device_(device) {
  auto buffer = std::make_shared<Buffer>(from, static_cast<std::size_t>(shape.elements()) * size_of(dtype));
  base_ = buffer->data();
  storage_ = std::move(buffer);
}

Tensor Tensor::zeros(Stream& stream, Shape shape, DType dtype) {
  Tensor result(stream, shape, dtype);
  stream.set(result.raw(), 0, result.bytes());
  return result;
}

Tensor Tensor::reshaped(Shape shape) const {
  check(shape.elements() == elements(), "cannot view ", shape_, " as ", shape);
  Tensor result = *this;
  result.shape_ = shape;
  return result;
}

Tensor Tensor::row_range(Index first, Index count) const {
  check(first >= 0 && count >= 0 && first + count <= length(), "rows [", first, ", ", first + count, ") are outside of ", shape_);
  std::array<Index, 4> extents{};
  for (int axis = 0; axis < shape_.rank(); ++axis) extents[static_cast<std::size_t>(axis)] = shape_[axis];
  extents[0] = count;
  const Index width = length() == 0 ? 0 : elements() / length();
  return flat_range(first * width, Shape(std::span<const Index>(extents.data(), static_cast<std::size_t>(shape_.rank()))));
}

Tensor Tensor::flat_range(Index first, Shape shape) const {
  check(first >= 0 && first + shape.elements() <= elements(), "elements [", first, ", ", first + shape.elements(), ") are outside of ",
        shape_);
  Tensor result = *this;
  result.shape_ = shape;
  result.offset_ += static_cast<std::size_t>(first) * size_of(dtype_);
  return result;
}

Tensor Tensor::to(Stream& stream, Device device) const {
  check(device == stream.device() || device.type == DeviceType::cpu,
        "a tensor goes to the host or to the device of the stream that copies it");
  if (device == stream.device()) return clone(stream);
  Tensor result = on_host(stream, shape_, dtype_);
  stream.copy(result.raw(), raw(), bytes());
  stream.synchronize();
  return result;
}

Tensor Tensor::on_host(Stream& stream, Shape shape, DType dtype) { return {stream.host_allocator(), Device{}, shape, dtype}; }

Tensor Tensor::clone(Stream& stream) const {
  Tensor result(stream, shape_, dtype_);
  stream.copy(result.raw(), raw(), bytes());
  return result;
}

void Tensor::require_host() const {
  check(device_.type == DeviceType::cpu, "the values of a tensor on a GPU were asked for on the host; copy it there with Tensor::to");
}

void Tensor::require(DType wanted) const {
  check(wanted == dtype_, "the values of a tensor of ", name_of(dtype_), " were asked for as ", name_of(wanted));
}

}  // namespace yard
