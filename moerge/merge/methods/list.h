#pragma once
// All merge methods; merge_methods() has them in this order.

#include "moerge/merge/method.h"

namespace moerge {

extern const MergeMethod kLinear, kSlerp, kNuslerp, kMultislerp, kKarcher, kTaskArithmetic, kTies,
    kDareLinear, kDareTies, kDellaLinear, kDella, kBreadcrumbs, kBreadcrumbsTies, kSce, kModelStock,
    kNearswap, kArceeFusion, kRam, kRamPlusTl, kPassthrough;

}  // namespace moerge
