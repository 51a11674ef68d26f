#include "core/data/token_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "core/data/token_names.h"
#include "core/error.h"

namespace yard {

namespace {

constexpr std::string_view kMegatronMagic{"MMIDIDX\0\0", 9};
constexpr std::size_t kMegatronHeader = 34;
constexpr std::size_t kLlmcHeader = 1024;
constexpr std::int32_t kLlmcGpt2 = 20240520, kLlmcLlama3 = 20240801, kLlmcEvaluation = 20240522;

template <class T>
T value_at(std::span<const std::byte> bytes, std::uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(T));  // nothing in these files is aligned
  return value;
}

bool exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

std::string without_suffix(const std::string& path, std::string_view suffix) {
  return path.ends_with(suffix) ? path.substr(0, path.size() - suffix.size()) : path;
}

std::string megatron_prefix(const std::string& path) { return without_suffix(without_suffix(path, ".idx"), ".bin"); }

bool is_llmc(std::span<const std::byte> bytes) {
  if (bytes.size() < sizeof(std::int32_t)) return false;
  const auto magic = value_at<std::int32_t>(bytes, 0);
  return magic == kLlmcGpt2 || magic == kLlmcLlama3 || magic == kLlmcEvaluation;
}

template <class T>
void widen(const std::byte* from, std::span<std::int32_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    if constexpr (sizeof(T) >= 8 || std::is_same_v<T, std::uint32_t>) {
      // What does not fit is no token id; -1 marks it for the check that follows.
      out[i] = value >= T{0} && value <= static_cast<T>(std::numeric_limits<std::int32_t>::max()) ? static_cast<std::int32_t>(value) : -1;
    } else {
      out[i] = static_cast<std::int32_t>(value);
    }
  }
}

}  // namespace

TokenFormat token_format(std::string_view name) {
  if (name == "auto" || name.empty()) return TokenFormat::automatic;
  if (name == "megatron") return TokenFormat::megatron;
  if (name == "llmc") return TokenFormat::llmc;
  if (name == "nanogpt") return TokenFormat::nanogpt;
  fail_input("data.format is '", name, "'; it must be auto, megatron, llmc or nanogpt");
}

TokenStream::TokenStream(const std::string& files, TokenFormat format, Index vocabulary) : name_(files), vocabulary_(vocabulary) {
  for (const std::string& path : token_file_names(files)) {
    const Index before = length_;
    open(path, format);
    check_input(length_ > before, "token file ", path, " holds no tokens");
  }
}

TokenStream::TokenStream(std::vector<std::int32_t> ids, std::string name)
    : name_(std::move(name)), length_(static_cast<Index>(ids.size())), ids_(std::move(ids)) {
  check_input(length_ > 0, "", name_, " holds no tokens");
}

void TokenStream::open(const std::string& path, TokenFormat format) {
  const std::string prefix = megatron_prefix(path);
  if (format == TokenFormat::megatron || (format == TokenFormat::automatic && exists(prefix + ".idx"))) return open_megatron(prefix);
  const std::string file = !exists(path) && exists(path + ".bin") ? path + ".bin" : path;
  MappedFile mapped(file);
  if (format == TokenFormat::nanogpt) return open_nanogpt(std::move(mapped));
  if (format == TokenFormat::llmc || is_llmc(mapped.bytes())) return open_llmc(std::move(mapped));
  check_input(!mapped.bytes().empty(), "token file ", file, " is empty");
  fail_input("token file ", file, " is foreign: it has no Megatron index beside it (", prefix, ".idx) and no llm.c header; ",
             "a nanoGPT file must be announced with data.format: nanogpt");
}

std::size_t bytes_of(TokenWidth width) {
  switch (width) {
    case TokenWidth::u8:
    case TokenWidth::i8:
      return 1;
    case TokenWidth::i16:
    case TokenWidth::u16:
      return 2;
    case TokenWidth::i32:
    case TokenWidth::u32:
      return 4;
    default:
      return 8;
  }
}

