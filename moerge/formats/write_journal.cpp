#include "moerge/formats/write_journal.h"

#include "moerge/base/error.h"

namespace moerge {
namespace {

constexpr int64_t kMaxJournal = 256 << 20;

struct Lines {
  Json head;
  std::vector<Json> entries;
  int64_t end = 0;  // of the last good line
};

Lines parse(const std::string& text, const std::string& where) {
  Lines lines;
  for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    Json line;
    try {
      line = parse_json(std::string_view(text).substr(begin, end - begin), where);
    } catch (const Error&) {
      break;
    }
    if (!line.is_object()) break;
    if (begin == 0)
      lines.head = std::move(line);
    else
      lines.entries.push_back(std::move(line));
    lines.end = static_cast<int64_t>(end) + 1;
  }
  return lines;
}

std::string text_of(const File& file) {
  const int64_t size = file.size();
  if (size > kMaxJournal) return "";
  std::string text(static_cast<size_t>(size), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace

WriteJournal::WriteJournal(const std::filesystem::path& path) : file_(File::open_output(path)) {
  if (!file_.try_lock()) fail(ErrorKind::io, "another moerge is writing {} at this moment", path.string());
  Lines lines = parse(text_of(file_), path.string());
  head_ = std::move(lines.head);
  entries_ = std::move(lines.entries);
  end_ = lines.end;
}

std::pair<Json, std::vector<Json>> WriteJournal::read(const std::filesystem::path& path) {
  Lines lines = parse(text_of(File::open_read(path)), path.string());
  return {std::move(lines.head), std::move(lines.entries)};
}

std::vector<Json> WriteJournal::entries() const {
  const std::lock_guard lock(guard_);
  return entries_;
}

void WriteJournal::start(const Json& head) {
  const std::lock_guard lock(guard_);
  file_.resize(0);
  end_ = 0;
  head_ = head;
  entries_.clear();
  append(head);
}

void WriteJournal::add(const Json& entry) {
  const std::lock_guard lock(guard_);
  append(entry);
  entries_.push_back(entry);
}

void WriteJournal::append(const Json& line) {
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  file_.write_at(end_, std::as_bytes(std::span(text)));
  file_.resize(end_ + std::ssize(text));  // what a cut-off line had left beyond it
  file_.sync();
  end_ += std::ssize(text);
}

}  // namespace moerge
