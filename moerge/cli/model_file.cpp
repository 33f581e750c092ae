#include "moerge/cli/model_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/lower_case.h"
#include "moerge/base/parallel.h"
#include "moerge/cli/export_source.h"
#include "moerge/export/write.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr size_t kIdentityDigits = 8, kStateDigits = 16;
constexpr std::string_view kPartialEnd = ".gguf.moerge-partial";

int64_t file_bytes(const GgufFiles& files) {
  int64_t bytes = 0;
  for (const auto& file : files.files) bytes += std::ssize(file->bytes());
  return bytes;
}

std::string type_name(const GgufMetadata& metadata) {
  const std::optional<int64_t> id = metadata.integer("general.file_type");
  for (const FileType& type : file_types())
    if (id == type.id) return std::string(type.name);
  return "";
}

// -------- the cache

// What a killed run left; a run that is still at work has it locked.
void remove_if_nobodys(const fs::path& partial) {
  try {
    const std::optional<File> locked = File::try_create_locked(partial);
    if (!locked) return;
    std::error_code ignored;
    fs::remove(partial, ignored);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io) throw;
  }
}

class ModelCache {
 public:
  explicit ModelCache(const ModelSource& source)
      : folder_(moerge_cache(process_environment) / "models"),
        name_(source.name),
        identity_(sha256_hex(source.identity).substr(0, kIdentityDigits)),
        state_(sha256_hex(source.state).substr(0, kStateDigits)) {}

  const fs::path& folder() const { return folder_; }
  fs::path path(const FileType& type) const { return folder_ / (prefix(type) + state_ + ".gguf"); }

  void make_folder() const {
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error)
      fail(ErrorKind::io,
           "cannot create the folder {}, where GGUF files are kept: {}; MOERGE_CACHE names another",
           folder_.string(), error.message());
  }

  // Files of earlier states of this source, and what killed runs left of them. Their number.
  int remove_older(const FileType& type, int64_t& bytes) const {
    int removed = 0;
    const std::string start = prefix(type);
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder_)) {
      const std::string file = entry.path().filename().string();
      if (file.starts_with("." + start) && file.ends_with(kPartialEnd)) {
        remove_if_nobodys(entry.path());
      } else if (file.starts_with(start) && file.ends_with(".gguf") && entry.path() != path(type)) {
        const auto size = static_cast<int64_t>(entry.file_size(ignored));
        if (!fs::remove(entry.path(), ignored)) continue;
        bytes += size;
        removed++;
      }
    }
    return removed;
  }

 private:
  std::string prefix(const FileType& type) const {
    return fmt::format("{}.{}.{}-", name_, type.name, identity_);
  }

  fs::path folder_;
  std::string name_, identity_, state_;
};

// Of several processes that want to make one file, one does it at a time.
class Turn {
 public:
  Turn(const fs::path& target, Reporter& reporter)
      : path_(target.parent_path() / ("." + target.filename().string() + ".turn")),
        lock_(File::wait_to_create_locked(path_, [&] {
          reporter.info(fmt::format("another moerge makes {}: waits for it", target.string()));
        })) {}
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }

 private:
  fs::path path_;
  File lock_;
};

// -------- a source that has to be converted

// Types that hold no more of a plan's matrices than narrower ones that are listed too: F32 of matrices that
// are all BF16 or all F16, and BF16 of any others than BF16 ones.
void leave_out_wider(const Plan& plan, std::vector<const FileType*>& types) {
  std::set<DType> stored;
  for (const Step& step : plan.steps)
    if (step.out.shape.size() >= 2) stored.insert(step.out.dtype);
  const bool bf16 = stored == std::set{DType::bf16}, f16 = stored == std::set{DType::f16};
  std::erase_if(types, [&](const FileType* type) {
    return (type->name == "F32" && (bf16 || f16)) || (type->name == "BF16" && !bf16);
  });
}

class Conversion {
 public:
  Conversion(const ModelSource& source, const InferenceFlags& flags, const ContextWish& wish,
             Reporter& reporter)
      : source_(source), flags_(flags), wish_(wish), reporter_(reporter), cache_(source) {
    automatic_ = lower_case(flags.type) == "auto";
    types_ = parse_file_types(automatic_ ? flags.auto_types : flags.type);
    if (!automatic_ && types_.size() != 1)
      fail(ErrorKind::usage, "--type {}: one type is expected, or auto", flags.type);
  }

  ModelFile prepare() {
    if (!flags_.rebuild)
      for (const FileType* type : types_)
        if (std::optional<ModelFile> kept = find_kept(*type)) return *kept;
    return make();
  }

