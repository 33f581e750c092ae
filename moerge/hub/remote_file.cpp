#include "moerge/hub/remote_file.h"

#include <fmt/format.h>

#include "moerge/base/error.h"

namespace moerge {
namespace {

// Passes on what is still wanted of a body that starts at `next`.
class RangeSink final : public BodySink {
 public:
  RangeSink(std::string what, int64_t next, int64_t end, int64_t size,
            const std::function<void(std::span<const std::byte>)>& take)
      : what_(std::move(what)), next_(next), end_(end), size_(size), take_(take) {}

  bool start(const HttpResponse& head) override {
    // Everything, when that is what was asked for.
    if (head.status != 206) return head.status == 200 && next_ == 0 && end_ == size_;
    const std::string expected = fmt::format("bytes {}-{}/{}", next_, end_ - 1, size_);
    if (const std::string found = head.header("content-range"); found != expected)
      fail(ErrorKind::input, "{}: the server sends another part than it was asked for: \"{}\", not \"{}\"",
           what_, printable(found), expected);
    return true;
  }

  void add(std::span<const std::byte> bytes) override {
    if (std::ssize(bytes) > end_ - next_)
      fail(ErrorKind::input, "{}: the server sends more bytes than it was asked for", what_);
    take_(bytes);
    next_ += std::ssize(bytes);
  }

  int64_t next() const { return next_; }

 private:
  std::string what_;
  int64_t next_, end_, size_;
  const std::function<void(std::span<const std::byte>)>& take_;
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
  const bool sent_on = answer.problem.empty() && answer.status >= 300 && answer.status < 400;
  const std::string elsewhere = sent_on ? resolve_url(answer.url, answer.header("location")) : "";
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
    RangeSink sink(what, next, offset + count, file_.size, take);
    const HttpResponse answer =
        hub_.http().try_once({.url = url,
                              .headers = {"Accept-Encoding: identity",
                                          fmt::format("Range: bytes={}-{}", next, offset + count - 1)},
                              .max_body = 1 << 20},
                             &sink);
    next = sink.next();
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
