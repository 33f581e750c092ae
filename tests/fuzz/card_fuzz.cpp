// README.md of a model; an input that begins with "{" is a report of scores for one.
#include "moerge/hub/card_source.h"
#include "moerge/hub/evaluation.h"
#include "tests/fuzz/target.h"

using namespace moerge;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text = fuzz::text_of(data, size);
  return fuzz::run([&] {
    if (text.starts_with('{')) {
      parse_scores(parse_json(text, "results.json"), "results.json");
      return;
    }
    const std::optional<YamlNode> front = read_front_matter(text);
    if (!front) fail(ErrorKind::input, "no front matter");
    front_matter_license(*front);
    for (const char* key : {"base_model", "language", "tags"}) front_matter_list(*front, key);
  });
}
