#pragma once
// Which modules go into an adapter, and how an adapter's configuration names them.

#include <regex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moerge {

struct LoraOptions;

class LoraSelection {
 public:
  /// `modules`: the names of all that there are. Throws usage for an expression that is none, and for one,
  /// or a module to save, that matches nothing, with the nearest name.
  LoraSelection(const LoraOptions& options, const std::vector<std::string>& modules);

  /// Included and not excluded; what is to be saved is included.
  bool takes(const std::string& module) const;
  /// It is to be stored whole.
  bool saves(std::string_view module) const;

 private:
  std::vector<std::regex> include_, exclude_;
  std::vector<std::string> save_;
};

/// The shortest names that mean exactly `some` of `all`: the last part ("q_proj") of several, where all that
/// it fits are among them, else the whole name; sorted. PEFT compares with the end of a module's name;
/// `whole_parts`: from a point on (target_modules), else anywhere (modules_to_save).
std::vector<std::string> short_names(std::span<const std::string> some, std::span<const std::string> all,
                                     bool whole_parts);

}  // namespace moerge
