#include "moerge/plan/folder_build.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/formats/safetensors_sink.h"
#include "moerge/plan/execute.h"
#include "moerge/plan/manifest.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

// Hidden, as what is no part of the model.
constexpr const char* kJournal = ".moerge-journal";
constexpr const char* kSaved = ".moerge-saved-";

bool is_ours(const std::string& name) { return name.starts_with(kJournal) || name.starts_with(kSaved); }

// Parts do not write one another's files.
std::string name_of_part(const std::string& name, const BuildPart& part) {
  return part.count == 0 ? name : fmt::format("{}-{}-of-{}", name, part.number, part.count);
}

std::string journal_name(const BuildPart& part) { return name_of_part(kJournal, part); }

// The other way round; nothing for what is no part's journal.
std::optional<BuildPart> part_of(const std::string& journal) {
  BuildPart part;
  int used = 0;
  if (std::sscanf(journal.c_str(), ".moerge-journal-%ld-of-%ld%n", &part.number, &part.count, &used) != 2 ||
      static_cast<size_t>(used) != journal.size() || part.number < 1 || part.number > part.count ||
      part.count > kMaxParts)
    return std::nullopt;
  return part;
}

// What is written where, without the paths of the sources.
std::string plan_hash(const Plan& plan, const FolderLayout& layout) {
  Digest digest(Hash::sha256);
  const std::vector<TensorSpec> specs = plan.specs();
  for (const Shard& shard : layout.shards) digest.add(shard.file + "\n" + shard.header(specs));
  digest.add(fmt::format("seed {}\n", plan.seed));
  for (const Step& step : plan.steps) {
    if (const Fill* fill = std::get_if<Fill>(&step.how)) {
      digest.add(fill->description + "\n");
      continue;
    }
    for (const Part& part : std::get<Concat>(step.how).parts)
      digest.add(fmt::format("{} {} {} {} {} {} {} {}\n", part.source->spec.name,
                             info(part.source->spec.dtype).name(), part.source->offset,
                             part.source->rotary_heads,
                             part.source->derivation ? part.source->derivation->how : "", part.noise_stream,
                             part.noise_scale, part.residual_scale));
  }
  return digest.hex();
}

std::string text_of(const Json& head, const char* key) {
  const auto found = head.find(key);
  return found != head.end() && found->is_string() ? found->get<std::string>() : "";
}

// Why one head is not of the same build as another, wherever its models lie; empty when it is.
std::string why_other(const Json& before, const Json& now) {
  if (text_of(before, "moerge") != text_of(now, "moerge")) return "another version of moerge began it";
  if (text_of(before, "recipe") != text_of(now, "recipe") || text_of(before, "plan") != text_of(now, "plan"))
    return "the configuration, its texts or the flags have changed";
  return "";
}

// Why what was begun under one head cannot go on under another; empty when it can.
std::string why_anew(const Json& before, const Json& now) {
  if (std::string other = why_other(before, now); !other.empty()) return other;
  const auto sources = before.find("sources");
  const std::string changed =
      find_changed_source(sources == before.end() ? Json() : *sources, now["sources"]);
  return changed.empty() ? "" : changed + " has changed";
}

}  // namespace

std::vector<bool> shards_of_part(std::span<const TensorSpec> specs, std::span<const Shard> shards,
                                 const BuildPart& part) {
  std::vector<size_t> order(shards.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](size_t s) { return shards[s].data_bytes(specs); });
  std::vector<int64_t> load(static_cast<size_t>(part.count));
  std::vector<bool> mine(shards.size());
  for (const size_t s : order) {
    const auto least = std::ranges::min_element(load);
    *least += shards[s].data_bytes(specs) + 1;
    mine[s] = least - load.begin() == part.number - 1;
  }
  return mine;
}

