"""The cases of the GGUF tests, one row each.

name        of the case and, unless `folder` says otherwise, of its model folder, from which general.name comes
why         what the case is there for
golden      a model of tests/golden/models; then nothing is made and no other key applies
family      model_type
config      keys of config.json that differ from models.config_of(); ABSENT takes one away
dtype       of the weights: BF16 (as if left out), F16, F32
vocabulary  (kind, options): a function of vocabularies.py and its arguments
vocab_size  in config.json and of the embedding, where it is not the number of tokens
files       further files of the folder, or ABSENT; a dict is written as JSON
layout      "fused": experts as transformers 5 stores them
witness     "per_expert": the converter refuses the fused layout, so it was run on the same values, one tensor an expert
values_of   the case whose weights these are, in another layout
auto        record which type the converter's --outtype auto picks, too
Further keys (shards, inv_freq, head_though_tied, awkward, other_dtypes) are read in models.py.
"""
from models import ABSENT
from vocabularies import ENDS_NAMES, NORMAL, UNUSED, USER_DEFINED, added, as_dicts

TINY = dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1)


def tiny(name, why, **more):
    """A case about the tokenizer or the metadata: one small llama layer."""
    config = {**TINY, **more.pop("config", {})}
    return dict(name=name, why=why, family="llama", config=config, **more)


