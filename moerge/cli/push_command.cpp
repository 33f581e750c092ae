// moerge push OUT user/name: arguments, and the order in which things happen.

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/json.h"
#include "moerge/base/progress.h"
#include "moerge/cli/arguments.h"
#include "moerge/cli/command.h"
#include "moerge/cli/fetch_models.h"
#include "moerge/export/gguf_card.h"
#include "moerge/hub/card_source.h"
#include "moerge/hub/upload.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr const char* kGgufSuffix = "-GGUF";

struct Arguments {
  std::string folder, name, gguf, message, revision;
  bool make_private = false, card = true, dry_run = false, json = false, quiet = false, verbose = false;

  Verbosity level() const {
    return quiet ? Verbosity::quiet : verbose ? Verbosity::verbose : Verbosity::normal;
  }
};

void add_flags(CLI::App& app, Arguments& a) {
  app.add_option("OUT", a.folder, "folder of the model, or of GGUF files")->required();
  app.add_option("NAME", a.name,
                 "where to on the Hub: user/name, organisation/name, or name alone for your own; "
                 "user/name@branch")
      ->required();
  app.add_flag("--private", a.make_private, "make a new repository private")->group("The repository");
  app.add_option("--revision", a.revision, "branch to commit to; made if it is missing (main)")
      ->group("The repository");
  app.add_option("--message", a.message, "what the commit says")->group("The repository");
  app.add_option("--gguf", a.gguf,
                 "upload this folder's .gguf files as well, to NAME-GGUF, with a card of their own")
      ->group("What is uploaded");
  app.add_flag("!--no-card", a.card, "leave README.md of the repository as it is")->group("What is uploaded");
  app.add_flag("--dry-run", a.dry_run, "say what would be sent, change nothing")->group("What is reported");
  app.add_flag("--json", a.json, "print the result as JSON on stdout")->group("What is reported");
  app.add_flag("--quiet", a.quiet, "warnings and errors only")->group("What is reported");
  app.add_flag("-v,--verbose", a.verbose, "say more")->group("What is reported");
}

bool is_gguf(const UploadFile& file) { return file.path.ends_with(".gguf"); }

// One repository to fill.
struct Push {
  fs::path folder;
  HubName target;
  std::vector<UploadFile> files;
};

// "user/name@branch", or "name" of the account's own (with an empty namespace until that is known).
HubName parse_target(const Arguments& a) {
  const bool own = a.name.substr(0, a.name.find('@')).find('/') == std::string::npos;
  std::optional<HubName> name = parse_hub_name(own ? "own/" + a.name : a.name);
  if (name && own) name->repository.erase(0, std::string_view("own").size());
  const auto ends_with_git = [](const std::string& text) { return text.ends_with(".git"); };
  if (!name || name->repository.find("--") != std::string::npos ||
      name->repository.find("..") != std::string::npos || ends_with_git(name->repository) ||
      name->repository.find_first_of("-.", name->repository.size() - 1) != std::string::npos)
    fail(ErrorKind::usage,
         "\"{}\" cannot be a repository; \"user/name\" is expected: letters, digits, \"-\", \"_\" and \".\", "
         "at most 96, no \"--\" or \"..\"",
         a.name);
  if (a.revision.empty()) return *name;
  if (a.name.find('@') != std::string::npos && name->revision != a.revision)
    fail(ErrorKind::usage, "\"{}\" names another branch than --revision {}: say it once", a.name, a.revision);
  const auto checked = parse_hub_name("a/b@" + a.revision);
  if (!checked) fail(ErrorKind::usage, "--revision {}: this cannot be a branch", a.revision);
  name->revision = a.revision;
  return *name;
}

void check_folder(const fs::path& folder, const char* flag) {
  if (!fs::exists(folder)) fail(ErrorKind::usage, "{}{}: there is no such folder", flag, folder.string());
  if (!fs::is_directory(folder))
    fail(ErrorKind::usage, "{}{}: a folder is expected; push the folder that the file lies in", flag,
         folder.string());
}

