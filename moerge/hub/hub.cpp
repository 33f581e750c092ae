#include "moerge/hub/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "moerge/base/digest.h"
#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr size_t kMaxFiles = 200'000;
constexpr int kMaxPages = 1000;

// The URL of `Link: <url>; rel="next"`, or empty.
std::string next_page(const HttpResponse& answer) {
  const std::string link = answer.header("link");
  for (size_t start = link.find('<'); start != std::string::npos; start = link.find('<', start + 1)) {
    const size_t end = link.find('>', start);
    if (end == std::string::npos) return "";
    const std::string_view rest = std::string_view(link).substr(end, link.find('<', end) - end);
    if (rest.find("rel=\"next\"") != std::string_view::npos) return link.substr(start + 1, end - start - 1);
  }
  return "";
}

bool looks_like_json(const std::string& body) {
  const size_t first = body.find_first_not_of(" \t\r\n");
  return first != std::string::npos && (body[first] == '{' || body[first] == '[');
}

[[noreturn]] void fail_no_hub(const std::string& url, const HubSettings& settings) {
  fail(
      ErrorKind::input,
      "{} did not answer as a Hugging Face Hub does; is HF_ENDPOINT right ({}), and does no login page stand "
      "between?",
      url, settings.endpoint);
}

HubFile read_row(const Json& row, const std::string& where) {
  const auto text = [&](const Json& object, const char* key) {
    return json_string(object, key, where).value_or("");
  };
  HubFile file = {.path = text(row, "path"),
                  .size = json_int(row, "size", where).value_or(-1),
                  .blob_id = text(row, "oid"),
                  .xet_hash = text(row, "xetHash")};
  if (!is_safe_path(file.path))
    fail(ErrorKind::input, "{}: the repository names a file \"{}\", which would not stay in its folder",
         where, printable(file.path));
  if (const auto lfs = row.find("lfs"); lfs != row.end() && lfs->is_object()) {
    file.sha256 = text(*lfs, "oid");
    file.size = json_int(*lfs, "size", where).value_or(file.size);
    if (!is_hex(*file.sha256, 64))
      fail(ErrorKind::input, "{}: \"{}\" has no sha256 that can be checked", where, file.path);
  }
  if (file.size < 0 || !is_hex(file.blob_id, 40))
    fail(ErrorKind::input, "{}: \"{}\" has no size or no git id", where, file.path);
  if (!file.xet_hash.empty() && !is_hex(file.xet_hash, 64)) file.xet_hash.clear();
  return file;
}

}  // namespace

const HubFile* HubRepository::find(std::string_view path) const {
  const auto found = std::ranges::find(files, path, &HubFile::path);
  return found == files.end() ? nullptr : &*found;
}

int64_t HubRepository::bytes() const {
  int64_t sum = 0;
  for (const HubFile& file : files) sum += file.size;
  return sum;
}

std::string repository_page(const HubSettings& settings, const HubName& name) {
  return fmt::format("{}/{}{}", settings.endpoint, name.kind == RepositoryKind::model ? "" : "datasets/",
                     name.repository);
}

Hub::Hub(HubSettings settings, Reporter& reporter) : http_(std::move(settings), reporter) {
  if (this->settings().offline)
    fail(ErrorKind::config,
         "the Hub is not asked for anything: HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set");
}

std::string Hub::api_url(const HubName& name, const std::string& rest) const {
  return fmt::format("{}/api/{}/{}{}", settings().endpoint,
                     name.kind == RepositoryKind::model ? "models" : "datasets", name.repository, rest);
}

std::string Hub::file_url(const HubRepository& repository, const HubFile& file) const {
  return fmt::format("{}/resolve/{}/{}", repository_page(settings(), repository.name), repository.commit,
                     url_encoded(file.path, true));
}

Json Hub::json_of(const HttpResponse& answer, const HubSubject& subject) const {
  if (!answer.ok()) fail_hub(answer, subject, settings());
  if (!looks_like_json(answer.body)) fail_no_hub(shown_url(answer.url), settings());
  return parse_json(answer.body, shown_url(answer.url));
}

HubRepository Hub::repository(const HubName& name) {
  HubRepository out = {.name = name};
  const std::string where = api_url(name);
  const Json info =
      json_of(http_.send({.url = where + "/revision/" + url_encoded(name.revision, false)}), {.name = name});
  if (!info.is_object()) fail_no_hub(where, settings());
  out.commit = json_string(info, "sha", where).value_or("");
  if (!is_commit(out.commit)) fail_no_hub(where, settings());
  if (const auto value = info.find("private"); value != info.end()) out.is_private = *value == true;
  if (const auto value = info.find("gated"); value != info.end())
    out.is_gated = value->is_string() || *value == true;

  std::set<std::string> seen;
  std::string page = fmt::format("{}/tree/{}?recursive=true&expand=false", where, out.commit);
  for (int pages = 0; !page.empty(); pages++) {
    if (pages == kMaxPages) fail(ErrorKind::input, "{}: the list of files has no end", where);
    const HttpResponse answer = http_.send({.url = page});
    const Json rows = json_of(answer, {.name = name});
    if (!rows.is_array()) fail(ErrorKind::input, "{}: the list of files is no JSON array", where);
    for (const Json& row : rows) {
      if (!row.is_object()) fail(ErrorKind::input, "{}: a row of the list of files is no object", where);
      if (json_string(row, "type", where) != "file") continue;
      HubFile file = read_row(row, where);
      if (!seen.insert(file.path).second)
        fail(ErrorKind::input, "{}: \"{}\" is listed twice", where, file.path);
      out.files.push_back(std::move(file));
      if (out.files.size() > kMaxFiles) fail(ErrorKind::input, "{}: too many files", where);
    }
    const std::string next = next_page(answer);
    page = next.empty() ? "" : resolve_url(answer.url, next);
    if (!next.empty() && !http_.is_own(page))
      fail(ErrorKind::input, "{}: the list of files goes on at \"{}\", which is not the Hub", where,
           printable(shown_url(next)));
  }
  return out;
}

}  // namespace moerge