FolderBuild::FolderBuild(const Plan& plan, const FolderLayout& layout, const BuildOptions& options,
                         const std::string& recipe, Reporter& reporter)
    : plan_(plan),
      layout_(layout),
      options_(options),
      reporter_(reporter),
      specs_(plan.specs()),
      mine_(options.part.count > 0 ? shards_of_part(specs_, layout.shards, options.part)
                                   : std::vector<bool>()),
      sources_(plan),
      folder_(options.out, options.overwrite,
              options.part.count > 0 ? OutputFolder::Use::together : OutputFolder::Use::alone) {
  try {
    open_journal(recipe);
  } catch (...) {
    folder_.remove_if_empty();
    throw;
  }
}

void FolderBuild::open_journal(const std::string& recipe) {
  const Json head = {{"journal", 1},
                     {"moerge", options_.made_with},
                     {"plan", plan_hash(plan_, layout_)},
                     {"recipe", sha256_hex(recipe)},
                     {"sources", sources_.identity()}};
  // Until it is known to be of no use, what is there is kept.
  folder_.keep(true);
  open_parts(head);
  std::set<std::string> expected;
  for (const Shard& shard : layout_.shards) expected.insert(shard.file);
  if (options_.part.count == 0)
    folder_.clear([&](const std::string& name) { return expected.contains(name) || is_ours(name); });
  if (options_.join) return;
  const bool leftovers = !fs::is_empty(folder_.path());
  journal_ = std::make_unique<WriteJournal>(folder_.path() / journal_name(options_.part));
  const std::string anew = why_anew(journal_->head(), head);
  if (!journal_->head().is_null() && anew.empty() && !journal_->entries().empty()) {
    const std::vector<bool> done = journalled_tensors(journal_->entries(), specs_.size());
    int64_t tensors = 0, bytes = 0;
    for (size_t i = 0; i < done.size(); i++)
      if (done[i]) tensors++, bytes += specs_[i].bytes();
    reporter_.info(fmt::format("continues what an earlier run left: {} of {} tensors, {}, are on the disk",
                               tensors, specs_.size(), human_bytes(bytes)));
  } else {
    if (journal_->head().is_null() && leftovers && options_.part.count == 0)
      reporter_.info(fmt::format("an earlier run left {}, but not how far it was: starts anew",
                                 folder_.path().string()));
    else if (!journal_->entries().empty())
      reporter_.info(
          fmt::format("an earlier run left {}, but {}: starts anew", folder_.path().string(), anew));
    if (options_.part.count == 0) folder_.keep(false);
    journal_->start(head);
    sync_folder(folder_.path());
  }
}

// What other parts have left: they must be parts of this very build.
void FolderBuild::open_parts(const Json& head) {
  int64_t count = options_.part.count;
  std::set<int64_t> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_.path())) {
    const std::string name = entry.path().filename().string();
    const std::optional<BuildPart> part = part_of(name);
    const std::string where = folder_.path().string();
    if (name == kJournal && (options_.part.count > 0 || options_.join))
      fail(ErrorKind::usage, "{} holds what a run without --part left: run it again without, or remove it",
           where);
    if (!part) continue;
    if (options_.part.count == 0 && !options_.join)
      fail(ErrorKind::usage,
           "{} holds parts of a build in {}: run the others with --part and complete it with --join, or "
           "remove it",
           where, part->count);
    if (count != 0 && part->count != count)
      fail(ErrorKind::usage, "{} holds parts of a build in {} as well as in {}: remove it to start anew",
           where, part->count, count);
    count = part->count;
    auto [theirs, entries] = WriteJournal::read(entry.path());
    const bool same = why_other(theirs, head).empty();
    if (!same && part->number != options_.part.number && !theirs.is_null())
      fail(ErrorKind::usage,
           "part {} of {} in {} was made from another configuration, other models or flags, or by another "
           "version of moerge: run it as that one, or remove the folder to start anew",
           part->number, part->count, where);
    found.insert(part->number);
    if (same && part->number != options_.part.number) others_.emplace_back(*part, std::move(entries));
  }
  if (!options_.join) return;
  if (count == 0)
    fail(ErrorKind::usage, "--join: {} holds no part of a build: run the parts first (--part 1/N ...)",
         folder_.path().string());
  std::vector<std::string> missing;
  for (int64_t number = 1; number <= count; number++) {
    const BuildPart part = {number, count};
    const std::vector<bool> mine = shards_of_part(specs_, layout_.shards, part);
    std::vector<bool> has(specs_.size());
    if (found.contains(number)) {
      const WriteJournal journal(folder_.path() / journal_name(part));  // throws while somebody writes it
      has = journalled_tensors(journal.entries(), specs_.size());
    }
    for (size_t s = 0; s < mine.size(); s++)
      if (mine[s] && (!is_shard_intact(folder_.path(), layout_.shards[s], specs_) ||
                      !std::ranges::all_of(layout_.shards[s].tensors, [&](size_t i) { return has[i]; }))) {
        missing.push_back(fmt::format("{}/{}", number, count));
        break;
      }
  }
  if (!missing.empty())
    fail(ErrorKind::io, "--join: not finished yet: --part {}: run {} again", fmt::join(missing, ", --part "),
         missing.size() == 1 ? "it" : "these");
}

