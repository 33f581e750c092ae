// moerge card FOLDER: arguments, and the order in which things happen.

#include <fmt/format.h>

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/partial_file.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/moe_source.h"
#include "moerge/export/gguf_card.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/hub/card_source.h"
#include "moerge/hub/evaluation.h"
#include "moerge/moe/card.h"

namespace moerge {
namespace {
namespace fs = std::filesystem;

struct Arguments {
  std::string folder, name, repository, license, license_name, license_link, source, routing, cache;
  std::vector<std::string> languages, evaluations, quantised;
  bool gguf = false, print = false, overwrite = false, quiet = false;
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("FOLDER", a.folder,
                 "a model folder, made by moerge or mergekit or anybody, or one of GGUF files")
      ->required();
  const char* const text = "What the card says";
  app.add_option("--name", a.name, "title (the folder's name)")->group(text);
  app.add_option("--repo", a.repository, "USER/NAME on the Hub, for the code that shows how to use it")
      ->group(text);
  app.add_option(
         "--license", a.license,
         "its identifier on the Hub: apache-2.0, cc-by-nc-4.0, ... (the one that the README.md of every "
         "model in it states)")
      ->group(text);
  app.add_option("--license-name", a.license_name, "with --license other: what it is called")->group(text);
  app.add_option("--license-link", a.license_link, "with --license other: where it can be read")->group(text);
  app.add_option("--language", a.languages, "languages, as a list: en,de")->delimiter(',')->group(text);
  app.add_option("--routing", a.routing, "what `moerge route --json` printed: a table of where tokens go")
      ->group(text);
  app.add_option("--eval", a.evaluations,
                 "results.json of `moerge eval` or the LM Evaluation Harness, again for each file")
      ->allow_extra_args(false)
      ->group(text);
  app.add_option("--quantized", a.quantised,
                 "USER/NAME of a repository with GGUF files of it, again for each")
      ->allow_extra_args(false)
      ->group(text);
  app.add_option("--source", a.source, "of GGUF files: USER/NAME of the model that they were made of")
      ->group(text);
  const char* const files = "Files";
  app.add_flag("--gguf", a.gguf,
               "the card of the folder's GGUF files, where it holds a model folder's files too")
      ->group(files);
  app.add_flag("--print", a.print, "print the card, write nothing")->group(files);
  app.add_flag("--overwrite", a.overwrite,
               "replace a README.md that moerge did not write, or that was edited")
      ->group(files);
  app.add_option("--transformers-cache", a.cache, "look for models here instead of the Hugging Face cache")
      ->group(files);
  app.add_flag("--quiet", a.quiet, "warnings and errors only")->group(files);
}

void check_repository(const std::string& flag, const std::string& value) {
  const std::string name = name_repositories(value).hub_name;
  if (!value.empty() && (name.empty() || name != value))
    fail(ErrorKind::usage, "{} {}: a repository like \"user/name\" is expected", flag, value);
}

void check_arguments(Arguments& a) {
  check_repository("--repo", a.repository);
  check_repository("--source", a.source);
  for (const std::string& repository : a.quantised) check_repository("--quantized", repository);
  if (!a.license.empty()) a.license = check_license(a.license);
  if (a.license != "other" && !(a.license_name.empty() && a.license_link.empty()))
    fail(ErrorKind::usage,
         "--license-name and --license-link describe a license that the Hub does not know: "
         "add --license other");
  if (!fs::is_directory(a.folder)) fail(ErrorKind::usage, "FOLDER \"{}\": there is no such folder", a.folder);
}

CardLicense license_flag(const Arguments& a) { return {a.license, a.license_name, a.license_link}; }

// What is there already.
struct Existing {
  std::string text;
  CardState state = CardState::foreign;
  std::optional<YamlNode> front;  // of a card that moerge wrote
};

Existing read_existing(const fs::path& folder) {
  Existing out;
  std::error_code ignored;
  if (!fs::exists(folder / kCardName, ignored)) return out;
  out.text = read_file(folder / kCardName, kMaxCard);
  out.state = card_state(out.text);
  if (out.state != CardState::foreign) out.front = read_front_matter(out.text);
  return out;
}

void check_existing(const Arguments& a, const Existing& existing) {
  std::error_code ignored;
  const fs::path file = fs::path(a.folder) / kCardName;
  if (a.print || a.overwrite || existing.state == CardState::ours || !fs::exists(file, ignored)) return;
  fail(
      ErrorKind::usage, "{} {}: --overwrite replaces it, --print shows the card and writes nothing",
      file.string(),
      existing.state == CardState::edited ? "was edited after moerge wrote it" : "was not written by moerge");
}

// What `moerge extract` wrote says which mixture the model was taken from; nothing else in the folder does.
void check_loss(const Arguments& a, const Existing& existing, const Card& made) {
  if (a.print || a.overwrite || existing.state != CardState::ours || !existing.front) return;
  const std::vector<std::string> tags = front_matter_list(*existing.front, "tags");
  const auto is_ours = [](const std::string& tag) { return tag == "moerge"; };
  if (std::ranges::none_of(tags, is_ours) || std::ranges::any_of(made.tags, is_ours)) return;
  fail(ErrorKind::usage,
       "{} says where this model was taken from, and the rest of the folder does not: --overwrite replaces "
       "it by a "
       "card without that",
       (fs::path(a.folder) / kCardName).string());
}

// A reference in a finished folder's YAML: a model that is here, else a name on the Hub. A card that the
// build wrote knows which of the names are repositories.
ModelLocation locate(const std::string& reference, const Arguments& a, const Existing& existing) {
  ModelLocation location;
  try {
    location = resolve_model(reference, a.folder, environment_of({.cache = a.cache}));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::config && error.kind() != ErrorKind::unsupported) throw;
    location = name_repositories(reference);
  }
  if (!existing.front) return location;
  const std::vector<std::string> known = front_matter_list(*existing.front, "base_model");
  for (std::string* name : {&location.hub_name, &location.adapter_hub_name})
    if (std::ranges::find(known, *name) == known.end()) name->clear();
  return location;
}

FolderCard folder_card(const Arguments& a, const Existing& existing) {
  std::vector<std::string> notes;
  CardInput input = read_card_input(a.folder, notes);
  if (!a.name.empty()) input.title = a.name;
  input.repository = a.repository;
  FolderCard out =
      make_card(input, [&](const std::string& reference) { return locate(reference, a, existing); });
  const CardLicense kept = existing.front ? front_matter_license(*existing.front) : CardLicense();
  const CardLicense said = a.license.empty() ? kept : license_flag(a);
  if (!said.id.empty()) out.card.license = said;
  if (said.id.empty() && !out.no_license.empty()) out.notes.push_back(out.no_license);
  out.card.languages = a.languages;
  out.card.quantised = a.quantised;
  out.notes.insert(out.notes.begin(), notes.begin(), notes.end());
  return out;
}

bool holds_gguf(const fs::path& folder) {
  return std::ranges::any_of(fs::directory_iterator(folder), [](const fs::directory_entry& entry) {
    return is_gguf_name(entry.path()) && entry.is_regular_file();
  });
}

Card card_of_files(const Arguments& a) {
  return make_gguf_card(a.folder, {.repository = a.repository,
                                   .source_repository = a.source,
                                   .license = license_flag(a),
                                   .title = a.name,
                                   .languages = a.languages});
}

FolderCard make(const Arguments& a, const Existing& existing) {
  const bool model = fs::exists(fs::path(a.folder) / "config.json");
  if (!model && !holds_gguf(a.folder))
    fail(ErrorKind::input, "{}: no config.json and no .gguf file in it: a model folder is expected",
         a.folder);
  const bool gguf = a.gguf || !model;
  if (!gguf && !a.source.empty())
    fail(ErrorKind::usage,
         "--source is for GGUF files, and {} is a model folder: add --gguf, or take it away", a.folder);
  if (gguf && !a.quantised.empty())
    fail(ErrorKind::usage, "--quantized is for the model that GGUF files were made of: take it away");
  FolderCard out = gguf ? FolderCard{.card = card_of_files(a)} : folder_card(a, existing);
  if (!a.routing.empty())
    out.card.sections.push_back(routing_section(read_json(a.routing, 64 << 20), a.routing));
  for (const std::string& file : a.evaluations) {
    const Json report = read_json(file, kMaxScoresFile);
    for (CardScore& score : parse_scores(report, file)) out.card.scores.push_back(std::move(score));
    for (CardSection& section : suite_sections(report)) out.card.sections.push_back(std::move(section));
  }
  return out;
}

}  // namespace