std::size_t TokenStream::add(MappedFile file) {
  identities_.push_back(file.identity());
  files_.push_back(std::move(file));
  return files_.size() - 1;
}

void TokenStream::append(std::size_t file, std::uint64_t offset, Index count, Width width) {
  if (count == 0) return;
  const bool follows = !runs_.empty() && runs_.back().file == file && runs_.back().width == width &&
                       runs_.back().offset + static_cast<std::uint64_t>(runs_.back().count) * bytes_of(width) == offset;
  if (follows) {
    runs_.back().count += count;
  } else {
    runs_.push_back({length_, count, file, offset, width});
  }
  length_ += count;
}

void TokenStream::open_megatron(const std::string& prefix) {
  const MappedFile index(prefix + ".idx");
  identities_.push_back(index.identity());
  const std::size_t file = add(MappedFile(prefix + ".bin"));
  const char* path = index.path().c_str();
  const std::span<const std::byte> bytes = index.bytes();
  check_input(index.text().starts_with(kMegatronMagic), "token index ", path, " is foreign: it does not begin with Megatron's MMIDIDX");
  check_input(bytes.size() >= kMegatronHeader, "token index ", path, " is truncated: it has ", bytes.size(),
              " bytes, its header alone takes ", kMegatronHeader);
  const auto version = value_at<std::uint64_t>(bytes, 9);
  check_input(version == 1, "token index ", path, " has version ", version, "; version 1 is understood");
  const auto code = value_at<std::uint8_t>(bytes, 17);
  constexpr std::array<Width, 9> kWidths = {Width::u8,  Width::u8, Width::i8, Width::i16, Width::i32,
                                            Width::i64, Width::u8, Width::u8, Width::u16};
  check_input(code >= 1 && code <= 8 && code != 6 && code != 7, "token index ", path, " has dtype code ", int{code},
              "; token ids are whole numbers, codes 1 to 5 and 8");
  const Width width = kWidths[code];
  const auto sequences = value_at<std::uint64_t>(bytes, 18);
  const auto documents = value_at<std::uint64_t>(bytes, 26);
  const std::uint64_t size = bytes.size();
  const bool countable = sequences <= size && documents <= size;  // also keeps the next product from overflowing
  const std::uint64_t needed = countable ? kMegatronHeader + 12 * sequences + 8 * documents : 0;
  check_input(countable && (size == needed || size == needed + sequences), "token index ", path, " is truncated or damaged: ", sequences,
              " sequences and ", documents, " document marks do not make ", size, " bytes");
  const std::uint64_t lengths = kMegatronHeader;
  const std::uint64_t pointers = lengths + 4 * sequences;
  const std::uint64_t marks = pointers + 8 * sequences;
  const std::uint64_t data = files_[file].bytes().size();
  std::vector<Index> ends;  // of sequences, in tokens of the stream
  ends.reserve(sequences);
  std::int64_t before = 0;  // where the last sequence ends, in bytes
  for (std::uint64_t i = 0; i < sequences; ++i) {
    const auto length = value_at<std::int32_t>(bytes, lengths + 4 * i);
    const auto pointer = value_at<std::int64_t>(bytes, pointers + 8 * i);
    check_input(length >= 0 && pointer >= 0, "token index ", path, " is damaged: sequence ", i, " has length ", length, " at byte ",
                pointer);
    check_input(pointer >= before, "token index ", path, " is damaged: sequence ", i, " begins at byte ", pointer,
                ", before the end of the one before it at ", before);
    const std::uint64_t extent = static_cast<std::uint64_t>(length) * bytes_of(width);
    check_input(extent <= data && static_cast<std::uint64_t>(pointer) <= data - extent, "token file ", files_[file].path(),
                " is truncated: sequence ", i, " ends at byte ", static_cast<std::uint64_t>(pointer) + extent, " and the file has ", data);
    append(file, static_cast<std::uint64_t>(pointer), length, width);
    ends.push_back(length_);
    before = pointer + static_cast<std::int64_t>(extent);
  }
  std::int64_t last = 0;
  for (std::uint64_t i = 0; i < documents; ++i) {
    const auto mark = value_at<std::int64_t>(bytes, marks + 8 * i);
    check_input(mark >= last && mark <= static_cast<std::int64_t>(sequences), "token index ", path, " is damaged: document mark ", i,
                " is ", mark, " of ", sequences, " sequences");
    if (mark > last) document_ends_.push_back(ends[static_cast<std::size_t>(mark - 1)]);
    last = mark;
  }
}

