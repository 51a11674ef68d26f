#include "core/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "core/io/json.h"
#include "core/shown.h"

namespace yard {

static_assert(std::endian::native == std::endian::little, "files are little-endian, and values are copied as they are");

namespace {

using nlohmann::json;

constexpr std::uint64_t kLargestHeader = 100'000'000;  // the format's own limit

struct TypeWidth {
  std::string_view name;
  unsigned bits;
};
constexpr std::array<TypeWidth, 22> kTypes = {
    {{"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},     {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
     {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16}, {"F16", 16}, {"BF16", 16},   {"I32", 32},
     {"U32", 32},    {"F32", 32},        {"C64", 64},        {"F64", 64},    {"I64", 64}, {"U64", 64}}};

std::optional<unsigned> bits_of(std::string_view dtype) {
  const auto* found = std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeWidth& type) { return type.name == dtype; });
  if (found == kTypes.end()) return std::nullopt;
  return found->bits;
}

/// Bytes of a tensor, or nothing when the product overflows or does not end on a byte.
std::optional<std::uint64_t> bytes_of(const std::vector<Index>& shape, unsigned bits) {
  std::uint64_t total = bits;
  for (const Index extent : shape) {
    if (__builtin_mul_overflow(total, static_cast<std::uint64_t>(extent), &total)) return std::nullopt;
  }
  if (total % 8 != 0 || total / 8 > static_cast<std::uint64_t>(std::numeric_limits<Index>::max())) return std::nullopt;
  return total / 8;
}

/// Parses the header. nlohmann keeps the last of two equal keys, so the keys of tensors and of their entries are watched while it parses;
/// values of further keys, which the reference reader ignores, may be anything.
json parse_header(const std::string& path, const std::string& text) {
  std::vector<std::set<std::string>> keys;
  const json::parser_callback_t watch = [&](int depth, json::parse_event_t event, json& parsed) {
    check_input(depth <= 128, path.c_str(), " is not a safetensors file: its header is nested too deeply");
    if (event == json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto name = parsed.get<std::string>();
      check_input(keys.size() > 2 || keys.back().insert(name).second, path.c_str(), " is not a valid safetensors file: its header names '",
                  shown(name), "' twice");
    }
    return true;
  };
  try {
    if (text.find('\0') == std::string::npos) return json::parse(text, watch);  // the parser would take it for the end
  } catch (const json::exception&) {  // NOLINT(bugprone-empty-catch): it would say where, in the words of another program
  }
  fail_input(path.c_str(), " is not a safetensors file: its header is not valid JSON in UTF-8");
}

bool is_count(const json& value) {
  return value.is_number_unsigned() && value.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<Index>::max());
}

SafetensorsEntry parse_entry(const std::string& path, const std::string& name, const json& value) {
  const auto wrong = [&](const auto&... parts) { fail_input("tensor '", shown(name), "' of ", path, " ", parts...); };
  if (!value.is_object() || !value.contains("dtype") || !value.contains("shape") || !value.contains("data_offsets")) {
    wrong("must have a dtype, a shape and data_offsets");
  }
  SafetensorsEntry entry;
  entry.name = name;
  const json& dtype = value["dtype"];
  const auto bits = dtype.is_string() ? bits_of(dtype.get<std::string>()) : std::nullopt;
  if (!bits) wrong("has the unknown dtype ", shown_json(dtype));
  entry.dtype = dtype.get<std::string>();
  const json& shape = value["shape"];
  if (!shape.is_array() || !std::all_of(shape.begin(), shape.end(), is_count)) wrong("has a shape that is no list of whole numbers");
  entry.shape = shape.get<std::vector<Index>>();
  const json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !std::all_of(offsets.begin(), offsets.end(), is_count)) {
    wrong("has data_offsets that are not two whole numbers");
  }
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  const auto bytes = bytes_of(entry.shape, *bits);
  if (!bytes) wrong("has the shape ", entry.shape_text(), ", whose size cannot be counted");
  if (entry.begin > entry.end || entry.end - entry.begin != *bytes) {
    wrong("of shape ", entry.shape_text(), " and dtype ", entry.dtype, " needs ", *bytes, " bytes, but its data_offsets are [", entry.begin,
          ", ", entry.end, "]");
  }
  return entry;
}

