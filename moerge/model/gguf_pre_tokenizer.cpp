#include "moerge/model/gguf_pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "moerge/model/pre_tokenizer_patterns.h"

namespace moerge {
namespace {

using namespace pre_tokenizer_patterns;
using Text = std::string_view;

constexpr Text kFalcon[] = {R"re([\p{P}\$\+<=>\^~\|`]+)re", kGpt2, "[0-9][0-9][0-9]"};
constexpr Text kBloom[] = {R"re( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)re"};
constexpr Text kViking[] = {R"re( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)re",
                            R"re(\p{N})re"};
constexpr Text kSuperBpe[] = {R"re(\p{N}+)re", R"re((?=(\d{3})+(?!\d)))re"};
constexpr Text kDeepseekLlm[] = {
    R"re([\r\n])re",
    R"re(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-)re"
    R"re(\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386})re"
    R"re(\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})re"
    R"re(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})re"
    R"re(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-)re"
    R"re(\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57})re"
    R"re(\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE})re"
    R"re(\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-)re"
    R"re(\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115})re"
    R"re(\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139})re"
    R"re(\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B})re"
    R"re(\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-)re"
    R"re(\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF})re"
    R"re(\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-)re"
    R"re(\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-)re"
    R"re(\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)re",
    R"re(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)re",
    R"re(\s+$)re",
    R"re([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)re",
    R"re(\p{N})re"};
constexpr Text kDeepseekCoder[] = {R"re([\r\n])re", R"re(\s?\p{L}+)re", R"re(\s?\p{P}+)re",
                                   R"re([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)re",
                                   R"re(\p{N})re"};
constexpr Text kDeepseekV3[] = {
    R"re(\p{N}{1,3})re", R"re([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)re",
    R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)re"
    R"re( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re"};

constexpr Text kGpt2Names[] = {"gpt-2",   "phi-2", "gigachat", "a.x-4.0",        "mellum",
                               "exaone4", "jais",  "trillion", "granite-docling"};
constexpr Text kNeoxNames[] = {"mpt", "olmo"};
constexpr Text kDigitsNames[] = {"smollm", "starcoder",  "refact", "codeshell",
                                 "exaone", "minerva-7b", "mellum2"};
constexpr Text kCommandRNames[] = {"command-r"};
constexpr Text kLlama3Names[] = {"llama-bpe", "llama3",   "llama-v3", "falcon3",
                                 "falcon-h1", "midm-2.0", "lfm2"};
constexpr Text kDbrxNames[] = {"dbrx", "smaug-bpe", "chatglm-bpe"};
constexpr Text kGlmNames[] = {"glm4", "glm5"};
constexpr Text kQwen2Names[] = {"qwen2", "deepseek-r1-qwen", "megrez"};
constexpr Text kStableNames[] = {"stablelm2", "hunyuan", "solar-open", "grok-2"};
constexpr Text kQwen35Names[] = {"qwen35"};
constexpr Text kSeedCoderNames[] = {"seed-coder"};
constexpr Text kBailingNames[] = {"bailingmoe", "bailingmoe2", "llada-moe"};
constexpr Text kTekkenNames[] = {"tekken"};
constexpr Text kGpt4oNames[] = {"gpt-4o", "llama4", "kanana2", "minimax-m2"};
constexpr Text kFalconNames[] = {"falcon"};
constexpr Text kBloomNames[] = {"bloom", "poro-chat", "gpt3-finnish"};
constexpr Text kVikingNames[] = {"viking"};
constexpr Text kSuperBpeNames[] = {"superbpe"};
constexpr Text kDeepseekLlmNames[] = {"deepseek-llm"};
constexpr Text kDeepseekCoderNames[] = {"deepseek-coder"};
constexpr Text kDeepseekV3Names[] = {"deepseek-v3", "hunyuan-dense", "joyai-llm"};

//                                   names             NFC  splits  GPT-2 words  ignore merges  BOS
const std::array kTable = {
    GgufPreTokenizer{kGpt2Names, false, {}, true, false, false},
    GgufPreTokenizer{kNeoxNames, true, {}, true, false, false},
    GgufPreTokenizer{kDigitsNames, false, {&kDigit, 1}, true, false, false},
    GgufPreTokenizer{kCommandRNames, true, {&kDigit, 1}, true, false, false},
    GgufPreTokenizer{kLlama3Names, false, {&kLlama3, 1}, false, true, true},
    GgufPreTokenizer{kDbrxNames, false, {&kLlama3, 1}, false, false, false},
    GgufPreTokenizer{kGlmNames, false, {&kLlama3, 1}, false, true, false},
    GgufPreTokenizer{kQwen2Names, true, {&kQwen2, 1}, false, false, false},
    GgufPreTokenizer{kStableNames, false, {&kQwen2, 1}, false, false, false},
    GgufPreTokenizer{kQwen35Names, false, {&kQwen35, 1}, false, false, false},
    GgufPreTokenizer{kSeedCoderNames, false, {&kSeedCoder, 1}, false, false, false},
    GgufPreTokenizer{kBailingNames, false, {&kBailingMoe, 1}, false, false, false},
    GgufPreTokenizer{kTekkenNames, false, {&kTekken, 1}, false, true, true},
    GgufPreTokenizer{kGpt4oNames, false, {&kGpt4o, 1}, false, false, false},
    GgufPreTokenizer{kFalconNames, false, kFalcon, false, false, false},
    GgufPreTokenizer{kBloomNames, false, kBloom, false, false, false},
    GgufPreTokenizer{kVikingNames, false, kViking, false, false, false},
    GgufPreTokenizer{kSuperBpeNames, false, kSuperBpe, false, false, false},
    GgufPreTokenizer{kDeepseekLlmNames, false, kDeepseekLlm, false, false, false},
    GgufPreTokenizer{kDeepseekCoderNames, false, kDeepseekCoder, false, false, false},
    GgufPreTokenizer{kDeepseekV3Names, false, kDeepseekV3, false, false, false},
};

}  // namespace

std::span<const GgufPreTokenizer> pre_tokenizers() { return kTable; }

const GgufPreTokenizer* find_pre_tokenizer(std::string_view name) {
  for (const GgufPreTokenizer& row : kTable)
    if (std::ranges::find(row.names, name) != row.names.end()) return &row;
  return nullptr;
}

Json normalizer_json(const GgufPreTokenizer& pre) { return pre.nfc ? Json{{"type", "NFC"}} : Json(nullptr); }

Json pre_tokenizer_json(const GgufPreTokenizer& pre) {
  Json steps = Json::array();
  for (const Text split : pre.splits)
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", std::string(split)}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  Json bytes = {{"type", "ByteLevel"},
                {"add_prefix_space", false},
                {"trim_offsets", true},
                {"use_regex", pre.gpt2_words}};
  if (steps.empty()) return bytes;
  steps.push_back(std::move(bytes));
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

}  // namespace moerge
