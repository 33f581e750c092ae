#include "moerge/hub/file_transfer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <optional>
#include <vector>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/hub/xet.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int kMaxExpired = 3;

bool needs_xet(const HubFile& file) { return file.size > kLargestPlainFile && !file.xet_hash.empty(); }

Digest new_digest(const HubFile& file) {
  return file.sha256 ? Digest(Hash::sha256) : git_blob_digest(file.size);
}

void hash_bytes(const File& source, int64_t count, Digest& digest, const std::function<void()>& check) {
  read_pieces(source, 0, count, [&](std::span<const std::byte> piece) {
    if (check) check();
    digest.add(piece);
  });
}

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return {};
  return value;
}

// Of "Content-Range: bytes 5-9/10".
struct ContentRange {
  std::optional<int64_t> first, total;
};
ContentRange content_range(const HttpResponse& head) {
  const std::string text = head.header("content-range");
  const size_t space = text.find(' '), dash = text.find('-'), slash = text.find('/');
  if (space == std::string::npos || dash == std::string::npos || slash == std::string::npos || dash < space)
    return {};
  const std::string_view view = text;
  return {whole_number(view.substr(space + 1, dash - space - 1)), whole_number(view.substr(slash + 1))};
}

// A file that is written at its end, opened with what it has. A symbolic link is refused.
class AppendedFile {
 public:
  explicit AppendedFile(fs::path path) : path_(std::move(path)) {
    fd_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd_ < 0) fail_errno("cannot write", path_.string());
  }
  AppendedFile(const AppendedFile&) = delete;
  AppendedFile& operator=(const AppendedFile&) = delete;
  ~AppendedFile() { close(fd_); }

  void add(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = write(fd_, bytes.data(), bytes.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail_errno("cannot write", path_.string());
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
  }
  void empty() {
    if (ftruncate(fd_, 0) != 0) fail_errno("cannot empty", path_.string());
  }

 private:
  fs::path path_;
  int fd_;
};

// What lies in `partial`, and its hash so far.
class GrowingFile : public BodySink {
 public:
  GrowingFile(const HubRepository& repository, const HubFile& file, const fs::path& partial,
              const TransferWatch& watch)
      : repository_(repository), file_(file), watch_(watch), target_(partial), digest_(new_digest(file)) {
    const File there = File::open_read(partial);
    held_ = there.size();
    if (held_ > file.size) {
      empty();
    } else if (held_ > 0) {
      hash_bytes(there, held_, digest_, watch_.check);
      pieced_ = true;
    }
  }

  int64_t held() const { return held_; }
  int64_t received() const { return received_; }
  bool is_whole() const { return held_ == file_.size; }
  bool is_right() {
    found_ = digest_.hex();
    return found_ == file_.etag();
  }
  const std::string& found() const { return found_; }
  /// Not from a single answer of this run, so that a wrong hash need not mean that the Hub has wrong bytes.
  bool is_pieced() const { return pieced_; }

  void empty() {
    target_.empty();
    if (held_ <= file_.size) watch_.on_bytes(-held_);
    digest_ = new_digest(file_);
    held_ = 0;
    pieced_ = false;
  }

  bool start(const HttpResponse& head) override {
    if (head.status != 200 && head.status != 206) return false;
    std::optional<int64_t> size = whole_number(head.header("content-length"));
    if (head.status == 206) {
      const ContentRange range = content_range(head);
      if (range.first != held_)
        fail(ErrorKind::input, "{}: {} was asked for the bytes from {} on and answered \"{}\"", name(),
             shown_url(head.url), held_, head.header("content-range"));
      size = range.total;
    }
    if (size && *size != file_.size)
      fail(ErrorKind::input, "{}: {} bytes are expected, {} has {}", name(), file_.size, shown_url(head.url),
           *size);
    if (head.status == 200 && held_ > 0) empty();  // a server that knows no ranges
    if (held_ > 0) pieced_ = true;
    return true;
  }

  void add(std::span<const std::byte> bytes) override {
    if (std::ssize(bytes) > file_.size - held_)
      fail(ErrorKind::input, "{}: {} bytes are expected, more arrived", name(), file_.size);
    digest_.add(bytes);
    target_.add(bytes);
    held_ += std::ssize(bytes);
    received_ += std::ssize(bytes);
    watch_.on_bytes(std::ssize(bytes));
    watch_.check();
  }

  std::string name() const {
    return fmt::format("\"{}\" of \"{}\"", file_.path, repository_.name.repository);
  }

