#include "moerge/export/gguf_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/export/file_types.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/hub/card_source.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kHub = "https://huggingface.co/";
constexpr int64_t kMaxFound = 1000;  // base models, experts: more is damage

// What a size is good for, by bits a weight: the name of a type says less than what is in the file.
struct Use {
  double at_least;
  std::string_view text;
};
constexpr Use kUses[] = {
    {15, "nothing is lost; to quantise from, or to compare with"},
    {8, "as good as the unquantised model"},
    {6, "hardly any loss; where memory is no matter"},
    {5.2, "little loss; the choice where it fits"},
    {4.2, "good answers for its size; the usual choice"},
    {3.2, "noticeably weaker; where the next larger does not fit"},
    {2.2, "clearly weaker; to try a model that would not fit else"},
    {0, "for experiments"},
};

struct Entry {
  std::string name;  // of the file, of a split one its first part
  std::string type;
  int64_t bytes = 0, weights = 0, parameters = 0;  // of the files; of their tensors alone
  bool split = false;

  double bits() const {
    return parameters == 0 ? 0 : 8.0 * static_cast<double>(weights) / static_cast<double>(parameters);
  }
};

std::string type_of(const GgufMetadata& metadata) {
  const std::optional<int64_t> id = metadata.integer("general.file_type");
  for (const FileType& type : file_types())
    if (id && type.id == *id) return std::string(type.name);
  return "";
}

// A part of a split model that is not its first one.
bool is_later_part(const GgufMetadata& metadata) { return metadata.integer("split.no").value_or(0) > 0; }

// The models in a folder, largest last; `first` is the metadata of one of them.
struct Found {
  std::vector<Entry> entries;
  std::optional<GgufFiles> model;  // the first of them
};

Found find_models(const fs::path& folder) {
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (is_gguf_name(entry.path()) && entry.is_regular_file() &&
        !entry.path().filename().string().starts_with('.'))
      paths.push_back(entry.path());
  std::ranges::sort(paths);
  Found out;
  for (const fs::path& path : paths) {
    const MappedFile file(path);
    const GgufMetadata metadata = parse_gguf(file.bytes(), path.string()).metadata;
    const std::string* kind = metadata.string("general.type");
    if (is_later_part(metadata) || (kind && *kind != "model")) continue;  // an importance matrix, an adapter
    GgufFiles files = open_gguf(path);
    Entry entry = {
        .name = path.filename().string(), .type = type_of(files.metadata), .split = files.files.size() > 1};
    for (const auto& part : files.files) entry.bytes += std::ssize(part->bytes());
    for (const GgufFiles::Tensor& tensor : files.tensors) {
      entry.parameters += tensor.tensor.spec.elements();
      entry.weights += tensor.tensor.spec.bytes();
    }
    out.entries.push_back(std::move(entry));
    if (!out.model) out.model = std::move(files);
  }
  if (out.entries.empty())
    fail(ErrorKind::input, "{}: no model in it: no .gguf file that holds one", folder.string());
  std::ranges::stable_sort(out.entries, {}, &Entry::bytes);
  return out;
}

std::string text_in(const GgufMetadata& metadata, const std::string& key) {
  const std::string* text = metadata.string(key);
  return text ? *text : "";
}

int64_t number_in(const GgufMetadata& metadata, std::string_view key) {
  return metadata.integer(fmt::format("{}.{}", text_in(metadata, "general.architecture"), key)).value_or(0);
}

// Of a mixture: all but the experts that a token does not go to.
int64_t active_parameters(const GgufFiles& model, int64_t all) {
  const int64_t experts = number_in(model.metadata, "expert_count"),
                used = number_in(model.metadata, "expert_used_count");
  if (experts < 1 || used < 1 || used > experts) return all;
  for (const GgufFiles::Tensor& tensor : model.tensors) {
    const TensorSpec& spec = tensor.tensor.spec;
    if (spec.name.find("_exps.") != std::string::npos) all -= spec.elements() / experts * (experts - used);
  }
  return all;
}

// The Hub's names of what a model was merged from, as the converter keeps them.
std::vector<std::string> merged_from(const GgufMetadata& metadata) {
  std::vector<std::string> out;
  const int64_t count = std::min(metadata.integer("general.base_model.count").value_or(0), kMaxFound);
  for (int64_t i = 0; i < count; i++) {
    const std::string url = text_in(metadata, fmt::format("general.base_model.{}.repo_url", i));
    if (url.starts_with(kHub)) out.push_back(url.substr(kHub.size()));
  }
  return out;
}

CardLicense stated_license(const GgufMetadata& metadata) {
  const std::string id = text_in(metadata, "general.license");
  if (std::ranges::find(hub_licenses(), id) == hub_licenses().end() || id == "unknown") return {};
  if (id != "other") return {.id = id, .name = {}, .link = {}};
  const std::string link = text_in(metadata, "general.license.link");
  return {.id = id,
          .name = text_in(metadata, "general.license.name"),
          .link = link.find("://") == std::string::npos ? "" : link};
}

CardTable files_table(const std::vector<Entry>& entries) {
  CardTable table = {.columns = {"File", "Type", "Good for", "Size", "Bits a weight"}, .first_number = 3};
  for (const Entry& entry : entries) {
    const auto use =
        std::ranges::find_if(kUses, [&](const Use& row) { return entry.bits() >= row.at_least; });
    table.rows.push_back({card_code(entry.name), card_text(entry.type), card_text(std::string(use->text)),
                          card_text(human_bytes(entry.bytes)),
                          card_text(fmt::format("{:.1f}", entry.bits()))});
  }
  return table;
}

