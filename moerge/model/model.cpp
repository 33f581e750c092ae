#include "moerge/model/model.h"

#include <utility>

#include "moerge/model/adapter.h"
#include "moerge/model/gguf_model.h"
#include "moerge/model/mixture.h"
#include "moerge/model/quantization.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

std::optional<GgufFiles> open_if_gguf(const fs::path& path) {
  if (!fs::is_directory(path)) return open_gguf(path);
  const std::optional<fs::path> file = find_gguf(path);
  return file ? std::optional(open_gguf(*file)) : std::nullopt;
}

}  // namespace

Model::Model(std::string reference, const ModelLocation& location)
    : Model(std::move(reference), location, open_if_gguf(location.path)) {}

Model::Model(std::string reference, const ModelLocation& location, std::optional<GgufFiles> gguf)
    : name(std::move(reference)),
      hub_name(location.hub_name),
      adapter_hub_name(location.adapter_hub_name),
      path(gguf ? gguf->path : location.path),
      config(gguf ? gguf_model_config(*gguf) : read_model_config(path)),
      architecture(find_architecture(config.model_type)),
      checkpoint(gguf ? gguf_checkpoint(std::move(*gguf), config) : Checkpoint(path)) {
  dequantize_weights(config, checkpoint);
  if (is_mixture()) split_experts(checkpoint, *architecture, config);
  if (location.expert) become_expert(*location.expert);
  if (!location.adapter.empty()) apply_adapter(location.adapter, *architecture, config, checkpoint);
}

Model::Model(std::string model_name, const fs::path& place, const Json& config_json,
             std::vector<StoredTensor> tensors)
    : name(std::move(model_name)),
      path(place),
      config(parse_model_config(config_json, place.string())),
      architecture(find_architecture(config.model_type)),
      checkpoint(Checkpoint::of_tensors(place, std::move(tensors))) {
  if (is_mixture()) split_experts(checkpoint, *architecture, config);
}

void Model::become_expert(int64_t expert) {
  check_expert(config, expert, name);
  const Architecture& mixture = *architecture;
  architecture = find_architecture(mixture.mixture->expert_type);
  keep_expert(checkpoint, mixture, config, *architecture, expert);
  ModelConfig dense =
      parse_model_config(expert_config_json(config, mixture, *architecture, expert), config.where);
  dense.source = config.source;
  origin = ExpertOrigin{std::exchange(config, std::move(dense)), expert};
}

}  // namespace moerge
