#include "parallel/checkpoint/reader.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "core/io/file.h"
#include "core/io/json.h"
#include "core/io/safetensors.h"
#include "core/ops/elementwise.h"
#include "parallel/checkpoint/contents.h"
#include "parallel/checkpoint/hugging_face.h"

namespace yard {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kSingleFile = "model.safetensors";

/// Readers of a folder's files, opened when first asked for.
class Files {
 public:
  explicit Files(fs::path folder) : folder_(std::move(folder)) {}
  const SafetensorsReader& open(const std::string& name) {
    auto& reader = readers_[name];
    if (!reader) reader = std::make_unique<SafetensorsReader>((folder_ / name).string());
    return *reader;
  }

 private:
  fs::path folder_;
  std::map<std::string, std::unique_ptr<SafetensorsReader>> readers_;
};

/// The file of each tensor of a model, by name. As transformers resolves it: model.safetensors if it exists, else those of the index; an
/// index beside model.safetensors is of an earlier, larger save.
std::map<std::string, std::string> files_of_tensors(const fs::path& folder, Files& files) {
  std::map<std::string, std::string> where;
  if (path_exists((folder / kSingleFile).string())) {
    for (const auto& entry : files.open(kSingleFile).entries()) where[entry.name] = kSingleFile;
    return where;
  }
  const std::string path = (folder / "model.safetensors.index.json").string();
  const json index = parse_json(read_text_file(path));
  check_input(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(), "", path,
              " has no weight_map: it is damaged");
  for (const auto& [name, in] : index["weight_map"].items()) {
    check_input(in.is_string(), "", path, " names no file for ", name, ": it is damaged");
    const auto text = in.get<std::string>();
    check_input(text.find('/') == std::string::npos, "", path, " names a file outside of its folder, ", text);
    where[name] = text;
  }
  return where;
}

/// A model's tensors by the names in its files.
class ModelFiles {
 public:
  explicit ModelFiles(const fs::path& folder)
      : folder_(folder),
        files_(folder),
        names_(names_of_family(read_hugging_face_config(folder.string()).family)),
        where_(files_of_tensors(folder, files_)) {
    const auto named = [&](const auto& entry) { return entry.first.starts_with(kPrefix); };
    base_ = std::none_of(where_.begin(), where_.end(), named);
  }

  /// The location of one of our tensors in the files; `tensor` is empty if it is missing.
  StoredPart find(const std::string& name) const {
    for (StoredPart& place : names_.places(name)) {
      // A base model (MixtralModel instead of MixtralForCausalLM) is saved without the prefix.
      if (base_ && place.tensor.starts_with(kPrefix)) place.tensor.erase(0, kPrefix.size());
      if (where_.contains(place.tensor)) return place;
    }
    return {};
  }
  /// The name that the tensor should have in the files.
  std::string stored_name(const std::string& name) const {
    std::string stored = names_.stored(name);
    if (base_ && stored.starts_with(kPrefix)) stored.erase(0, kPrefix.size());
    return stored;
  }
  const SafetensorsEntry& entry(const std::string& tensor) { return files_.open(where_.at(tensor)).entry(tensor); }
  void read(const StoredPart& place, const Tensor& out) {
    const Index item = std::max<Index>(0, place.item);
    const Index first = (item * place.parts + place.part) * out.elements();
    files_.open(where_.at(place.tensor)).read_elements(place.tensor, first, out);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, file] : where_) all.push_back(name);
    return all;
  }
  std::string folder() const { return folder_.string(); }

 private:
  static constexpr std::string_view kPrefix = "model.";
  fs::path folder_;
  Files files_;
  NameTable names_;
  std::map<std::string, std::string> where_;
  bool base_ = false;  // no name has the prefix "model."
};

/// Fills values by `read`, which writes host memory, wherever they lie.
template <class Read>
void fill(Stream& stream, const Tensor& values, const Read& read) {
  if (values.device().type == DeviceType::cpu) return read(values);
  const Tensor on_host = Tensor::on_host(stream, values.shape(), values.dtype());
  read(on_host);
  stream.copy(values.raw(), on_host.raw(), values.bytes());
  stream.synchronize();  // what was read must live as long as that
}

/// The shape that a tensor has in its file.
std::vector<Index> stored_shape(const std::vector<Index>& ours, const StoredPart& stored, Index experts) {
  if (stored.item < 0) return ours;
  std::vector<Index> shape = {experts, stored.parts * ours[0]};
  shape.insert(shape.end(), ours.begin() + 1, ours.end());
  return shape;
}

