// A Parquet file with the rows of a data set, and, of an input that begins with "/", a regular expression and
// the text in the lines after it.
#include "moerge/eval/data_source.h"
#include "moerge/eval/regex.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input = fuzz::text_of(data, size);
  return fuzz::run([&] {
    if (!input.starts_with('/')) {
      const auto rows = read_documents(fuzz::write("a.parquet", input), "task");
      for (const Document& row : rows) fuzz::require(row.members.is_object() && !row.where.empty());
      return;
    }
    const size_t end = std::min(input.find('\n'), input.size());
    const std::string_view text = input.substr(std::min(end + 1, input.size()));
    const Regex regex(input.substr(1, end - 1), "task.yaml");
    for (const Regex::Match& match : regex.find_all(text, 1000))
      fuzz::require(match[0].has_value() && text.find(*match[0]) != text.npos);
    fuzz::require(regex.replace_all(text, "").size() <= text.size());
  });
}