DENSE = [
    dict(name="llama_plain", why="the plain case; bfloat16 on which conversions go wrong", family="llama", awkward=True,
         auto=True),
    dict(name="llama_256", why="rows of 256 and 512, so that k-quants apply; float16", family="llama", dtype="F16",
         awkward=True,
         config=dict(hidden_size=256, intermediate_size=512, num_attention_heads=8, num_key_value_heads=2,
                     num_hidden_layers=1), vocabulary=("llama3", {}), auto=True),
    dict(name="llama_48", why="rows of 48 are no multiple of Q8_0's block: float16 for those, Q8_0 for the others",
         family="llama",
         config=dict(hidden_size=48, intermediate_size=96, num_attention_heads=4, num_key_value_heads=4)),
    dict(name="llama_tied", why="no lm_head", family="llama", config=dict(tie_word_embeddings=True)),
    dict(name="llama_tied_with_head", why="tied by config.json, yet the checkpoint has an lm_head", family="llama",
         config=dict(tie_word_embeddings=True), head_though_tied=True),
    dict(name="llama_biases", why="biases everywhere; those of q and k are permuted, too", family="llama",
         config=dict(attention_bias=True, mlp_bias=True)),
    dict(name="llama_headdim", why="head_dim * heads is not the hidden size", family="llama", config=dict(head_dim=32)),
    dict(name="llama_mqa_sharded", why="three files with an index, one key/value head, float16", family="llama",
         dtype="F16", shards=3, config=dict(num_key_value_heads=1), auto=True),
    dict(name="llama_new_spelling", why="rope_parameters and dtype instead of rope_theta and torch_dtype; float32",
         family="llama", dtype="F32", awkward=True, auto=True,
         config=dict(rope_theta=ABSENT, rope_scaling=ABSENT, torch_dtype=ABSENT, dtype="float32", head_dim=16,
                     transformers_version="5.0.0", rope_parameters=dict(rope_theta=500000.0, rope_type="default"))),
    dict(name="llama_inv_freq",
         why="rotary_emb.inv_freq in the checkpoint is dropped; a float32 lm_head does not decide auto", family="llama",
         inv_freq=True, other_dtypes={"lm_head.weight": "F32", "model.norm.weight": "F32"}, auto=True),
    dict(name="llama_defaults", why="keys left out, for which LlamaConfig has defaults", family="llama",
         config=dict(num_key_value_heads=ABSENT, rms_norm_eps=ABSENT, rope_theta=ABSENT, max_position_embeddings=ABSENT,
                     torch_dtype=ABSENT, tie_word_embeddings=ABSENT, bos_token_id=ABSENT, eos_token_id=ABSENT)),
    dict(name="llama_null_kv", why="num_key_value_heads, head_dim and rope_scaling are null", family="llama",
         config=dict(num_key_value_heads=None, head_dim=None)),
    dict(name="llama_rope_llama3", why="a tensor of rope factors, no key; all three ranges of the rule", family="llama",
         config=dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, rope_theta=500000.0,
                     max_position_embeddings=512,
                     rope_scaling=dict(factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, rope_type="llama3",
                                       original_max_position_embeddings=64)), vocabulary=("llama3", {})),
    dict(name="llama_rope_llama3_new",
         why="the same in rope_parameters, with a head_dim, and factors that are integers", family="llama",
         vocabulary=("llama3", {}),
         config=dict(rope_theta=ABSENT, rope_scaling=ABSENT, head_dim=32,
                     rope_parameters=dict(rope_theta=500000, factor=32, high_freq_factor=4, low_freq_factor=1,
                                          rope_type="llama3", original_max_position_embeddings=128))),
    dict(name="llama_rope_linear", why="the old spelling type, with an integer factor", family="llama",
         config=dict(rope_scaling=dict(type="linear", factor=4))),
    dict(name="llama_rope_yarn", why="all of yarn's keys", family="llama",
         config=dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=512,
                                       attention_factor=0.75, beta_fast=24, beta_slow=2.0))),
    dict(name="llama_rope_yarn_short", why="yarn without an original length: the class puts max_position_embeddings in",
         family="llama", config=dict(rope_scaling=dict(type="yarn", factor=2.0))),
    dict(name="llama_rope_dynamic", why="a rope type that leaves no key", family="llama",
         config=dict(rope_scaling=dict(type="dynamic", factor=2.0))),
    dict(name="mistral_window", why="sliding window; SentencePiece", family="mistral",
         vocabulary=("sentencepiece", {})),
    dict(name="mistral_new_spelling", why="head_dim, rope_parameters, no window", family="mistral",
         config=dict(rope_theta=ABSENT, torch_dtype=ABSENT, dtype="bfloat16", head_dim=16, sliding_window=None,
                     rope_parameters=dict(rope_theta=1000000.0, rope_type="default"))),
    dict(name="mistral_defaults", why="keys left out: MistralConfig has 8 key/value heads, whatever the heads",
         family="mistral",
         config=dict(num_attention_heads=16, num_key_value_heads=ABSENT, rms_norm_eps=ABSENT, rope_theta=ABSENT,
                     max_position_embeddings=ABSENT, sliding_window=ABSENT)),
    dict(name="qwen2_biases", why="q, k and v with biases, not permuted; a padded vocabulary; yarn", family="qwen2",
         vocabulary=("qwen2", {}), vocab_size=320,
         config=dict(bos_token_id=296, eos_token_id=298,
                     rope_scaling=dict(type="yarn", factor=4.0, original_max_position_embeddings=512))),
    dict(name="qwen2_tied", why="tied, new spelling", family="qwen2", vocabulary=("qwen2", {}), dtype="F16",
         config=dict(tie_word_embeddings=True, rope_theta=ABSENT, torch_dtype=ABSENT, dtype="float16",
                     rope_parameters=dict(rope_theta=1000000.0, rope_type="default"))),
    dict(name="qwen2_defaults", why="keys left out: Qwen2Config has 32 key/value heads", family="qwen2",
         vocabulary=("qwen2", {}),
         config=dict(hidden_size=128, num_attention_heads=32, num_key_value_heads=ABSENT, rms_norm_eps=ABSENT,
                     rope_theta=ABSENT, max_position_embeddings=ABSENT, bos_token_id=ABSENT, eos_token_id=ABSENT)),
    dict(name="qwen2_other_tokens",
         why="no <|endoftext|>: transformers' Qwen2Tokenizer appends it, and is used whatever class is named",
         family="qwen2", vocab_size=304, config=dict(bos_token_id=296, eos_token_id=297),
         vocabulary=("qwen2",
                     dict(last=[added("<begin>"), added("<end>"), added("<think>", special=False)],
                          tokenizer_class="LlamaTokenizerFast",
                          config=dict(bos_token="<begin>", eos_token="<end>", pad_token="<end>",
                                      additional_special_tokens=None)))),
    dict(name="qwen3_tied", why="head_dim, norms of q and k", family="qwen3", config=dict(tie_word_embeddings=True),
         vocabulary=("qwen2", {})),
    dict(name="qwen3_defaults", why="keys left out: Qwen3Config has a head_dim of 128", family="qwen3",
         vocabulary=("qwen2", {}),
         config=dict(num_attention_heads=2, num_key_value_heads=1, head_dim=ABSENT, rms_norm_eps=ABSENT,
                     rope_theta=ABSENT, max_position_embeddings=ABSENT, num_hidden_layers=1)),
]