 private:
  const HubRepository& repository_;
  const HubFile& file_;
  const TransferWatch& watch_;
  AppendedFile target_;
  Digest digest_;
  int64_t held_ = 0, received_ = 0;
  bool pieced_ = false;
  std::string found_;
};

// Asks until all bytes are there; each question for those that are missing.
void complete(Hub& hub, const HubRepository& repository, const HubFile& file, const TransferWatch& watch,
              GrowingFile& growing) {
  int64_t most = growing.held();
  int expired = 0;
  bool emptied = false;
  for (int attempt = 0; !growing.is_whole();) {
    HttpRequest request = {.url = hub.file_url(repository, file),
                           .headers = {"Accept-Encoding: identity"},
                           .check = watch.check};
    if (growing.held() > 0) request.headers.push_back(fmt::format("Range: bytes={}-", growing.held()));
    HttpResponse answer = hub.http().try_once(request, &growing);
    if (growing.is_whole()) return;
    if (growing.held() > most) {  // it got further: go on at once
      most = growing.held();
      attempt = 0;
      continue;
    }
    if (answer.status == 416 && !emptied) {
      growing.empty();
      emptied = true;
      continue;
    }
    // A signed address that has expired: the Hub hands out a new one.
    const bool refused = answer.status == 400 || answer.status == 401 || answer.status == 403;
    if (refused && !hub.http().is_own(answer.url) && expired++ < kMaxExpired) continue;
    if (answer.ok())
      answer.problem = fmt::format("the answer ended after {} of {} bytes", growing.held(), file.size);
    if (!hub.http().wait_to_repeat(answer, attempt++, growing.name(), watch.check))
      fail_hub(answer, {.name = repository.name, .path = file.path}, hub.settings());
  }
}

// What lies in `partial` is of no use to it.
int64_t fetch_by_xet(Hub& hub, const HubRepository& repository, const HubFile& file, const fs::path& partial,
                     const TransferWatch& watch) {
  watch.on_bytes(-std::min(File::open_update(partial).size(), file.size));
  int64_t counted = 0;
  xet_download(hub.api_url(repository.name, "/xet-read-token/" + repository.commit),
               hub.settings().token, file.xet_hash, file.size, partial, [&](int64_t done, int64_t) {
                 watch.check();
                 watch.on_bytes(done - counted);
                 counted = done;
               });
  if (has_content(partial, file, watch.check)) return file.size;
  fs::remove(partial);
  fail(ErrorKind::input,
       "\"{}\" of \"{}\": what arrived by Xet is not the file with the SHA-256 {}; nothing of it was kept",
       file.path, repository.name.repository, file.etag());
}

}  // namespace

void require_transport(const HubRepository& repository, const HubFile& file) {
  if (!needs_xet(file) || xet_available()) return;
  fail(ErrorKind::unsupported,
       "\"{}\" of \"{}\" ({}): the Hub hands out files above {} by its Xet protocol alone, which this moerge "
       "was "
       "built without (-DMOERGE_XET=ON); fetch it with \"hf download {} {}\", or what is used of it with "
       "--remote",
       file.path, repository.name.repository, human_bytes(file.size), human_bytes(kLargestPlainFile),
       repository.name.repository, file.path);
}

int64_t fetch_file(Hub& hub, const HubRepository& repository, const HubFile& file, const fs::path& partial,
                   const TransferWatch& watch) {
  require_transport(repository, file);
  if (needs_xet(file)) return fetch_by_xet(hub, repository, file, partial, watch);
  GrowingFile growing(repository, file, partial, watch);
  for (bool again = false;; again = true) {
    try {
      complete(hub, repository, file, watch, growing);
    } catch (...) {
      std::error_code ignored;
      if (growing.held() == 0) fs::remove(partial, ignored);
      throw;
    }
    if (growing.is_right()) return growing.received();
    const bool was_pieced = growing.is_pieced();
    growing.empty();
    if (again || !was_pieced) break;
  }
  std::error_code ignored;
  fs::remove(partial, ignored);
  fail(ErrorKind::input, "{}: the {} {} is expected, the bytes that arrived have {}; nothing of it was kept",
       growing.name(), file.sha256 ? "SHA-256" : "git id", file.etag(), growing.found());
}

bool has_content(const fs::path& path, const HubFile& file, const std::function<void()>& check) {
  const File source = File::open_read(path);
  if (source.size() != file.size) return false;
  Digest digest = new_digest(file);
  hash_bytes(source, file.size, digest, check);
  return digest.hex() == file.etag();
}

}  // namespace moerge
