#include "moerge/engine/model_file_check.h"

#include <string>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/formats/gguf.h"

namespace moerge {

void check_model_file(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  const GgufHeader header = parse_gguf(mapped.bytes(), file.string());
  const std::string* type = header.metadata.string("general.type");
  if (type && *type != "model")
    fail(ErrorKind::input, "{}: a GGUF file of type \"{}\", expected a model", file.string(), *type);
  if (!header.metadata.string("general.architecture"))
    fail(ErrorKind::input, "{}: \"general.architecture\" is missing, so this is no model", file.string());
}

}  // namespace moerge