MOE = [
    dict(name="mixtral_sharded", why="one tensor an expert, in two files", family="mixtral", shards=2, auto=True,
         vocabulary=("sentencepiece", {})),
    dict(name="mixtral_fused", why="transformers 5's layout of the same", family="mixtral", layout="fused",
         witness="per_expert", values_of="mixtral_sharded", vocabulary=("sentencepiece", {})),
    dict(name="mixtral_256", why="rows of 256 and 512, so that k-quants apply; float16", family="mixtral", dtype="F16",
         config=dict(hidden_size=256, intermediate_size=512, num_hidden_layers=1, num_local_experts=2,
                     num_attention_heads=4, num_key_value_heads=2), vocabulary=("llama3", {})),
    dict(name="mixtral_defaults", why="keys left out, theta among them; head_dim null", family="mixtral",
         vocabulary=("llama_hf", {}), layout="fused", witness="per_expert",
         config=dict(num_attention_heads=16, num_key_value_heads=ABSENT, rms_norm_eps=ABSENT, rope_theta=ABSENT,
                     head_dim=None, max_position_embeddings=ABSENT, num_experts_per_tok=ABSENT)),
    dict(name="qwen2_moe_per_expert", why="a shared expert with its own gate", family="qwen2_moe",
         vocabulary=("qwen2", {})),
    dict(name="qwen2_moe_fused", why="the same in transformers 5's layout", family="qwen2_moe", layout="fused",
         values_of="qwen2_moe_per_expert", vocabulary=("qwen2", {})),
    dict(name="qwen2_moe_defaults", why="keys left out: 16 key/value heads, 4 experts used", family="qwen2_moe",
         vocabulary=("qwen2", {}),
         config=dict(num_attention_heads=16, num_key_value_heads=ABSENT, rms_norm_eps=ABSENT, rope_theta=ABSENT,
                     max_position_embeddings=ABSENT, num_experts_per_tok=ABSENT)),
    dict(name="qwen3_moe_per_expert", why="one tensor an expert, head_dim", family="qwen3_moe",
         vocabulary=("qwen2", {})),
    dict(name="qwen3_moe_fused", why="the same in transformers 5's layout", family="qwen3_moe", layout="fused",
         values_of="qwen3_moe_per_expert", vocabulary=("qwen2", {})),
    dict(name="qwen3_moe_defaults", why="keys left out: no head_dim in the class", family="qwen3_moe",
         vocabulary=("qwen2", {}),
         config=dict(num_attention_heads=8, num_key_value_heads=ABSENT, head_dim=ABSENT, rms_norm_eps=ABSENT,
                     rope_theta=ABSENT, max_position_embeddings=ABSENT, num_experts=8, num_experts_per_tok=ABSENT)),
    dict(name="deepseek_per_expert",
         why="a dense first layer; transformers does not know the type, so there are no defaults", family="deepseek",
         vocabulary=("deepseek", dict(kind="llm"))),
    dict(name="deepseek_fused", why="the same values with the experts fused", family="deepseek", layout="fused",
         witness="per_expert", values_of="deepseek_per_expert", vocabulary=("deepseek", dict(kind="llm"))),
    dict(name="deepseek_all_moe",
         why="no dense layer, 256 wide, tied, linear rope, which is written and taken back in part", family="deepseek",
         vocabulary=("deepseek", dict(kind="llm")), dtype="F16",
         config=dict(hidden_size=256, intermediate_size=512, moe_intermediate_size=256, n_shared_experts=1,
                     n_routed_experts=2, num_attention_heads=4, num_key_value_heads=4, num_hidden_layers=1,
                     first_k_dense_replace=0, tie_word_embeddings=True, rope_scaling=dict(type="linear", factor=4.0))),
    dict(name="deepseek_sparse_config", why="keys left out that no class fills in; head_dim and groups given",
         family="deepseek", vocabulary=("deepseek", dict(kind="llm")),
         config=dict(num_key_value_heads=ABSENT, rope_theta=ABSENT,
                     scoring_func="sigmoid", n_group=2, topk_group=1, head_dim=16, torch_dtype=ABSENT)),
]

