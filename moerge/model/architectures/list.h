#pragma once
// The families, one file each. To add one: a file beside this one, a line here, a line in architecture.cpp.

#include "moerge/model/architecture.h"

namespace moerge {

extern const Architecture kLlama;
extern const Architecture kMistral;

}  // namespace moerge
