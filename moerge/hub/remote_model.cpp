#include "moerge/hub/remote_model.h"

#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>

#include "moerge/base/error.h"
#include "moerge/base/parallel.h"
#include "moerge/formats/gguf_files.h"
#include "moerge/formats/safetensors.h"
#include "moerge/formats/weight_files.h"
#include "moerge/formats/zip.h"
#include "moerge/hub/remote_file.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxSmallFile = 128 << 20;   // tokenizer.json of large vocabularies
constexpr int64_t kFirstHeader = 64 << 10;     // most headers are shorter: one request
constexpr int64_t kFirstGgufHeader = 1 << 20;  // it has the vocabulary in it
constexpr std::string_view kRopeDivisors = "rope_freqs.weight";
constexpr int64_t kPiece = 8 << 20;  // what is lost at most, per connection, when a run is killed
constexpr int64_t kMaxJournal = 64 << 20;
constexpr const char *kTemplates = "additional_chat_templates/", *kKept = ".kept", *kLock = ".lock",
                     *kInUse = ".in-use", *kParts = ".parts";

bool is_small(const HubFile& file) {
  const std::string_view path = file.path;
  const bool in_place =
      path.find('/') == std::string_view::npos ||
      (path.starts_with(kTemplates) && path.find('/', std::strlen(kTemplates)) == std::string_view::npos);
  constexpr std::string_view kEndings[] = {".json", ".jinja", ".model", ".txt", ".md"};
  const bool known =
      std::ranges::any_of(kEndings, [&](std::string_view ending) { return path.ends_with(ending); });
  return in_place && !path.starts_with('.') && file.size <= kMaxSmallFile &&
         (known || path.starts_with("LICENSE"));
}

// A file alone, or with the other parts that gguf-split made.
std::vector<HubFile> gguf_files(const HubRepository& repository) {
  std::vector<HubFile> out;
  std::vector<std::string> firsts;
  for (const HubFile& file : repository.files)
    if (is_gguf_name(file.path) && file.path.find('/') == std::string::npos) {
      out.push_back(file);
      const size_t part = file.path.rfind("-of-");
      const bool later = part != std::string::npos && part >= 6 && file.path.substr(part - 6, 6) != "-00001";
      if (!later) firsts.push_back(file.path);
    }
  if (firsts.size() > 1)
    fail(ErrorKind::unsupported,
         "{}: several GGUF files ({}): fetch one with \"moerge pull {} --include NAME\" and name its path",
         repository.name.repository, fmt::join(firsts, ", "), repository.name.repository);
  return out;
}

// The folder, made where it is not there, with a lock that others may have too but nobody who removes it.
File use_folder(const fs::path& folder) {
  for (;;) {
    fs::create_directories(folder);
    File file = File::open_update(folder / kInUse);
    flock(file.fd(), LOCK_SH);  // where the system has no locks, there is none
    struct stat state = {};
    if (fstat(file.fd(), &state) != 0 || state.st_nlink > 0) return file;  // else it was removed meanwhile
  }
}

ByteRanges read_journal(const fs::path& path) {
  ByteRanges out;
  if (!fs::is_regular_file(path)) return out;
  std::istringstream lines(read_file(path, kMaxJournal));
  // The last line of a run that was killed may be cut off.
  for (std::string line; std::getline(lines, line) && !lines.eof();) {
    int64_t begin = 0, end = 0;
    if (std::istringstream(line) >> begin >> end && begin >= 0 && end > begin) out.push_back({begin, end});
  }
  return merged(std::move(out));
}

}  // namespace

std::vector<HubFile> small_model_files(const HubRepository& repository) {
  std::vector<HubFile> out;
  std::ranges::copy_if(repository.files, std::back_inserter(out), is_small);
  return out;
}

std::vector<HubFile> weight_files(const HubRepository& repository, const fs::path& folder) {
  const std::string& name = repository.name.repository;
  std::vector<HubFile> out;
  const auto add = [&](const std::string& path, const char* by) {
    const HubFile* file = repository.find(path);
    if (!file)
      fail(ErrorKind::input, "{}: {} names a file {}, which the repository does not have", name, by, path);
    out.push_back(*file);
  };
  // A repository may have an adapter beside the whole model.
  if (repository.find("adapter_config.json"))
    for (const char* weights : {"adapter_model.safetensors", "adapter_model.bin"})
      if (out.empty() && repository.find(weights)) add(weights, "");
  for (const WeightLayout& layout : weight_layouts()) {
    if (repository.find(layout.index)) {
      std::set<std::string> shards;
      for (const auto& [tensor, shard] : read_weight_index(folder / layout.index)) shards.insert(shard);
      for (const std::string& shard : shards) add(shard, layout.index);
      return out;
    }
    if (repository.find(layout.single)) {
      add(layout.single, "");
      return out;
    }
  }
  if (out.empty()) out = gguf_files(repository);
  if (out.empty())
    fail(ErrorKind::unsupported,
         "{}: no weights that moerge reads: neither model.safetensors, nor pytorch_model.bin, nor shards of "
         "one of them with their index, nor a GGUF file",
         name);
  return out;
}