std::string shape_text(const std::vector<Index>& shape) {
  SafetensorsEntry entry;
  entry.shape = shape;
  return entry.shape_text();
}

/// The first few of a list, and how many more there are.
std::string listed(const std::vector<std::string>& items) {
  constexpr std::size_t kShown = 8;
  std::string text;
  for (std::size_t i = 0; i < std::min(items.size(), kShown); ++i) text += (i == 0 ? "" : ", ") + items[i];
  return items.size() > kShown ? text + " and " + std::to_string(items.size() - kShown) + " more" : text;
}

/// Names of the same tensor for each of the experts, from that of one.
std::vector<std::string> for_all_experts(const std::string& name, Index experts) {
  const std::string mark = ".experts.";
  const std::size_t at = name.find(mark);
  if (at == std::string::npos) return {name};
  const std::size_t end = name.find('.', at + mark.size());
  std::vector<std::string> names;
  for (Index e = 0; e < experts; ++e) names.push_back(name.substr(0, at + mark.size()) + std::to_string(e) + name.substr(end));
  return names;
}

/// What of the model the files lack or have beyond it, and where this rank's tensors have another shape.
void check_names(ModelFiles& files, const ParameterStore& store, const std::vector<State*>& states, Index experts, bool tied_output) {
  std::set<std::string> used;
  std::vector<std::string> missing;
  std::vector<std::string> misshapen;
  std::vector<std::string> mistyped;
  const auto see = [&](const std::string& name, const std::vector<Index>* shape, bool whole_numbers = false) {
    const StoredPart place = files.find(name);
    if (place.tensor.empty()) {
      missing.push_back(files.stored_name(name));
      return;
    }
    used.insert(place.tensor);
    if (shape == nullptr) return;
    const auto wanted = stored_shape(*shape, place, experts);
    const SafetensorsEntry& entry = files.entry(place.tensor);
    const bool real = entry.dtype == "F32" || entry.dtype == "BF16" || entry.dtype == "F16" || entry.dtype == "F64";
    if (!real && !whole_numbers) mistyped.push_back(place.tensor + " is " + entry.dtype);
    if (entry.shape != wanted) misshapen.push_back(place.tensor + " is " + entry.shape_text() + " instead of " + shape_text(wanted));
  };
  for (const FlatBuffer& buffer : store.buffers()) {
    std::set<std::string> seen;
    for (const OwnPiece& piece : pieces_of(buffer, 0, 0, buffer.used())) {
      see(piece.name, &piece.shape);
      seen.insert(piece.name);
    }
    if (buffer.kind != ParamKind::expert) continue;
    std::set<std::string> all;
    for (const std::string& name : seen) {
      for (std::string& each : for_all_experts(name, experts)) all.insert(std::move(each));
    }
    for (const std::string& name : all) {
      if (!seen.contains(name)) see(name, nullptr);
    }
  }
  for (const State* state : states) {
    std::vector<Index> shape;
    for (int axis = 0; axis < state->value.shape().rank(); ++axis) shape.push_back(state->value.shape()[axis]);
    see(state->name, &shape, state->value.dtype() == DType::i32 || state->value.dtype() == DType::i64);
    if (state->kind != ParamKind::expert) continue;
    for (const std::string& each : for_all_experts(state->name, experts)) see(each, nullptr);
  }
  std::vector<std::string> left;
  for (const std::string& name : files.names()) {
    if (!used.contains(name) && !may_be_left_over(name, tied_output)) left.push_back(name);
  }
  if (missing.empty() && left.empty() && misshapen.empty() && mistyped.empty()) return;
  std::string sentence = "the model in " + files.folder() + " is not the one that the configuration describes";
  if (!missing.empty()) sentence += "; missing: " + listed(missing);
  if (!left.empty()) sentence += "; left over: " + listed(left);
  if (!misshapen.empty()) sentence += "; of another shape: " + listed(misshapen);
  if (!mistyped.empty()) sentence += "; not in f32, bf16 or f16: " + listed(mistyped);
  fail_input("", sentence);
}

/// The number in "experts.12.": one past it, or 0 if there is none.
Index count_from(const std::string& name, std::string_view before) {
  const std::size_t at = name.find(before);
  if (at == std::string::npos) return 0;
  const std::string digits = name.substr(at + before.size(), name.find('.', at + before.size()) - at - before.size());
  if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string::npos) return 0;
  return std::stoll(digits) + 1;
}

}  // namespace

