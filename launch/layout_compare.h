#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launch/probe_files.h"

namespace yard {

/// How far two layouts may differ, in f32 unless said otherwise: relative, but for the gap.
struct LayoutBounds {
  double loss = 1e-5;             // of the loss and the balance loss, at every step
  double loss_after_flip = 1e-4;  // from the first step in which a token was routed otherwise
  double norm = 1e-5;             // of the dense, router and expert gradients' norms, at step 1
  double checksum = 1e-4;         // of each tensor's gradient: its sum and its sum of squares, at step 1
  double gap = 1e-5;              // between the probabilities of the expert taken and the next one, where a token was routed otherwise
};

/// In bf16 the first step's gradients keep the bounds of f32, since every row is rounded alike in every layout. The update then brings
/// masters that differ in their last bits to bf16: a weight may fall on the other side, 2^-8 of it, and so may what follows.
LayoutBounds bounds_in(DType);

/// The largest of several differences, and where it was.
struct Worst {
  double value = 0;
  std::string where;
  void take(double candidate, const std::string& place) {
    if (!(candidate <= value)) {  // a NaN is the worst
      value = candidate;
      where = place;
    }
  }
};

/// Where two runs first sent tokens to other experts. In the first step with such tokens, only those of the first layer of a micro-step
/// count: those after it may follow from them.
struct RoutingFlip {
  Index step = 0, layer = 0;  // step from 1; the lowest MoE layer, from 0
  Index tokens = 0;           // that were routed otherwise there
  double gap = 0;             // the largest of their gaps
  Index choices_in_step = 0;  // of all layers, that changed in this step
};

struct LayoutComparison {
  Index steps = 0;
  Worst loss, balance;          // over all steps
  Worst dense, router, expert;  // norms at step 1
  Worst checksum;               // at step 1, the worst tensor's
  std::optional<Index> counts;  // the first step in which an expert got another number of tokens
  std::optional<RoutingFlip> flip;
  std::vector<std::string> broken;  // a sentence for each bound that does not hold; none: the layouts agree
};

/// Both runs' choices, walked side by side up to the first step in which they differ.
std::optional<RoutingFlip> first_flip(RoutingReader& reference, RoutingReader& other);

/// Compares the steps of a run with those of the reference.
///
/// Sums are compared on the scale of what rounding can do to them: the difference of two sums is divided by the larger of |sum| and
/// sqrt(sum of squares), because errors of n values that are independent add up to eps sqrt(sum of squares) where the sum itself may
/// cancel. A tensor whose gradient is below 1e-5 of the whole gradient's norm is compared with that instead: it is mostly rounding.
///
/// A token that was routed otherwise in step 1 changes gradients by its own share. Then the norms' bound is ten times as wide, as the
/// loss's is, and both bounds of gradients grow by four times the changed choices' share: of all choices for the norms, of one expert's
/// even part for a checksum. From the first flip on, the bound of the balance loss grows by the share of choices that changed. A flip whose
/// gap is more than rounding is an error and widens nothing.
LayoutComparison compare_layouts(const std::vector<ProbeStep>& reference, const std::vector<ProbeStep>& other,
                                 const std::optional<RoutingFlip>& flip, const LayoutBounds& bounds = {});

}  // namespace yard
