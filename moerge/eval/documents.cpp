// Rows of files.

#include <moerge_rust.h>

#include <array>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/base/lower_case.h"
#include "moerge/eval/data_source.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxFile = 1 << 30;
constexpr size_t kMaxDocuments = 2'000'000;
constexpr std::string_view kMark = "\xef\xbb\xbf";  // of UTF-8, which some editors put first
constexpr std::array kLists = {"data", "rows", "examples"};

// Rows of one file as they are read.
class Rows {
 public:
  Rows(const fs::path& file, const std::string& task, size_t first)
      : file_(file), task_(task), first_(first) {}

  /// `number`: of its line or row, from 1. `unit`: "" for lines.
  void add(Json members, size_t number, std::string_view unit) {
    Document document = {.members = std::move(members), .where = where(number, unit)};
    if (!document.members.is_object())
      fail(ErrorKind::input, "{}: an item should be a JSON object, this is {}", document.where,
           document.members.type_name());
    if (documents_.size() == kMaxDocuments)
      fail(ErrorKind::input, "{}: {} has more than {} items", task_, file_.string(), kMaxDocuments);
    documents_.push_back(std::move(document));
  }
  void add_text(std::string_view text, size_t number, std::string_view unit) {
    add(parse_json(text, where(number, unit)), number, unit);
  }
  std::vector<Document> take() {
    if (documents_.empty()) fail(ErrorKind::input, "{}: {} has no items", task_, file_.string());
    return std::move(documents_);
  }

 private:
  std::string where(size_t number, std::string_view unit) const {
    return fmt::format("{}, item {} ({}:{}{})", task_, first_ + documents_.size(), file_.filename().string(),
                       unit, number);
  }

  const fs::path& file_;
  const std::string& task_;
  size_t first_;
  std::vector<Document> documents_;
};

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == text.npos; }

// Line by line; what is left of the text, and the line's number, go to `take`.
template <typename Take>
void each_line(std::string_view text, const Take& take) {
  for (size_t number = 1; !text.empty(); number++) {
    const size_t end = std::min(text.find('\n'), text.size());
    if (!is_blank(text.substr(0, end))) take(text.substr(0, end), number);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void read_lines(std::string_view text, Rows& rows) {
  each_line(text, [&](std::string_view line, size_t number) { rows.add_text(line, number, ""); });
}

// Is it an object a line, whatever its name says?
bool has_object_lines(std::string_view text) {
  size_t lines = 0;
  bool first_is_whole = false;
  each_line(text, [&](std::string_view line, size_t) {
    if (lines++ == 0) first_is_whole = line.find_first_not_of(" \t\r") != line.npos && Json::accept(line);
  });
  return lines > 1 && first_is_whole;
}

void read_list(std::string_view text, const fs::path& file, const std::string& task, Rows& rows) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != text.npos && text[first] == '{' && has_object_lines(text)) return read_lines(text, rows);
  Json json = parse_json(text, fmt::format("{}: {}", task, file.string()));
  Json* list = &json;
  if (json.is_object())
    for (const char* key : kLists)
      if (const auto found = json.find(key); found != json.end() && found->is_array()) {
        list = &*found;
        break;
      }
  if (!list->is_array())
    fail(ErrorKind::input,
         "{}: {} should be a list of objects, or an object with one as \"data\", \"rows\" or \"examples\"",
         task, file.string());
  for (size_t i = 0; i < list->size(); i++) rows.add(std::move((*list)[i]), i + 1, "row ");
}

struct FreeParquet {
  void operator()(MoergeParquet* file) const { moerge_parquet_free(file); }
};
struct FreeBytes {
  size_t length = 0;
  void operator()(uint8_t* bytes) const { moerge_free_bytes(bytes, length); }
};

void read_parquet(const fs::path& file, const std::string& task, Rows& rows) {
  char* error = nullptr;
  const auto fail_with = [&] {
    const std::unique_ptr<char, void (*)(char*)> reason(error, moerge_free_text);
    fail(ErrorKind::input, "{}: {}: {}", task, file.string(), reason ? reason.get() : "cannot be read");
  };
  const std::unique_ptr<MoergeParquet, FreeParquet> reader(moerge_parquet_open(file.c_str(), &error));
  if (!reader) fail_with();
  for (size_t number = 1;;) {
    check_interrupted();
    size_t length = 0;
    uint8_t* bytes = moerge_parquet_read(reader.get(), &length, &error);
    if (!bytes) fail_with();
    const std::unique_ptr<uint8_t, FreeBytes> owner(bytes, FreeBytes{length});
    if (length == 0) return;
    each_line({reinterpret_cast<const char*>(bytes), length},
              [&](std::string_view line, size_t) { rows.add_text(line, number++, "row "); });
  }
}

}  // namespace

std::vector<Document> read_documents(const fs::path& file, const std::string& task, size_t first) {
  Rows rows(file, task, first);
  const std::string kind = lower_case(file.extension().string());
  if (kind == ".parquet") {
    read_parquet(file, task, rows);
    return rows.take();
  }
  if (kind != ".jsonl" && kind != ".ndjson" && kind != ".json")
    fail(ErrorKind::unsupported, "{}: {} is no .jsonl, .json or .parquet file, which moerge reads", task,
         file.string());
  const std::string all = read_file(file, kMaxFile);
  std::string_view text = all;
  if (text.starts_with(kMark)) text.remove_prefix(kMark.size());
  if (kind == ".json")
    read_list(text, file, task, rows);
  else
    read_lines(text, rows);
  return rows.take();
}

}  // namespace moerge
