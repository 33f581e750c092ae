#include "moerge/plan/source_watch.h"

#include <algorithm>

#include "moerge/base/error.h"

namespace moerge {
namespace {

[[noreturn]] void refuse(const MappedFile& file) {
  fail(ErrorKind::input, "{} changed while it was read: run this again when nothing writes to it",
       file.file().path().string());
}

}  // namespace

std::vector<const MappedFile*> list_source_files(const Plan& plan) {
  std::vector<const MappedFile*> files;
  for (const Step& step : plan.steps)
    if (const Concat* concat = std::get_if<Concat>(&step.how))
      for (const Part& part : concat->parts)
        for (const StoredTensor* stored : stored_sources(*part.source)) files.push_back(stored->file);
  std::ranges::sort(files);
  files.erase(std::unique(files.begin(), files.end()), files.end());
  return files;
}

SourceWatch::SourceWatch(const Plan& plan) {
  for (const MappedFile* file : list_source_files(plan)) {
    files_.push_back({file, file->file().stamp()});
    if (files_.back().stamp.bytes != std::ssize(file->bytes())) refuse(*file);
  }
}

void SourceWatch::check() const {
  for (const Watched& watched : files_)
    if (watched.file->file().stamp() != watched.stamp) refuse(*watched.file);
}

Json SourceWatch::identity() const {
  std::vector<std::pair<std::string, FileStamp>> named;
  for (const Watched& watched : files_)
    named.emplace_back(std::filesystem::weakly_canonical(watched.file->file().path()).string(),
                       watched.stamp);
  std::ranges::sort(named, {}, &std::pair<std::string, FileStamp>::first);
  Json out = Json::array();
  for (const auto& [path, stamp] : named) {
    Json entry = {{"file", path}, {"bytes", stamp.bytes}, {"changed", stamp.changed}};
    if (out.empty() || out.back() != entry) out.push_back(std::move(entry));
  }
  return out;
}

std::string find_changed_source(const Json& before, const Json& now) {
  for (size_t i = 0; i < now.size(); i++)
    if (!before.is_array() || i >= before.size() || before[i] != now[i])
      return now[i].at("file").get<std::string>();
  return before.is_array() && before.size() > now.size() ? "a file of before" : "";
}

}  // namespace moerge
