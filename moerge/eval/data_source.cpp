#include "moerge/eval/data_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/hub/cache_layout.h"
#include "moerge/hub/card_source.h"
#include "moerge/hub/download.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kExport = "refs/convert/parquet";  // where the Hub keeps data sets as Parquet files
constexpr size_t kMaxFiles = 200'000;
constexpr std::array kKinds = {".jsonl", ".json", ".parquet"};

bool is_file(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::optional<fs::path> data_file(const std::string& stem) {
  for (const char* kind : kKinds)
    if (is_file(stem + kind)) return stem + kind;
  return {};
}

std::vector<Document> read_all(const std::vector<fs::path>& files, const std::string& task) {
  std::vector<Document> out;
  for (const fs::path& file : files)
    for (Document& document : read_documents(file, task, out.size())) out.push_back(std::move(document));
  return out;
}

bool needs_fewshot(const Task& task, int64_t shots) { return shots > 0 && !task.data.fewshot_split.empty(); }

bool is_same_split(const Task& task) { return task.data.fewshot_split == task.data.test_split; }

// The files of a repository's folder, as its listing would name them.
std::vector<std::string> list_files(const fs::path& folder) {
  std::vector<std::string> out;
  std::error_code error;
  for (fs::recursive_directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (!at->is_regular_file()) continue;
    out.push_back(at->path().lexically_relative(folder).generic_string());
    if (out.size() > kMaxFiles) fail(ErrorKind::input, "{}: too many files", folder.string());
  }
  return out;
}

}  // namespace

DataSource::DataSource(DataOptions options, Reporter& reporter)
    : options_(std::move(options)), reporter_(reporter) {}

DataSource::~DataSource() = default;

TaskDocuments DataSource::load(const Task& task, int64_t shots) {
  const bool with_fewshot = needs_fewshot(task, shots);
  const auto find_splits = [&] {
    try {
      if (!task.data.files.empty()) return in_files(task, with_fewshot);
      return options_.folder.empty() ? on_hub(task, with_fewshot) : in_copy(task, with_fewshot);
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::interrupted) throw;
      fail(error.kind(), "{}: {}", task.task, error.message());
    }
  };
  if (!options_.folder.empty())
    if (std::optional<TaskDocuments> found = in_folder(task, with_fewshot)) return std::move(*found);
  const Splits splits = find_splits();
  TaskDocuments out = {.test = read_all(splits.test, task.task), .fewshot = {}, .revision = splits.commit};
  if (with_fewshot) out.fewshot = is_same_split(task) ? out.test : read_all(splits.fewshot, task.task);
  return out;
}

// ---------------------------------------------------------------------------------------- files of the
// user's

std::optional<TaskDocuments> DataSource::in_folder(const Task& task, bool with_fewshot) const {
  const std::string& name = task.task;
  if (!is_safe_path(name)) return {};
  // Where its rows may be, and which of them.
  struct Place {
    std::string stem, subject;
  };
  std::vector<Place> places = {{(options_.folder / name).string(), ""}};
  for (size_t at = name.find('_'); at != std::string::npos; at = name.find('_', at + 1)) {
    const std::string group = name.substr(0, at), rest = name.substr(at + 1);
    if (group.empty() || rest.empty()) continue;
    places.push_back({(options_.folder / group / rest).string(), ""});
    places.push_back({(options_.folder / group).string(), rest});
  }
  const auto read = [&](const fs::path& file, const std::string& subject) {
    std::vector<Document> documents = read_documents(file, name);
    if (!subject.empty())
      std::erase_if(documents, [&](const Document& it) {
        const auto found = it.members.find("subject");
        return found == it.members.end() || *found != subject;
      });
    return documents;
  };
  for (const Place& place : places) {
    const std::optional<fs::path> file = data_file(place.stem);
    if (!file) continue;
    TaskDocuments out = {.test = read(*file, place.subject), .fewshot = {}};
    if (out.test.empty()) continue;
    if (!with_fewshot) return out;
    const std::optional<fs::path> examples = data_file(place.stem + ".fewshot");
    if (!examples && !is_same_split(task))
      fail(ErrorKind::config,
           "{}: the examples before its items are those of the split \"{}\", which {} does not have: "
           "{}.fewshot.jsonl "
           "is not there; add it, or ask without examples (--shots 0)",
           name, task.data.fewshot_split, file->string(), place.stem);
    out.fewshot = examples ? read(*examples, place.subject) : out.test;
    return out;
  }
  return {};
}

