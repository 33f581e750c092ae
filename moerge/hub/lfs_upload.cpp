#include "moerge/hub/lfs_upload.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/parallel.h"
#include "moerge/hub/post.h"
#include "moerge/hub/xet.h"

namespace moerge {
namespace {

constexpr size_t kMaxBatch = 256;
constexpr size_t kMaxParts = 100'000;
constexpr int kMaxIdleRounds = 3;
constexpr const char* kLfsType = "application/vnd.git-lfs+json";
constexpr const char* kKept = "files that were sent whole are kept, so the same command goes on from there";

// A file that the store asked for, and where it wants it.
struct Object {
  const HashedFile* file;
  std::vector<std::string> urls = {};     // of the parts; one for the whole file
  std::vector<std::string> headers = {};  // to be sent along
  int64_t part_bytes = 0;
  std::string completion = {};  // where the parts are put together; empty: there is one alone
  std::string verify = {};

  std::vector<std::string> etags = {};  // of the parts that were sent
  std::atomic<size_t> missing = 0;      // parts
  std::atomic<bool> ask_again = false;  // its URLs are not good any more
  std::atomic<int64_t> counted = 0;     // bytes that the progress has heard of
};
using Objects = std::vector<std::unique_ptr<Object>>;

bool is_digits(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

int64_t number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() ? value : -1;
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_number_integer() ? value.dump() : "";
}

// Where it takes Xet alone and this program does not speak it.
void require_xet(const HashedFile& file) {
  if (xet_available()) return;
  fail(ErrorKind::unsupported,
       "\"{}\" ({}): the Hub takes this file by its Xet protocol alone, which this moerge was built without "
       "(-DMOERGE_XET=ON); make smaller files (moerge moe --out-shard-size 5B), or upload it with \"hf "
       "upload\"",
       file.file->path, human_bytes(file.file->size));
}

// Files that LFS does not take.
void send_by_xet(Hub& hub, const HubName& target, std::span<const HashedFile* const> files) {
  if (files.empty()) return;
  std::vector<XetFile> list;
  int64_t bytes = 0, counted = 0;
  for (const HashedFile* file : files) {
    require_xet(*file);
    list.push_back({.path = file->file->source, .sha256 = file->id});
    bytes += file->file->size;
  }
  Progress progress(hub.http().reporter(), "sending by Xet", bytes);
  xet_upload(hub.api_url(target, "/xet-write-token/" + url_encoded(target.revision, false)),
             hub.settings().token, list, [&](int64_t done, int64_t) {
               progress.add(done - counted);
               counted = done;
             });
  progress.finish();
  for (const HashedFile* file : files) file->check_unchanged();
}

class LfsUpload {
 public:
  LfsUpload(Hub& hub, const HubName& target, int connections)
      : hub_(hub), target_(target), connections_(connections) {}

  void run(std::span<const HashedFile* const> files) {
    std::map<std::string, const HashedFile*> by_id;  // one of those with the same content
    for (const HashedFile* file : files) by_id.emplace(file->id, file);
    std::deque<const HashedFile*> pending;
    for (const HashedFile* file : files)
      if (by_id[file->id] == file) pending.push_back(file);
    size_t there = 0;
    for (int idle_rounds = 0; !pending.empty();) {
      const size_t count = std::min(pending.size(), kMaxBatch);
      const std::vector<const HashedFile*> batch(pending.begin(),
                                                 pending.begin() + static_cast<ptrdiff_t>(count));
      pending.erase(pending.begin(), pending.begin() + static_cast<ptrdiff_t>(count));
      const Objects objects = ask(batch);
      there = by_id.size() - pending.size() - wanted_.size();
      send(objects);
      size_t again = 0;
      for (const auto& object : objects)
        if (object->ask_again) pending.push_front(object->file), again++;
      // Signed URLs expire while other files are sent. Only when that helps none of them it is an error.
      idle_rounds = again == count ? idle_rounds + 1 : 0;
      if (idle_rounds == kMaxIdleRounds) fail_object(*objects[0], last_refusal_);
    }
    if (there > 0)
      hub_.http().reporter().info(
          fmt::format("{} of {} large files were in the Hub's store already", there, by_id.size()));
  }

 private:
  HubSubject subject(const HashedFile& file) const { return {.name = target_, .path = file.file->path}; }