ByteRanges merged(ByteRanges ranges) {
  std::ranges::sort(ranges);
  ByteRanges out;
  for (const ByteRange& range : ranges) {
    if (range.second <= range.first) continue;
    if (!out.empty() && range.first <= out.back().second)
      out.back().second = std::max(out.back().second, range.second);
    else
      out.push_back(range);
  }
  return out;
}

ByteRanges without(const ByteRanges& wanted, const ByteRanges& there) {
  ByteRanges out;
  auto have = there.begin();
  for (auto [begin, end] : wanted) {
    while (have != there.end() && have->second <= begin) have++;
    for (auto at = have; at != there.end() && at->first < end; at++) {
      if (at->first > begin) out.push_back({begin, at->first});
      begin = std::max(begin, at->second);
    }
    if (begin < end) out.push_back({begin, end});
  }
  return out;
}

int64_t total_bytes(const ByteRanges& ranges) {
  int64_t sum = 0;
  for (const auto& [begin, end] : ranges) sum += end - begin;
  return sum;
}

RemoteModel::RemoteModel(Hub& hub, const HubName& name, const fs::path& store, const DownloadOptions& options)
    : hub_(hub), repository_(hub.repository(name)), options_(options) {
  small_ = small_model_files(repository_);
  std::vector<Download> downloads;
  for (const HubFile& file : small_) downloads.push_back({&repository_, file});
  DownloadOptions quietly = options_;
  quietly.silent = true;
  quietly.moves_revision = false;  // to a commit of which most is missing
  download(hub_, downloads, quietly);

  const fs::path snapshot = fs::absolute(download_folder(repository_, options_));
  folder_ = store / cache_folder_name(name) / repository_.commit;
  in_use_ = std::make_unique<File>(use_folder(folder_));
  folder_ = fs::canonical(folder_);
  const File lock = take_lock();
  for (const HubFile& file : small_) {
    const fs::path link = folder_ / file.path;
    std::error_code none;
    if (fs::read_symlink(link, none) == snapshot / file.path) continue;
    fs::create_directories(link.parent_path());
    fs::remove(link);
    fs::create_symlink(snapshot / file.path, link);
  }
  weights_ = weight_files(repository_, folder_);
  bring_headers();
}

std::vector<Download> RemoteModel::downloads() const {
  std::vector<Download> out;
  for (const std::vector<HubFile>* files : {&small_, &weights_})
    for (const HubFile& file : *files) out.push_back({&repository_, file});
  return out;
}

fs::path RemoteModel::journal(const std::string& file) const { return folder_ / ("." + file + ".ranges"); }

void RemoteModel::bring_headers() {
  std::map<std::string, ByteRanges> first;
  for (const HubFile& file : weights_) {
    const fs::path path = folder_ / file.path;
    std::error_code error;
    if (static_cast<int64_t>(fs::file_size(path, error)) != file.size || error) {
      fs::remove(journal(file.path));
      File::open_update(path).resize(file.size);
    }
    there_[file.path] = read_journal(journal(file.path));
    if (path.extension() == ".safetensors") first[file.path] = {{0, std::min(file.size, kFirstHeader)}};
    if (path.extension() == ".bin")
      first[file.path] = merged(
          {{0, std::min(file.size, kFirstHeader)}, {std::max<int64_t>(0, file.size - kZipTail), file.size}});
  }
  bring_locked(first, nullptr);

  std::map<std::string, ByteRanges> rest;
  for (const HubFile& file : weights_) {
    const fs::path path = folder_ / file.path;
    if (path.extension() == ".bin") bring_zip_headers(file);
    if (is_gguf_name(path)) bring_gguf_header(file);
    if (path.extension() != ".safetensors" || file.size < 8) continue;
    uint64_t length = 0;
    File::open_read(path).read_at(0, std::as_writable_bytes(std::span(&length, 1)));
    if (length <= static_cast<uint64_t>(kMaxSafetensorsHeader))  // else the reader says what is wrong
      rest[file.path] = {{0, std::min(file.size, 8 + static_cast<int64_t>(length))}};
  }
  bring_locked(rest, nullptr);
}

void RemoteModel::bring_zip_headers(const HubFile& file) {
  const fs::path path = folder_ / file.path;
  const std::string where = fmt::format("{} of {}", file.path, repository_.name.repository);
  const MappedFile mapped(path);
  if (!is_zip(mapped.bytes())) return;  // of an older PyTorch: whoever opens it says so
  const ZipRange directory = find_zip_directory(mapped.bytes(), where);
  bring_locked({{file.path, {{directory.begin, directory.end}}}}, nullptr);
  ByteRanges headers;
  constexpr std::string_view kRead[] = {"data.pkl", "byteorder"};  // before any tensor
  for (const ZipRange& range : list_zip_headers(mapped.bytes(), kRead, where))
    headers.push_back({range.begin, range.end});
  bring_locked({{file.path, merged(std::move(headers))}}, nullptr);
}

