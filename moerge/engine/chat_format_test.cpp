#include "moerge/engine/chat_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "moerge/base/error.h"

namespace moerge {
namespace {

const std::vector<ChatMessage> kConversation = {{"system", "Be brief."},
                                                {"user", " What is 2 + 2?\n"},
                                                {"assistant", "4 – \"four\""},
                                                {"user", "And {{ 3 }}?"},
                                                {"assistant", "\n3\n"}};
const std::span<const ChatMessage> kWithoutSystem = std::span(kConversation).subspan(1);

std::string render(const std::string& text, std::span<const ChatMessage> messages = kConversation) {
  return ChatFormat(text, "<s>", "</s>", "model").render(messages);
}

std::string message_of(const std::string& text, std::span<const ChatMessage> messages = kConversation) {
  try {
    render(text, messages);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "";
}

std::string built_in(std::string_view name) {
  return std::string(std::ranges::find(built_in_templates(), name, &BuiltInTemplate::name)->text);
}

// The expected texts are those of transformers 5 (apply_chat_template) for the same template and
// conversation.
TEST(ChatFormat, BuiltInTemplatesAsTransformersRendersThem) {
  EXPECT_EQ(render(built_in("chatml")),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n What is 2 + 2?\n<|im_end|>\n"
            "<|im_start|>assistant\n4 – \"four\"<|im_end|>\n<|im_start|>user\nAnd {{ 3 }}?<|im_end|>\n"
            "<|im_start|>assistant\n\n3\n<|im_end|>\n");
  EXPECT_EQ(render(built_in("llama3")),
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
            "<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            "4 – \"four\"<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nAnd {{ 3 }}?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n3<|eot_id|>");
  EXPECT_EQ(render(built_in("mistral")),
            "<s>[INST] Be brief.\n\n What is 2 + 2?\n [/INST] 4 – \"four\"</s>[INST] And {{ 3 }}? [/INST] "
            "\n3\n</s>");
  EXPECT_EQ(render(built_in("alpaca")),
            "<s>Be brief.\n\n### Instruction:\n What is 2 + 2?\n\n\n### Response:\n4 – \"four\"</s>\n\n"
            "### Instruction:\nAnd {{ 3 }}?\n\n### Response:\n\n3\n</s>\n\n");
  EXPECT_EQ(render(built_in("exaone")),
            "[|system|]Be brief.[|endofturn|]\n[|user|] What is 2 + 2?\n\n[|assistant|]4 – \"four\""
            "[|endofturn|]\n[|user|]And {{ 3 }}?\n[|assistant|]\n3\n[|endofturn|]\n");
  EXPECT_EQ(render(built_in("exaone"), kWithoutSystem.first(1)),
            "[|system|][|endofturn|]\n[|user|] What is 2 + 2?\n\n");
}

// Blocks on lines of their own: transformers trims the line ends behind and the spaces in front of them.
TEST(ChatFormat, ZephyrAsTransformersRendersIt) {
  EXPECT_EQ(
      render("{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
             "{{ '<|user|>\\n' + message['content'] + eos_token }}\n"
             "  {% elif message['role'] == 'system' %}\n"
             "{{ '<|system|>\\n' + message['content'] + eos_token }}\n"
             "{% elif message['role'] == 'assistant' %}\n"
             "{{ '<|assistant|>\\n'  + message['content'] + eos_token }}\n{% endif %}\n"
             "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
             "{% endfor %}\n"),
      "<|system|>\nBe brief.</s>\n<|user|>\n What is 2 + 2?\n</s>\n<|assistant|>\n4 – \"four\"</s>\n<|user|>"
      "\nAnd {{ 3 }}?</s>\n<|assistant|>\n\n3\n</s>\n");
}

constexpr const char* kGemma =
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') "
    "}}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) "
    "%}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif "
    "%}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = "
    "message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";

TEST(ChatFormat, GemmaAsTransformersRendersIt) {
  EXPECT_EQ(render(kGemma, kWithoutSystem),
            "<s><start_of_turn>user\nWhat is 2 + 2?<end_of_turn>\n<start_of_turn>model\n4 – \"four\""
            "<end_of_turn>\n<start_of_turn>user\nAnd {{ 3 }}?<end_of_turn>\n<start_of_turn>model\n3"
            "<end_of_turn>\n");
  EXPECT_EQ(message_of(kGemma), "model: the chat template fails: Jinja Exception: System role not supported");
}

TEST(ChatFormat, OneProcessRendersManyConversations) {
  ChatFormat format(kGemma, "<s>", "</s>", "model");
  for (int i = 0; i < 20; i++) {
    EXPECT_THROW(format.render(kConversation), Error);
    EXPECT_EQ(format.render(kWithoutSystem.first(1)),
              "<s><start_of_turn>user\nWhat is 2 + 2?<end_of_turn>\n");
  }
  const std::vector<ChatMessage> large = {{"user", std::string(5 << 20, 'x')}};
  EXPECT_EQ(format.render(large).size(), (5u << 20) + 37u);
}

TEST(ChatFormat, DamagedTemplates) {
  for (const char* text :
       {"{% for m in messages %}", "{{ 'a", "{% endif %}", "{{ }}", "{% bogus %}", "{{ 1 +"})
    EXPECT_EQ(message_of(text).find("model: the chat template fails: "), 0u) << text << message_of(text);
  EXPECT_NE(message_of("{% break %}"), "");
  EXPECT_EQ(render(""), "");
}

TEST(ChatFormat, HostileTemplatesEndAsErrors) {
  std::string nested;
  for (int i = 0; i < 500'000; i++) nested += '(';
  const std::string macro = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
  const std::string doubling =
      "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}";
  for (const std::string& text :
       {"{{ " + nested + "1 }}", macro, doubling, std::string("{{ range(9999999999) }}")})
    EXPECT_NE(message_of(text), "") << text.substr(0, 60);
  const std::string large =
      "{% set n = namespace(x='xxxxxxxx') %}{% for i in range(24) %}{% set n.x = n.x + n.x %}{% endfor %}{{ "
      "n.x }}";
  EXPECT_NE(message_of(large), "");
}

TEST(ChatFormat, EndlessTemplatesAreStopped) {
  const auto begin = std::chrono::steady_clock::now();
  const std::string loops =
      "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}"
      "{% endfor %}";
  ChatFormat format(loops, "", "", "model", std::chrono::seconds(1));
  for (int i = 0; i < 2; i++) {
    try {
      format.render(kConversation);
      ADD_FAILURE() << "it ended";
    } catch (const Error& error) {
      EXPECT_NE(error.message().find("model: the chat template takes more than 1 seconds"),
                std::string::npos);
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

}  // namespace
}  // namespace moerge
