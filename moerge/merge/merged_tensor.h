#pragma once
// A tensor that no file holds: what a merge method makes of others, computed whenever somebody reads it.

#include <string>
#include <vector>

#include "moerge/formats/checkpoint.h"
#include "moerge/merge/method.h"

namespace moerge {

/// `inputs` are the job's, in its order. One that is larger than the job's shape counts with its first rows,
/// and of each with its first columns. Values of another type than the job's are rounded to that first. `how`
/// follows the names of the inputs in a plan. Memory while it is read: 256 kB an input and thread (or one
/// row, where that is more).
StoredTensor merged_tensor(MergeJob job, std::vector<StoredTensor> inputs, std::string how);

}  // namespace moerge
