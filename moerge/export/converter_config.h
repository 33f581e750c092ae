#pragma once
// config.json as llama.cpp's converter has it before it: read by the transformers class where there is one
// (config_class.h), its rope settings in one object. Numbers are checked when they are asked for.
// Source: llama.cpp, conversion/base.py (ModelBase.load_hparams, find_hparam, TextModel.__init__).

#include <initializer_list>
#include <optional>
#include <string>

#include "moerge/base/json.h"
#include "moerge/export/family.h"
#include "moerge/model/config.h"

namespace moerge {

class ConverterConfig {
 public:
  using Keys = std::initializer_list<const char*>;

  /// `where` names the file in messages. Throws input for what is no object and for rope settings that are
  /// none.
  ConverterConfig(const ExportFamily& family, const Json& config, std::string where);

  /// The member of the first of these keys that is there; null when none is, or it is null.
  const Json* find(Keys keys) const;
  /// The same as a whole number from `least` to 2^30; empty when absent. Throws input for anything else.
  std::optional<int64_t> count(Keys keys, int64_t least = 1) const;
  int64_t needed_count(Keys keys, int64_t least = 1) const;
  std::optional<double> number(Keys keys) const;  // finite
  /// True when it is there and of this value.
  bool is(const char* key, const Json& value) const;

  /// head_dim, or what the converter takes for it: hidden_size / num_attention_heads.
  int64_t head_dim() const;

  /// The rope settings (of the layers with full attention, where kinds of layers have their own).
  const Json& rope() const { return rope_; }
  std::optional<double> rope_number(const char* key) const;    // finite
  std::optional<double> rope_positive(const char* key) const;  // finite and above 0
  std::optional<int64_t> rope_count(const char* key) const;
  std::string rope_type() const;  // empty when there is none
  /// The rotation base of layers with sliding attention, where it is another.
  std::optional<double> sliding_rope_theta() const { return sliding_theta_; }

  const std::string& where() const { return where_; }

 private:
  void read_rope();

  Json values_, rope_ = Json::object();
  std::optional<double> sliding_theta_;
  std::string where_, refusal_;  // why its class does not take it
};

}  // namespace moerge
