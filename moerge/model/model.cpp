#include "moerge/model/model.h"

#include <utility>

#include "moerge/base/error.h"
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

ModelLocation canonical_location(ModelLocation location) {
  if (fs::is_directory(location.path)) {
    location.path = fs::weakly_canonical(location.path);
    location.path = find_gguf(location.path).value_or(location.path);
  } else {
    location.path =
        fs::weakly_canonical(fs::absolute(location.path).parent_path()) / location.path.filename();
  }
  if (!location.adapter.empty()) location.adapter = fs::weakly_canonical(location.adapter);
  return location;
}

Model::Model(std::string reference, const ModelLocation& location, Families families)
    : Model(std::move(reference), location, open_if_gguf(location.path), families) {}

Model::Model(std::string reference, const ModelLocation& location, std::optional<GgufFiles> gguf,
             Families families)
    : name(std::move(reference)),
      hub_name(location.hub_name),
      adapter_hub_name(location.adapter_hub_name),
      path(gguf ? gguf->path : location.path),
      config(gguf ? gguf_model_config(*gguf) : read_model_config(path, families)),
      architecture(find_architecture(config.model_type)),
      checkpoint(gguf ? gguf_checkpoint(std::move(*gguf), config) : Checkpoint(path)) {
  dequantize_weights(config, checkpoint);
  split_mixture(location.expert ? Families::known : families);
  if (location.expert) {
    if (!architecture)
      fail(ErrorKind::unsupported, "{}: experts cannot be taken out of a \"{}\"", config.where,
           config.model_type);
    become_expert(*location.expert);
  }
  if (location.adapter.empty()) return;
  if (!architecture)
    fail(ErrorKind::unsupported, "{}: adapters cannot be added to a \"{}\"", config.where, config.model_type);
  apply_adapter(location.adapter, *architecture, config, checkpoint);
}

Model::Model(std::string model_name, const fs::path& place, const Json& config_json,
             std::vector<StoredTensor> tensors, Families families)
    : name(std::move(model_name)),
      path(place),
      config(parse_model_config(config_json, place.string(), families)),
      architecture(find_architecture(config.model_type)),
      checkpoint(Checkpoint::of_tensors(place, std::move(tensors))) {
  split_mixture(families);
}

void Model::split_mixture(Families families) {
  if (is_mixture() && (families == Families::known || !architecture->mixture->always_stacked))
    split_experts(checkpoint, *architecture, config);
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
