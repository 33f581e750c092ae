#include "moerge/hub/commit.h"

#include <algorithm>
#include <utility>

#include "moerge/base/base64.h"
#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/hub/post.h"

namespace moerge {
namespace {

constexpr int64_t kMaxRegular = 10 << 20;    // the Hub wants larger files in LFS
constexpr int64_t kMaxCommit = 100'000'000;  // of regular files, which travel inside of the request
constexpr int kMaxOthers = 3;                // commits of somebody else that came first
constexpr int kCommitSeconds = 300;

// The request's body but for its first line, which names the parent.
std::string operations(std::span<const HashedFile* const> files) {
  std::string out;
  for (const HashedFile* file : files) {
    file->check_unchanged();
    const Json value =
        file->large
            ? Json{{"path", file->file->path},
                   {"algo", "sha256"},
                   {"oid", file->id},
                   {"size", file->file->size}}
            : Json{{"path", file->file->path}, {"content", base64(file->read())}, {"encoding", "base64"}};
    out += json_line({{"key", file->large ? "lfsFile" : "file"}, {"value", value}}) + "\n";
  }
  return out;
}

bool has_all(const HubRepository& repository, std::span<const HashedFile* const> files) {
  return std::ranges::all_of(files, [&](const HashedFile* file) {
    const HubFile* there = repository.find(file->file->path);
    return there && is_same(*file, *there);
  });
}

// What the branch is after a commit without an answer.
HubRepository look_again(Hub& hub, const HubName& target) {
  try {
    return hub.repository(target);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::interrupted) throw;
    fail(error.kind(), "whether the commit was made is not known, the same command finds out; {}",
         error.message());
  }
}

}  // namespace

void check_commit_size(std::span<const HashedFile* const> files) {
  int64_t bytes = 0;
  for (const HashedFile* file : files) {
    if (file->large) continue;
    bytes += file->file->size;
    if (file->file->size > kMaxRegular)
      fail(ErrorKind::input,
           "{}: {} is too large for a file outside of LFS (at most {}), and the Hub does not want it in LFS; "
           "add a line for it to .gitattributes of the repository",
           file->file->source.string(), human_bytes(file->file->size), human_bytes(kMaxRegular));
  }
  if (bytes > kMaxCommit)
    fail(
        ErrorKind::input,
        "the files outside of LFS are {} together; one commit may hold {}: push a folder with fewer of them, "
        "or add lines for them to .gitattributes of the repository",
        human_bytes(bytes), human_bytes(kMaxCommit));
}

std::string make_commit(Hub& hub, const HubName& target, std::span<const HashedFile* const> files,
                        const std::string& message, std::string head) {
  const HubSubject subject = {.name = target};
  const std::string lines = operations(files);
  HttpRequest request = {
      .method = "POST",
      .url = hub.api_url(target, "/commit/" + url_encoded(target.revision, false)),
      .headers = {"Content-Type: application/x-ndjson"},
      .repeat = false,
      .silence_seconds = kCommitSeconds};
  for (int attempt = 0, others = 0;;) {
    const Json header = {{"summary", message}, {"description", ""}, {"parentCommit", head}};
    request.body = json_line({{"key", "header"}, {"value", header}}) + "\n" + lines;
    const HttpResponse answer = hub.http().try_once(request);
    if (answer.ok()) {
      const Json json = hub.json_of(answer, subject);
      const std::string commit =
          json.is_object() ? json_string(json, "commitOid", request.url).value_or("") : "";
      if (!is_commit(commit))
        fail(ErrorKind::io, "{}: the answer names no commit; look at {}/{} whether it is there", request.url,
             hub.settings().endpoint, target.repository);
      return commit;
    }
    // What was refused for good. Of everything else nobody knows whether the commit was made: the branch
    // does.
    const bool beaten = answer.status == 412 || answer.status == 409;
    if (answer.problem.empty() && answer.status < 500 && !beaten && answer.status != 408 &&
        answer.status != 429)
      fail_hub(answer, subject, hub.settings());
    const HubRepository now = look_again(hub, target);
    if (now.commit == head) {
      const std::string what = fmt::format("the commit to {}", target.repository);
      HttpResponse waiting = answer;
      if (beaten)
        waiting.status = 503;  // a conflict with nothing that can be seen: another commit on its way
      if (!hub.http().wait_to_repeat(waiting, attempt++, what)) fail_hub(answer, subject, hub.settings());
      continue;
    }
    if (has_all(now, files)) return now.commit;
    if (++others > kMaxOthers)
      fail(ErrorKind::io, "\"{}\": somebody else keeps committing to \"{}\"; try again later",
           target.repository, target.revision);
    hub.http().reporter().info(
        fmt::format("somebody else committed {} to \"{}\" in the meantime; this commit comes on top of it",
                    now.commit.substr(0, 10), target.repository));
    head = now.commit;
  }
}

}  // namespace moerge
