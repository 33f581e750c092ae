#pragma once
// A model as the planners see it: what it is called, what it is, and its weights. A folder with config.json
// and safetensors or PyTorch files, or a GGUF file; nothing above has to know which.

#include <compare>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "moerge/formats/checkpoint.h"
#include "moerge/model/architecture.h"
#include "moerge/model/config.h"

namespace moerge {

/// ModelLocation::expert of what every token passes through.
inline constexpr int64_t kSharedExpert = -1;

/// Where a reference was found.
struct ModelLocation {
  std::filesystem::path path;          // a folder, or a GGUF file
  std::string hub_name = {};           // "org/name" when it came from the Hugging Face cache, else empty
  std::filesystem::path adapter = {};  // folder of a LoRA adapter on top of it; empty: none
  std::string adapter_hub_name = {};   // likewise
  std::optional<int64_t> expert = {};  // only this expert of a mixture, as a dense model

  auto operator<=>(const ModelLocation&) const = default;
};

/// Where an expert that stands alone was taken from.
struct ExpertOrigin {
  ModelConfig mixture;
  int64_t expert;
};

struct Model {
  std::string name;  // as the user wrote it
  std::string hub_name, adapter_hub_name;
  std::filesystem::path path;  // its folder or its GGUF file
  ModelConfig config;
  const Architecture* architecture;
  Checkpoint checkpoint;  // of a mixture: one tensor an expert and matrix, whatever the file's layout
  std::optional<ExpertOrigin> origin = {};

  /// Opens a folder with config.json and safetensors or PyTorch files, a GGUF file, or a folder that holds no
  /// other weights and one GGUF file. Throws input for what is damaged, unsupported for what moerge does not
  /// read, config for an expert that is not there.
  Model(std::string reference, const ModelLocation& location);

  /// A model that is nowhere on disk: `config_json` is its config.json. `place` is its path for messages, and
  /// what `tensors` come from must outlive this object. Throws as above.
  Model(std::string model_name, const std::filesystem::path& place, const Json& config_json,
        std::vector<StoredTensor> tensors);

  /// The metadata of a GGUF file, null for a folder.
  const GgufMetadata* gguf() const { return checkpoint.gguf(); }
  bool is_mixture() const { return architecture->mixture != nullptr; }
  const StoredTensor& tensor(Role role, int64_t layer = -1, int64_t expert = -1) const {
    return checkpoint.at(weight_name(weight_for(*architecture, role), layer, expert));
  }

 private:
  Model(std::string reference, const ModelLocation& location, std::optional<GgufFiles> gguf);
  void become_expert(int64_t expert);
};

}  // namespace moerge
