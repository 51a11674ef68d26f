#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/file.h"
#include "core/tensor/tensor.h"

namespace yard {

/// How token ids are stored: Megatron's .bin and .idx, llm.c's shards (header of 256 i32), nanoGPT's files (u16 without a header, which
/// nothing can recognise, so that it must be said).
enum class TokenFormat : std::uint8_t { automatic, megatron, llmc, nanogpt };

/// "auto", "megatron", "llmc" or "nanogpt"; throws InputError for anything else.
TokenFormat token_format(std::string_view name);

/// How wide an id is in a file, and whether it has a sign.
enum class TokenWidth : std::uint8_t { u8, i8, i16, u16, i32, u32, i64 };

/// Bytes of an id.
std::size_t bytes_of(TokenWidth width);

/// The token ids of one or several files as one stream. Files are mapped, not read; ids are checked against the vocabulary when they are
/// copied out, and scan_tokens checks all of them at once. Throws InputError, naming the file, when one is missing, truncated, foreign or
/// empty.
class TokenStream {
 public:
  /// `files` names one or several files, as token_file_names takes them. Ids must be below `vocabulary`; 0 leaves them unchecked.
  explicit TokenStream(const std::string& files, TokenFormat format = TokenFormat::automatic, Index vocabulary = 0);

  /// Ids that are in memory already; `name` is what messages call them.
  TokenStream(std::vector<std::int32_t> ids, std::string name);

  Index length() const noexcept { return length_; }
  /// What was opened, for messages.
  const std::string& name() const noexcept { return name_; }
  std::int32_t token(Index position) const;
  /// The tokens [first, first + out.size()); throws InputError with file, position and id when one is outside of the vocabulary.
  void copy(Index first, std::span<std::int32_t> out) const;
  /// Where documents end (one past their last token), ascending; empty where the format does not say.
  std::span<const Index> document_ends() const noexcept { return document_ends_; }

  /// Ids from `position` to the end of a contiguous part of a file, as they are stored there (not aligned).
  struct Segment {
    Index count;
    TokenWidth width;
    std::span<const std::byte> bytes;
    const MappedFile* file;  // null where the ids are in memory
  };
  Segment segment_at(Index position) const;
  /// The file that a token of the stream is stored in, or the stream's name.
  const std::string& path_at(Index position) const;
  /// Every file that was opened, indices too, as it was then.
  const std::vector<FileIdentity>& identities() const noexcept { return identities_; }

 private:
  using Width = TokenWidth;
  struct Run {  // tokens that lie side by side in one file
    Index first, count;
    std::size_t file;
    std::uint64_t offset;  // bytes
    Width width;
  };
  const Run& run_at(Index position) const;
  void open(const std::string& path, TokenFormat format);
  void open_megatron(const std::string& prefix);
  void open_llmc(MappedFile file);
  void open_nanogpt(MappedFile file);
  std::size_t add(MappedFile file);
  void append(std::size_t file, std::uint64_t offset, Index count, Width width);

  std::string name_;
  Index vocabulary_ = 0, length_ = 0;
  std::vector<MappedFile> files_;
  std::vector<FileIdentity> identities_;
  std::vector<std::int32_t> ids_;  // in memory, instead of files
  std::vector<Run> runs_;
  std::vector<Index> document_ends_;
};

/// Writes PREFIX.bin and PREFIX.idx as Megatron reads them, one sequence a document: u16 ids when the vocabulary is below 65500, else i32.
/// Both appear under their names when `finish` has written everything; until then they are PREFIX.bin.tmp and PREFIX.idx.tmp.
class MegatronWriter {
 public:
  MegatronWriter(std::string prefix, Index vocabulary);
  /// Appends a document, which has at least one id.
  void add_document(std::span<const std::int32_t> ids);
  void finish();
  Index documents() const noexcept { return static_cast<Index>(lengths_.size()); }
  Index tokens() const noexcept { return tokens_; }

 private:
  std::string prefix_;
  Index vocabulary_ = 0, tokens_ = 0;
  bool narrow_ = true;
  FileWriter bin_;
  std::vector<std::int32_t> lengths_;
};

}  // namespace yard
