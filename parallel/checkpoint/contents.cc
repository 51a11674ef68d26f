#include "parallel/checkpoint/contents.h"

#include <algorithm>
#include <numeric>

#include "core/ops/elementwise.h"

namespace yard {
namespace {

YARD_COLLECTIVE kMasters{"checkpoint.masters"};

std::vector<Index> extents(const Shape& shape) {
  std::vector<Index> result;
  for (int axis = 0; axis < shape.rank(); ++axis) result.push_back(shape[axis]);
  return result;
}

FileTensor file_tensor(std::string name, std::vector<Index> shape, Tensor values) {
  FileTensor tensor;
  tensor.entry.name = std::move(name);
  tensor.entry.dtype = safetensors_dtype(values.dtype());
  tensor.entry.shape = std::move(shape);
  tensor.values = std::move(values);
  return tensor;
}

/// Elements of a row of a parameter: a vector's rows are single elements.
Index row_width(const Parameter& parameter) { return parameter.shape.elements() / std::max<Index>(1, parameter.shape[0]); }

/// A slice as a tensor of its own.
Tensor slice_of(const Parameter& parameter, const Slice& slice) { return parameter.value.row_range(slice.row, slice.rows); }

/// One slice in f32 from masters that are spread over replicas; defined on its owner.
Tensor collect(Context& context, Communicator& replicas, const FlatBuffer& buffer, const FlatBuffer::Segment& segment, const Slice& slice,
               const Tensor& master, int& owner) {
  const Index width = row_width(*segment.parameter);
  const Index begin = segment.first + slice.row * width;
  const Index end = begin + slice.rows * width;
  const Index each = buffer.value.elements() / replicas.size();
  // The part of the slice in each replica's share, in entries of the buffer.
  struct Part {
    Index from, count;
  };
  const auto part = [&](int rank) {
    const Index from = std::max(begin, rank * each);
    return Part{from, std::max<Index>(0, std::min(end, (rank + 1) * each) - from)};
  };
  owner = 0;
  for (int rank = 1; rank < replicas.size(); ++rank) {
    if (part(rank).count > part(owner).count) owner = rank;
  }
  const Part mine = part(replicas.rank());
  const bool here = owner == replicas.rank();
  std::vector<Index> send(static_cast<std::size_t>(replicas.size()), 0);
  std::vector<Index> receive = send;
  send[static_cast<std::size_t>(owner)] = mine.count;
  for (int rank = 0; here && rank < replicas.size(); ++rank) receive[static_cast<std::size_t>(rank)] = part(rank).count;
  const Tensor out = master.row_range(mine.count == 0 ? 0 : mine.from - replicas.rank() * each, mine.count);
  const Tensor in(context.stream, {here ? end - begin : 0});
  replicas.all_to_all(context.stream, {kMasters}, out, send, in, receive).wait(context.stream);
  return here ? in : Tensor();
}

}  // namespace

bool OwnPiece::whole() const noexcept {
  return first == 0 && count == std::accumulate(shape.begin(), shape.end(), Index{1}, std::multiplies<>());
}

std::string OwnPiece::key(const std::string& kind) const { return kind + "." + name + (whole() ? "" : "::" + std::to_string(first)); }

std::vector<OwnPiece> pieces_of(const FlatBuffer& buffer, Index number, Index first, Index count) {
  std::vector<OwnPiece> pieces;
  for (const SharePart& part : parts_of_share(buffer, first, count)) {
    const Index width = row_width(*part.parameter);
    for (const Slice& slice : part.parameter->slices) {
      const Index begin = slice.row * width;
      const Index from = std::max(begin, part.in_parameter);
      const Index to = std::min(begin + slice.rows * width, part.in_parameter + part.count);
      if (from >= to) continue;
      std::vector<Index> shape = extents(part.parameter->shape);
      shape[0] = slice.rows;
      pieces.push_back({slice.name, std::move(shape), from - begin, to - from, number, part.in_share + from - part.in_parameter});
    }
  }
  return pieces;
}

FileContents model_contents(Context& context, Mesh& mesh, ParameterStore& store, const std::vector<State*>& states, ShardedAdamW& optimizer,
                            bool wide) {
  FileContents contents;
  for (std::size_t b = 0; b < store.buffers().size(); ++b) {
    const FlatBuffer& buffer = store.buffers()[b];
    Communicator& replicas = mesh.replicas(buffer.kind);
    const bool widen = wide && buffer.value.dtype() != DType::f32;
    std::vector<Index> bytes(static_cast<std::size_t>(replicas.size()), 0);  // that each replica writes
    for (const auto& segment : buffer.segments) {
      for (const Slice& slice : segment.parameter->slices) {
        const Tensor values = slice_of(*segment.parameter, slice);
        if (widen) {
          int owner = 0;
          const Tensor all = collect(context, replicas, buffer, segment, slice, optimizer.shares()[b].master, owner);
          if (owner == replicas.rank()) {
            contents.push_back(file_tensor(slice.name, extents(values.shape()), all));
            contents.back().own = true;
          }
          continue;
        }
        const auto least = std::min_element(bytes.begin(), bytes.end());
        *least += static_cast<Index>(values.bytes());
        if (least - bytes.begin() == replicas.rank()) contents.push_back(file_tensor(slice.name, extents(values.shape()), values));
      }
    }
  }
  for (const State* state : states) {
    if (mesh.replicas(state->kind).rank() == 0) contents.push_back(file_tensor(state->name, extents(state->value.shape()), state->value));
  }
  return contents;
}

FileContents optimizer_contents(Mesh& mesh, ParameterStore& store, ShardedAdamW& optimizer, std::vector<OwnPiece>& pieces) {
  FileContents contents;
  for (std::size_t b = 0; b < store.buffers().size(); ++b) {
    const FlatBuffer& buffer = store.buffers()[b];
    const auto& share = optimizer.shares()[b];
    const Index count = buffer.value.elements() / mesh.replicas(buffer.kind).size();
    for (OwnPiece& piece : pieces_of(buffer, static_cast<Index>(b), optimizer.first(b), count)) {
      const auto add = [&](const char* kind, const Tensor& values) {
        const std::vector<Index> shape = piece.whole() ? piece.shape : std::vector<Index>{piece.count};
        contents.push_back(file_tensor(piece.key(kind), shape, values.row_range(piece.in_share, piece.count)));
      };
      add("exp_avg", share.first);
      add("exp_avg_sq", share.second);
      if (buffer.value.dtype() != DType::f32) add("master", share.master);
      pieces.push_back(std::move(piece));
    }
  }
  return contents;
}

std::vector<FileContents> split_into_files(FileContents contents, Index largest) {
  std::vector<FileContents> files;
  Index filled = 0;
  for (FileTensor& tensor : contents) {
    const auto bytes = static_cast<Index>(tensor.values.bytes());
    if (files.empty() || (filled > 0 && filled + bytes > largest)) {
      files.emplace_back();
      filled = 0;
    }
    filled += bytes;
    files.back().push_back(std::move(tensor));
  }
  for (FileContents& file : files) {
    std::stable_sort(file.begin(), file.end(),
                     [](const FileTensor& a, const FileTensor& b) { return size_of(a.values.dtype()) > size_of(b.values.dtype()); });
  }
  return files;
}

}  // namespace yard