// The header does not say how long it is. Whatever is wrong with the file, whoever opens it says.
void RemoteModel::bring_gguf_header(const HubFile& file) {
  for (int64_t size = kFirstGgufHeader; !has_gguf_header(file, std::min(size, file.size)); size *= 4)
    if (size >= file.size || size > kMaxGgufHeader) return;
}

// Fetches the file's beginning; false where its header may go on.
bool RemoteModel::has_gguf_header(const HubFile& file, int64_t size) {
  const fs::path path = folder_ / file.path;
  bring_locked({{file.path, {{0, size}}}}, nullptr);
  const MappedFile mapped(path);
  constexpr std::string_view kMagic = "GGUF";
  const auto* start = reinterpret_cast<const char*>(mapped.bytes().data());
  if (!std::string_view(start, mapped.bytes().size()).starts_with(kMagic)) return true;
  try {
    const GgufHeader header = parse_gguf(mapped.bytes(), path.string());
    const auto first = std::ranges::min_element(header.tensors, {}, &GgufTensor::offset);
    if (first == header.tensors.end() || first->offset > size) return false;
    // Llama 3's rope settings are a tensor, and are read when the file is opened.
    const auto rope = std::ranges::find(header.tensors, kRopeDivisors,
                                        [](const GgufTensor& tensor) { return tensor.spec.name; });
    if (rope != header.tensors.end())
      bring_locked({{file.path, {{rope->offset, rope->offset + rope->spec.bytes()}}}}, nullptr);
    return true;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input) throw;
    return false;
  }
}

ByteRanges RemoteModel::missing(const std::string& file, const ByteRanges& wanted) const {
  return without(merged(wanted), there_.at(file));
}

File RemoteModel::take_lock() const {
  return File::wait_to_create_locked(folder_ / kLock, [&] {
    hub_.http().reporter().info(
        fmt::format("another moerge fetches parts of {}: waits for it", repository_.name.repository));
  });
}

void RemoteModel::bring(const std::map<std::string, ByteRanges>& wanted, Progress* progress) {
  if (std::ranges::all_of(wanted, [&](const auto& of) { return missing(of.first, of.second).empty(); }))
    return;
  const File lock = take_lock();
  write_file(folder_ / kParts, "");
  bring_locked(wanted, progress);
}

void RemoteModel::bring_locked(const std::map<std::string, ByteRanges>& wanted, Progress* progress) {
  struct Source {
    Source(Hub& hub, const HubRepository& repository, const std::string& name, const fs::path& path,
           const fs::path& journal_path)
        : remote(hub, repository, *repository.find(name)),
          local(File::open_update(path)),
          journal(File::open_update(journal_path)) {}
    RemoteFile remote;
    File local, journal;
  };
  struct Piece {
    Source* source;
    ByteRanges* there;
    ByteRange range;
  };
  std::vector<std::unique_ptr<Source>> sources;
  std::vector<Piece> pieces;
  for (const auto& [name, ranges] : wanted) {
    ByteRanges& there = there_.at(name);
    there = read_journal(journal(name));
    const auto& source = sources.emplace_back(
        std::make_unique<Source>(hub_, repository_, name, folder_ / name, journal(name)));
    for (const auto& [begin, end] : missing(name, ranges))
      for (int64_t at = begin; at < end; at += kPiece)
        pieces.push_back({source.get(), &there, {at, std::min(end, at + kPiece)}});
  }
  std::mutex guard;
  parallel_for(pieces.size(), options_.connections, [&](size_t i) {
    const Piece& piece = pieces[i];
    int64_t at = piece.range.first;
    piece.source->remote.read(at, piece.range.second - at, [&](std::span<const std::byte> bytes) {
      piece.source->local.write_at(at, bytes);
      at += std::ssize(bytes);
      if (progress) progress->add(std::ssize(bytes));
    });
    // What the journal names has to be there, whatever happens next.
    if (fdatasync(piece.source->local.fd()) != 0)
      fail_errno("cannot write", piece.source->local.path().string());
    const std::lock_guard hold(guard);
    piece.there->push_back(piece.range);
    const std::string line = fmt::format("{} {}\n", piece.range.first, piece.range.second);
    piece.source->journal.write_at(piece.source->journal.size(), std::as_bytes(std::span(line)));
  });
  for (const auto& [name, ranges] : wanted) there_.at(name) = merged(std::move(there_.at(name)));
}

void RemoteModel::keep() { write_file(folder_ / kKept, ""); }

bool RemoteModel::has_parts() const { return fs::exists(folder_ / kParts); }

void RemoteModel::remove_unless_kept() {
  if (flock(in_use_->fd(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return;
  std::error_code ignored;
  if (!fs::exists(folder_ / kKept, ignored)) fs::remove_all(folder_, ignored);
  fs::remove(folder_.parent_path(), ignored);  // where no other commit is in it
  flock(in_use_->fd(), LOCK_SH);
}

}  // namespace moerge