DataSource::Splits DataSource::in_files(const Task& task, bool with_fewshot) const {
  const fs::path folder = fs::path(task.file).parent_path();
  std::map<std::string, fs::path> files;
  std::vector<std::string> names;
  for (const std::string& file : task.data.files) {
    const fs::path path = file;
    names.push_back(path.is_absolute() ? path.filename().string() : path.generic_string());
    files[names.back()] = folder / path;
    if (!is_file(folder / path))
      fail(ErrorKind::config, "{}: there is no file {} (data_files)", task.file, (folder / path).string());
  }
  const DataFiles data(names, "", DataLayout::repository, fmt::format("{} (data_files)", task.file));
  const std::vector<SplitFiles> splits = data.splits("");
  // Names that say nothing: everything is the split that is asked for.
  const bool unnamed = splits.size() == 1 && splits[0].split != task.data.test_split;
  const auto paths = [&](const std::string& split) {
    std::vector<fs::path> out;
    for (const std::string& name : unnamed ? splits[0].files : data.files("", split))
      out.push_back(files.at(name));
    return out;
  };
  Splits out = {.test = paths(task.data.test_split), .fewshot = {}};
  if (!with_fewshot || is_same_split(task)) return out;
  if (unnamed)
    fail(ErrorKind::config,
         "{}: no name in data_files says which file has the split \"{}\", from which the examples are taken; "
         "call it "
         "{}.jsonl, say, or ask without examples (--shots 0)",
         task.file, task.data.fewshot_split, task.data.fewshot_split);
  out.fewshot = paths(task.data.fewshot_split);
  return out;
}

DataSource::Splits DataSource::in_copy(const Task& task, bool with_fewshot) const {
  const fs::path folder = options_.folder / task.data.path;
  if (!is_safe_path(task.data.path) || !fs::is_directory(folder))
    fail(ErrorKind::config,
         "{} has no items for it: neither {}.jsonl nor a folder \"{}\", a copy of the data set's repository",
         options_.folder.string(), task.task, printable(task.data.path));
  const fs::path card = folder / kCardName;
  const DataFiles data(list_files(folder), is_file(card) ? read_file(card, kMaxCard) : "",
                       DataLayout::repository, folder.string());
  const auto paths = [&](const std::string& split) {
    std::vector<fs::path> out;
    for (const std::string& name : data.files(task.data.name, split)) out.push_back(folder / name);
    return out;
  };
  Splits out = {.test = paths(task.data.test_split), .fewshot = {}};
  if (with_fewshot && !is_same_split(task)) out.fewshot = paths(task.data.fewshot_split);
  return out;
}

// ----------------------------------------------------------------------------------------------------- the
// Hub

Hub& DataSource::hub() {
  if (!hub_) hub_ = std::make_unique<Hub>(options_.hub, reporter_);
  return *hub_;
}

