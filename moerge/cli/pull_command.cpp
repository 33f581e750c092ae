// moerge pull MODEL...: arguments, and the order in which things happen.

#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <memory>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/progress.h"
#include "moerge/base/terminal_text.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/cli/folder_flags.h"
#include "moerge/cli/moe_source.h"
#include "moerge/hub/cache_layout.h"
#include "moerge/hub/download.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kNotes = ".cache/huggingface/";  // what is noted about the files of a --local-dir
constexpr size_t kShownFiles = 8;

struct Arguments {
  std::vector<std::string> models, include, exclude;
  std::string repo_type = "model", cache, local_dir, only;
  int connections = DownloadOptions().connections;
  bool dry_run = false, json = false, quiet = false;
  int verbosity = 0;

  RepositoryKind kind() const {
    return repo_type == "model" ? RepositoryKind::model : RepositoryKind::dataset;
  }
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("MODEL", a.models,
                 "\"org/name\" or \"org/name@revision\" (a branch, a tag, a commit, refs/pr/3), as YAML "
                 "files have it: "
                 "\"#expert=3\" may\nfollow, and \"+org/adapter\", which is fetched as well")
      ->required();
  const std::string what = "What is fetched", where = "Where to", report = "What is reported";
  app.add_option("--repo-type", a.repo_type, "\"dataset\": the names are those of data sets (model)")
      ->check(CLI::IsMember({"model", "dataset"}))
      ->group(what);
  app.add_option("--include", a.include,
                 "only files with such a name: \"*.safetensors\", \"tokenizer*\"; repeatable")
      ->allow_extra_args(false)
      ->group(what);
  app.add_option("--exclude", a.exclude, "no files with such a name, \"original/*\"; repeatable")
      ->allow_extra_args(false)
      ->group(what);
  app.add_option(
         "--only", a.only,
         "\"ffn\": parts of the files, the FFNs' tensors, which `moerge moe --remote` then takes from here")
      ->check(CLI::IsMember({"ffn"}))
      ->group(what);
  app.add_option("--local-dir", a.local_dir, "put the files of one model here, under their names")
      ->group(where);
  app.add_option("--cache,--transformers-cache", a.cache, "use this folder instead of the Hugging Face cache")
      ->group(where);
  app.add_option("-j,--connections", a.connections, fmt::format("files at once ({})", a.connections))
      ->check(CLI::Range(1, 64))
      ->group(kWorkGroup);
  app.add_flag("--dry-run", a.dry_run, "say what would come, fetch nothing")->group(report);
  app.add_flag("--json", a.json, "print the result as JSON on stdout")->group(report);
  app.add_flag("--quiet,!--no-quiet", a.quiet, "warnings and errors only")->group(report);
  app.add_flag("-v,--verbose", a.verbosity, "say more")->group(report);
}

// The repositories that a reference needs: the model's, and after each "+" an adapter's; or a data set's.
std::vector<HubName> names_in(const std::string& reference, RepositoryKind kind) {
  if (kind == RepositoryKind::dataset) {
    const std::optional<HubName> name = parse_hub_name(reference, kind);
    if (!name)
      fail(ErrorKind::usage,
           "\"{}\" is no name of a data set on the Hub; expected \"org/name\" or \"org/name@revision\"",
           reference);
    return {*name};
  }
  std::vector<HubName> out;
  for (size_t start = 0; start <= reference.size();) {
    const size_t end = std::min(reference.find('+', start), reference.size());
    std::string part = reference.substr(start, end - start);
    if (start == 0) part = split_reference(part).model;
    const std::optional<HubName> name = parse_hub_name(part);
    std::error_code ignored;
    if (!name && fs::exists(part, ignored))
      fail(ErrorKind::usage, "\"{}\" is here already, as a file or folder: nothing is to be fetched", part);
    if (!name)
      fail(ErrorKind::usage,
           "\"{}\" is no name of a model on the Hub; expected \"org/name\" or \"org/name@revision\"", part);
    out.push_back(*name);
    start = end + 1;
  }
  return out;
}

bool matches_any(const std::string& path, const std::vector<std::string>& patterns) {
  return std::ranges::any_of(patterns,
                             [&](const std::string& pattern) { return matches_pattern(path, pattern); });
}

// One repository, and what is wanted of it.
struct Wanted {
  HubRepository repository;
  std::vector<HubFile> files;
  fs::path folder;
  int64_t missing = 0, received = 0;