int run_card(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Writes the model card of a folder, FOLDER/README.md, from what lies in it: which models were merged "
      "and how, "
      "the numbers,\nthe YAML, how to use it, and the metadata that the Hugging Face Hub reads. `moerge moe` "
      "writes "
      "the same card by itself.\n\n"
      "examples:  moerge card Beyonder-4x7B --license cc-by-nc-4.0 --repo me/Beyonder-4x7B\n"
      "           moerge card Beyonder-4x7B --eval results.json --routing routing.json\n"
      "           moerge card Beyonder-4x7B-GGUF --repo me/Beyonder-4x7B-GGUF --source me/Beyonder-4x7B\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  check_arguments(a);
  Reporter reporter(a.quiet ? Verbosity::quiet : Verbosity::normal);
  const Existing existing = read_existing(a.folder);
  check_existing(a, existing);
  const FolderCard made = make(a, existing);
  check_loss(a, existing, made.card);
  const std::string text = render_card(made.card);
  for (const std::string& note : made.notes) reporter.info(note);
  if (a.print) return print_result(text), 0;
  PartialFile file(fs::path(a.folder) / kCardName);
  file.file().write_at(0, std::as_bytes(std::span(text)));
  file.commit();
  reporter.info(fmt::format("{} is written", (fs::path(a.folder) / kCardName).string()));
  return 0;
}

}  // namespace moerge