std::vector<UploadFile> model_files(const Arguments& a, const HubSettings& settings) {
  std::vector<UploadFile> files = files_to_upload(a.folder, settings.cache);
  if (!a.gguf.empty() && is_within(a.gguf, a.folder)) {
    const std::string inner =
        fs::weakly_canonical(a.gguf).lexically_relative(fs::weakly_canonical(a.folder)).generic_string();
    std::erase_if(files, [&](const UploadFile& file) {
      return inner == "." ? is_gguf(file) : file.path.starts_with(inner + "/");
    });
  }
  const bool model = std::ranges::any_of(
      files, [](const UploadFile& file) { return file.path == "config.json" || is_gguf(file); });
  if (!model)
    fail(ErrorKind::usage,
         "{}: neither config.json nor a .gguf file is there; OUT of \"moerge moe\" or \"moerge gguf\" is "
         "expected",
         a.folder);
  if (!a.card) std::erase_if(files, [](const UploadFile& file) { return file.path == kCardName; });
  return files;
}

// What README.md of the GGUF repository says where the folder has none.
std::string gguf_card_text(const fs::path& folder, const std::string& repository,
                           const std::string& source_repository) {
  return gguf_card(folder, {.repository = repository, .source_repository = source_repository});
}

std::vector<UploadFile> gguf_files(const Arguments& a, const HubSettings& settings, const HubName& target,
                                   const HubName& source) {
  const fs::path folder = a.gguf;
  std::vector<UploadFile> files = files_to_upload(folder, settings.cache);
  const bool shared = fs::weakly_canonical(folder) == fs::weakly_canonical(a.folder);
  std::erase_if(files, [&](const UploadFile& file) {
    const bool card = file.path == kCardName && a.card && !shared;
    return !card && !is_gguf(file);
  });
  if (std::ranges::none_of(files, is_gguf))
    fail(ErrorKind::usage, "--gguf {}: no .gguf file is there; OUT of \"moerge gguf\" is expected", a.gguf);
  const bool has_card = std::ranges::find(files, kCardName, &UploadFile::path) != files.end();
  if (a.card && !has_card)
    if (std::string text = gguf_card_text(folder, target.repository, source.repository); !text.empty())
      files.push_back({.source = folder / kCardName,
                       .path = kCardName,
                       .size = std::ssize(text),
                       .content = std::move(text)});
  return files;
}

void warn_without_card(const Arguments& a, const Push& push, Reporter& reporter) {
  const bool has_card = std::ranges::find(push.files, kCardName, &UploadFile::path) != push.files.end();
  if (a.card && !has_card)
    reporter.info(fmt::format(
        "{} has no README.md, so the page on the Hub will be empty; \"moerge card {}\" writes one",
        push.folder.string(), push.folder.string()));
}

Json report_json(const UploadReport& report, const char* sent) {
  Json files = Json::array();
  for (const auto& [list, state] : {std::pair(&report.sent, sent), std::pair(&report.skipped, "there")})
    for (const UploadFile& file : *list)
      files.push_back({{"path", file.path}, {"bytes", file.size}, {"state", state}});
  return {{"url", report.url},
          {"commit", report.commit.empty() ? Json() : Json(report.commit)},
          {"files", files}};
}

// The list of a dry run.
std::string report_text(const UploadReport& report) {
  std::string out = report.url + "\n";
  int64_t bytes = 0;
  for (const UploadFile& file : report.sent) {
    out += fmt::format("  {:>9}  {}\n", human_bytes(file.size), file.path);
    bytes += file.size;
  }
  for (const UploadFile& file : report.skipped)
    out += fmt::format("  {:>9}  {} (there already)\n", human_bytes(file.size), file.path);
  return printable(out +
                   fmt::format("  {} in {} files would be sent\n", human_bytes(bytes), report.sent.size()));
}