 private:
  // A whole file of an earlier run that fits.
  std::optional<ModelFile> find_kept(const FileType& type) {
    const fs::path path = cache_.path(type);
    if (!fs::exists(path)) return {};
    try {
      const GgufFiles files = open_gguf(path);
      MemoryFit fit(shape_of(files), wish_);
      const MemoryNeed need = fit.need(file_bytes(files));
      if (need.fits) return ModelFile{path, std::string(type.name), need, fit.trained_context()};
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::input) throw;
      reporter_.warning(fmt::format("{}; it is made again", error.message()));
      std::error_code ignored;
      fs::remove(path, ignored);
    }
    return {};
  }

  void open() {
    opened_ = std::make_unique<OpenSource>(source_.given, flags_.source, default_threads(), reporter_);
    plan_ = plan_export(opened_->describe(opened_->name()), opened_->plan(), {});
    ModelShape shape = {.metadata = plan_.metadata, .tensors = {}};
    for (const ExportTensor& tensor : plan_.tensors) shape.tensors.push_back(tensor.spec);
    fit_ = std::make_unique<MemoryFit>(std::move(shape), wish_);
  }

  ModelFile make() {
    open();
    if (automatic_) leave_out_wider(opened_->plan(), types_);
    std::optional<OutputFile> file;
    MemoryNeed need;
    std::string passed_over;
    for (const FileType* type : types_) {
      file = plan_output(plan_, *type, cache_.path(*type), {});
      need = fit_->need(file->bytes());
      if (need.fits) break;
      if (passed_over.empty()) passed_over = fmt::format("a {} file {}", type->name, fit_->shortage(need));
    }
    if (!need.fits)
      judge(*file, need);
    else if (!passed_over.empty())
      reporter_.info(fmt::format("takes the type {}: {}", file->type->name, passed_over));
    if (flags_.rebuild || !is_whole(*file->type)) write(*file);
    return {cache_.path(*file->type), std::string(file->type->name), need, fit_->trained_context()};
  }

  // Whether or not it fits: that has been judged.
  bool is_whole(const FileType& type) const {
    if (!fs::exists(cache_.path(type))) return false;
    try {
      open_gguf(cache_.path(type));
      return true;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::input) throw;
      return false;
    }
  }

  // The next smaller type that would fit, where one was named.
  std::string smaller_type(const OutputFile& file) {
    for (const FileType* type : parse_file_types(flags_.auto_types)) {
      const OutputFile other = plan_output(plan_, *type, cache_.path(*type), {});
      if (other.bytes() < file.bytes() && fit_->need(other.bytes()).fits)
        return fmt::format("--type {} makes a file of {} that fits", lower_case(type->name),
                           human_bytes(other.bytes()));
    }
    return "";
  }

  void judge(const OutputFile& file, const MemoryNeed& need);
  void write(const OutputFile& file);

  const ModelSource& source_;
  const InferenceFlags& flags_;
  const ContextWish& wish_;
  Reporter& reporter_;
  ModelCache cache_;
  std::vector<const FileType*> types_;
  bool automatic_ = true;
  std::unique_ptr<OpenSource> opened_;
  ExportPlan plan_;
  std::unique_ptr<MemoryFit> fit_;
};

// Throws, or warns where that was asked for.
void refuse(const std::string& what, MemoryFit& fit, const MemoryNeed& need, const std::string& smaller_type,
            const InferenceFlags& flags, Reporter& reporter) {
  const std::string shortage = fmt::format("{} {}", what, fit.shortage(need));
  if (flags.ignore_memory)
    return reporter.warning(shortage +
                            "; goes on as asked (--ignore-memory): what does not fit is read from the disk "
                            "again for every token, or the system ends the program");
  std::vector<std::string> help;
  if (const int64_t context = fit.largest_context(need.weights, need.context); context > 0)
    help.push_back(fmt::format("-c {} fits", context));
  if (!smaller_type.empty()) help.push_back(smaller_type);
  help.push_back("--rpc HOST:PORT,... puts layers on other machines");
  help.push_back("--ignore-memory goes on anyway");
  fail(ErrorKind::unsupported, "{}; {}", shortage, fmt::join(help, "; "));
}

void Conversion::judge(const OutputFile& file, const MemoryNeed& need) {
  refuse(fmt::format("a {} GGUF of {}", file.type->name, source_.given), *fit_, need,
         flags_.ignore_memory ? "" : smaller_type(file), flags_, reporter_);
}

void Conversion::write(const OutputFile& file) {
  const fs::path path = cache_.path(*file.type);
  for (const std::string& warning : opened_->warnings()) reporter_.warning(warning);
  for (const std::string& warning : plan_.warnings) reporter_.warning(warning);
  for (const std::string& warning : file.warnings) reporter_.warning(warning);
  if (const int64_t free = free_space(cache_.folder()); file.bytes() > free)
    fail(ErrorKind::io,
         "not enough space for a {} GGUF of {} in {}: {} needed, {} free; MOERGE_CACHE names another folder, "
         "--type a smaller type",
         file.type->name, source_.given, cache_.folder().string(), human_bytes(file.bytes()),
         human_bytes(free));
  cache_.make_folder();
  const Turn turn(path, reporter_);
  if (!flags_.rebuild && fs::exists(path)) return;  // another process made it meanwhile
  reporter_.info(fmt::format("makes a {} GGUF of {}, {}, in {} (once; the next start takes it from there)",
                             file.type->name, source_.given, human_bytes(file.bytes()),
                             cache_.folder().string()));
  write_source(*opened_, plan_, std::span(&file, 1), {}, default_threads(), reporter_);
  int64_t bytes = 0;
  if (const int removed = cache_.remove_older(*file.type, bytes); removed > 0)
    reporter_.info(fmt::format("removed {} of {} from before it changed, {}",
                               removed == 1 ? "a GGUF" : fmt::format("{} GGUF files", removed), source_.given,
                               human_bytes(bytes)));
}

}  // namespace

ModelFile prepare_model(const ModelSource& source, const InferenceFlags& flags, const ContextWish& wish,
                        Reporter& reporter) {
  if (!source.gguf) return Conversion(source, flags, wish, reporter).prepare();
  const GgufFiles files = open_gguf(*source.gguf);
  MemoryFit fit(shape_of(files), wish);
  const MemoryNeed need = fit.need(file_bytes(files));
  if (!need.fits) refuse(source.gguf->string(), fit, need, "", flags, reporter);
  return {*source.gguf, type_name(files.metadata), need, fit.trained_context()};
}

}  // namespace moerge