DataSource::Splits DataSource::on_hub(const Task& task, bool with_fewshot) {
  const std::optional<HubName> name =
      parse_hub_name(task.data.path + "@" + task.data.revision, RepositoryKind::dataset);
  if (!name)
    fail(ErrorKind::config,
         "dataset_path \"{}\" at \"{}\" is no data set of the Hub; expected \"org/name\" (or give files with "
         "--data)",
         printable(task.data.path), printable(task.data.revision));
  const auto splits_of = [&](const DataSet& set) {
    std::vector<std::string> test = set.files->files(task.data.name, task.data.test_split), fewshot;
    if (with_fewshot && !is_same_split(task))
      fewshot = set.files->files(task.data.name, task.data.fewshot_split);
    std::vector<std::string> all = test;
    all.insert(all.end(), fewshot.begin(), fewshot.end());
    std::vector<fs::path> paths = bring(set.repository, all, true);
    const auto middle = paths.begin() + std::ssize(test);
    return Splits{
        .test = {paths.begin(), middle}, .fewshot = {middle, paths.end()}, .commit = set.repository.commit};
  };
  const DataSet* exported = nullptr;
  try {
    const DataSet& main = open(*name, DataLayout::repository);
    if (main.is_program)
      fail(ErrorKind::unsupported,
           "the data set \"{}\" is made by a Python program in it, which is not run, and the Hub has no copy "
           "of it in "
           "Parquet ({})",
           name->repository, kExport);
    return splits_of(main);
  } catch (const Error& error) {
    const bool may_be_exported = error.kind() == ErrorKind::config || error.kind() == ErrorKind::unsupported;
    if (!may_be_exported || name->revision != HubName().revision) throw;
    HubName copy = *name;
    copy.revision = kExport;
    try {
      exported = &open(copy, DataLayout::exported);
    } catch (const Error& second) {
      if (second.kind() == ErrorKind::interrupted) throw;
    }
    if (!exported) throw;
  }
  return splits_of(*exported);
}

const DataSource::DataSet& DataSource::open(const HubName& name, DataLayout layout) {
  if (const auto known = known_.find(name); known != known_.end()) return known->second;
  DataSet set = {.repository = find(name), .files = {}, .is_program = false};
  std::vector<std::string> paths;
  for (const HubFile& file : set.repository.files) paths.push_back(file.path);
  const std::string_view repository = name.repository;
  const std::string program = fmt::format("{}.py", repository.substr(repository.rfind('/') + 1));
  std::string card;
  if (layout == DataLayout::repository && set.repository.find(kCardName))
    card = read_file(bring(set.repository, {kCardName}, false)[0], kMaxCard);
  set.files = std::make_unique<DataFiles>(std::move(paths), card, layout,
                                          fmt::format("the data set \"{}\"{}", name.repository,
                                                      layout == DataLayout::exported ? " in Parquet" : ""));
  set.is_program = !set.files->has_card_configurations() && set.repository.find(program);
  return known_.emplace(name, std::move(set)).first->second;
}

HubRepository DataSource::find(const HubName& name) {
  const fs::path& cache = options_.hub.cache;
  std::optional<HubRepository> cached = cached_repository(cache, name);
  if (options_.hub.offline) {
    if (!cached) cached = cached_snapshot(cache, name);
    if (cached) return std::move(*cached);
    fail(ErrorKind::config,
         "the data set \"{}\" (revision \"{}\") is not in the cache {}, and HF_HUB_OFFLINE (or "
         "TRANSFORMERS_OFFLINE) is "
         "set: fetch it once without, or give files with --data",
         name.repository, name.revision, cache.string());
  }
  if (cached && is_commit(name.revision)) return std::move(*cached);
  try {
    return hub().repository(name);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io || !cached) throw;
    reporter_.warning(fmt::format("{}; what the cache has of it, commit {}, is taken", error.message(),
                                  cached->commit.substr(0, 12)));
    return std::move(*cached);
  }
}

std::vector<fs::path> DataSource::bring(const HubRepository& repository,
                                        const std::vector<std::string>& paths, bool is_all) {
  const DownloadOptions to = {.cache = options_.hub.cache, .silent = !is_all, .moves_revision = is_all};
  const fs::path folder = download_folder(repository, to);
  std::vector<fs::path> out;
  std::vector<Download> downloads;
  for (const std::string& path : paths) {
    out.push_back(folder / path);
    if (!options_.hub.offline) {
      downloads.push_back({&repository, *repository.find(path)});
      continue;
    }
    if (!is_file(out.back()))
      fail(ErrorKind::config,
           "\"{}\" of the data set \"{}\" is not in the cache {}, and HF_HUB_OFFLINE (or "
           "TRANSFORMERS_OFFLINE) is set: "
           "fetch it once without, or give files with --data",
           printable(path), repository.name.repository, options_.hub.cache.string());
  }
  if (!downloads.empty()) download(hub(), downloads, to);
  return out;
}

}  // namespace moerge