BAR = "\uff5c"
SPM_LAST = [added("<|im_start|>", special=False), added("<|im_end|>"), added("\u2581\u2581", special=False),
            added("word", special=False, normalized=True)]
SPM_PIECES = [("<user\u2581one>", 0.0, USER_DEFINED), ("<unused0>", 0.0, UNUSED), ("\u2581caf\u00e9", -99.5, NORMAL)]
GPT2_LAST = [
    added("<|im_start|>"), added("<tool>", special=False), added(" <gap>\u2581x", special=False),
    added("na\u00efve", special=False), added("caf\u00e9", special=False, normalized=True),
    added("<|looks_special|>", special=False), added("<pad>", special=False), added("<unused7>", special=False),
    added(f"<{BAR}user{BAR}>", special=False), added("  ", special=False), added("\u0120gap", special=False),
    added("<left>", special=False, lstrip=True, rstrip=True)]

TOKENIZERS = [
    tiny("tokenizer_added", "added tokens of every kind; those that are not normalised go through encode and decode",
         vocabulary=("gpt2", dict(last=GPT2_LAST, config=dict(pad_token="<pad>")))),
    tiny("tokenizer_padded", "more rows than tokens, an id in the middle that no token has", vocab_size=320,
         vocabulary=("gpt2", dict(hole=True))),
    tiny("tokenizer_prefix_space", "add_prefix_space; merges as pairs, one part with a space",
         vocabulary=("gpt2",
                     dict(add_prefix_space=True, config=dict(add_prefix_space=True), string_merges=False,
                          extra_pieces=["z y", " y"], extra_merges=[("z", " y")]))),
    tiny("tokenizer_new_pad", "a padding token that only tokenizer_config.json knows: transformers appends it",
         vocab_size=304,
         vocabulary=("gpt2", dict(config=dict(pad_token="[PAD]", additional_special_tokens=["<extra>"])))),
    tiny("tokenizer_not_added", "bos, eos and unk are in the vocabulary but not among the added tokens",
         vocabulary=("gpt2", dict(first=(), extra_pieces=["<unk>", "<s>", "</s>"])),
         config=dict(bos_token_id=297, eos_token_id=298)),
    tiny("tokenizer_flags_differ", "tokenizer_config.json calls special what tokenizer.json does not",
         vocabulary=("gpt2",
                     dict(last=[added("<one>", special=False), added("<two>")],
                          config=dict(added_tokens_decoder={"299": added("<one>"),
                                                            "300": added("<two>", special=False)})))),
    tiny("tokenizer_eos_last", "a template that ends in eos and separates pairs; dict tokens",
         vocabulary=("gpt2", dict(post_processor=("<s> A </s>", "<s> A </s> </s> B </s>"),
                                  config=dict(add_bos_token=False, add_eos_token=False, **as_dicts(ENDS_NAMES))))),
    tiny("tokenizer_eos_only", "a template with eos and no bos; a flag for what it leaves open",
         vocabulary=("gpt2", dict(post_processor=("A </s>", "A </s> B </s>"), config=dict(add_bos_token=True)))),
    tiny("tokenizer_other_eos", "a template with another eos than tokenizer_config.json: the latter becomes eot",
         vocabulary=("gpt2", dict(last=[added("<|end|>")],
                                  post_processor=("<s> A <|end|>", "<s> A <|end|> <s> B <|end|>")))),
    tiny("tokenizer_flags_only", "no post-processor: add_bos_token and add_eos_token decide",
         vocabulary=("gpt2",
                     dict(post_processor=None,
                          config=dict(add_bos_token=True, add_eos_token=True, sep_token="<unk>", mask_token="<s>",
                                      cls_token="</s>")))),
    tiny("tokenizer_ids_in_config", "no tokens by name: the ids of config.json, where a list counts for nothing",
         vocabulary=("gpt2", dict(config=dict(bos_token=None, eos_token=None, unk_token=None, pad_token=None))),
         config=dict(bos_token_id=1, eos_token_id=[2, 5], pad_token_id=0, sep_token_id=7, unk_token_id=None)),
    tiny("tokenizer_no_config", "no tokenizer_config.json, without which a chat template is not read either",
         files={"tokenizer_config.json": ABSENT, "chat_template.jinja": "{{ messages }}"}),
    tiny("tokenizer_no_config_template", "no tokenizer_config.json, yet a template in tokenizer.json",
         files={"tokenizer_config.json": ABSENT}, vocabulary=("gpt2", dict(post_processor=("<s> A", "<s> A <s> B")))),
    tiny("tokenizer_special_map", "no added_tokens_decoder: special_tokens_map.json and added_tokens.json count",
         vocab_size=308, vocabulary=("gpt2", dict(last=[added("<|end|>")], config=dict(added_tokens_decoder=None))),
         files={"special_tokens_map.json": {**ENDS_NAMES, "eos_token": "<|end|>", "pad_token": "<mapped>"},
                "added_tokens.json": {"<late>": 301, "<later>": 300}}),
    tiny("tokenizer_smollm", "digits one by one", vocabulary=("smollm", dict(tokenizer_class="GPT2Tokenizer"))),
    tiny("tokenizer_deepseek_coder", "deepseek-coder's patterns, tokens that only look special",
         vocabulary=("deepseek", dict(kind="coder"))),
    tiny("tokenizer_deepseek_llm", "deepseek-llm's patterns, no added_tokens_decoder",
         vocabulary=("deepseek", dict(kind="llm", tokenizer_class="PreTrainedTokenizerFast"))),
    tiny("tokenizer_spm", "SentencePiece with every type of piece and of added token, padded", vocab_size=336,
         vocabulary=("sentencepiece",
                     dict(more_pieces=SPM_PIECES, last=SPM_LAST,
                          added_json={"<|im_start|>": 327, "plain\u2581one": 331},
                          config=dict(add_prefix_space=True, unk_token=None, pad_token="<unused0>")))),
    tiny("tokenizer_spm_alone",
         "tokenizer.model without a tokenizer.json: tokens by name are not found, ids of config.json are",
         vocabulary=("sentencepiece", dict(with_json=False, config=dict(add_eos_token=True))),
         config=dict(pad_token_id=0)),
    tiny("tokenizer_llama_hf", "byte fallback in tokenizer.json alone, string merges",
         vocabulary=("llama_hf",
                     dict(string_merges=True,
                          last=[added("<|im_start|>"), added("<tool>", special=False), added("</tool>")],
                          config=dict(pad_token="</s>", additional_special_tokens=["</tool>"], add_bos_token=True)))),
    tiny("tokenizer_llama_hf_backend", "the same without a class of its own",
         vocabulary=("llama_hf",
                     dict(last=[added("<|im_start|>"), added("<tool>", special=False)],
                          tokenizer_class="PreTrainedTokenizerFast",
                          config=dict(pad_token="<|im_start|>", unk_token=None)))),
    tiny("vocabulary_32016", "CodeLlama's size brings an end-of-turn token", vocab_size=32016,
         vocabulary=("sentencepiece", {}), config=dict(tie_word_embeddings=True)),
    tiny("vocabulary_49152", "a size that turns add_bos_token off", vocab_size=49152,
         config=dict(tie_word_embeddings=True), vocabulary=("llama3", {})),
]

