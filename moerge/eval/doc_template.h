#pragma once
// Templates of a task file over the members of an item.

#include <memory>
#include <string>
#include <vector>

#include "moerge/base/json.h"
#include "moerge/engine/template_process.h"

namespace moerge {

/// What lm-evaluation-harness does with such a text, except that a template which is one single
/// "{{ expression }}" gives the expression's value: a list is a list. "{{ LIST.index(VALUE) }}", which the
/// template engine does not know, is computed here.
class DocTemplates {
 public:
  /// All templates are added before one is asked for a value. `name`: for messages.
  size_t add(std::string name, const std::string& text);
  /// Starts the templates' process. `where` starts messages.
  void start(const std::string& where);

  /// The member of that name, or what the template makes. Throws input, starting with `where`: a template
  /// that fails or finds nothing.
  Json value(size_t index, const Json& doc, const std::string& where);
  /// The same as text, as it would stand in a prompt.
  std::string text(size_t index, const Json& doc, const std::string& where);
  /// Without braces: the name of a member, or a text that is the same for every item.
  bool is_bare(size_t index) const { return fields_[index].kind == Kind::bare; }

 private:
  enum class Kind { bare, text, expression, index };
  struct Field {
    std::string name, source;
    Kind kind = Kind::bare;
    size_t plain = 0, json = 0;  // in sources_
  };
  size_t source(const std::string& name, const std::string& text);
  std::string rendered(size_t source, const Field& field, const Json& doc, const std::string& where);
  Json rendered_json(const Field& field, const Json& doc, const std::string& where);
  Json position(const Field& field, const Json& doc, const std::string& where);

  std::vector<Field> fields_;
  std::vector<TemplateSource> sources_;
  std::unique_ptr<TemplateProcess> process_;
};

}  // namespace moerge
