#include "moerge/export/special_tokens.h"

#include <algorithm>

#include "moerge/base/error.h"
#include "moerge/base/file.h"
#include "moerge/model/chat_templates.h"

namespace moerge {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kMaxTemplate = 4 << 20;

// The keys that llama.cpp has for a role; empty where there is none.
struct RoleKeys {
  std::string_view role, id, added;
};
constexpr RoleKeys kKeys[] = {
    {"bos", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token"},
    {"eos", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.add_eos_token"},
    {"unk", "tokenizer.ggml.unknown_token_id", ""},
    {"sep", "tokenizer.ggml.seperator_token_id", "tokenizer.ggml.add_sep_token"},  // sic
    {"pad", "tokenizer.ggml.padding_token_id", ""},
    {"mask", "tokenizer.ggml.mask_token_id", ""},
    {"eot", "tokenizer.ggml.eot_token_id", ""},
    {"eom", "tokenizer.ggml.eom_token_id", ""},
};

// Whether a Python program would see something there.
bool is_something(const Json& value) {
  if (value.is_null() || value.is_structured()) return !value.empty();
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  if (value.is_boolean()) return value.get<bool>();
  return value != 0;
}

// Element of an array; null outside it.
const Json& element(const Json& array, size_t i) {
  static const Json null;
  return array.is_array() && i < array.size() ? array[i] : null;
}

// "id" of a part of a template: the text of a special token, or the name of a sequence.
std::string special_of(const Json& part) { return token_text(member(member(part, "SpecialToken"), "id")); }
std::string sequence_of(const Json& part) { return token_text(member(member(part, "Sequence"), "id")); }

template <typename T>
const T* find_role(const std::vector<std::pair<std::string, T>>& list, std::string_view role) {
  for (const auto& [name, value] : list)
    if (name == role) return &value;
  return nullptr;
}

class Reader {
 public:
  Reader(const TokenizerFiles& files, const Json& model_config, std::span<const std::string_view> roles)
      : files_(files), model_config_(model_config), config_(files.tokenizer_config) {
    for (const std::string_view role : roles) roles_.emplace_back(role);
  }

  SpecialTokens read(int64_t vocab_size, std::vector<std::string>& warnings) {
    read_normalizer(member(files_.tokenizer, "normalizer"));
    if (files_.tokenizer.is_object()) read_post_processor(member(files_.tokenizer, "post_processor"));
    if (!config_.empty()) {
      out_.chat_template = find_chat_template(warnings);
      for (const std::string& role : roles_) read_role(role);
    }
    for (const std::string& role : roles_) {
      const std::string key = role + "_token_id";
      const Json& id = member(model_config_, key);
      offer(role, id.is_null() ? member(member(model_config_, "text_config"), key) : id, "config.json");
    }
    for (const auto& [role, id, where] : offers_) {
      if (find_role(out_.ids, role)) continue;
      if (id < 0 || id >= vocab_size)
        warnings.push_back(fmt::format("{}: {}_token_id is {}, there are {} tokens: left out",
                                       (files_.folder / where).string(), role, id, vocab_size));
      set_special_token(out_, role, id, vocab_size);
    }
    return std::move(out_);
  }

 private:
  struct Offer {
    std::string role;
    int64_t id;
    std::string where;
  };

  void offer(const std::string& role, const Json& id, const char* where) {
    if (!id.is_number_integer()) return;
    const bool huge = id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX;
    offers_.push_back({role, huge ? INT64_MAX : id.get<int64_t>(), where});
  }

  void set_added(std::string_view role, bool value) {
    for (auto& [name, old] : out_.added)
      if (name == role) {
        old = value;
        return;
      }
    out_.added.emplace_back(role, value);
  }

  void read_normalizer(const Json& normalizer) {
    const std::string type = token_text(member(normalizer, "type"));
    if (type == "Lowercase") out_.lowercase = true;
    if (type == "StripAccents") out_.strip_accents = true;
    if (type == "BertNormalizer") {
      const Json& lowercase = member(normalizer, "lowercase");
      const Json& strip_accents = member(normalizer, "strip_accents");
      if (lowercase.is_boolean()) out_.lowercase = lowercase.get<bool>();
      if (strip_accents.is_boolean()) out_.strip_accents = strip_accents.get<bool>();
    }
    const Json& inner = member(normalizer, "normalizers");
    if (type == "Sequence" && inner.is_array())
      for (const Json& step : inner) read_normalizer(step);
  }

  // Roles that only another role or a template states are filled in on the way, as SpecialVocab does it: a
  // token written as an object equals no text, which makes more of them.
  void read_post_processor(const Json& post_processor) {
    bos_ = member(config_, "bos_token"), cls_ = member(config_, "cls_token");
    eos_ = member(config_, "eos_token"), sep_ = member(config_, "sep_token");
    if (!config_.empty() && !is_something(bos_) && is_something(cls_)) config_["bos_token"] = bos_ = cls_;
    if (!config_.empty() && !is_something(eos_) && is_something(sep_)) config_["eos_token"] = eos_ = sep_;
    const Json& processors = member(post_processor, "processors");
    if (processors.is_array())
      for (const Json& step : processors) read_processor(step);
    else
      read_processor(post_processor);
  }

  void read_processor(const Json& step) {
    const std::string type = token_text(member(step, "type"));
    if (type == "ByteLevel")
      for (const char* role : {"bos", "eos"})
        if (!find_role(out_.added, role)) set_added(role, false);
    if (type == "RobertaProcessing") {
      for (const char* role : {"bos", "eos", "sep"}) set_added(role, true);
      if (!config_.empty() && !is_something(cls_))
        config_["cls_token"] = cls_ = step.contains("cls") ? element(step["cls"], 0) : bos_;
      if (!config_.empty() && !is_something(sep_))
        config_["sep_token"] = sep_ = step.contains("sep") ? element(step["sep"], 0) : eos_;
    }
    if (type == "TemplateProcessing") {
      const Json& single = member(step, "single");
      const bool has_ends = single.is_array() && single.size() > 1;
      const std::string first = has_ends ? read_first(special_of(single.front())) : "";
      const std::string last = has_ends ? read_last(special_of(single.back())) : "";
      read_pair(member(step, "pair"), first, last);
    }
  }

  std::string read_first(const std::string& first) {
    if (first.empty()) return first;
    if (config_.empty()) {
      bos_ = first;
    } else if (first != bos_ && first != cls_) {
      if (!is_something(bos_)) config_["bos_token"] = bos_ = first;
      if (!is_something(cls_)) config_["cls_token"] = cls_ = first;
    }
    set_added("bos", first == bos_ || first == cls_);
    return first;
  }

  std::string read_last(const std::string& last) {
    if (last.empty()) return last;
    if (config_.empty()) {
      eos_ = last;
    } else if (last != eos_) {
      // The stated end is then that of a turn, or of a message.
      for (const char* role : {"eot", "eom"})
        if (std::ranges::find(roles_, role) == roles_.end()) {
          roles_.emplace_back(role);
          config_[fmt::format("{}_token", role)] = eos_;
          break;
        }
      config_["eos_token"] = eos_ = last;
    }
    set_added("eos", last == eos_);
    return last;
  }

  // [first] A [separator] [separator] B [last]
  void read_pair(const Json& pair, const std::string& first, const std::string& last) {
    if (!pair.is_array() || pair.empty()) return;
    const size_t begin = !first.empty() && special_of(pair.front()) == first ? 1 : 0;
    const size_t end = pair.size() - (!last.empty() && special_of(pair.back()) == last ? 1 : 0);
    if (end < begin + 3 || sequence_of(pair[begin]) != "A" || sequence_of(pair[end - 1]) != "B") return;
    const auto separates = [&](const std::string& text) {
      return !text.empty() && (text == sep_ || text == eos_);
    };
    bool add = separates(special_of(pair[begin + 1])) && last.empty();
    if (end - begin == 4) add |= separates(special_of(pair[begin + 2]));
    set_added("sep", add);
    if (add && !is_something(sep_) && !config_.empty()) config_["sep_token"] = eos_;
  }

  Json template_files() const {
    const fs::path single = files_.folder / "chat_template.jinja",
                   older = files_.folder / "chat_template.json";
    if (!fs::exists(single)) {
      if (!fs::exists(older)) return nullptr;
      return member(read_json(older, kMaxTemplate), "chat_template");
    }
    std::vector<fs::path> more;
    if (const fs::path folder = files_.folder / "additional_chat_templates"; fs::is_directory(folder))
      for (const fs::directory_entry& entry : fs::directory_iterator(folder))
        if (entry.path().extension() == ".jinja") more.push_back(entry.path());
    if (more.empty()) return read_template_file(single);
    std::ranges::sort(more);
    Json list = Json::array({{{"name", "default"}, {"template", read_template_file(single)}}});
    for (const fs::path& file : more)
      list.push_back({{"name", file.stem().string()}, {"template", read_template_file(file)}});
    return list;
  }

  Json find_chat_template(std::vector<std::string>& warnings) const {
    const bool stated = config_.contains("chat_template");
    Json found = stated ? config_["chat_template"] : template_files();
    if (found.is_null() || found.is_string() || found.is_array()) return found;
    warnings.push_back(fmt::format("{}: \"chat_template\" is neither a text nor a list: left out",
                                   (files_.folder / "tokenizer_config.json").string()));
    return nullptr;
  }

  void read_role(const std::string& role) {
    const Json& add = member(config_, fmt::format("add_{}_token", role));
    if (add.is_boolean() && !find_role(out_.added, role)) set_added(role, add.get<bool>());
    const std::string text = token_text(member(config_, role + "_token"));
    const Json& added_tokens = member(files_.tokenizer, "added_tokens");
    if (text.empty() || !added_tokens.is_array()) return;
    for (const Json& token : added_tokens)
      if (token_text(token) == text) {
        offer(role, member(token, "id"), "tokenizer.json");
        return;
      }
  }

  const TokenizerFiles& files_;
  const Json& model_config_;
  Json config_;  // tokenizer_config.json with what read_post_processor() fills in
  std::vector<std::string> roles_;
  std::vector<Offer> offers_;  // the first valid one of a role counts
  Json bos_, cls_, eos_, sep_;
  SpecialTokens out_;
};

std::string without_spaces(const Json& part) {
  std::string out;
  for (const char c : part.get_ref<const std::string&>()) {
    if (c == ' ')
      out += "Ġ";
    else
      out += c;
  }
  return out;
}

// As a key may be: letters, digits and underscores.
std::string plain_name(const std::string& name) {
  std::string out;
  for (size_t i = 0; i < name.size(); i++) {
    const char c = name[i];
    if ((c & 0xc0) == 0x80) continue;  // the rest of a character that became one underscore
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    out += plain ? c : '_';
  }
  return out;
}

void add_chat_templates(GgufMetadata& metadata, const Json& list, std::vector<std::string>& warnings) {
  constexpr std::string_view kKey = "tokenizer.chat_template";
  std::vector<std::string> names;
  for (const Json& choice : list) {
    const std::string name = plain_name(token_text(member(choice, "name")));
    const Json& text = member(choice, "template");
    if (name.empty() || !text.is_string()) {
      warnings.emplace_back("a chat template without a name or a text is left out");
      continue;
    }
    if (text.get_ref<const std::string&>().empty()) continue;
    if (name == "default") {
      metadata.set(std::string(kKey), text.get<std::string>());
      continue;
    }
    metadata.set(fmt::format("{}.{}", kKey, name), text.get<std::string>());
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  if (!names.empty()) metadata.set("tokenizer.chat_templates", names);
}

}  // namespace

SpecialTokens read_special_tokens(const TokenizerFiles& files, const Json& config,
                                  std::span<const std::string_view> roles, int64_t vocab_size,
                                  std::vector<std::string>& warnings) {
  return Reader(files, config, roles).read(vocab_size, warnings);
}

void set_special_token(SpecialTokens& tokens, std::string_view role, int64_t id, int64_t vocab_size) {
  if (id >= 0 && id < vocab_size && !find_role(tokens.ids, role)) tokens.ids.emplace_back(role, id);
}

void add_special_tokens(GgufMetadata& metadata, const SpecialTokens& tokens,
                        std::vector<std::string>& warnings) {
  for (const RoleKeys& keys : kKeys) {
    if (const int64_t* id = find_role(tokens.ids, keys.role))
      metadata.set(std::string(keys.id), static_cast<uint32_t>(*id));
    if (const bool* added = find_role(tokens.added, keys.role); added && !keys.added.empty())
      metadata.set(std::string(keys.added), *added);
  }
  if (tokens.chat_template.is_string() && is_something(tokens.chat_template))
    metadata.set("tokenizer.chat_template", tokens.chat_template.get<std::string>());
  if (tokens.chat_template.is_array()) add_chat_templates(metadata, tokens.chat_template, warnings);
  if (tokens.lowercase) metadata.set("tokenizer.ggml.normalizer.lowercase", *tokens.lowercase);
  if (tokens.strip_accents) metadata.set("tokenizer.ggml.normalizer.strip_accents", *tokens.strip_accents);
}

std::vector<std::string> read_merges(const TokenizerFiles& files) {
  std::vector<std::string> out;
  const Json& merges = member(member(files.tokenizer, "model"), "merges");
  if (!merges.is_array()) return out;
  out.reserve(merges.size());
  for (const Json& merge : merges) {
    if (merge.is_string()) {
      out.push_back(merge.get<std::string>());
      continue;
    }
    if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string())
      fail(ErrorKind::input, "{}: merge {} is neither a text nor two",
           (files.folder / "tokenizer.json").string(), out.size());
    out.push_back(fmt::format("{} {}", without_spaces(merge[0]), without_spaces(merge[1])));
  }
  return out;
}

}  // namespace moerge
