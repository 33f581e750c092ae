#pragma once
// A model as the planners see it: what it is called, what it is, and its weights. A folder with config.json
// and safetensors or PyTorch files, or a GGUF file; nothing above has to know which.

#include <compare>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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

/// One spelling for every way to write a location. A GGUF file keeps its own name where that is a link (as in
/// the Hugging Face cache): the name says what it is.
ModelLocation canonical_location(ModelLocation location);

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
  const Architecture* architecture;  // null: a family without a table, see Families
  Checkpoint checkpoint;  // of a mixture: one tensor an expert and matrix, whatever the file's layout
  std::optional<ExpertOrigin> origin = {};

  /// Opens a folder with config.json and safetensors or PyTorch files, a GGUF file, or a folder that holds no
  /// other weights and one GGUF file. Throws input for what is damaged, unsupported for what moerge does not
  /// read, config for an expert that is not there.
  Model(std::string reference, const ModelLocation& location, Families families = Families::known);

  /// A model that is nowhere on disk: `config_json` is its config.json. `place` is its path for messages, and
  /// what `tensors` come from must outlive this object. Throws as above.
  Model(std::string model_name, const std::filesystem::path& place, const Json& config_json,
        std::vector<StoredTensor> tensors, Families families = Families::known);

  /// The metadata of a GGUF file, null for a folder.
  const GgufMetadata* gguf() const { return checkpoint.gguf(); }
  bool is_mixture() const { return architecture && architecture->mixture; }
  const StoredTensor& tensor(Role role, int64_t layer = -1, int64_t expert = -1) const {
    return checkpoint.at(weight_name(weight_for(*architecture, role), layer, expert));
  }

 private:
  Model(std::string reference, const ModelLocation& location, std::optional<GgufFiles> gguf,
        Families families);
  /// Into one tensor an expert, unless the family is stored in no other way and is to be taken as it is.
  void split_mixture(Families families);
  void become_expert(int64_t expert);
};

/// A model that somebody opened, perhaps one that is on no disk: what a merge makes of others.
struct OpenedModel {
  std::shared_ptr<const Model> model;      // keeps alive what it is made of
  std::vector<const Model*> made_of = {};  // where it is on no disk
};

}  // namespace moerge
