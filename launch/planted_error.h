#pragma once

#include <map>
#include <string>

#include "launch/trainer.h"

namespace yard {

/// An error that tests plant into a probed run to see that verify-layout catches it (semantics, section 12). Each is a mistake that
/// parallel training is prone to; without one, nothing here does anything. Production code knows nothing of it.
class PlantedError {
 public:
  enum class Kind : std::uint8_t {
    none,
    expert_gradient_factor,  // gradients of experts times mesh.expert, as when averages and sums are mixed up
    balance_by_data_degree,  // the balance gradient times mesh.data
    rank_initial_values,     // initial values that depend on the rank
    rank_noise,              // router noise that depends on the rank
    rank_data_order,         // a data order that depends on the rank
    replicas_twice_in_norm,  // replicated values counted once a replica in the norms
    skip_empty_expert,       // a rank does not step experts for which it had no token
  };
  explicit PlantedError(Kind kind = Kind::none) : kind_(kind) {}
  /// The one named by SWITCHYARD_PLANT. Throws InputError for a name that is unknown.
  static PlantedError from_environment();

  /// Before the trainer is made.
  void change(RunConfig&, Mesh&) const;
  /// Between the sum of gradients and the optimizer.
  void change(StepReport&, ParameterStore&, GradientReducer&, Mesh&);
  /// After the optimizer.
  void change_values(ParameterStore&);

 private:
  Kind kind_;
  struct Kept {
    Tensor place;
    std::vector<float> values;
  };
  std::vector<Kept> unstepped_;
};

}  // namespace yard