std::vector<bool> FolderBuild::missing() const {
  std::vector<bool> missing(specs_.size());
  if (options_.join) return missing;
  const std::vector<bool> done = journalled_tensors(journal_->entries(), specs_.size());
  for (size_t s = 0; s < layout_.shards.size(); s++) {
    if (!mine_.empty() && !mine_[s]) continue;
    const bool intact = is_shard_intact(folder_.path(), layout_.shards[s], specs_);
    for (const size_t i : layout_.shards[s].tensors) missing[i] = !intact || !done[i];
  }
  return missing;
}

bool FolderBuild::computes() const {
  const std::vector<bool> missing = this->missing();
  for (size_t i = 0; i < missing.size(); i++)
    if (missing[i] && std::holds_alternative<Fill>(plan_.steps[i].how)) return true;
  return false;
}

std::optional<std::string> FolderBuild::saved(const std::string& name) const {
  if (journal_)
    if (auto bytes = saved_by(options_.part, journal_->entries(), name)) return bytes;
  for (const auto& [part, entries] : others_)
    if (auto bytes = saved_by(part, entries, name)) return bytes;
  return std::nullopt;
}

std::optional<std::string> FolderBuild::saved_by(const BuildPart& part, const std::vector<Json>& entries,
                                                 const std::string& name) const {
  std::string hash;
  for (const Json& entry : entries)
    if (text_of(entry, "saved") == name) hash = text_of(entry, "sha256");
  const fs::path file = folder_.path() / name_of_part(kSaved + name, part);
  if (hash.empty() || !fs::is_regular_file(fs::symlink_status(file))) return std::nullopt;
  std::string bytes = read_file(file, INT32_MAX);
  if (sha256_hex(bytes) != hash) return std::nullopt;
  return bytes;
}

void FolderBuild::save(const std::string& name, const std::string& bytes) {
  File file = File::open_output(folder_.path() / name_of_part(kSaved + name, options_.part));
  file.resize(0);
  file.write_at(0, std::as_bytes(std::span(bytes)));
  file.sync();
  sync_folder(folder_.path());
  journal_->add({{"saved", name}, {"sha256", sha256_hex(bytes)}});
}

void FolderBuild::write(const FolderContent& content, const std::function<void()>& check) {
  try {
    write_all(content, check);
  } catch (const Error& error) {
    leave(error.kind() == ErrorKind::interrupted || error.kind() == ErrorKind::io);
    throw;
  } catch (...) {
    leave(true);
    throw;
  }
}

void FolderBuild::leave(bool may_go_on) {
  if (options_.join || folder_.is_committed()) return;
  const bool kept = may_go_on && !is_aborted() && !journal_->entries().empty();
  if (kept)
    reporter_.info(fmt::format("what is finished stays in {}: the same command goes on from there",
                               folder_.path().string()));
  if (options_.part.count == 0) folder_.keep(kept);
  if (!kept) give_up();
}

FolderBuild::~FolderBuild() {
  if (is_aborted() && !folder_.is_committed() && !options_.join) give_up();
}

