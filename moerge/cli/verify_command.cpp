// moerge verify OUT: is a model folder still what was built?

#include <fmt/format.h>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/folder_flags.h"
#include "moerge/cli/moe_source.h"
#include "moerge/plan/verify_folder.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr size_t kShownFindings = 40;

struct Arguments {
  std::string model;
  SourceOptions how;
  int threads = default_threads();
  bool sources = false, json = false, quiet = false;
};

void add_flags(CLI::App& app, Arguments& a) {
  const std::string what = "What is compared", report = "What is reported";
  app.add_option("OUT", a.model,
                 "what a build with --verify wrote: a folder, or a model in the Hugging Face cache")
      ->required();
  app.add_flag("--sources", a.sources,
               "hash what it was made of as well: models that are still where the YAML names them, seen from "
               "the\nworking folder or the one that OUT lies in")
      ->group(what);
  app.add_option("--transformers-cache", a.how.cache,
                 "look for models here instead of the Hugging Face cache")
      ->group(what);
  app.add_option("-j,--threads,--num-threads", a.threads, "threads (all cores)")
      ->check(CLI::Range(1, 1024))
      ->group(kWorkGroup);
  app.add_flag("--json", a.json, "print the result as JSON on stdout")->group(report);
  app.add_flag("--quiet,!--no-quiet", a.quiet, "print only what is not right")->group(report);
}

fs::path find_folder(const Arguments& a) {
  std::error_code ignored;
  const fs::path folder = fs::is_directory(a.model, ignored)
                              ? fs::path(a.model)
                              : resolve_model(a.model, {}, environment_of(a.how)).path;
  if (!fs::is_directory(folder, ignored))
    fail(ErrorKind::unsupported, "{} is a file: `moerge verify` compares model folders with their {}",
         a.model, kManifestName);
  return folder;
}

// What can be said without checksums.
[[noreturn]] void refuse_without_manifest(const Arguments& a, const fs::path& folder) {
  const std::string start =
      fmt::format("{}: no {} in it, so its bytes cannot be checked: a build with --verify writes one",
                  a.model, kManifestName);
  std::string rest;
  try {
    const Checkpoint checkpoint(folder);
    rest = fmt::format("its headers and index are in order: {} tensors, {}", checkpoint.tensors().size(),
                       human_bytes(checkpoint.bytes()));
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    rest = "what can be checked is not in order: " + error.message();
  }
  fail(ErrorKind::input, "{}\n{}", start, rest);
}

OpenSource source_opener(const Arguments& a, const fs::path& folder) {
  return [&a, beside = fs::weakly_canonical(folder).parent_path()](
             const std::string& name) -> std::unique_ptr<Model> {
    std::optional<ModelLocation> location;
    try {
      location = resolve_model(name, beside, environment_of(a.how));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::config) throw;
      return nullptr;  // it is nowhere
    }
    return std::make_unique<Model>(name, *location);
  };
}

Json findings_json(const std::vector<VerifyFinding>& findings) {
  Json out = Json::array();
  for (const VerifyFinding& finding : findings) {
    Json row = {{"kind", finding.kind}, {"text", finding.text}};
    if (!finding.file.empty()) row["file"] = finding.file;
    if (!finding.tensors.empty()) row["tensors"] = finding.tensors;
    out.push_back(std::move(row));
  }
  return out;
}

Json report_json(const Arguments& a, const Manifest& manifest, const VerifyReport& report) {
  return {{"folder", a.model},
          {"right", report.problems.empty()},
          {"moerge_version", manifest.moerge_version},
          {"tensors", report.tensors},
          {"tensors_right", report.right},
          {"files", report.files},
          {"bytes", report.bytes},
          {"seconds", report.seconds},
          {"problems", findings_json(report.problems)},
          {"notes", findings_json(report.notes)}};
}

std::string findings_text(const std::vector<VerifyFinding>& findings, std::string_view start) {
  std::string out;
  for (size_t i = 0; i < std::min(findings.size(), kShownFindings); i++)
    out += fmt::format("{}{}\n", start, findings[i].text);
  if (findings.size() > kShownFindings)
    out += fmt::format("{}{} more (--json lists all)\n", start, findings.size() - kShownFindings);
  return out;
}

std::string report_text(const Arguments& a, const VerifyReport& report) {
  std::string out = findings_text(report.problems, "wrong: ");
  if (a.quiet) return out;
  out += findings_text(report.notes, "note: ");
  const auto rate = static_cast<int64_t>(static_cast<double>(report.bytes) / std::max(report.seconds, 1e-3));
  const std::string work = fmt::format("{} hashed in {:.1f} s, {}/s", human_bytes(report.bytes),
                                       report.seconds, human_bytes(rate));
  const std::string weights =
      report.right == report.tensors
          ? fmt::format("all {} tensors are as they were built", report.tensors)
          : fmt::format("{} of {} tensors are as they were built", report.right, report.tensors);
  return out + fmt::format("{}: {}: {} ({})\n", a.model, report.problems.empty() ? "right" : "NOT right",
                           weights, work);
}

}  // namespace

int run_verify(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Compares a model folder with the checksums that a build with --verify left in it: flipped bits, cut "
      "or "
      "missing files,\nchanged headers, a tensor that holds another one's bytes, an index that points "
      "elsewhere. Needs none of the models\nit was made of. Exit code 0 when the weights are right and all "
      "that they need is there, 1 when not; docs/verify.md.\n\n"
      "examples:  moerge moe moe.yaml merge --verify; moerge verify merge\n"
      "           moerge pull me/my-moe --local-dir my-moe; moerge verify my-moe\n"
      "           moerge verify merge --sources --json\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(a.quiet ? Verbosity::quiet : Verbosity::normal);
  const fs::path folder = find_folder(a);
  if (std::error_code ignored; !fs::exists(folder / kManifestName, ignored))
    refuse_without_manifest(a, folder);
  const Manifest manifest = read_manifest(folder);
  const HashOptions options = {.threads = a.threads, .reporter = reporter};
  VerifyReport report = verify_folder(folder, manifest, options);
  if (a.sources) verify_sources(manifest, source_opener(a, folder), options, report);
  print_result(a.json ? json_text(report_json(a, manifest, report)) : printable(report_text(a, report)));
  return report.problems.empty() ? 0 : 1;
}

}  // namespace moerge
