#pragma once
// A model folder as the planners see it: what it is called, what it is, and its weights.

#include <filesystem>
#include <memory>
#include <string>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/architecture.h"
#include "moerge/model/config.h"

namespace moerge {

struct Model {
  std::string name;  // as the user wrote it
  std::filesystem::path folder;
  ModelConfig config;
  const Architecture* architecture;
  Checkpoint checkpoint;

  Model(std::string reference, const std::filesystem::path& path)
      : name(std::move(reference)),
        folder(path),
        config(read_model_config(path)),
        architecture(find_architecture(config.model_type)),
        checkpoint(path) {}

  const StoredTensor& tensor(Role role, int64_t layer = -1) const {
    return checkpoint.at(weight_name(weight_for(*architecture, role), layer));
  }
};

}  // namespace moerge