void TokenStream::open_llmc(MappedFile file) {
  const char* path = file.path().c_str();
  const std::span<const std::byte> bytes = file.bytes();
  check_input(is_llmc(bytes), "token file ", path, " is foreign: it has no llm.c header");
  check_input(bytes.size() >= kLlmcHeader, "token file ", path, " is truncated: it has ", bytes.size(), " bytes, its header alone takes ",
              kLlmcHeader);
  const auto magic = value_at<std::int32_t>(bytes, 0);
  const auto version = value_at<std::int32_t>(bytes, 4);
  const auto tokens = value_at<std::int32_t>(bytes, 8);
  check_input(magic != kLlmcEvaluation, "token file ", path, " is an evaluation file of llm.c (multiple choice), not a stream of tokens");
  const std::int32_t known = magic == kLlmcGpt2 ? 1 : 7;
  check_input(version == known, "token file ", path, " has version ", version, " of llm.c's format; version ", known, " is understood");
  const Width width = magic == kLlmcGpt2 ? Width::u16 : Width::u32;
  const std::uint64_t needed = kLlmcHeader + static_cast<std::uint64_t>(std::max(tokens, 0)) * bytes_of(width);
  check_input(tokens >= 0 && bytes.size() >= needed, "token file ", path, " is truncated: its header promises ", tokens, " tokens in ",
              needed, " bytes, it has ", bytes.size());
  check_input(bytes.size() == needed, "token file ", path, " is damaged: its header promises ", tokens, " tokens in ", needed,
              " bytes, it has ", bytes.size());
  append(add(std::move(file)), kLlmcHeader, tokens, width);
}

void TokenStream::open_nanogpt(MappedFile file) {
  const std::size_t size = file.bytes().size();
  check_input(!is_llmc(file.bytes()) && !file.text().starts_with(kMegatronMagic), "token file ", file.path(),
              " has a header, so it is not nanoGPT's; leave data.format at auto");
  check_input(size % 2 == 0, "token file ", file.path(), " is truncated or foreign: ", size, " bytes are not a whole number of 16-bit ids");
  append(add(std::move(file)), 0, static_cast<Index>(size / 2), Width::u16);
}

std::int32_t TokenStream::token(Index position) const {
  std::int32_t id = 0;
  copy(position, {&id, 1});
  return id;
}

void TokenStream::copy(Index first, std::span<std::int32_t> out) const {
  const auto count = static_cast<Index>(out.size());
  check(first >= 0 && first <= length_ && count <= length_ - first, "tokens [", first, ", ", first + count, ") are outside of ", name_,
        ", which has ", length_);
  if (count == 0) return;
  if (!ids_.empty()) {
    std::copy_n(ids_.begin() + first, count, out.begin());
    return;
  }
  const Run* run = &run_at(first);
  for (Index done = 0; done < count; ++run) {
    const Index within = first + done - run->first;
    const std::span<std::int32_t> part =
        out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(std::min(count - done, run->count - within)));
    const std::byte* from = files_[run->file].bytes().data() + run->offset + static_cast<std::size_t>(within) * bytes_of(run->width);
    switch (run->width) {
      case Width::u8:
        widen<std::uint8_t>(from, part);
        break;
      case Width::i8:
        widen<std::int8_t>(from, part);
        break;
      case Width::i16:
        widen<std::int16_t>(from, part);
        break;
      case Width::u16:
        widen<std::uint16_t>(from, part);
        break;
      case Width::i32:
        widen<std::int32_t>(from, part);
        break;
      case Width::u32:
        widen<std::uint32_t>(from, part);
        break;
      case Width::i64:
        widen<std::int64_t>(from, part);
        break;
    }
    const Index limit = vocabulary_ > 0 ? vocabulary_ : Index{1} << 31;
    const auto bad = std::find_if(part.begin(), part.end(), [&](std::int32_t id) { return id < 0 || id >= limit; });
    if (bad != part.end()) {
      fail_input("token file ", files_[run->file].path(), " holds id ", *bad, " at position ", first + done + (bad - part.begin()),
                 ", outside of the vocabulary of ", limit, "; model.vocabulary and the tokenizer of the file must agree");
    }
    done += static_cast<Index>(part.size());
  }
}

