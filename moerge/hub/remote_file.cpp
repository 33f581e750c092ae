#include "moerge/hub/remote_file.h"

#include <fmt/format.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// Passes on what is still wanted of a body that starts at `next`.
class RangeSink final : public BodySink {
 public:
  RangeSink(int64_t next, int64_t end, int64_t size,
            const std::function<void(std::span<const std::byte>)>& take)
      : next_(next), end_(end), size_(size), take_(take) {}

  bool start(const HttpResponse& head) override {
    if (head.status == 206) {
      expect(head.header("content-range"));
      return true;
    }
    // Everything, when that is what was asked for.
    return head.status == 200 && next_ == 0 && end_ == size_;
  }

  void add(std::span<const std::byte> bytes) override {
    if (std::ssize(bytes) > end_ - next_) {
      too_long_ = true;
      bytes = bytes.first(static_cast<size_t>(end_ - next_));
    }
    if (bytes.empty()) return;
    take_(bytes);
    next_ += std::ssize(bytes);
  }

  int64_t next() const { return next_; }
  bool too_long() const { return too_long_; }
  const std::string& misfit() const { return misfit_; }

 private:
  // "bytes 0-99/1000"
  void expect(const std::string& range) {
    const std::string expected = fmt::format("bytes {}-{}/{}", next_, end_ - 1, size_);
    if (range != expected) misfit_ = fmt::format("expected \"{}\", found \"{}\"", expected, range);
  }

  int64_t next_, end_, size_;
  const std::function<void(std::span<const std::byte>)>& take_;
  bool too_long_ = false;
  std::string misfit_;
};

}  // namespace

RemoteFile::RemoteFile(Hub& hub, const HubRepository& repository, HubFile file)
    : hub_(hub), repository_(repository), file_(std::move(file)) {}

std::string RemoteFile::address() {
  const std::lock_guard lock(guard_);
  if (!address_.empty()) return address_;
  const HttpResponse answer = hub_.http().send({.method = "HEAD",
                                                .url = hub_.file_url(repository_, file_),
                                                .headers = {"Accept-Encoding: identity"},
                                                .redirects = Redirects::own_origin});
  const std::string elsewhere = resolve_url(answer.url, answer.header("location"));
  if (!answer.ok() && elsewhere.empty())
    fail_hub(answer, {.name = repository_.name, .path = file_.path}, hub_.settings());
  address_ = answer.ok() ? answer.url : elsewhere;
  return address_;
}

void RemoteFile::read(int64_t offset, int64_t count,
                      const std::function<void(std::span<const std::byte>)>& take) {
  const std::string what = fmt::format("{} of {}", file_.path, repository_.name.repository);
  int64_t next = offset;
  bool renewed = false;
  for (int attempt = 0; next < offset + count;) {
    const std::string url = address();
    const int64_t before = next;
    RangeSink sink(next, offset + count, file_.size, take);
    const HttpResponse answer =
        hub_.http().try_once({.url = url,
                              .headers = {"Accept-Encoding: identity",
                                          fmt::format("Range: bytes={}-{}", next, offset + count - 1)},
                              .max_body = 1 << 20},
                             &sink);
    next = sink.next();
    if (!sink.misfit().empty() || sink.too_long())
      fail(ErrorKind::input, "{}: the server sends another part than it was asked for: {}", what,
           sink.misfit().empty() ? "more bytes than announced" : sink.misfit());
    if (next > before) attempt = 0, renewed = false;
    if (answer.ok() && next == offset + count) return;
    if (answer.status == 200 || answer.status == 416)
      fail(ErrorKind::unsupported,
           "{}: {} does not give parts of files, which reading without a full download needs", what,
           origin_of(answer.url));
    // A signed address lives for an hour or so.
    if ((answer.status == 401 || answer.status == 403) && !hub_.http().is_own(answer.url) && !renewed) {
      renewed = true;
      const std::lock_guard lock(guard_);
      if (address_ == url) address_.clear();
      continue;
    }
    HttpResponse broken = answer;
    if (broken.ok()) broken.problem = "the answer was shorter than announced";
    if (!hub_.http().wait_to_repeat(broken, attempt++, what))
      fail_hub(broken, {.name = repository_.name, .path = file_.path}, hub_.settings());
  }
}

std::string RemoteFile::read_text(int64_t offset, int64_t count) {
  std::string out;
  read(offset, count, [&](std::span<const std::byte> bytes) {
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  return out;
}

}  // namespace moerge