  // The objects of the files that the store lacks.
  Objects ask(const std::vector<const HashedFile*>& files) {
    Json rows = Json::array();
    for (const HashedFile* file : files) rows.push_back({{"oid", file->id}, {"size", file->file->size}});
    HttpRequest request = json_post(
        fmt::format("{}/{}.git/info/lfs/objects/batch", hub_.settings().endpoint, target_.repository),
        {{"operation", "upload"},
         {"transfers", {"basic", "multipart"}},
         {"objects", rows},
         {"hash_algo", "sha256"},
         {"ref", {{"name", target_.revision}}}},
        kLfsType);
    const Json answer = hub_.json_of(hub_.http().send(request), {.name = target_});
    const std::string where = request.url;
    const auto found = answer.is_object() ? answer.find("objects") : answer.end();
    if (!answer.is_object() || found == answer.end() || !found->is_array())
      fail(ErrorKind::input, "{}: the answer lists no objects", where);
    const std::string transfer = json_string(answer, "transfer", where).value_or("basic");
    std::map<std::string, const Json*> by_id;
    for (const Json& row : *found)
      if (row.is_object()) by_id[json_string(row, "oid", where).value_or("")] = &row;
    Objects out;
    std::vector<const HashedFile*> by_xet;
    for (const HashedFile* file : files) {
      const auto row = by_id.find(file->id);
      if (row == by_id.end())
        fail(ErrorKind::input, "{}: the answer says nothing of \"{}\"", where, file->file->path);
      if (const auto error = row->second->find("error"); error != row->second->end() && error->is_object())
        fail(ErrorKind::config, "\"{}\": the Hub does not take the file: {}", file->file->path,
             printable(json_string(*error, "message", where).value_or("it does not say why")));
      const auto actions = row->second->find("actions");
      if (actions == row->second->end() || !actions->is_object() || !actions->contains("upload")) continue;
      wanted_.insert(file);
      if (transfer == "xet" || file->file->size > kLargestPlainFile)
        by_xet.push_back(file);
      else
        out.push_back(read_actions(*file, *actions, where));
    }
    send_by_xet(hub_, target_, by_xet);
    return out;
  }

  std::string read_url(const std::string& text, const std::string& where) const {
    const bool plain = text.starts_with("http://") && hub_.settings().endpoint.starts_with("https://");
    if (origin_of(text).empty() || plain)
      fail(ErrorKind::input, "{}: the Hub wants the file at \"{}\", which is no address that can be used",
           where, shown_url(printable(text)));
    return text;
  }

  std::unique_ptr<Object> read_actions(const HashedFile& file, const Json& actions,
                                       const std::string& where) {
    std::unique_ptr<Object> out(new Object{&file});
    const Json& upload = actions["upload"];
    if (!upload.is_object()) fail(ErrorKind::input, "{}: \"upload\" is no object", where);
    const std::string href = read_url(json_string(upload, "href", where).value_or(""), where);
    if (const auto verify = actions.find("verify"); verify != actions.end() && verify->is_object())
      out->verify = read_url(json_string(*verify, "href", where).value_or(""), where);
    std::map<int64_t, std::string> parts;
    const auto header = upload.find("header");
    const Json fields = header != upload.end() && header->is_object() ? *header : Json::object();
    for (const auto& [name, value] : fields.items()) {
      const std::string text = text_of(value);
      if (name == "chunk_size")
        out->part_bytes = number(text);
      else if (is_digits(name))
        parts[number(name)] = text;
      else if (text.find_first_of("\r\n") == std::string::npos && name.find_first_of("\r\n:") == name.npos)
        out->headers.push_back(name + ": " + text);
    }
    const int64_t size = file.file->size;
    if (out->part_bytes == 0) {
      out->urls = {href};
      out->part_bytes = size;
    } else {
      const int64_t count = out->part_bytes > 0 ? (size - 1) / out->part_bytes + 1 : -1;
      if (std::ssize(parts) != count || parts.size() > kMaxParts || parts.begin()->first != 1 ||
          parts.rbegin()->first != count)
        fail(ErrorKind::input,
             "{}: the Hub wants \"{}\" in {} parts of {} bytes, which does not fit its {} bytes", where,
             file.file->path, parts.size(), out->part_bytes, size);
      out->completion = href;
      out->headers.clear();  // they are meant for the part URLs' answers, not for the store
      for (const auto& [index, url] : parts) out->urls.push_back(read_url(url, where));
    }
    out->etags.resize(out->urls.size());
    out->missing = out->urls.size();
    return out;
  }

  void send(const Objects& objects) {
    if (objects.empty()) return;
    std::vector<std::pair<Object*, size_t>> parts;
    int64_t bytes = 0;
    for (const auto& object : objects) {
      bytes += object->file->file->size;
      for (size_t i = 0; i < object->urls.size(); i++) parts.emplace_back(object.get(), i);
    }
    Progress progress(hub_.http().reporter(), "sending", bytes);
    parallel_for(parts.size(), connections_, [&](size_t i) {
      const auto [object, part] = parts[i];
      if (object->ask_again) return;
      if (send_part(*object, part, progress) && --object->missing == 0) complete(*object, progress);
    });
    progress.finish();
  }