// Without an account nothing can be compared: the Hub is not asked, or did not answer.
UploadReport listing(const Push& push, const HubSettings& settings) {
  return {.url = settings.endpoint + "/" + push.target.repository,
          .commit = {},
          .sent = push.files,
          .skipped = {}};
}

// The account, as far as a dry run can have it.
std::optional<HubAccount> try_account(Hub& hub, Reporter& reporter) {
  if (hub.settings().token.empty()) {
    reporter.info(
        "no token is set: only what everybody may see can be compared, and a push would be refused");
    return {};
  }
  try {
    return ask_account(hub, false);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io) throw;
    reporter.info(error.message());
    return {};
  }
}

}  // namespace

int run_push(std::string_view program, const std::vector<std::string>& arguments) {
  Arguments a;
  CLI::App app(
      "Uploads a model folder to the Hugging Face Hub, as one commit. What is there already is not sent "
      "again, "
      "also after an\ninterruption; files that only the repository has stay. The token comes from HF_TOKEN "
      "or "
      "\"hf auth login\"; docs/push.md.\n\n"
      "examples:  moerge push merge me/my-moe --private\n"
      "           moerge push merge me/my-moe --gguf ggufs      (those to me/my-moe-GGUF)\n"
      "           moerge push ggufs me/my-moe-GGUF --dry-run\n",
      std::string(program));
  add_flags(app, a);
  if (!parse_arguments(app, arguments, program)) return 0;
  Reporter reporter(a.level());
  HubName target = parse_target(a);
  check_folder(a.folder, "");
  if (!a.gguf.empty()) check_folder(a.gguf, "--gguf ");
  const HubSettings settings = command_hub_settings(process_environment);

  std::optional<Hub> hub;
  std::optional<HubAccount> account;
  if (!settings.offline || !a.dry_run) hub.emplace(settings, reporter);  // offline it says so
  std::vector<Push> pushes;
  pushes.push_back({.folder = a.folder, .target = {}, .files = model_files(a, settings)});
  if (hub) account = a.dry_run ? try_account(*hub, reporter) : ask_account(*hub);
  if (target.repository.starts_with('/')) {
    target.repository = (account ? account->name : "YOUR-NAME") + target.repository;
    reporter.info(fmt::format("\"{}\" is taken for your own \"{}\"", a.name, target.repository));
  }
  pushes[0].target = target;
  if (!a.gguf.empty()) {
    HubName other = target;
    other.repository += kGgufSuffix;
    pushes.push_back({.folder = a.gguf, .target = other, .files = gguf_files(a, settings, other, target)});
  }
  for (const Push& push : pushes) {
    if (account) check_upload(*hub, *account, push.target, push.files);
    warn_without_card(a, push, reporter);
  }

  std::vector<UploadReport> reports;
  for (const Push& push : pushes) {
    if (a.dry_run) {
      const bool compare = hub && (account || hub->settings().token.empty());
      reports.push_back(compare ? dry_upload(*hub, push.files, push.target) : listing(push, settings));
      continue;
    }
    const std::string message = a.message.empty() ? "Upload with moerge" : a.message;
    reports.push_back(upload(*hub, *account, push.files,
                             {.target = push.target, .make_private = a.make_private, .message = message}));
    const UploadReport& report = reports.back();
    if (report.commit.empty())
      reporter.info(fmt::format("{} has all of it: nothing to commit", report.url));
    else
      reporter.info(fmt::format("committed {} files to {} as {}", report.sent.size(), report.url,
                                report.commit.substr(0, 10)));
  }
  const char* sent = a.dry_run ? "to send" : "sent";
  if (a.json) {
    Json out = report_json(reports[0], sent);
    if (reports.size() > 1) out["gguf"] = report_json(reports[1], sent);
    print_result(json_text(out));
    return 0;
  }
  std::string out;
  for (const UploadReport& report : reports) out += a.dry_run ? report_text(report) : report.url + "\n";
  print_result(a.dry_run ? out + "nothing was changed (--dry-run)\n" : out);
  return 0;
}

}  // namespace moerge