/// IEEE half precision to f32.
float half_to_float(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t fraction = half & 0x3ffU;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 0x7f800000U : (exponent + 112U) << 23;
  return std::bit_cast<float>(sign | wide | (fraction << 13));
}

struct Half {
  std::uint16_t bits;
};

template <class To, class From>
To converted(const From& value, const std::string& path, std::string_view name) {
  if constexpr (std::is_same_v<From, Half>) {
    return converted<To>(half_to_float(value.bits), path, name);
  } else if constexpr (std::is_same_v<To, BFloat16> || std::is_same_v<From, BFloat16>) {
    return static_cast<To>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<To, std::int32_t> && std::is_same_v<From, std::int64_t>) {
    if (value != static_cast<std::int32_t>(value)) {
      fail_input("tensor '", shown(name), "' of ", path, " holds ", value, ", which does not fit 32 bits");
    }
    return static_cast<To>(value);
  } else {
    return static_cast<To>(value);
  }
}

template <class T>
constexpr bool kWhole = std::is_integral_v<T>;

template <class To, class From>
void convert(std::span<const std::byte> bytes, To* out, const std::string& path, std::string_view name) {
  const std::size_t count = bytes.size() / sizeof(From);
  for (std::size_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));  // the data of another writer need not be aligned
    out[i] = converted<To>(value, path, name);
  }
}

template <class Body>
void with_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::bf16:
      return body(BFloat16{});
    case DType::f64:
      return body(double{});
    case DType::i32:
      return body(std::int32_t{});
    case DType::i64:
      return body(std::int64_t{});
  }
}

/// Calls body with a value of the stored type; false when that type cannot be read.
template <class Body>
bool with_stored_type(std::string_view dtype, Body&& body) {
  if (dtype == "F32") return body(float{}), true;
  if (dtype == "BF16") return body(BFloat16{}), true;
  if (dtype == "F16") return body(Half{}), true;
  if (dtype == "F64") return body(double{}), true;
  if (dtype == "I32") return body(std::int32_t{}), true;
  if (dtype == "I64") return body(std::int64_t{}), true;
  return false;
}

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;  // a multiple of every element's size

}  // namespace

Index SafetensorsEntry::elements() const noexcept {
  Index product = 1;
  for (const Index extent : shape) product *= extent;
  return product;
}

std::string SafetensorsEntry::shape_text() const {
  constexpr std::size_t kShown = 16;
  std::string text = "(";
  for (std::size_t axis = 0; axis < std::min(shape.size(), kShown); ++axis) text += (axis == 0 ? "" : ", ") + std::to_string(shape[axis]);
  return text + (shape.size() > kShown ? ", ...)" : ")");
}

std::string_view safetensors_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::f64:
      return "F64";
    case DType::i32:
      return "I32";
    default:
      return "I64";
  }
}

SafetensorsReader::SafetensorsReader(const std::string& path) : file_(path) {
  const std::string& name = file_.path();
  check_input(file_.size() >= 8, name.c_str(), " is not a safetensors file: it has ", file_.size(),
              " bytes and the header's length alone takes 8");
  std::uint64_t length = 0;
  file_.read(0, std::as_writable_bytes(std::span(&length, 1)));
  check_input(length <= kLargestHeader, name.c_str(), " is not a safetensors file: its header claims ", length,
              " bytes, and the format allows ", kLargestHeader);
  check_input(length <= file_.size() - 8, name.c_str(), " is not a safetensors file, or is truncated: its header claims ", length,
              " bytes of a file of ", file_.size());
  std::string text(length, '\0');
  file_.read(8, std::as_writable_bytes(std::span(text.data(), text.size())));
  check_input(!text.empty() && text.front() == '{', name.c_str(), " is not a safetensors file: its header does not begin with '{'");
  data_ = 8 + length;
  const json header = parse_header(name, text);
  for (const auto& [key, value] : header.items()) {
    if (key == "__metadata__") {
      if (value.is_null()) continue;
      const bool plain = value.is_object() && std::all_of(value.begin(), value.end(), [](const json& item) { return item.is_string(); });
      check_input(plain, "the __metadata__ of ", name, " must map strings to strings");
      metadata_ = value.get<std::map<std::string, std::string>>();
    } else {
      entries_.push_back(parse_entry(name, key, value));
    }
  }
  std::sort(entries_.begin(), entries_.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) { return std::tie(a.begin, a.end) < std::tie(b.begin, b.end); });
  std::uint64_t filled = 0;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const SafetensorsEntry& entry = entries_[i];
    check_input(entry.begin >= filled, "tensor '", shown(entry.name), "' of ", name, " overlaps the one before it");
    check_input(entry.begin == filled, "the data of ", name, " has a hole before tensor '", shown(entry.name), "'");
    filled = entry.end;
    index_[entry.name] = i;
  }
  check_input(filled <= file_.size() - data_, name.c_str(), " is truncated: its tensors need ", filled, " bytes of data, it has ",
              file_.size() - data_);
  check_input(filled == file_.size() - data_, name.c_str(), " has ", file_.size() - data_ - filled,
              " bytes of data that belong to no tensor");
}