TEMPLATE = "{%- for m in messages -%}<|{{ m.role }}|>{{ m.content }}\n{%- endfor -%}\n"
LONG_TEMPLATE = TEMPLATE + "{#- " + "words " * 60 + "-#}\n"

TEMPLATES = [
    tiny("template_string", "in tokenizer_config.json, which wins over the file",
         vocabulary=("gpt2", dict(config=dict(chat_template=LONG_TEMPLATE))), files={"chat_template.jinja": TEMPLATE}),
    tiny("template_list", "named templates; a name with other characters",
         vocabulary=("gpt2",
                     dict(config=dict(chat_template=[{"name": "default", "template": TEMPLATE},
                                                     {"name": "tool-use 2", "template": TEMPLATE + "tools"},
                                                     {"name": "rag", "template": "rag"}])))),
    tiny("template_list_no_default", "named templates without a default",
         vocabulary=("gpt2", dict(config=dict(chat_template=[{"name": "rag", "template": "rag"}])))),
    tiny("template_jinja", "in a file, with additional ones",
         files={"chat_template.jinja": TEMPLATE, "additional_chat_templates/tool_use.jinja": TEMPLATE + "tools"}),
    tiny("template_json", "in chat_template.json", files={"chat_template.json": {"chat_template": TEMPLATE}}),
]