  int64_t bytes() const {
    int64_t sum = 0;
    for (const HubFile& file : files) sum += file.size;
    return sum;
  }
  std::vector<Download> downloads() const {
    std::vector<Download> out;
    for (const HubFile& file : files) out.push_back({&repository, file});
    return out;
  }
};

class Pull {
 public:
  Pull(const Arguments& a, Reporter& reporter)
      : a_(a), reporter_(reporter), settings_(command_hub_settings(environment_of({.cache = a.cache}))) {
    options_ = {.cache = settings_.cache, .local_dir = a.local_dir, .connections = a.connections};
  }

  int run() {
    std::vector<HubName> names;
    for (const std::string& reference : a_.models)
      for (const HubName& name : names_in(reference, a_.kind()))
        if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    if (!a_.local_dir.empty() && names.size() > 1)
      fail(ErrorKind::usage, "--local-dir takes the files of one {}, {} are named: {}", kind_word(a_.kind()),
           names.size(), fmt::join(a_.models, ", "));
    for (const HubName& name : names) find(name);
    if (!a_.dry_run) fetch();
    report();
    return 0;
  }

 private:
  Hub& hub() {
    if (!hub_) hub_ = std::make_unique<Hub>(settings_, reporter_);
    return *hub_;
  }

  void find(const HubName& name) {
    const bool may_be_complete = a_.local_dir.empty() && (settings_.offline || is_commit(name.revision));
    if (may_be_complete && find_in_cache(name)) return;
    if (settings_.offline) fail_offline(name);
    Wanted& wanted = wanted_.emplace_back();
    wanted.repository = hub().repository(name);
    select(wanted);
    wanted.missing = find_missing(wanted.downloads(), options_).bytes;
  }

  // What needs no request. Without a list of the files, what is there counts as all, but only where the Hub
  // must not be asked.
  bool find_in_cache(const HubName& name) {
    std::optional<HubRepository> repository = cached_repository(options_.cache, name);
    const bool listed = repository.has_value();
    if (!listed && settings_.offline) repository = cached_snapshot(options_.cache, name);
    if (!repository) return false;
    Wanted& wanted = wanted_.emplace_back();
    wanted.repository = std::move(*repository);
    select(wanted);
    if (!listed) return true;
    const Missing missing = find_missing(wanted.downloads(), options_);
    if (missing.files.empty()) return true;
    if (settings_.offline)
      fail(ErrorKind::config,
           "\"{}\": {} of {} files ({}) are not in the cache {}, and HF_HUB_OFFLINE (or "
           "TRANSFORMERS_OFFLINE) is "
           "set: pull it once without",
           name.repository, missing.files.size(), wanted.files.size(), human_bytes(missing.bytes),
           options_.cache.string());
    wanted_.pop_back();
    return false;
  }

  [[noreturn]] void fail_offline(const HubName& name) const {
    if (!a_.local_dir.empty())
      fail(ErrorKind::config,
           "\"{}\" cannot be fetched into {}: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set",
           name.repository, a_.local_dir);
    fail(ErrorKind::config,
         "\"{}\" (revision \"{}\") is not in the cache {}, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is "
         "set: "
         "pull it once without",
         name.repository, name.revision, options_.cache.string());
  }

  // Of the repository's files those that --include and --exclude leave.
  void select(Wanted& wanted) {
    const HubRepository& repository = wanted.repository;
    bool notes = false;
    for (const HubFile& file : repository.files) {
      if (!a_.include.empty() && !matches_any(file.path, a_.include)) continue;
      if (matches_any(file.path, a_.exclude)) continue;
      if (!a_.local_dir.empty() && file.path.starts_with(kNotes))
        notes = true;
      else
        wanted.files.push_back(file);
    }
    if (notes)
      reporter_.warning(
          fmt::format("\"{}\" has files in {}, where notes about downloads are kept: they are left out",
                      repository.name.repository, kNotes));
    wanted.folder = download_folder(repository, options_);
    if (!wanted.files.empty()) return;
    if (repository.files.empty())
      fail(ErrorKind::config, "\"{}\" has no files at revision \"{}\"", repository.name.repository,
           repository.name.revision);
    std::string some;
    for (size_t i = 0; i < std::min(kShownFiles, repository.files.size()); i++)
      some += (i > 0 ? ", " : "") + repository.files[i].path;
    fail(ErrorKind::config, "--include and --exclude leave none of the {} files of \"{}\": {}{}",
         repository.files.size(), repository.name.repository, some,
         repository.files.size() > kShownFiles ? ", ..." : "");
  }