const SafetensorsEntry* SafetensorsReader::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &entries_[found->second];
}

const SafetensorsEntry& SafetensorsReader::entry(std::string_view name) const {
  const SafetensorsEntry* found = find(name);
  check_input(found != nullptr, path().c_str(), " has no tensor '", shown(name), "'");
  return *found;
}

Tensor SafetensorsReader::read(Stream& stream, std::string_view name, DType wanted) const {
  const SafetensorsEntry& from = entry(name);
  check_input(from.shape.size() <= 4, "tensor '", shown(name), "' of ", path(), " has ", from.shape.size(),
              " axes; at most 4 are supported");
  Tensor result(stream, Shape(std::span<const Index>(from.shape)), wanted);
  read_into(name, 0, result);
  return result;
}

Tensor SafetensorsReader::read_rows(Stream& stream, std::string_view name, Index first, Index count, DType wanted) const {
  const SafetensorsEntry& from = entry(name);
  check_input(from.shape.size() <= 4, "tensor '", shown(name), "' of ", path(), " has ", from.shape.size(),
              " axes; at most 4 are supported");
  std::vector<Index> shape = from.shape;
  if (shape.empty()) shape.push_back(1);
  check(first >= 0 && count >= 0 && first <= shape[0] && count <= shape[0] - first, "rows [", first, ", ", first + count,
        ") are outside of tensor '", shown(name), "' of shape ", from.shape_text());
  shape[0] = count;
  Tensor result(stream, Shape(std::span<const Index>(shape)), wanted);
  read_into(name, first, result);
  return result;
}

void SafetensorsReader::read_into(std::string_view name, Index first, const Tensor& out) const {
  const SafetensorsEntry& from = entry(name);
  const Index width = from.length() == 0 ? 0 : from.elements() / from.length();
  const Index rows = width == 0 ? 0 : out.elements() / width;
  check(first >= 0 && rows * width == out.elements() && first <= from.length() && rows <= from.length() - first, "a tensor of shape ",
        out.shape().text(), " cannot hold rows from ", first, " of tensor '", shown(name), "' of shape ", from.shape_text(), " in ",
        path());
  read_elements(name, first * width, out);
}