CARD = """---
license: other
license_name: tiny-terms
license_link: https://example.com/terms
base_model:
- mistralai/Mistral-7B-Instruct-v0.2
- https://huggingface.co/example/Tiny-Base-100K-v1.1
- https://example.com/models/other
- local-name
tags:
- moe
- merge
pipeline_tag: text-generation
language:
- en
- no
- de
datasets:
- example/some-words-v2
- plain_words
library_name: transformers
model_creator: A. Writer
model_type: mixtral
---
# A model
---
"""
CARD_OF_STRINGS = """---
name: A Name of Its Own
version: v3
organization: The makers
description: "Small: for tests"
author: B. Writer
license:
- mit
- apache-2.0
base_model: example/one-base
language: en
tags: merge
url: https://example.com/model
model_url: https://example.com/not-this-one
repo_url: https://example.com/repo
---
"""
SAMPLING = dict(_from_model_config=True, bos_token_id=1, eos_token_id=[2, 5], do_sample=True, temperature=0.7, top_k=40,
                top_p=0.9, min_p=0.05, repetition_penalty=1.1, max_length=4096, transformers_version="4.40.0")
FEW_SAMPLING = dict(temperature=1, top_k=None, penalty_repeat=1.05, repetition_penalty=1.2)

METADATA = [
    tiny("metadata_card", "a README with all of it", files={"README.md": CARD, "generation_config.json": SAMPLING}),
    tiny("metadata_strings", "single strings where lists may be, names of its own",
         files={"README.md": CARD_OF_STRINGS, "generation_config.json": FEW_SAMPLING}),
    tiny("metadata_no_front_matter", "a README without front matter",
         files={"README.md": "# A model\n---\nlicense: mit\n---\n"}),
    tiny("metadata_hub_name", "a name as on the Hub, whose size is not the model's", folder="Mistral-7B-Instruct-v0.2"),
    tiny("metadata_own_size", "a name whose size is about the model's", folder="Tiny-30K-chat-v1.5-beta"),
    tiny("metadata_experts_size", "a name with a number of experts and a context length",
         folder="tiny-llama-2x30k-128k-iter2"),
    tiny("metadata_name_or_path", "the name of config.json first, the folder's for what it leaves open",
         folder="other-name-v9", config=dict(_name_or_path="some-org/tiny_Model-instruct")),
    tiny("metadata_path", "a path in _name_or_path is no name", folder="tiny_model",
         config=dict(_name_or_path="/models/of/somebody")),
    tiny("metadata_dot_path", "a path of one step is taken for a name", folder="v2-a model with spaces",
         config=dict(_name_or_path="./checkpoint-500")),
]

GOLDEN = [dict(name=f"golden_{shape}", why="a model of tests/golden", golden=f"{shape}/base") for shape in (
    "llama3_rope", "llama_f16", "llama_f32", "llama_gqa", "llama_headdim", "llama_linear", "llama_tied",
    "mistral_sharded", "mistral_v5")]

CASES = DENSE + MOE + TOKENIZERS + TEMPLATES + METADATA + GOLDEN
BY_NAME = {c["name"]: c for c in CASES}
