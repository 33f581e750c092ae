#include "moerge/hub/upload.h"

#include <algorithm>
#include <map>
#include <utility>

#include "moerge/base/base64.h"
#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/hub/card_source.h"
#include "moerge/hub/commit.h"
#include "moerge/hub/lfs_upload.h"
#include "moerge/hub/post.h"

namespace moerge {
namespace {

constexpr size_t kMaxBatch = 256;
constexpr int64_t kSample = 512;  // bytes by which the Hub tells texts from the rest

std::string tokens_page(const Hub& hub) { return hub.settings().endpoint + "/settings/tokens"; }

std::pair<std::string, std::string> split_name(const std::string& repository) {
  const size_t slash = repository.find('/');
  return {repository.substr(0, slash), repository.substr(slash + 1)};
}

void check_card(Hub& hub, const UploadFile& card) {
  const std::string content = card.content ? *card.content : read_file(card.source, kMaxCard);
  const HttpResponse answer = hub.http().send(json_post(hub.settings().endpoint + "/api/validate-yaml",
                                                        {{"content", content}, {"repoType", "model"}}));
  const std::string said = hub_message(answer);
  if (answer.status == 400)
    fail(ErrorKind::config, "{}: the Hub refuses the model card: {}", card.source.string(),
         said.empty() ? "it does not say why" : said);
  if (!answer.ok()) fail_hub(answer, {.name = {.repository = "api/validate-yaml"}}, hub.settings());
  if (!said.empty())
    hub.http().reporter().warning(fmt::format("{}: the Hub says: {}", card.source.string(), said));
}

// What a repository is like, as far as an upload must know.
struct Target {
  bool exists = false, has_branch = false, is_private = false;
  std::string head = {};  // of the branch
};

// The answer to a question for a revision; nothing where the repository has none of that name.
HttpResponse ask_revision(Hub& hub, const HubName& name, bool repeat) {
  const HttpRequest request = {
      .url = hub.api_url(name, "/revision/" + url_encoded(name.revision, false))};
  return repeat ? hub.http().send(request) : hub.http().try_once(request);
}

Target look_at(Hub& hub, const HubName& name) {
  HttpResponse answer = ask_revision(hub, name, true);
  const std::string code = answer.header("x-error-code");
  if (code == "RepoNotFound") return {};
  Target out = {.exists = true, .has_branch = code != "RevisionNotFound"};
  HubName asked = name;
  if (!out.has_branch) {
    asked.revision = "main";
    answer = ask_revision(hub, asked, true);
  }
  const Json info = hub.json_of(answer, {.name = asked});
  if (!info.is_object()) fail(ErrorKind::input, "{}: no JSON object", answer.url);
  out.is_private = json_bool(info, "private", answer.url).value_or(false);
  out.head = json_string(info, "sha", answer.url).value_or("");
  if (!is_commit(out.head))
    fail(ErrorKind::input, "{}: the answer has no commit; is {} a Hugging Face Hub?", answer.url,
         hub.settings().endpoint);
  return out;
}

void create_repository(Hub& hub, const HubAccount& account, const UploadOptions& options) {
  const auto [owner, name] = split_name(options.target.repository);
  Json body = {
      {"name", name}, {"organization", nullptr}, {"type", "model"}, {"private", options.make_private}};
  if (owner != account.name) body["organization"] = owner;
  HttpRequest request = json_post(hub.settings().endpoint + "/api/repos/create", body);
  for (int attempt = 0;; attempt++) {
    HttpResponse answer = hub.http().send(request);
    if (answer.ok()) break;
    if (answer.status != 409) {
      if (answer.status == 403)
        fail(ErrorKind::config, "\"{}\" is not there, and the token in {} may not make it{}; see {}",
             options.target.repository, hub.settings().token_source,
             hub_message(answer).empty() ? "" : fmt::format(" (the Hub says: {})", hub_message(answer)),
             tokens_page(hub));
      fail_hub(answer, {.name = options.target}, hub.settings());
    }
    if (hub_message(answer).find("another conflicting operation") == std::string::npos) break;  // it exists
    answer.status = 503;
    if (!hub.http().wait_to_repeat(answer, attempt, options.target.repository))
      fail(ErrorKind::io, "\"{}\": the Hub is busy with another change of it; try again later",
           options.target.repository);
  }
  hub.http().reporter().info(fmt::format("made the {}repository {}", options.make_private ? "private " : "",
                                         repository_page(hub.settings(), options.target)));
}

// Makes what is missing of repository and branch; the branch's head.
std::string prepare_target(Hub& hub, const HubAccount& account, const UploadOptions& options) {
  const HubName& name = options.target;
  if (is_commit(name.revision))
    fail(ErrorKind::config, "\"{}\" is a commit, which never changes; a branch is expected", name.revision);
  Target target = look_at(hub, name);
  if (!target.exists) {
    create_repository(hub, account, options);
    target = look_at(hub, name);
    if (!target.exists) fail_hub(ask_revision(hub, name, true), {.name = name}, hub.settings());
  }
  if (options.make_private && !target.is_private)
    fail(ErrorKind::config,
         "\"{}\" is public, and --private makes only new repositories private; nothing was uploaded: change "
         "it "
         "at {}/settings first",
         name.repository, repository_page(hub.settings(), name));
  if (!target.has_branch) {
    if (name.revision.starts_with("refs/"))
      fail_hub(ask_revision(hub, name, true), {.name = name}, hub.settings());
    const HttpResponse answer = hub.http().send(json_post(
        hub.api_url(name, "/branch/" + url_encoded(name.revision, false)), Json::object()));
    if (!answer.ok() && answer.status != 409) fail_hub(answer, {.name = name}, hub.settings());
    hub.http().reporter().info(fmt::format("made the branch \"{}\"", name.revision));
    target = look_at(hub, name);
  }
  return target.head;
}

// What the Hub wants done with a file.
struct Wanted {
  bool large = false, ignore = false;
  std::string there = {};  // hash of what has the name now
};

std::map<std::string, Wanted> ask_what_is_wanted(Hub& hub, const std::vector<UploadFile>& files,
                                                 const HubName& target) {
  std::map<std::string, Wanted> out;
  const std::string url = hub.api_url(target, "/preupload/" + url_encoded(target.revision, false));
  for (size_t begin = 0; begin < files.size(); begin += kMaxBatch) {
    Json rows = Json::array();
    for (size_t i = begin; i < std::min(files.size(), begin + kMaxBatch); i++)
      rows.push_back({{"path", files[i].path},
                      {"size", files[i].size},
                      {"sample", base64(read_start(files[i], kSample))}});
    const Json answer = hub.json_of(hub.http().send(json_post(url, {{"files", rows}})), {.name = target});
    const auto list = answer.is_object() ? answer.find("files") : answer.end();
    if (!answer.is_object() || list == answer.end() || !list->is_array())
      fail(ErrorKind::input, "{}: the answer lists no files", url);
    for (const Json& row : *list)
      if (row.is_object())
        out[json_string(row, "path", url).value_or("")] = {
            .large = json_string(row, "uploadMode", url) == "lfs",
            .ignore = json_bool(row, "shouldIgnore", url).value_or(false),
            .there = json_string(row, "oid", url).value_or("")};
  }
  for (const UploadFile& file : files) {
    const auto found = out.find(file.path);
    if (found == out.end()) fail(ErrorKind::input, "{}: the answer says nothing of \"{}\"", url, file.path);
    if (file.size == 0) found->second.large = false;  // git has empty files, LFS has none
  }
  return out;
}

}  // namespace

HubAccount ask_account(Hub& hub, bool repeat) {
  const HubSettings& settings = hub.settings();
  if (settings.token.empty())
    fail(ErrorKind::config,
         "uploading needs a token of yours that may write: make one at {} and set HF_TOKEN, or log in with "
         "\"hf auth login\"",
         tokens_page(hub));
  const std::string url = settings.endpoint + "/api/whoami-v2";
  const HttpResponse answer = hub.http().send({.url = url, .repeat = repeat});
  if (answer.status == 401)
    fail(ErrorKind::config,
         "the Hub does not know the token in {}: it is mistyped, revoked or expired; make one at {}",
         settings.token_source, tokens_page(hub));
  const Json json = hub.json_of(answer, {.name = {.repository = "api/whoami-v2"}});
  if (!json.is_object()) fail(ErrorKind::input, "{}: no JSON object", url);
  HubAccount out = {.name = json_string(json, "name", url).value_or("")};
  if (out.name.empty()) fail(ErrorKind::input, "{}: the answer has no name", url);
  if (const auto list = json.find("orgs"); list != json.end() && list->is_array())
    for (const Json& row : *list)
      if (row.is_object())
        out.organisations.push_back(
            {json_string(row, "name", url).value_or(""), json_string(row, "roleInOrg", url).value_or("")});
  if (const auto auth = json.find("auth"); auth != json.end() && auth->is_object())
    if (const auto token = auth->find("accessToken"); token != auth->end() && token->is_object())
      out.role = json_string(*token, "role", url).value_or("");
  return out;
}

void check_upload(Hub& hub, const HubAccount& account, const HubName& target,
                  const std::vector<UploadFile>& files) {
  if (account.role == "read")
    fail(ErrorKind::config,
         "the token in {} (of \"{}\") may only read; make one with the right to write at {}",
         hub.settings().token_source, account.name, tokens_page(hub));
  const std::string owner = split_name(target.repository).first;
  const auto found = std::ranges::find(account.organisations, owner, &HubAccount::Organisation::name);
  const bool member = found != account.organisations.end();
  // A token for chosen repositories need not show all organisations: there the Hub itself has the last word.
  if (owner != account.name && !member && account.role != "fineGrained") {
    std::string own = fmt::format("\"{}\"", account.name);
    for (const auto& [name, role] : account.organisations) own += fmt::format(" or \"{}\"", name);
    fail(ErrorKind::config,
         "\"{}\": the token in {} is of \"{}\", who cannot write there; a name that starts with {} is "
         "expected",
         target.repository, hub.settings().token_source, account.name, own);
  }
  if (member && found->role == "read")
    fail(ErrorKind::config,
         "\"{}\": \"{}\" may only read in the organisation \"{}\"; ask its admins for more",
         target.repository, account.name, owner);
  for (const UploadFile& file : files)
    if (file.path == kCardName) check_card(hub, file);
}

UploadReport upload(Hub& hub, const HubAccount& account, const std::vector<UploadFile>& files,
                    const UploadOptions& options) {
  Reporter& reporter = hub.http().reporter();
  UploadReport out = {.url = repository_page(hub.settings(), options.target)};
  const std::string head = prepare_target(hub, account, options);
  const std::map<std::string, Wanted> wanted = ask_what_is_wanted(hub, files, options.target);
  std::vector<const UploadFile*> considered;
  for (const UploadFile& file : files)
    if (wanted.at(file.path).ignore)
      reporter.info(fmt::format("\"{}\" is left out: .gitignore of the repository names it", file.path));
    else
      considered.push_back(&file);
  const std::vector<HashedFile> hashed = hash_files(
      considered, [&](const UploadFile& file) { return wanted.at(file.path).large; }, reporter);
  std::vector<const HashedFile*> changed, large;
  for (const HashedFile& file : hashed) {
    if (wanted.at(file.file->path).there == file.id) {
      out.skipped.push_back(*file.file);
      continue;
    }
    out.sent.push_back(*file.file);
    changed.push_back(&file);
    if (file.large) large.push_back(&file);
  }
  if (!out.skipped.empty())
    reporter.info(fmt::format("{} of {} files are there already", out.skipped.size(), hashed.size()));
  if (changed.empty()) return out;
  check_commit_size(changed);
  check_lfs_sizes(large);
  upload_lfs(hub, options.target, large, options.connections);
  for (const HashedFile& file : hashed) file.check_unchanged();
  out.commit = make_commit(hub, options.target, changed, options.message, head);
  return out;
}

UploadReport dry_upload(Hub& hub, const std::vector<UploadFile>& files, const HubName& target) {
  UploadReport out = {.url = repository_page(hub.settings(), target)};
  const HttpResponse answer = ask_revision(hub, target, false);
  const std::string code = answer.header("x-error-code");
  HubRepository there;
  if (answer.ok())
    there = hub.repository(target);
  else if (!answer.problem.empty())
    hub.http().reporter().info(fmt::format("{} did not answer ({}): what is there already is not known",
                                           hub.settings().endpoint, answer.problem));
  else if (code == "RepoNotFound" || code == "RevisionNotFound")
    hub.http().reporter().info(fmt::format("\"{}\" has no {} yet", target.repository,
                                           code == "RepoNotFound" ? "repository" : "such branch"));
  else
    fail_hub(answer, {.name = target}, hub.settings());
  std::map<std::string, const HubFile*> by_path;
  for (const HubFile& file : there.files) by_path[file.path] = &file;
  std::vector<const UploadFile*> alike;
  for (const UploadFile& file : files)
    if (const auto found = by_path.find(file.path);
        found != by_path.end() && found->second->size == file.size)
      alike.push_back(&file);
  const std::vector<HashedFile> hashed = hash_files(
      alike, [&](const UploadFile& file) { return by_path.at(file.path)->sha256.has_value(); },
      hub.http().reporter());
  std::map<std::string, bool> same;
  for (const HashedFile& file : hashed) same[file.file->path] = is_same(file, *by_path.at(file.file->path));
  for (const UploadFile& file : files) (same[file.path] ? out.skipped : out.sent).push_back(file);
  return out;
}

}  // namespace moerge
