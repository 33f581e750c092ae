#include "moerge/serve/request_check.h"

#include <fmt/format.h>

#include <cmath>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "moerge/base/error.h"
#include "moerge/serve/grammar_check.h"

namespace moerge {
namespace {

constexpr size_t kMaxMembers = 4096;    // of one object
constexpr size_t kMaxValues = 1000000;  // of a whole request
constexpr size_t kMaxPrompts = 64, kMaxMessages = 4096, kMaxTools = 128, kMaxParts = 1024;
constexpr size_t kMaxGrammar = 16 << 10;  // bytes
constexpr size_t kMaxWays = 32;
constexpr size_t kMaxTokens = 100000, kMaxTokenText = 1 << 20;  // of /tokenize, /detokenize
constexpr size_t kMaxSchema = 64 << 10;                         // bytes
constexpr size_t kMaxListed = 64, kMaxBiases = 1024;
constexpr size_t kMaxWord = 256;  // bytes of a text in a list
constexpr double kInt = std::numeric_limits<int32_t>::max();

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::input, fmt::format(format, std::forward<Args>(args)...));
}

// -------- what can be parsed

// Counts while it reads, and keeps nothing.
class Counter final : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(int64_t) override { return value(); }
  bool number_unsigned(uint64_t) override { return value(); }
  bool number_float(double number, const std::string&) override {
    if (!std::isfinite(number)) refuse("the request holds a number that is too large");
    return value();
  }
  bool string(std::string&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(size_t) override { return open(); }
  bool key(std::string&) override {
    if (++members_.back() > kMaxMembers)
      refuse("the request holds an object with more than {} members", kMaxMembers);
    return true;
  }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) override {
    std::string_view message = error.what();
    if (const size_t end = message.find("] "); end != std::string_view::npos) message.remove_prefix(end + 2);
    // What was read last may be anybody's text, of any length.
    if (const size_t read = message.find("; last read"); read != std::string_view::npos)
      message = message.substr(0, read);
    refuse("the request is not valid JSON: {}", message);
  }

 private:
  bool value() {
    if (++values_ > kMaxValues) refuse("the request holds more than {} values", kMaxValues);
    return true;
  }
  bool open() {
    if (members_.size() >= static_cast<size_t>(kMaxJsonDepth))
      refuse("the request is nested deeper than {} levels", kMaxJsonDepth);
    members_.push_back(0);
    return value();
  }
  bool close() {
    members_.pop_back();
    return true;
  }

  std::vector<size_t> members_;
  size_t values_ = 0;
};

// -------- tables of what may be in it

struct NumberRule {
  const char* key;
  double least, most;
  bool whole;
};

// Beyond these llama.cpp allocates by the number (repeat_last_n), computes with infinities, or answers with
// pages for each token (n_probs).
constexpr NumberRule kNumbers[] = {
    {"n_predict", -1, kInt, true},
    {"max_tokens", -1, kInt, true},
    {"max_completion_tokens", -1, kInt, true},
    {"seed", -1, 4294967295.0, true},
    {"temperature", 0, 100, false},
    {"dynatemp_range", 0, 100, false},
    {"dynatemp_exponent", 0, 100, false},
    {"top_k", -1, kInt, true},
    {"top_p", 0, 1, false},
    {"min_p", 0, 1, false},
    {"typical_p", 0, 1, false},
    {"top_n_sigma", -1, 100, false},
    {"xtc_probability", 0, 1, false},
    {"xtc_threshold", 0, 1, false},
    {"repeat_last_n", 0, 100000, true},
    {"repeat_penalty", 0.01, 100, false},
    {"presence_penalty", -100, 100, false},
    {"frequency_penalty", -100, 100, false},
    {"dry_multiplier", 0, 100, false},
    {"dry_base", 0, 100, false},
    {"dry_allowed_length", 0, 100000, true},
    {"dry_penalty_last_n", 0, 100000, true},
    {"mirostat", 0, 2, true},
    {"mirostat_tau", 0, 100, false},
    {"mirostat_eta", 0, 100, false},
    {"adaptive_target", -1, 1, false},
    {"adaptive_decay", 0, 0.99, false},
    {"min_keep", 0, 100000, true},
    {"n_probs", 0, 100, true},
    {"top_logprobs", 0, 100, true},
    {"n_keep", -1, kInt, true},
    {"n_discard", 0, kInt, true},
    {"n_indent", 0, 1000, true},
    {"n_cache_reuse", 0, kInt, true},
    {"t_max_predict_ms", -1, 1e15, true},
    {"sse_ping_interval", -1, 86400, true},
    {"reasoning_budget_tokens", -1, kInt, true},
    {"thinking_budget_tokens", -1, kInt, true},
};