  void fetch() {
    std::vector<Download> downloads;
    for (const Wanted& wanted : wanted_) {
      reporter_.info(summary(wanted));
      const std::vector<Download> more = wanted.downloads();
      if (hub_ && !wanted.files[0].blob_id.empty())
        downloads.insert(downloads.end(), more.begin(), more.end());
    }
    if (hub_) received_ = download(*hub_, downloads, options_);
  }

  std::string summary(const Wanted& wanted) const {
    const HubName& name = wanted.repository.name;
    return fmt::format("{}@{}{}: {} files, {}; {}", name.repository, name.revision,
                       name.revision == wanted.repository.commit
                           ? ""
                           : fmt::format(" ({})", wanted.repository.commit.substr(0, 12)),
                       wanted.files.size(), human_bytes(wanted.bytes()),
                       wanted.missing > 0 ? human_bytes(wanted.missing) + " to come" : "all there");
  }

  void report() const {
    if (a_.json) return print_result(json_text(json()));
    std::string out;
    for (const Wanted& wanted : wanted_) {
      if (!a_.dry_run) {
        out += wanted.folder.string() + "\n";
        continue;
      }
      out += fmt::format("{}, into {}\n", summary(wanted), wanted.folder.string());
      for (const HubFile& file : wanted.files)
        out += fmt::format("  {:>9}  {}{}\n", human_bytes(file.size), file.path,
                           is_there(wanted, file) ? "  (there)" : "");
    }
    if (a_.dry_run) out = terminal_text(out) + "nothing was fetched (--dry-run)\n";
    print_result(out);
  }

  bool is_there(const Wanted& wanted, const HubFile& file) const {
    return file.blob_id.empty() ||
           find_missing(std::vector<Download>{{&wanted.repository, file}}, options_).files.empty();
  }

  Json json() const {
    Json models = Json::array();
    for (const Wanted& wanted : wanted_) {
      Json files = Json::array();
      for (const HubFile& file : wanted.files) {
        Json row = {{"path", file.path}, {"bytes", file.size}};
        if (a_.dry_run) row["there"] = is_there(wanted, file);
        files.push_back(std::move(row));
      }
      models.push_back({{a_.repo_type, wanted.repository.name.repository},
                        {"revision", wanted.repository.name.revision},
                        {"commit", wanted.repository.commit},
                        {"folder", wanted.folder.string()},
                        {"files", std::move(files)},
                        {"bytes", wanted.bytes()},
                        {"missing", wanted.missing}});
    }
    return {{a_.repo_type + "s", std::move(models)}, {"received", received_}};
  }

  const Arguments& a_;
  Reporter& reporter_;
  HubSettings settings_;
  DownloadOptions options_;
  std::unique_ptr<Hub> hub_;
  std::deque<Wanted> wanted_;  // its elements stay where they are
  int64_t received_ = 0;
};

int pull_ffn(const Arguments& a, Reporter& reporter) {
  if (a.kind() != RepositoryKind::model)
    fail(ErrorKind::usage, "--only fetches parts of models: --repo-type {} is not for it", a.repo_type);
  if (!a.include.empty() || !a.exclude.empty() || !a.local_dir.empty() || a.dry_run || a.json)
    fail(ErrorKind::usage,
         "--only fetches parts of files: --include, --exclude, --local-dir, --dry-run and --json are not for "
         "it");
  std::string folders;
  for (const std::string& reference : a.models) {
    ModelFetcher fetcher({.cache = a.cache, .fetch = Fetch::used}, reporter);
    folders += fetcher.fetch_ffn(reference).string() + "\n";
  }
  print_result(folders);
  return 0;
}

}  // namespace

int run_pull(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Fetches models from the Hugging Face Hub into the Hugging Face cache, where moerge and Python find "
      "them, or "
      "into a\nfolder. What is there is not fetched again; what was interrupted goes on. Prints each model's "
      "folder.\n\n"
      "examples:  moerge pull mistralai/Mistral-7B-v0.1\n"
      "           moerge pull org/base org/code@v2 --include \"*.safetensors\" --include \"*.json\"\n"
      "           moerge pull org/name --local-dir name\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(a.quiet ? Verbosity::quiet : a.verbosity > 0 ? Verbosity::verbose : Verbosity::normal);
  return a.only.empty() ? Pull(a, reporter).run() : pull_ffn(a, reporter);
}

}  // namespace moerge
