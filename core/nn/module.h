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

/// dense: replicated on every rank; expert: sharded over the mesh's expert axis, replicated along its data axis.
enum class ParamKind : std::uint8_t { dense, expert };

/// How a parameter is initialised (semantics, section 4).
struct Init {
  enum class Kind : std::uint8_t { normal, ones, zeros };
  Kind kind = Kind::normal;
  float deviation = 0.02F;
  static Init normal(float deviation) { return {Kind::normal, deviation}; }
  static Init ones() { return {Kind::ones, 0}; }
  static Init zeros() { return {Kind::zeros, 0}; }
};

/// The factor of optimizer.scale that multiplies a parameter's learning rate.
enum class RateClass : std::uint8_t { plain, router, expert, embedding };

/// Rows [row, row + rows) of a value are the whole global tensor `name`.
struct Slice {
  std::string name;
  Index row = 0, rows = 0;
};

/// A learned tensor. Modules declare it (shape, names); a ParameterStore allocates it. One value may fuse several logical tensors as row
/// ranges, so that one GEMM computes all of them: initial values and checkpoints use slice names, which never mention a layout (law 11).
struct Parameter {
  std::string name;
  ParamKind kind = ParamKind::dense;
  Shape shape;  // (rows, cols): matrices are (out, in); or (n): vectors
  Init init;
  bool full_precision = false;  // stored and used in f32 regardless of the run's precision: norms, router, biases
  bool decay = true;
  RateClass rate = RateClass::plain;
  std::vector<Slice> slices;
  Tensor value;               // the run's precision, or f32
  Tensor grad;                // f32; empty where nothing is trained
  std::uint64_t version = 0;  // incremented when the value changes: invalidates packed copies

  /// A parameter that is one logical tensor.
  static Parameter whole(std::string name, Shape shape, Init init);
  /// A vector kept in f32, without weight decay.
  static Parameter vector(std::string name, Index length, Init init);
};

/// A value that is saved with the model but not optimised: selection bias, centroids, hash tables. Equal on all replicas.
struct State {
  std::string name;  // global, like a parameter's
  Tensor value;
  ParamKind kind = ParamKind::dense;
};

/// Values that forward saves for backward: forward pushes, backward pops in reverse order (law 4). Typed: popping another type throws
/// Error.
///
/// With recomputation, the tape of the forward pass is discarded and backward repeats the pass. Values that must not be computed twice,
/// such as an exchange plan with its host wait, are kept: the forward pass calls keep(), and the recomputed pass calls reuse() in the same
/// order.
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
  /// A tape for the recomputed pass, with the values that the forward pass kept.
  explicit Tape(Kept kept) : kept_(std::move(kept)) {}
  /// A tape for a forward pass that will be recomputed.
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
  /// Stores a value for the recomputed pass; does nothing if the pass will not be recomputed.
  template <class S>
  void keep(S value) {
    if (keeping_) kept_.push_back(std::make_unique<Entry<S>>(std::move(value)));
  }
  /// In a recomputed pass, the value that the forward pass kept at this point; otherwise nothing.
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
  /// Whether the output is f32 regardless of the run's precision.
  virtual bool f32_output() const noexcept { return false; }
  /// Reports the module's costs; its parameters need not be allocated.
  virtual void visit_costs(const CostVisitor&) const = 0;
  /// Called after the optimizer's step; `skipped`: the guard dropped this update.
  virtual void after_step(Context&, bool skipped) { (void)skipped; }
};

}  // namespace yard
