#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/io/file.h"
#include "core/tensor/tensor.h"

namespace yard {

/// One tensor of a .safetensors file: a JSON header of names, types, shapes and offsets, then the values, little-endian and row-major.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // the format's own names: "F32", "BF16", "I64" ...
  std::vector<Index> shape;
  std::uint64_t begin = 0, end = 0;  // bytes of the data section; the writer computes them

  Index elements() const noexcept;
  /// Rows are the first axis; a scalar has one row.
  Index length() const noexcept { return shape.empty() ? 1 : shape[0]; }
  std::string shape_text() const;
};

/// The format's name of one of our types ("F32", "BF16", "F64", "I32", "I64").
std::string_view safetensors_dtype(DType dtype);

/// Reads a .safetensors file. The header is checked completely when it is opened: an InputError of one sentence names the file and what is
/// wrong (length, JSON, UTF-8, duplicate names, shapes that overflow, sizes that do not fit, holes, overlaps, data that is missing).
class SafetensorsReader {
 public:
  explicit SafetensorsReader(const std::string& path);

  const std::string& path() const noexcept { return file_.path(); }
  /// In the order of their data.
  const std::vector<SafetensorsEntry>& entries() const noexcept { return entries_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  /// Throws InputError when the file has no such tensor.
  const SafetensorsEntry& entry(std::string_view name) const;

  /// The whole tensor as `wanted`; F16, BF16, F32, F64, I32 and I64 can be read, whole numbers never out of fractions. At most four axes.
  Tensor read(Stream& stream, std::string_view name, DType wanted) const;
  /// Rows [first, first + count) of the first axis.
  Tensor read_rows(Stream& stream, std::string_view name, Index first, Index count, DType wanted) const;
  /// Fills `out`, in its dtype, with its number of rows from row `first`; the shapes of a row must agree in size.
  void read_into(std::string_view name, Index first, const Tensor& out) const;
  /// Fills `out`, in its dtype, with its number of elements from element `first` of the flat values.
  void read_elements(std::string_view name, Index first, const Tensor& out) const;

 private:
  const SafetensorsEntry* find(std::string_view name) const;
  ReadFile file_;
  std::uint64_t data_ = 0;  // where the data section begins
  std::vector<SafetensorsEntry> entries_;
  std::unordered_map<std::string, std::size_t> index_;
  std::map<std::string, std::string> metadata_;
};

/// Writes a .safetensors file front to back: all entries are declared first, then their data follows in the same order.
/// Entries of wider types come first, so that every tensor is aligned to its type. Throws Error when a write fails.
class SafetensorsWriter {
 public:
  SafetensorsWriter(std::string path, std::vector<SafetensorsEntry> entries,
                    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  /// The next rows of the entry whose turn it is; the dtype is the declared one.
  void write(const Tensor& rows);
  /// Every declared byte has been written: brings the file to the disk. Without it nothing is left behind.
  void finish();
  /// Of the file as far as it is written: bytes, and CRC-32C.
  std::uint64_t written() const noexcept { return file_.written(); }
  std::uint32_t checksum() const noexcept { return file_.checksum(); }

 private:
  FileWriter file_;
  std::vector<SafetensorsEntry> entries_;
  std::uint64_t data_ = 0;
  std::size_t next_ = 0;  // the entry whose turn it is
};

}  // namespace yard