// The file that the examples take: the usual choice, or the middle one.
const Entry& example_of(const std::vector<Entry>& entries) {
  const auto usual = std::ranges::find(entries, "Q4_K_M", &Entry::type);
  return usual != entries.end() ? *usual : entries[entries.size() / 2];
}

std::vector<CardSection> usage(const std::vector<Entry>& entries, const std::string& repository,
                               bool mixture) {
  const Entry& example = example_of(entries);
  const std::string file = shell_word(example.name);
  const std::string tagged = repository + (example.type.empty() ? "" : ":" + example.type);
  std::vector<CardSection> out;
  CardSection& llama = out.emplace_back(CardSection{.heading = "llama.cpp"});
  if (!repository.empty())
    llama.blocks.push_back({"sh", fmt::format("llama-cli -hf {}\n", shell_word(tagged))});
  llama.blocks.push_back({"sh", fmt::format("llama-cli -m {}  # the file downloaded\n", file)});
  CardSection& moerge = out.emplace_back(CardSection{.heading = "moerge"});
  if (mixture)
    moerge.paragraphs.push_back({card_text("In the terminal, each word in the colour of its expert:")});
  moerge.blocks.push_back({"sh", fmt::format("moerge chat {}{}\n", file, mixture ? " --show-routing" : "")});
  CardText studio = {card_text("Put the file into LM Studio's folder of models")};
  if (!repository.empty())
    studio = {card_text("Search for "), card_code(repository), card_text(" and choose a file")};
  studio.push_back(card_text("; "));
  studio.push_back(card_code(example.name));
  studio.push_back(card_text(" is a good one to begin with."));
  out.push_back({.heading = "LM Studio", .paragraphs = {std::move(studio)}});
  if (example.split) return out;  // Ollama reads models of one file
  CardSection& ollama = out.emplace_back(CardSection{.heading = "Ollama"});
  if (!repository.empty())
    ollama.blocks.push_back({"sh", fmt::format("ollama run {}\n", shell_word("hf.co/" + tagged))});
  else
    ollama.blocks.push_back({"sh", fmt::format("echo FROM ./{} > Modelfile\n"
                                               "ollama create my-model -f Modelfile\n"
                                               "ollama run my-model\n",
                                               file)});
  return out;
}

std::string title_of(const fs::path& folder, const GgufCardOptions& options) {
  if (!options.title.empty()) return options.title;
  if (!options.repository.empty()) return options.repository.substr(options.repository.find('/') + 1);
  const fs::path whole = fs::weakly_canonical(folder);
  return (whole.has_filename() ? whole : whole.parent_path()).filename().string();
}

// A mixture that was made of other models has names for them.
void describe_experts(const GgufMetadata& metadata, int64_t experts, Card& card) {
  CardList list = {.intro = {card_text("Its experts:")}, .first = 0};
  for (int64_t i = 0; i < std::min(experts, kMaxFound); i++) {
    const std::string name = text_in(metadata, fmt::format("moerge.expert.{}.name", i));
    if (name.empty()) return;  // all have one, or none
    list.models.push_back({.name = {card_code(name)}});
  }
  card.tags.emplace_back("frankenmoe");
  card.models.push_back(std::move(list));
}

}  // namespace

Card make_gguf_card(const fs::path& folder, const GgufCardOptions& options) {
  const Found found = find_models(folder);
  const GgufMetadata& metadata = found.model->metadata;
  const int64_t experts = number_in(metadata, "expert_count");
  const int64_t parameters = found.entries.front().parameters;
  Card card = {.title = title_of(folder, options),
               .license = options.license.id.empty() ? stated_license(metadata) : options.license,
               .languages = options.languages,
               .tags = {"gguf"}};
  if (!options.source_repository.empty()) {
    card.base_models = {options.source_repository};
    card.base_model_relation = "quantized";
  } else {
    card.base_models = merged_from(metadata);
    if (card.base_models.size() > 1) card.base_model_relation = "merge";
  }
  if (experts > 0) card.tags.emplace_back("moe");
  const std::string name = text_in(metadata, "general.name");
  CardText intro = {card_text("GGUF files of ")};
  if (options.source_repository.empty())
    intro.push_back(card_code(name.empty() ? card.title : name));
  else
    intro.push_back(card_link(options.source_repository, options.source_repository));
  std::string what = fmt::format(", a model with {} parameters", human_count(parameters));
  if (experts > 0)
    what = fmt::format(
        ", a mixture of {} experts with {} parameters, {} of them active for a token ({} expert{} per token)",
        experts, human_count(parameters), human_count(active_parameters(*found.model, parameters)),
        number_in(metadata, "expert_used_count"), number_in(metadata, "expert_used_count") == 1 ? "" : "s");
  intro.push_back(card_text(what + ". They run in llama.cpp and what is built on it."));
  card.intro.push_back(std::move(intro));
  if (experts > 0) describe_experts(metadata, experts, card);
  card.sections.push_back({.heading = "Files", .table = files_table(found.entries)});
  card.usage = usage(found.entries, options.repository, experts > 0);
  return card;
}

std::string gguf_card(const fs::path& folder, const GgufCardOptions& options) {
  return render_card(make_gguf_card(folder, options));
}

}  // namespace moerge