  // False when the part's URL is not good any more.
  bool send_part(Object& object, size_t part, Progress& progress) {
    const UploadFile& file = *object.file->file;
    const int64_t begin = static_cast<int64_t>(part) * object.part_bytes;
    const int64_t count = std::min(object.part_bytes, file.size - begin);
    object.file->check_unchanged();
    HttpRequest request = {.method = "PUT",
                           .url = object.urls[part],
                           .headers = object.headers,
                           .with_token = false,
                           .silence_seconds = kPatienceSeconds};
    std::optional<File> opened;
    int64_t counted = 0;
    const auto count_to = [&](int64_t sent) {
      progress.add(sent - counted);
      object.counted += sent - counted;
      counted = sent;
    };
    if (file.content) {
      request.body = file.content->substr(static_cast<size_t>(begin), static_cast<size_t>(count));
      request.headers.emplace_back("Content-Type:");  // a signature may not cover libcurl's own
    } else {
      opened.emplace(File::open_read(file.source));
      request.file_body = FilePart{.file = &*opened, .offset = begin, .bytes = count};
      request.on_sent = count_to;
    }
    HttpResponse answer;
    try {
      answer = hub_.http().send(request);
    } catch (const Error&) {
      object.file->check_unchanged();  // the better reason why it could not be read
      throw;
    }
    object.file->check_unchanged();
    if (!answer.ok()) {
      if (!may_ask_again(answer)) fail_object(object, answer);
      set_ask_again(object, answer, progress);
      return false;
    }
    count_to(count);
    object.etags[part] = answer.header("etag");
    if (!object.completion.empty() && object.etags[part].empty())
      fail(ErrorKind::io, "\"{}\": {} took a part and gave no ETag for it", file.path,
           shown_url(object.urls[part]));
    return true;
  }

  // Refusals that a new URL, or a new start of the parts, may help against: expired signatures above all.
  static bool may_ask_again(const HttpResponse& answer) {
    return answer.problem.empty() && answer.status >= 400 && answer.status < 500 && answer.status != 413 &&
           answer.status != 429;
  }

  void set_ask_again(Object& object, const HttpResponse& answer, Progress& progress) {
    object.ask_again = true;
    progress.add(-object.counted.exchange(0));
    const std::lock_guard lock(guard_);
    last_refusal_ = answer;
    hub_.http().reporter().detail(fmt::format("\"{}\": the store answered {}; asking for a new address",
                                              object.file->file->path, answer.status));
  }

  void complete(Object& object, Progress& progress) {
    if (!object.completion.empty()) {
      Json parts = Json::array();
      for (size_t i = 0; i < object.etags.size(); i++)
        parts.push_back({{"partNumber", i + 1}, {"etag", object.etags[i]}});
      HttpRequest request =
          json_post(object.completion, {{"oid", object.file->id}, {"parts", parts}}, kLfsType);
      request.with_token = false;  // the URL itself is signed
      const HttpResponse answer = hub_.http().send(request);
      // Also when the answer to the first try was lost: then the store has the file and says so.
      if (may_ask_again(answer)) return set_ask_again(object, answer, progress);
      if (!answer.ok()) fail_object(object, answer);
    }
    if (object.verify.empty()) return;
    const HttpResponse answer = hub_.http().send(
        json_post(object.verify, {{"oid", object.file->id}, {"size", object.file->file->size}}, kLfsType));
    if (!answer.ok()) fail_object(object, answer);
  }

  [[noreturn]] void fail_object(const Object& object, const HttpResponse& answer) const {
    const std::string said = hub_message(answer);
    fail(ErrorKind::io, "\"{}\" could not be sent to {}: {}{}; {}", object.file->file->path,
         shown_url(object.urls[0]),
         answer.problem.empty() ? fmt::format("HTTP {}", answer.status) : answer.problem,
         said.empty() ? "" : fmt::format(" ({})", said), kKept);
  }

  Hub& hub_;
  const HubName& target_;
  int connections_;
  std::set<const HashedFile*> wanted_;  // by the store, at any time
  std::mutex guard_;
  HttpResponse last_refusal_;
};

}  // namespace

void upload_lfs(Hub& hub, const HubName& target, std::span<const HashedFile* const> files, int connections) {
  LfsUpload(hub, target, connections).run(files);
}

void check_lfs_sizes(std::span<const HashedFile* const> files) {
  for (const HashedFile* file : files)
    if (file->file->size > kLargestPlainFile) require_xet(*file);
}

}  // namespace moerge