void SafetensorsReader::read_elements(std::string_view name, Index first, const Tensor& out) const {
  const SafetensorsEntry& from = entry(name);
  check(first >= 0 && first <= from.elements() && out.elements() <= from.elements() - first, "", out.elements(), " elements from ", first,
        " are outside of tensor '", shown(name), "' of shape ", from.shape_text(), " in ", path());
  const bool known = with_stored_type(from.dtype, [&](auto stored) {
    using Stored = decltype(stored);
    with_type(out.dtype(), [&](auto wanted) {
      using Wanted = decltype(wanted);
      if constexpr (kWhole<Wanted> && !kWhole<Stored>) {
        fail_input("tensor '", shown(name), "' of ", path(), " is ", from.dtype, ", where whole numbers are needed");
      } else {
        std::vector<std::byte> piece;
        auto* target = out.data<Wanted>();
        std::uint64_t offset = data_ + from.begin + static_cast<std::uint64_t>(first) * sizeof(Stored);
        std::uint64_t left = static_cast<std::uint64_t>(out.elements()) * sizeof(Stored);
        if constexpr (std::is_same_v<Stored, Wanted>) {
          file_.read(offset, {reinterpret_cast<std::byte*>(target), left});
          return;
        }
        while (left > 0) {
          piece.resize(std::min<std::uint64_t>(left, kPieceBytes));
          file_.read(offset, piece);
          convert<Wanted, Stored>(piece, target, path(), name);
          target += piece.size() / sizeof(Stored);
          offset += piece.size();
          left -= piece.size();
        }
      }
    });
  });
  check_input(known, "tensor '", shown(name), "' of ", path(), " is ", from.dtype, "; F32, BF16, F16, F64, I32 and I64 can be read");
}

SafetensorsWriter::SafetensorsWriter(std::string path, std::vector<SafetensorsEntry> entries,
                                     const std::map<std::string, std::string>& metadata)
    : file_(std::move(path)), entries_(std::move(entries)) {
  // Written piece by piece: the order of the data is the order of the header, which nlohmann's sorted objects would not keep.
  std::string header = metadata.empty() ? "{" : "{\"__metadata__\":" + json(metadata).dump();
  std::set<std::string_view> names = {"__metadata__"};
  std::uint64_t filled = 0;
  for (SafetensorsEntry& entry : entries_) {
    const auto bits = bits_of(entry.dtype);
    check(bits.has_value(), "safetensors has no dtype '", entry.dtype, "' for tensor '", entry.name, "'");
    const auto bytes = bytes_of(entry.shape, *bits);
    check(bytes.has_value(), "tensor '", entry.name, "' has the shape ", entry.shape_text(), ", whose size cannot be counted");
    check(*bits < 8 || filled % (*bits / 8) == 0, "tensor '", entry.name, "' of dtype ", entry.dtype,
          " would not be aligned: declare tensors of wider types first");
    check(names.insert(entry.name).second, "tensor '", entry.name, "' is declared twice");
    entry.begin = filled;
    filled += *bytes;
    entry.end = filled;
    if (header.size() > 1) header += ',';
    header += json(entry.name).dump() + R"(:{"dtype":")" + entry.dtype + R"(","shape":)" + json(entry.shape).dump() +
              R"(,"data_offsets":[)" + std::to_string(entry.begin) + "," + std::to_string(entry.end) + "]}";
  }
  header += '}';
  header.append((8 - header.size() % 8) % 8, ' ');
  check(header.size() <= kLargestHeader, "the header of ", file_.path(), " would take ", header.size(), " bytes; the format allows ",
        kLargestHeader);
  file_.write_value(static_cast<std::uint64_t>(header.size()));
  file_.write(header);
  data_ = file_.written();
}

void SafetensorsWriter::write(const Tensor& rows) {
  while (next_ < entries_.size() && file_.written() - data_ == entries_[next_].end) ++next_;
  if (rows.elements() == 0) return;
  check(next_ < entries_.size(), "all tensors of ", file_.path(), " are already written");
  const SafetensorsEntry& entry = entries_[next_];
  check(safetensors_dtype(rows.dtype()) == entry.dtype, "tensor '", entry.name, "' was declared as ", entry.dtype, ", got ",
        name_of(rows.dtype()));
  check(rows.bytes() <= entry.end - (file_.written() - data_), "tensor '", entry.name, "' of shape ", entry.shape_text(),
        " is already written up to byte ", file_.written() - data_ - entry.begin, "; ", rows.bytes(), " more do not fit");
  file_.write({static_cast<const std::byte*>(rows.raw()), rows.bytes()});
}

void SafetensorsWriter::finish() {
  const std::uint64_t needed = entries_.empty() ? 0 : entries_.back().end;
  check(file_.written() - data_ == needed, file_.path().c_str(), " needs ", needed, " bytes of data, only ", file_.written() - data_,
        " were written");
  file_.finish();
}

}  // namespace yard