constexpr const char* kSwitches[] = {"stream",
                                     "cache_prompt",
                                     "return_tokens",
                                     "return_progress",
                                     "ignore_eos",
                                     "timings_per_token",
                                     "verbose",
                                     "post_sampling_probs",
                                     "reasoning_control",
                                     "echo",
                                     "parallel_tool_calls",
                                     "add_generation_prompt",
                                     "routing"};

// Passed by llama.cpp's server to itself; from outside they reach std::regex and unchecked parsers.
constexpr const char* kInternal[] = {"backend_sampling",
                                     "chat_format",
                                     "chat_parser",
                                     "generation_prompt",
                                     "grammar_lazy",
                                     "grammar_triggers",
                                     "grammar_type",
                                     "message_delimiters",
                                     "parse_tool_calls",
                                     "preserved_tokens",
                                     "reasoning_budget_end_tag",
                                     "reasoning_budget_end_tags",
                                     "reasoning_budget_message",
                                     "reasoning_budget_start_tag"};

constexpr const char* kWordLists[] = {"stop", "dry_sequence_breakers", "samplers", "response_fields"};

const Json* given(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

void check_number(const Json& value, const NumberRule& rule) {
  const double number = value.is_number() ? value.get<double>() : 0;
  if (!value.is_number() || number < rule.least || number > rule.most ||
      (rule.whole && std::floor(number) != number))
    refuse(
        "\"{}\" should be {} from {} to {}, found {}", rule.key, rule.whole ? "a whole number" : "a number",
        rule.least == std::floor(rule.least) ? fmt::format("{:.0f}", rule.least)
                                             : fmt::format("{}", rule.least),
        rule.most == std::floor(rule.most) ? fmt::format("{:.0f}", rule.most) : fmt::format("{}", rule.most),
        value.is_number() ? value.dump() : value.type_name());
}

void check_words(const Json& value, const char* key) {
  const auto check = [&](const Json& word) {
    if (!word.is_string()) refuse("\"{}\" should hold texts, found {}", key, word.type_name());
    const auto& text = word.get_ref<const std::string&>();
    if (text.empty()) refuse("\"{}\" holds an empty text", key);
    if (text.size() > kMaxWord) refuse("\"{}\" holds a text of more than {} bytes", key, kMaxWord);
  };
  if (!value.is_array()) return check(value);
  if (value.size() > kMaxListed) refuse("\"{}\" should hold at most {} texts", key, kMaxListed);
  for (const Json& word : value) check(word);
}

void check_biases(const Json& value) {
  if (!value.is_array() && !value.is_object())
    refuse("\"logit_bias\" should be an object {{\"TOKEN\": BIAS}} or a list [[TOKEN, BIAS]], found {}",
           value.type_name());
  if (value.size() > kMaxBiases) refuse("\"logit_bias\" should hold at most {} tokens", kMaxBiases);
  for (const auto& [name, entry] : value.items()) {
    const Json* bias = &entry;
    if (value.is_array()) {
      if (!entry.is_array() || entry.size() != 2) refuse("\"logit_bias\" should hold pairs [TOKEN, BIAS]");
      if (entry[0].is_string() && entry[0].get_ref<const std::string&>().size() > kMaxWord)
        refuse("\"logit_bias\" holds a text of more than {} bytes", kMaxWord);
      bias = &entry[1];
    } else if (name.size() > kMaxWord) {
      refuse("\"logit_bias\" holds a text of more than {} bytes", kMaxWord);
    }
    if (*bias != Json(false) && !(bias->is_number() && std::abs(bias->get<double>()) <= 1000))
      refuse("\"logit_bias\": a bias should be a number from -1000 to 1000, or false");
  }
}

// -------- texts and grammars

void check_length(size_t bytes, const RequestLimits& limits) {
  if (bytes > limits.longest_text)
    refuse("a text of {} bytes has more tokens than the context of {} (--ctx-size)", bytes, limits.context);
}

void check_grammar(const std::string& grammar) {
  if (grammar.size() > kMaxGrammar)
    refuse("\"grammar\" should have at most {} bytes, found {}", kMaxGrammar, grammar.size());
  if (open_ways(grammar, kMaxWays + 1) > kMaxWays)
    refuse(
        "\"grammar\" leaves more than {} ways open at once, which would take llama.cpp minutes for a token: "
        "fewer parts in a row that may be missing",
        kMaxWays);
}

size_t schema_members(const Json& schema) {
  size_t members = schema.is_object() ? schema.size() : 0;
  if (schema.is_structured())
    for (const Json& part : schema) members += schema_members(part);
  return members;
}

// A pattern becomes a row of a grammar, in which every optional part doubles the ways to go on
// (grammar_check.h).
void check_patterns(const Json& schema, const char* where) {
  constexpr int64_t kMaxOptional = 16;
  if (schema.is_object())
    if (const auto pattern = schema.find("pattern"); pattern != schema.end() && pattern->is_string())
      if (std::ranges::count_if(pattern->get_ref<const std::string&>(), [](char c) {
            return std::string_view("?*+{|").find(c) != std::string_view::npos;
          }) > kMaxOptional)
        refuse("{}: a \"pattern\" should have at most {} of ? * + {{ |", where, kMaxOptional);
  if (schema.is_structured())
    for (const Json& part : schema) check_patterns(part, where);
}

void check_schema(const Json& schema, const char* where) {
  if (schema.dump(-1, ' ', false, Json::error_handler_t::replace).size() > kMaxSchema)
    refuse("{} should have at most {} bytes", where, kMaxSchema);
  constexpr size_t kMaxSchemaMembers = 2000;
  if (schema_members(schema) > kMaxSchemaMembers)
    refuse("{} should have at most {} members", where, kMaxSchemaMembers);
  check_patterns(schema, where);
}

// -------- chat

size_t check_message(const Json& message, size_t number) {
  if (!message.is_object())
    refuse("\"messages\": the {}. should be an object, found {}", number, message.type_name());
  const Json* role = given(message, "role");
  if (!role || !role->is_string()) refuse("\"messages\": the {}. has no \"role\"", number);
  const Json* content = given(message, "content");
  size_t bytes = 0;  // of all that the template may show
  for (const auto& [key, value] : message.items())
    if (key != "content") bytes += value.dump(-1, ' ', false, Json::error_handler_t::replace).size();
  if (!content) return bytes;
  if (content->is_string()) return bytes + content->get_ref<const std::string&>().size();
  if (!content->is_array())
    refuse("\"messages\": the {}. one's \"content\" should be a text or a list of parts, found {}", number,
           content->type_name());
  if (content->size() > kMaxParts) refuse("\"messages\": the {}. has more than {} parts", number, kMaxParts);
  for (const Json& part : *content) {
    const Json* type = part.is_object() ? given(part, "type") : nullptr;
    const Json* text = part.is_object() ? given(part, "text") : nullptr;
    if (!type || *type != "text")
      refuse("\"messages\": the {}. has a part that is no text; this server reads texts only", number);
    if (!text || !text->is_string())
      refuse("\"messages\": the {}. has a part of type \"text\" without \"text\"", number);
    bytes += text->get_ref<const std::string&>().size();
  }
  return bytes;
}

void check_chat(const Json& request, const RequestLimits& limits) {
  const Json* messages = given(request, "messages");
  if (!messages) refuse("\"messages\" is missing: [{{\"role\": \"user\", \"content\": \"...\"}}]");
  if (!messages->is_array()) refuse("\"messages\" should be a list, found {}", messages->type_name());
  if (messages->empty()) refuse("\"messages\" is empty");
  if (messages->size() > kMaxMessages) refuse("\"messages\" should hold at most {}", kMaxMessages);
  size_t number = 0, bytes = 0;
  for (const Json& message : *messages) bytes += check_message(message, ++number);
  check_length(bytes, limits);
  if (const Json* tools = given(request, "tools")) {
    if (!tools->is_array()) refuse("\"tools\" should be a list, found {}", tools->type_name());
    if (tools->size() > kMaxTools) refuse("\"tools\" should hold at most {}", kMaxTools);
    check_schema(*tools, "\"tools\"");
  }
  if (const Json* format = given(request, "response_format")) {
    if (!format->is_object())
      refuse("\"response_format\" should be an object, found {}", format->type_name());
    check_schema(*format, "\"response_format\"");
  }
  if (const Json* extra = given(request, "chat_template_kwargs")) {
    if (!extra->is_object())
      refuse("\"chat_template_kwargs\" should be an object, found {}", extra->type_name());
    check_schema(*extra, "\"chat_template_kwargs\"");
  }
}

void check_prompt(const Json& request, const RequestLimits& limits) {
  const Json* prompt = given(request, "prompt");
  if (!prompt) refuse("\"prompt\" is missing");
  if (prompt->is_string()) return check_length(prompt->get_ref<const std::string&>().size(), limits);
  if (!prompt->is_array()) refuse("\"prompt\" should be a text or a list, found {}", prompt->type_name());
  if (prompt->empty()) refuse("\"prompt\" is empty");
  const bool tokens = (*prompt)[0].is_number();
  if (!tokens && prompt->size() > kMaxPrompts)
    refuse("\"prompt\" should hold at most {} prompts, found {}", kMaxPrompts, prompt->size());
  const auto check = [&](const Json& part) {
    if (!part.is_string() &&
        !(part.is_number_integer() && part.get<double>() >= 0 && part.get<double>() <= kInt))
      refuse("\"prompt\" should hold texts, tokens or lists of tokens");
    if (part.is_string()) check_length(part.get_ref<const std::string&>().size(), limits);
  };
  for (const Json& part : *prompt) {
    if (part.is_array() && !tokens) {
      for (const Json& token : part) check(token);
      if (part.empty()) refuse("\"prompt\" holds an empty list");
    } else {
      check(part);
    }
  }
}

}  // namespace

