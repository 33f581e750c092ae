#pragma once
// What every output family's config.json takes from the base model's.

#include "moerge/base/json.h"
#include "moerge/model/model.h"
#include "moerge/tensor/dtype.h"

namespace moerge {

/// The base's config.json as one of `output`: its sizes and rope written out, since the defaults of another
/// class are other ones, and without the keys that belong to the base's own class. Rope and dtype are in the
/// older spelling (rope_theta, rope_scaling, torch_dtype), which transformers 4 and 5, vLLM and llama.cpp all
/// read.
Json base_config(const Model& base, const Architecture& output, DType dtype);

}  // namespace moerge
