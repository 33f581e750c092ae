#pragma once
// A model folder as the planners see it: what it is called, what it is, and its weights.

#include <filesystem>
#include <memory>
#include <string>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/architecture.h"
#include "moerge/model/config.h"

namespace moerge {

/// Where a reference was found.
struct ModelLocation {
  std::filesystem::path folder;
  std::string hub_name = {};  // "org/name" when it came from the Hugging Face cache, else empty
};

struct Model {
  std::string name;  // as the user wrote it
  std::string hub_name;
  std::filesystem::path folder;
  ModelConfig config;
  const Architecture* architecture;
  Checkpoint checkpoint;

  Model(std::string reference, const ModelLocation& location)
      : name(std::move(reference)),
        hub_name(location.hub_name),
        folder(location.folder),
        config(read_model_config(location.folder)),
        architecture(find_architecture(config.model_type)),
        checkpoint(location.folder) {}

  const StoredTensor& tensor(Role role, int64_t layer = -1) const {
    return checkpoint.at(weight_name(weight_for(*architecture, role), layer));
  }
};

}  // namespace moerge