Json parse_request(std::string_view body) {
  Counter counter;
  Json::sax_parse(body.begin(), body.end(), &counter);
  Json request = Json::parse(body.begin(), body.end());
  if (!request.is_object()) refuse("the request should be a JSON object, found {}", request.type_name());
  return request;
}

void check_request(const Json& request, RequestKind kind, const RequestLimits& limits) {
  const int parallel = limits.parallel;
  for (const NumberRule& rule : kNumbers)
    if (const Json* value = given(request, rule.key)) check_number(*value, rule);
  if (const Json* value = given(request, "logprobs"); value && !value->is_boolean())
    check_number(*value, {"logprobs", 0, 100, true});
  if (const Json* value = given(request, "id_slot"))
    check_number(*value, {"id_slot", -1, static_cast<double>(parallel - 1), true});
  for (const char* key : {"n", "n_cmpl"})
    if (const Json* value = given(request, key)) {
      if (value->is_number_integer() && value->get<double>() > parallel)
        refuse("\"{}\" is {}, this server gives at most {} answers at once (--parallel)", key, value->dump(),
               parallel);
      check_number(*value, {key, 1, static_cast<double>(parallel), true});
    }
  for (const char* key : kSwitches)
    if (const Json* value = given(request, key); value && !value->is_boolean())
      refuse("\"{}\" should be true or false, found {}", key, value->type_name());
  for (const char* key : kInternal)
    if (given(request, key)) refuse("\"{}\" cannot be set by a request", key);
  for (const char* key : kWordLists)
    if (const Json* value = given(request, key)) check_words(*value, key);
  if (const Json* value = given(request, "logit_bias")) check_biases(*value);
  if (const Json* value = given(request, "lora"); value && !(value->is_array() && value->empty()))
    refuse("\"lora\": this server has no adapters");
  if (const Json* value = given(request, "grammar")) {
    if (!value->is_string()) refuse("\"grammar\" should be a text, found {}", value->type_name());
    check_grammar(value->get_ref<const std::string&>());
  }
  if (const Json* value = given(request, "json_schema")) check_schema(*value, "\"json_schema\"");
  kind == RequestKind::chat ? check_chat(request, limits) : check_prompt(request, limits);
}

void check_tokens_request(const Json& request) {
  for (const char* key : {"content", "tokens"}) {
    const Json* value = given(request, key);
    if (!value) continue;
    if (value->is_array() && value->size() > kMaxTokens)
      refuse("\"{}\" should hold at most {} tokens, found {}", key, kMaxTokens, value->size());
    size_t bytes = value->is_string() ? value->get_ref<const std::string&>().size() : 0;
    if (value->is_array())
      for (const Json& part : *value)
        bytes += part.is_string() ? part.get_ref<const std::string&>().size() : 0;
    if (bytes > kMaxTokenText)
      refuse("\"{}\" should have at most {} bytes, found {}", key, kMaxTokenText, bytes);
  }
}

}  // namespace moerge