void FolderBuild::give_up() {
  if (options_.part.count == 0) return folder_.keep(false);
  std::error_code ignored;
  for (size_t s = 0; s < layout_.shards.size(); s++)
    if (mine_[s]) fs::remove(folder_.path() / layout_.shards[s].file, ignored);
  for (const Json& entry : journal_->entries())
    if (const std::string name = text_of(entry, "saved"); !name.empty())
      fs::remove(folder_.path() / name_of_part(kSaved + name, options_.part), ignored);
  fs::remove(folder_.path() / journal_name(options_.part), ignored);
  folder_.remove_if_empty();
}

void FolderBuild::write_all(const FolderContent& content, const std::function<void()>& check) {
  if (!options_.join) write_weights(check);
  if (options_.part.count > 0)
    return reporter_.info(fmt::format("part {} of {} is finished; when all are: the same command with --join",
                                      options_.part.number, options_.part.count));
  if (const std::string index = shard_index(specs_, layout_.shards); options_.join && !index.empty())
    write_file(folder_.path() / kShardIndex, index);
  write_small_files(content);
  if (options_.verify) verify(content, check);
  complete();
}

void FolderBuild::write_weights(const std::function<void()>& check) {
  const std::vector<bool> missing = this->missing();
  int64_t bytes = 0;
  for (size_t i = 0; i < missing.size(); i++)
    if (missing[i]) bytes += specs_[i].bytes();
  SafetensorsSink sink(folder_.path(), layout_.shards,
                       {.journal = journal_.get(),
                        .only = mine_,
                        .check = [&] { sources_.check(); },
                        .forget = is_larger_than_memory()});
  try {
    run(sink, bytes, check, "weights");
  } catch (...) {
    try {
      if (!is_aborted()) sink.claim();
    } catch (const Error&) {  // the disk that failed is no better now
    }
    throw;
  }
}

void FolderBuild::verify(const FolderContent& content, const std::function<void()>& check) {
  const Checkpoint written(folder_.path());
  ComparingSink compare(written);
  run(compare, plan_.totals().bytes, check, "verified");
  reporter_.info(fmt::format("every one of the {} tensors equals what it was made of", specs_.size()));
  const Manifest manifest =
      make_manifest(plan_, content.sources, written, {.threads = options_.threads, .reporter = reporter_});
  write_file(folder_.path() / kManifestName, manifest_text(manifest));
}

void FolderBuild::run(TensorSink& sink, int64_t bytes, const std::function<void()>& check,
                      const char* label) {
  Progress progress(reporter_, label, bytes);
  execute(plan_, sink,
          {.threads = options_.threads,
           .progress = &progress,
           .check = check,
           .forget = is_larger_than_memory()});
  progress.finish();
}

// Then nothing of it will still be in memory when somebody reads it again, and other programs' files will not
// be either.
bool FolderBuild::is_larger_than_memory() const { return 2 * plan_.totals().bytes > physical_memory(); }

void FolderBuild::write_small_files(const FolderContent& content) {
  const fs::path& folder = folder_.path();
  if (!content.config.is_null()) write_file(folder / "config.json", content.config.dump(2) + "\n");
  for (const auto& [name, text] : content.files) write_file(folder / name, text);
  if (options_.copy_tokenizer && content.write_tokenizer) content.write_tokenizer(folder);
  if (options_.write_card && !content.card.empty()) write_file(folder / "README.md", content.card);
}

// The journals go last: should the run be killed before, the next one has nothing to write again.
void FolderBuild::complete() {
  sources_.check();
  folder_.sync();
  check_interrupted();
  try {
    folder_.commit();
  } catch (const Error&) {
    if (folder_.is_committed()) remove_journals();
    throw;
  }
  remove_journals();
}

void FolderBuild::remove_journals() {
  std::error_code ignored;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_.target(), ignored))
    if (is_ours(entry.path().filename().string())) fs::remove(entry.path(), ignored);
}

}  // namespace moerge
