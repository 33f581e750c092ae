#pragma once
// Reinforced agent merging: differences that one model alone has are added whole, those that several have are
// averaged. Yuan et al., https://arxiv.org/abs/2601.13572

#include <memory>

#include "moerge/merge/method.h"

namespace moerge {

constexpr ParameterSpec ram_epsilon() {
  return {"epsilon", ParameterSpec::Type::number, ParameterSpec::Scope::tensor, 1e-5,
          "smaller differences count as none"};
}

/// `amplifies`: what a model alone has grows with the share that it has in common with others, by its
/// parameters r and alpha.
std::unique_ptr<TensorMerge> make_reinforced(const MergeJob& job, bool amplifies);

}  // namespace moerge
