#pragma once
// The mixture that a plan describes, to be run before it is built.

#include <memory>

#include "moerge/moe/planner.h"

namespace moerge {

/// The model that the finished folder would hold, value for value: each weight is read (changed, rounded)
/// from its source when it is used. Reading a router waits for MoePlan::gates.
class PlannedModel {
 public:
  /// `moe` must outlive this object and stay where it is.
  explicit PlannedModel(const MoePlan& moe);
  PlannedModel(const PlannedModel&) = delete;
  PlannedModel& operator=(const PlannedModel&) = delete;

  const Model& model() const { return *model_; }

 private:
  Plan plan_;
  std::unique_ptr<Model> model_;
};

}  // namespace moerge