const TokenStream::Run& TokenStream::run_at(Index position) const {
  return *(std::upper_bound(runs_.begin(), runs_.end(), position, [](Index at, const Run& r) { return at < r.first; }) - 1);
}

TokenStream::Segment TokenStream::segment_at(Index position) const {
  check(position >= 0 && position < length_, "token ", position, " is outside of ", name_, ", which has ", length_);
  if (!ids_.empty()) {
    const auto ids = std::span(ids_).subspan(static_cast<std::size_t>(position));
    return {static_cast<Index>(ids.size()), Width::i32, std::as_bytes(ids), nullptr};
  }
  const Run& run = run_at(position);
  const Index count = run.first + run.count - position;
  const std::size_t width = bytes_of(run.width);
  const std::uint64_t offset = run.offset + static_cast<std::size_t>(position - run.first) * width;
  return {count, run.width, files_[run.file].bytes().subspan(offset, static_cast<std::size_t>(count) * width), &files_[run.file]};
}

const std::string& TokenStream::path_at(Index position) const { return ids_.empty() ? files_[run_at(position).file].path() : name_; }

MegatronWriter::MegatronWriter(std::string prefix, Index vocabulary)
    : prefix_(std::move(prefix)), vocabulary_(vocabulary), narrow_(vocabulary < 65500), bin_(prefix_ + ".bin.tmp") {}

void MegatronWriter::add_document(std::span<const std::int32_t> ids) {
  check(!ids.empty(), "a document of ", prefix_, " has no tokens");
  check(ids.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()), "a document of ", prefix_, " has ", ids.size(),
        " tokens; the format allows 2^31 - 1");
  for (const std::int32_t id : ids) check(id >= 0 && id < vocabulary_, "token id ", id, " is outside of the vocabulary of ", vocabulary_);
  if (narrow_) {
    const std::vector<std::uint16_t> narrow(ids.begin(), ids.end());
    bin_.write(std::as_bytes(std::span(narrow)));
  } else {
    bin_.write(std::as_bytes(ids));
  }
  lengths_.push_back(static_cast<std::int32_t>(ids.size()));
  tokens_ += static_cast<Index>(ids.size());
}

void MegatronWriter::finish() {
  FileWriter index(prefix_ + ".idx.tmp");
  index.write(kMegatronMagic);
  index.write_value(std::uint64_t{1});
  index.write_value(std::uint8_t{narrow_ ? std::uint8_t{8} : std::uint8_t{4}});
  index.write_value(static_cast<std::uint64_t>(lengths_.size()));
  index.write_value(static_cast<std::uint64_t>(lengths_.size() + 1));
  index.write(std::as_bytes(std::span(lengths_)));
  std::int64_t pointer = 0;
  for (const std::int32_t length : lengths_) {
    index.write_value(pointer);
    pointer += std::int64_t{length} * (narrow_ ? 2 : 4);
  }
  for (std::int64_t mark = 0; mark <= static_cast<std::int64_t>(lengths_.size()); ++mark) index.write_value(mark);
  bin_.finish();
  index.finish();
  // An index never stands beside tokens that it does not describe: the old one goes before the new tokens come.
  std::error_code ignored;
  std::filesystem::remove(prefix_ + ".idx", ignored);
  rename_file(bin_.path(), prefix_ + ".bin");
  rename_file(index.path(), prefix_ + ".idx");
}

}  // namespace yard