StoredSizes stored_sizes(const std::string& folder) {
  ModelFiles files{fs::path(folder)};
  StoredSizes sizes;
  for (const std::string& name : files.names()) {
    const SafetensorsEntry& entry = files.entry(name);
    sizes.layers = std::max(sizes.layers, count_from(name, "layers."));
    sizes.experts = std::max(sizes.experts, count_from(name, ".experts."));
    if (name.ends_with(".experts.down_proj") && !entry.shape.empty()) sizes.experts = std::max(sizes.experts, entry.shape[0]);
    sizes.values += entry.elements();
  }
  if (const StoredPart embedding = files.find("model.embed_tokens.weight"); !embedding.tensor.empty()) {
    const SafetensorsEntry& entry = files.entry(embedding.tensor);
    if (entry.shape.size() == 2) {
      sizes.vocabulary = entry.shape[0];
      sizes.width = entry.shape[1];
    }
  }
  return sizes;
}

std::vector<std::string> model_files(const std::string& folder) {
  Files files{fs::path(folder)};
  std::set<std::string> names;
  for (const auto& [tensor, file] : files_of_tensors(folder, files)) names.insert(file);
  return {names.begin(), names.end()};
}

void load_model(Stream& stream, const std::string& folder, ParameterStore& store, const std::vector<State*>& states, Index experts,
                bool tied_output, ShardedAdamW* optimizer) {
  ModelFiles files{fs::path(folder)};
  check_names(files, store, states, experts, tied_output);
  const auto read = [&](const std::string& name, const Tensor& out) {
    fill(stream, out, [&, place = files.find(name)](const Tensor& values) { files.read(place, values); });
  };
  for (std::size_t b = 0; b < store.buffers().size(); ++b) {
    const FlatBuffer& buffer = store.buffers()[b];
    // Read in f32 and rounded once into the value: masters keep what a checkpoint in f32 holds beyond bf16.
    const Tensor wide = buffer.value.dtype() == DType::f32 ? buffer.value : Tensor::zeros(stream, buffer.value.shape());
    for (const OwnPiece& piece : pieces_of(buffer, 0, 0, buffer.used())) read(piece.name, wide.row_range(piece.in_share, piece.count));
    if (wide.raw() == buffer.value.raw()) continue;
    ops::copy_into(stream, wide, buffer.value);
    if (optimizer != nullptr) {
      const Tensor& master = optimizer->shares()[b].master;
      ops::copy_into(stream, wide.row_range(optimizer->first(b), master.elements()), master);
    }
  }
  for (State* state : states) read(state->name, state->value);
  store.changed();
}

void load_optimizer(Stream& stream, const std::string& folder, const CheckpointState& state, ParameterStore& store, Mesh& mesh,
                    ShardedAdamW& optimizer) {
  std::map<std::string, std::vector<const CheckpointState::Piece*>> stored;
  for (const auto& piece : state.optimizer()) stored[piece.parameter()].push_back(&piece);
  Files files{fs::path(folder)};
  for (std::size_t b = 0; b < store.buffers().size(); ++b) {
    const FlatBuffer& buffer = store.buffers()[b];
    const auto& share = optimizer.shares()[b];
    const Index count = buffer.value.elements() / mesh.replicas(buffer.kind).size();
    for (const OwnPiece& own : pieces_of(buffer, static_cast<Index>(b), optimizer.first(b), count)) {
      const auto take = [&](const std::string& kind, const Tensor& values) {
        Index filled = 0;
        for (const auto* piece : stored[own.name]) {
          const Index from = std::max<Index>(own.first, piece->first());
          const Index to = std::min<Index>(own.first + own.count, piece->first() + piece->count());
          const auto file = piece->files().find(kind);
          if (from >= to || file == piece->files().end()) continue;
          const std::string key = kind + "." + own.name + (piece->whole() ? "" : "::" + std::to_string(piece->first()));
          fill(stream, values.row_range(own.in_share + from - own.first, to - from),
               [&](const Tensor& part) { files.open(file->second).read_elements(key, from - piece->first(), part); });
          filled += to - from;
        }
        check_input(filled == own.count, "the optimizer of ", folder, " has ", filled, " of ", own.count, " values of ", kind, ".",
                    own.name, " that are needed: it was written by another model, or start from its weights with init.checkpoint");
      };
      take("exp_avg", share.first);
      take("exp_avg_sq", share.second);
      if (buffer.value.dtype() != DType::f32) take("master", share.master);
    }
  }
}

}  // namespace yard
