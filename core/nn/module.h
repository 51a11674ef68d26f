#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/context.h"
#include "core/nn/cost.h"

namespace yard {

/// dense: replicated on every rank; expert: each rank holds its own experts', replicated along the mesh's data axis.
enum class ParamKind : std::uint8_t { dense, expert };

/// How a parameter starts (semantics, section 4).
struct Init {
  enum class Kind : std::uint8_t { normal, ones, zeros };
  Kind kind = Kind::normal;
  float deviation = 0.02F;
  static Init normal(float deviation) { return {Kind::normal, deviation}; }
  static Init ones() { return {Kind::ones, 0}; }
  static Init zeros() { return {Kind::zeros, 0}; }
};

/// Which of optimizer.scale's factors a parameter's learning rate takes.
enum class RateClass : std::uint8_t { plain, router, expert, embedding };

/// Rows [row, row + rows) of a value are the whole global tensor `name`.
struct Slice {
  std::string name;
  Index row = 0, rows = 0;
};

/// A learned tensor. Modules declare it (shape, names); a ParameterStore gives it memory. Products like fused tensors, so one value may
/// hold several logical tensors as row ranges: initial values and checkpoints go by slice names, which never mention a layout (law 11).
struct Parameter {
  std::string name;
  ParamKind kind = ParamKind::dense;
  Shape shape;  // (rows, cols): matrices are (out, in); or (n): vectors
  Init init;
  bool full_precision = false;  // kept and used in f32 whatever the run's precision: norms, router, biases
  bool decay = true;
  RateClass rate = RateClass::plain;
  std::vector<Slice> slices;
  Tensor value;               // the run's precision, or f32
  Tensor grad;                // f32; empty where nothing is trained
  std::uint64_t version = 0;  // counts changes of the value: packed copies follow it

  /// A parameter that is one logical tensor.
  static Parameter whole(std::string name, Shape shape, Init init);
  /// A vector kept in f32, without weight decay.
  static Parameter vector(std::string name, Index length, Init init);
};

/// A value that is saved with the model but not optimised: selection bias, centroids, hash tables. Replicas hold the same.
struct State {
  std::string name;  // global, as a parameter's
  Tensor value;
  ParamKind kind = ParamKind::dense;
};

/// What forward leaves for backward: forward pushes, backward pops in reverse order (law 4). Typed: popping another type throws.
///
/// A tape whose entries are recomputed in backward is discarded after forward. What must not be computed twice, such as an exchange plan
/// with its host wait, is kept: the forward pass keeps values, and the recomputed pass takes them in the same order.
class Tape {
 private:
  struct Base {
    virtual ~Base() = default;
  };
  template <class S>
  struct Entry final : Base {
    explicit Entry(S value) : saved(std::move(value)) {}
    S saved;
  };
  template <class S>
  static S take(std::unique_ptr<Base> entry) {
    auto* typed = dynamic_cast<Entry<S>*>(entry.get());
    check(typed != nullptr, "backward asked the tape for another type than forward left there");
    return std::move(typed->saved);
  }

 public:
  using Kept = std::deque<std::unique_ptr<Base>>;

  Tape() = default;
  /// For the recomputed pass, with what the forward pass kept.
  explicit Tape(Kept kept) : kept_(std::move(kept)) {}
  /// For a forward pass that will be recomputed.
  static Tape for_recomputation() {
    Tape tape;
    tape.keeping_ = true;
    return tape;
  }

  template <class S>
  void push(S saved) {
    entries_.push_back(std::make_unique<Entry<S>>(std::move(saved)));
  }
  template <class S>
  S pop() {
    check(!entries_.empty(), "backward asked the tape for something that forward did not leave");
    auto entry = std::move(entries_.back());
    entries_.pop_back();
    return take<S>(std::move(entry));
  }
  /// Stores a value for the recomputed pass; does nothing where the pass is not recomputed.
  template <class S>
  void keep(S value) {
    if (keeping_) kept_.push_back(std::make_unique<Entry<S>>(std::move(value)));
  }
  /// The value that the forward pass kept at this point, in a recomputed pass; nothing in any other.
  template <class S>
  std::optional<S> reuse() {
    if (keeping_ || kept_.empty()) return std::nullopt;
    auto entry = std::move(kept_.front());
    kept_.pop_front();
    return take<S>(std::move(entry));
  }
  Kept take_kept() { return std::exchange(kept_, {}); }
  bool empty() const noexcept { return entries_.empty(); }
  std::size_t size() const noexcept { return entries_.size(); }

 private:
  std::vector<std::unique_ptr<Base>> entries_;
  Kept kept_;
  bool keeping_ = false;
};

/// A differentiable map of token rows, (N, C) to (N, C). Holds weights, never activations.
class Module {
 public:
  virtual ~Module() = default;
  virtual Tensor forward(Context&, const Tensor& x, Tape&) = 0;
  /// Returns dx; adds to the parameters' gradients (law 3).
  virtual Tensor backward(Context&, const Tensor& dy, Tape&) = 0;
  virtual void visit(const std::function<void(Parameter&)>&) = 0;
  virtual void visit_state(const std::function<void(State&)>&) {}
  /// Whether the output is f32 whatever the run's precision.
  virtual bool f32_output() const noexcept { return false; }
  /// What the module costs, whether its parameters have memory or not.
  virtual void visit_costs(const CostVisitor&) const = 0;
  /// After the optimizer's step; `skipped` when the guard dropped this update.
  virtual void after_step(Context&, bool skipped) { (void)skipped; }
};

}  // namespace yard
