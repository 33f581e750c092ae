#!/usr/bin/env python3
"""Writes the seeds of corpus/: "valid-..." is taken by its reader, "bad-..." refused. (Other names: what fuzzing added.)

usage: tests/fuzz/make_seeds.py
"""
import json, pathlib, struct, sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "cli"))
import tiny_gguf, tiny_models, tiny_parquet, tiny_torch  # noqa: E402
from tiny_gguf import ARRAY, BOOL, F32, I32, STRING, U16, U32, Gguf  # noqa: E402

NEXT_FILE = b"\n-- next file --\n"


def seed(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def seeds(target, **contents):
    for name, content in contents.items():
        seed(target, name.replace("_", "-"), content if isinstance(content, (bytes, str)) else json.dumps(content))


# -------------------------------------------------------------------------------------------------- files of weights


def safetensors():
    def entry(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    file = tiny_models.safetensors
    seeds("safetensors",
          valid_two=file({"__metadata__": {"format": "pt"}, "b": entry("BF16", [2, 3], 0, 12), "a": entry("F32", [1], 12, 16)},
                         bytes(16)),
          valid_empty_tensors=file({"e": entry("F8_E4M3", [0, 7], 0, 0), "s": entry("I64", [], 0, 8)}, bytes(8)),
          valid_none=file({}),
          bad_overflow=file({"a": entry("F64", [1 << 31, 1 << 31, 4], 0, 0)}),
          bad_dimension=file({"a": entry("U8", [(1 << 64) - 1], 0, 8)}, bytes(8)),
          bad_negative=file({"a": entry("U8", [-1], 0, 8)}, bytes(8)),
          bad_overlap=file({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)),
          bad_beyond=file({"a": entry("U8", [1 << 62], 0, 1 << 62)}, bytes(6)),
          bad_depth=file(b"{" + b'"a":[' * 200),
          bad_twice=file(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
                         b"1"),
          bad_length=struct.pack("<Q", (1 << 64) - 1) + b"{}",
          bad_utf8=file(b'{"\xff\xfe":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
          bad_lfs="version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def weight_index():
    def index(weights):
        return {"metadata": {"total_size": 8}, "weight_map": weights}

    seeds("weight_index", valid_two=index({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}),
          valid_none=index({}), bad_folder=index({"a": "../model.safetensors"}), bad_root=index({"a": "/etc/passwd"}),
          bad_null=index({"a": "m\0.safetensors"}), bad_dots=index({"a": ".."}), bad_number=index({"a": 1}),
          bad_list=[[]], bad_depth='{"weight_map":' * 99, bad_text="null")


def pytorch():
    storage, rebuild, Global = tiny_torch.Storage, tiny_torch.rebuild, tiny_torch.Global
    floats = storage("Float", "0", 6)
    good = {"w": rebuild(floats, 0, (2, 3), (3, 1)), "tied": tiny_torch.parameter(rebuild(floats, 1, (5,), (1,))), "step": 3}
    data = {"0": bytes(24), "1": bytes(8)}
    seeds("pytorch",
          valid_archive=tiny_torch.torch_file(good, data), valid_wide=tiny_torch.torch_file(good, data, protocol=4),
          valid_pickle=tiny_torch.pickled(good), valid_pickle4=tiny_torch.pickled(good, 4),
          valid_nested=tiny_torch.pickled({"epoch": 1, "state_dict": good}),
          bad_call=tiny_torch.pickled({"w": tiny_torch.Call(Global("os", "system"), "true")}),
          bad_stride=tiny_torch.pickled({"w": rebuild(floats, 0, (3, 2), (1, 3))}),
          bad_size=tiny_torch.pickled({"w": rebuild(floats, 0, (1 << 40, 1 << 40), (1 << 40, 1))}),
          bad_offset=tiny_torch.pickled({"w": rebuild(floats, (1 << 62), (1,), (1,))}),
          bad_storage=tiny_torch.pickled({"w": rebuild(storage("Float", "0", 1 << 61), 0, (1,), (1,))}),
          bad_view=tiny_torch.pickled({"w": rebuild(storage("ComplexFloat", "0", 1), 0, (1,), (1,))}),
          bad_memo=b"\x80\x02}(X\x01\0\0\0wr\xff\xff\xff\x7fu.", bad_stack=b"\x80\x02((((00000000.",
          bad_itself=b"\x80\x02]q\0h\0a.", bad_long=b"\x80\x02\x8a\xff" + bytes(10),
          bad_zip=b"PK\3\4" + bytes(26) + b"PK\5\6" + bytes(4) + b"\xff\xff" * 2 + bytes(8) + b"\0\0")


def gguf():
    config = {"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 12,
              "num_key_value_heads": 1, "head_dim": None}
    model = tiny_models.tiny_model("fuzz", **config)
    made = tiny_gguf.tiny_gguf(model, "bf16")
    words = {"tokenizer.ggml.tokens": ((ARRAY, STRING), ["<s>", "</s>", *"abcdefghij"]), "tokenizer.ggml.model": (STRING, "gpt2"),
             "tokenizer.ggml.token_type": ((ARRAY, I32), [3, 3] + [1] * 10), "tokenizer.ggml.pre": (STRING, "llama-bpe"),
             "tokenizer.ggml.merges": ((ARRAY, STRING), []), "tokenizer.ggml.bos_token_id": (U32, 0),
             "tokenizer.ggml.eos_token_id": (U32, 1)}
    pieces = ["<unk>", "<s>", "</s>", "\u2581", "t", "h", "e", "th", "the", "<0x41>", "\u2581the", "x"]
    spm = {"tokenizer.ggml.model": (STRING, "llama"), "tokenizer.ggml.tokens": ((ARRAY, STRING), pieces),
           "tokenizer.ggml.scores": ((ARRAY, F32), [-i for i in range(12)]), "tokenizer.ggml.add_space_prefix": (BOOL, True),
           "tokenizer.ggml.token_type": ((ARRAY, I32), [2, 3, 3, 1, 1, 1, 1, 1, 1, 6, 1, 1])}
    start = {key: value for key, value in made.metadata.items() if not key.startswith("tokenizer.")}

    def changed(extra, tensors=made.tensors, **options):
        return Gguf({**start, **words, **extra}, tensors, **options).bytes()

    shared = {"llama.expert_count": (U32, 2), "llama.expert_used_count": (U32, 1)}
    experts = {name: value for name, value in made.tensors.items() if ".ffn_" not in name or "norm" in name}
    for part, shape in (("gate", [2, 32, 8]), ("up", [2, 32, 8]), ("down", [2, 8, 32])):
        experts[f"blk.0.ffn_{part}_exps.weight"] = [tiny_gguf.TENSOR_Q8_0 if part == "down" else tiny_gguf.TENSOR_BF16, shape,
                                                    bytes(544 if part == "down" else 1024)]
    experts["blk.0.ffn_gate_inp.weight"] = [tiny_gguf.TENSOR_F32, [2, 8], bytes(64)]
    parts = Gguf({**start, **words}, made.tensors).parts("m", 2)
    rope = {**made.tensors, "rope_freqs.weight": [tiny_gguf.TENSOR_F32, [2], struct.pack("<2f", 1, 8)]}
    tiny = {"a": [tiny_gguf.TENSOR_F32, [3], bytes(12)]}

    def one(name, kind, value):
        return Gguf({name: (kind, value)}, {}).bytes()

    seeds("gguf",
          valid_model=changed({}), valid_pieces=changed(spm), valid_mixture=changed(shared, experts),
          valid_parts=NEXT_FILE.join(part.bytes() for part in parts.values()),
          rope=changed({}, rope), yarn=changed({"llama.rope.scaling.type": (STRING, "yarn"), "llama.rope.scaling.factor": (F32, 4.0)}),
          bad_part=changed({"split.no": (U16, 0), "split.count": (U16, 65535)}),
          bad_alignment=one("general.alignment", U32, 3), bad_alignment0=one("general.alignment", U32, 0),
          bad_alignment_huge=Gguf({"general.alignment": (U32, 1 << 31)}, tiny, alignment=32).bytes(),
          bad_array=b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"k" + struct.pack("<IIQ", 9, 0, 1 << 62),
          bad_count=b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 1 << 63), bad_bigendian=b"GGUF\0\0\0\3" + bytes(16),
          bad_text=b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, (1 << 64) - 1),
          bad_dimension=Gguf({}, {"a": [0, [1 << 62, 4], b""]}).bytes(), bad_type=Gguf({}, {"a": [77, [1], bytes(4)]}).bytes(),
          bad_heads=changed({"llama.attention.head_count": (U32, 3)}), bad_layers=changed({"llama.block_count": (U32, 1 << 30)}))


# ---------------------------------------------------------------------------------------------------------- documents

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
         "vocab_size": 16, "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "torch_dtype": "float32", "hidden_act": "silu"}


def config():
    def named(model_type, **more):
        return {"model_type": model_type, **SIZES, **more}

    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 32}
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1, "mscale": 1}
    longrope = {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0], "factor": 2.0}
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]}
    tensors = {"quant_method": "compressed-tensors", "format": "float-quantized", "ignore": ["lm_head"], "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True}}}}
    seeds("config",
          valid_llama=named("llama"), valid_llama3=named("llama", rope_theta=5e5, rope_scaling=llama3),
          valid_mistral=named("mistral", sliding_window=16, head_dim=4), valid_yarn=named("llama", rope_scaling=yarn),
          valid_longrope=named("llama", rope_scaling=longrope, original_max_position_embeddings=32),
          valid_v5=named("llama", dtype="bfloat16", rope_parameters={"rope_theta": 1e4, "rope_type": "default"}),
          valid_qwen2=named("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1,
                            layer_types=["full_attention", "sliding_attention"]),
          valid_qwen3=named("qwen3", head_dim=4, attention_bias=True),
          valid_mixtral=named("mixtral", num_local_experts=4, num_experts_per_tok=2),
          qwen2_moe=named("qwen2_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=6,
                          shared_expert_intermediate_size=12, decoder_sparse_step=1, mlp_only_layers=[]),
          qwen3_moe=named("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=6, head_dim=4),
          deepseek=named("deepseek", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=6, n_shared_experts=1,
                         first_k_dense_replace=0, routed_scaling_factor=2.5, scoring_func="softmax"),
          fp8=named("llama", quantization_config=fp8), compressed=named("llama", compression_config=tensors),
          bad_experts=named("mixtral", num_local_experts=1 << 30), bad_layers=named("llama", num_hidden_layers=1 << 40),
          bad_heads=named("llama", num_attention_heads=0), bad_epsilon=named("llama", rms_norm_eps="1e-5"),
          bad_family=named("gpt2"), bad_dimension=named("llama", hidden_size=1e300), bad_list=[named("llama")],
          bad_depth='{"model_type":' + "[" * 99)


def adapter_config():
    def lora(**more):
        return {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], **more}

    seeds("adapter_config",
          valid_plain=lora(), valid_stabilised=lora(use_rslora=True, modules_to_save=["lm_head"], ensure_weight_tying=True),
          valid_patterns=lora(rank_pattern={"q_proj": 4, r"layers\.[01]\..*up_proj": 2}, alpha_pattern={"(mlp|self_attn).*": 3.5}),
          valid_rows=lora(trainable_token_indices={"embed_tokens": [0, 5]}), valid_rows_list=lora(trainable_token_indices=[1]),
          bad_pattern=lora(rank_pattern={"(" * 300: 1}), bad_repeats=lora(rank_pattern={"(a{9999}){9999}": 1}),
          slow=lora(rank_pattern={"(.*.*.*)*$b": 0}), bad_rank=lora(r=-1), bad_alpha=lora(lora_alpha="x"),
          bad_rows=lora(trainable_token_indices=[-1]), bad_dora=lora(use_dora=True), bad_loftq=lora(init_lora_weights="loftq"),
          bad_type={"peft_type": "IA3"}, bad_none={})


def yaml():
    experts = """experts:
  - source_model: org/code@v1
    positive_prompts: ["def f(x):", 'SELECT * FROM t']
    negative_prompts:
      - once upon a time
  - source_model: {model: {path: ./b, revision: main}, lora: adapter}
    positive_prompts: &words [poem, "two
      lines"]
    noise_scale: 0.01
    residual_scale: 1e-1
"""
    data = """base_model: base
gate_mode: auto
chat_template: chatml
max_tokens: 100
experts:
  - {source_model: a, data: [folder/a.jsonl, ./b.txt, "c\\x2fd.txt"]}
  - {source_model: b, data: ../texts/, max_tokens: 5}
shared_experts:
  - source_model: c
    positive_prompts: [x]
"""
    merged = """common: &common {positive_prompts: [a]}
base_model: x
gate_mode: random
experts:
- {<<: *common, source_model: y}
- {<<: [*common], source_model: z}
"""
    start = "base_model: base\ngate_mode: hidden\ndtype: bfloat16\nexperts_per_token: 2\narchitecture: mixtral\n"
    seeds("yaml", valid_hidden=start + experts, valid_data=data, merged=merged,
          bad_long="a: &a " + "x" * 2000 + "\nb: [" + "*a, " * 500 + "]\n",
          bad_itself="&a [*a]", bad_merge="<<: 1", bad_depth="[" * 400, bad_maps="{a: " * 400, bad_dashes="- " * 400,
          bad_keys="base_modell: x\nexperts: {}\n? [a]\n: b\n", bad_two="a: 1\n---\nb: 2\n", bad_tab="a:\n\t- b\n",
          bad_merge_config="merge_method: linear\nmodels: []\n", bad_tags="!!binary a: !<tag:x> b\n%YAML 1.2\n", bad_cut='a: "\\x4')


def merge_yaml():
    models = "models:\n  - {model: a, parameters: {weight: 0.3, density: [0.1, 0.9]}}\n  - {model: b, parameters: {weight: 1}}\n"
    ties = "merge_method: ties\nbase_model: base\n" + models + "dtype: bfloat16\nout_dtype: float16\n"
    slices = """merge_method: slerp
base_model: a
slices:
  - sources: [{model: a, layer_range: [0, 8]}, {model: {model: {path: b, revision: v1}}, layer_range: [8, 16]}]
    parameters: {t: [{filter: mlp, value: [0, 0.5, 1]}, {filter: "*", value: 0.25}, {value: 1}]}
  - base_model: b
    sources: [{model: a, layer_range: [4, 5]}, {model: b, layer_range: [0, 1], parameters: {}}]
parameters: {t: 1e-3}
chat_template: auto
"""
    tokens = """tokenizer:
  source: union
  tokens:
    <|im_start|>: {source: a}
    "<x>": {source: {kind: model_token, model: b, token: y}, force: true}
    <z>: {source: {kind: zero}}
    <n>: {source: {kind: model_token, model: b, token_id: 7}}
  pad_to_multiple_of: 64
"""
    stages = "name: half\n" + ties + "---\nmerge_method: linear\nmodels: [{model: half, parameters: {weight: 1}}]\n"
    mixture = "name: half\n" + ties + "---\nbase_model: a\nexperts:\n  - source_model: half\n  - source_model: {model: c}\n"
    seeds("merge_yaml", valid_ties=ties, valid_slices=slices, valid_tokens=ties + tokens, valid_source=ties + "tokenizer_source: base\n",
          valid_stages=stages, valid_mixture=mixture, bad_method=ties.replace("ties", "tise"), bad_range=slices.replace("[0, 8]", "[8, 0]"),
          bad_numbers=ties.replace("0.3", "nan"), bad_list=ties.replace("[0.1, 0.9]", "[]"), bad_both=ties + "slices: []\n",
          bad_circle=stages.replace("model: b,", "model: half,"), bad_results=ties + "---\n" + ties, bad_nothing="---\n---\n",
          bad_token=ties + tokens.replace("token_id: 7", "token_id: -7"), bad_padding=ties + tokens.replace("64", "0"),
          bad_documents="---\na: 1\n" * 1001)


def text_rows():
    messages = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "there"}]}]}
    sharegpt = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": None}]}
    rows = [{"text": "plain"}, messages, sharegpt, {"content": "c"}]
    seeds("text_rows", valid_all="\n".join(map(json.dumps, rows)), bad_depth='{"text":' + "[" * 200, bad_type={"text": 1},
          bad_message={"messages": [1]}, bad_cut='{"text": "\\ud800', bad_list=[1], bad_none={"other": "text"})


def card():
    front = "---\nlicense: apache-2.0\nbase_model:\n- a/b\n- c/d\ntags: [merge, moe]\nlanguage: en\n---\n# Model\n"
    report = {"results": {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.01, "acc_norm,none": 0.6},
                          "mmlu": {"acc,none": 0.4}, "mmlu_law": {"acc,none": 0.3}},
              "group_subtasks": {"mmlu": ["mmlu_law"]}, "n-shot": {"arc": 25},
              "configs": {"arc": {"dataset_path": "ai2_arc", "dataset_name": "ARC", "test_split": "test"}}}
    seeds("card", valid_front=front, valid_other="---\nlicense: other\nlicense_name: x\nlicense_link: LICENSE\n---\n",
          valid_windows=front.replace("\n", "\r\n"), valid_report=report, bad_report={"results": {"a": 1}}, bad_none="# Model\n",
          bad_open="---\nlicense: mit\n", bad_bomb="---\na: &a [1,1]\nb: [" + "*a," * 300 + "*a]\n- \n---\n", bad_results={"results": []})


# --------------------------------------------------------------------------------------------------------- tokenizers


def added(number, content, **more):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True, **more}


def document(model, **more):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added(0, "<s>")], "normalizer": None,
            "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model, **more}


def tokenizer():
    letters = {letter: i for i, letter in enumerate(["<s>", *"abcthe \u0120\u2581"])}
    bpe = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
           "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {**letters, "th": 20, "the": 21},
           "merges": ["t h", "th e"]}
    unigram = {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
               "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -2.5], ["\u2581", -3.0]]}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)|[^\\s]+|\\s"}, "behavior": "Isolated", "invert": False}
    meta = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
    edges = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
             "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
             "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}

    def replace(what, by):
        return {"type": "Replace", "pattern": {"String": what}, "content": by}

    def steps(kind, members, *items):
        return {"type": kind, members: list(items)}

    def several(member, *items):
        return steps("Sequence", member, *items)

    def regex(text):
        return {"pre_tokenizer": {**split, "pattern": {"Regex": text}}}

    doubled = [replace("a", "aa")] * 30
    seeds("tokenizer",
          valid_bpe=document(bpe, pre_tokenizer=several("pretokenizers", split, {**byte_level, "use_regex": False}), decoder=byte_level,
                             post_processor=edges),
          valid_pieces=document({**bpe, "byte_fallback": True, "fuse_unk": True, "unk_token": "<s>"}, normalizer=several(
              "normalizers", {"type": "Prepend", "prepend": "\u2581"}, replace(" ", "\u2581"), {"type": "NFKC"}, {"type": "Lowercase"}),
              decoder=several("decoders", replace("\u2581", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                              {"type": "Strip", "content": " ", "start": 1, "stop": 0})),
          valid_unigram=document(unigram, pre_tokenizer=meta, decoder=meta),
          valid_words=document({"type": "WordPiece", "unk_token": "<s>", "continuing_subword_prefix": "##",
                                "max_input_chars_per_word": 100, "vocab": {"<s>": 0, "a": 1, "##b": 2}},
                               normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                                           "strip_accents": None, "lowercase": True},
                               pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}),
          valid_word_level=document({"type": "WordLevel", "unk_token": "<s>", "vocab": {"<s>": 0, "abc": 1}},
                                    pre_tokenizer={"type": "Whitespace"}, truncation={"direction": "Right", "max_length": 1,
                                                                                     "strategy": "LongestFirst", "stride": 0}),
          bad_doubled=document(bpe, normalizer=several("normalizers", *doubled)),
          bad_doubled_decoder=document(bpe, decoder=several("decoders", *doubled)),
          bad_doubled_letters=document(bpe, pre_tokenizer=several("pretokenizers", *[byte_level] * 30)),
          bad_doubled_tokens=document(bpe, post_processor=several("processors", *[{**edges, "single": edges["single"][1:] * 2}] * 30)),
          bad_table=document(unigram, normalizer={"type": "Precompiled", "precompiled_charsmap": "/////2EA"}),
          regex_size=document(bpe, **regex("(((a{1,100}){1,100}){1,100}){1,100}")), regex_slow=document(bpe, **regex("(a*)*(?=b)c|(x+x+)+y")),
          ids=document({**bpe, "vocab": {"a": 4294967295, "<s>": 0}, "merges": []}, added_tokens=[added(4294967295, "<s>")]),
          merges=document({**bpe, "merges": ["a a", "x y"]}), empty=document({**bpe, "vocab": {}, "merges": []}, added_tokens=[]),
          precompiled=document(unigram, normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABhAA=="}),
          bad_depth='{"normalizer":' + '{"type":"Sequence","normalizers":[' * 100, bad_list=[1], bad_none={})


def tokenizer_files():
    def files(*parts):
        return NEXT_FILE.join(json.dumps(part).encode() for part in parts)

    decoder = {"1": added(1, "<s>"), "300": added(300, "<extra>", lstrip=True)}
    seeds("tokenizer_files",
          valid_roles=files({"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "tokenizer_class": "LlamaTokenizerFast"}),
          valid_decoder=files({"added_tokens_decoder": decoder, "additional_special_tokens": ["<extra>"], "bos_token": "<s>"}),
          valid_older=files({"tokenizer_class": "GPT2Tokenizer"}, {"eos_token": "</s>", "extra_special_tokens": ["<x>"]}, {"<y>": 301},
                            {"model_type": "qwen2", "vocab_size": 400}),
          bad_id=files({"added_tokens_decoder": {"x": added(1, "<s>")}}), bad_added=files({}, {}, {"<y>": "a"}),
          bad_list=files([]), extra=files({"extra_special_tokens": {"image_token": "<i>", "n": 1}, "bos_token": 5}))


def sentencepiece():
    varint = tiny_parquet.varint

    def field(number, content):
        return varint(number << 3 | 2) + varint(len(content)) + content

    def piece(text, score, kind=1):
        kinds = b"" if kind == 1 else varint(3 << 3) + varint(kind)
        return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + kinds)

    pieces = b"".join([piece("<unk>", 0, 2), piece("<s>", 0, 3), piece("</s>", 0, 3), piece("<0x41>", 0, 6), piece("<u>", 0, 4)] +
                      [piece(text, -i) for i, text in enumerate(["\u2581", "t", "h", "e", "th", "the", "\u2581the", "s", "a"])])
    seeds("sentencepiece",
          valid_merges=pieces + field(2, b"\x18\x02"), valid_unigram=pieces + field(2, b"\x18\x01"), valid_plain=pieces,
          bad_words=pieces + field(2, b"\x18\x03"), bad_nan=piece("a", float("nan")), bad_varint=b"\xff" * 11, bad_length=b"\x0a\xff\xff\xff\xff\x0f",
          bad_none=b"", bad_utf8=field(1, field(1, b"\xff")))


def parquet():
    tiny, zigzag, I32, I64 = tiny_parquet, tiny_parquet.zigzag, tiny_parquet.I32, tiny_parquet.I64

    def one_column(data, values, schema=None, rows=1, codec=0, groups=None, size=None, dictionary=None, start=4):
        """A file with a column of texts whose pages are these bytes."""
        schema = schema or [tiny.node("schema", 1)] + tiny.nodes("q", "text")
        chunk = tiny.chunk(["q"], 6, start, len(data) if size is None else size, values, codec, dictionary)
        return b"PAR1" + data + tiny.footer(schema, groups or [tiny.group([chunk], rows)], rows)

    def footer_of(*fields):
        data = tiny.struct_of(*fields)
        return b"PAR1" + data + struct.pack("<I", len(data)) + b"PAR1"

    huge, levels = (1 << 31) - 1, tiny.levels([1], 1)
    text = levels + tiny.plain("text", ["a"])
    words = tiny.plain("text", ["a", "b"])
    by_word = tiny.levels([1, 1], 1) + b"\1\3\2"  # one bit an index, a run of 8
    dictionary = tiny.page_header(len(words), len(words), 2, 0, 2) + words
    deep = [tiny.node("schema", 1)] + [tiny.node("g", 1, None, 0)] * 200 + tiny.nodes("q", "text")
    zstd = bytes.fromhex("28b52ffd2009490000") + text[:9]  # one raw block
    run = b"\2\0\0\0\xfe\xff"  # levels: a run whose length is cut off
    seeds("parquet",
          valid_kinds=tiny.parquet([("q", "text", ["a", None, "\u00fc"]), ("n", "int", [1, -5, None]), ("x", "float", [0.5, None, 2]),
                                    ("b", "bool", [True, False, None]), ("c", "texts", [["x", None, "y"], [], None])], 2),
          valid_dictionary=one_column(dictionary + tiny.page_header(len(by_word), len(by_word), 2, 8) + by_word, 2, rows=2, dictionary=4,
                                      start=4 + len(dictionary)),
          valid_regex=b"/(-?[$0-9.,]{2,})|(-?[0-9]+)\nit is 7 of $1,234.50", bad_regex=b"/(a(?=b)\\1\nab",
          bad_none=b"", bad_magic=b"PAR1PAR1", bad_footer=b"PAR1\xff\xff\xff\x7fPAR1", bad_empty=footer_of(),
          bad_rows=one_column(tiny.page_header(len(text), len(text), 1) + text, 1, rows=1 << 62),
          bad_value=one_column(tiny.page_header(9, 9, 1) + levels + struct.pack("<I", huge)[:9 - len(levels)], 1),
          bad_page=one_column(tiny.page_header(huge, 5, 1) + text[:5], 1, codec=1),
          bad_stored=one_column(tiny.page_header(10, huge, 1) + text, 1),
          bad_values=one_column(tiny.page_header(len(run), len(run), huge) + run, huge, rows=huge),
          bad_dictionary=one_column(tiny.page_header(len(words), len(words), huge, 0, 2) + words, 2, dictionary=4),
          bad_deltas=one_column(tiny.page_header(len(text), len(text), 1, 7) + text, 1),
          bad_codec=one_column(tiny.page_header(len(text), len(text), 1) + text, 1, codec=2),
          bad_zstd=one_column(tiny.page_header(9, len(zstd), 1) + zstd, 1, codec=6),
          bad_beyond=one_column(tiny.page_header(len(text), len(text), 1) + text, 1, start=1 << 40),
          bad_negative=one_column(tiny.page_header(len(text), len(text), 1) + text, 1, start=-5),
          bad_deep=one_column(text, 1, schema=deep), bad_utf8=one_column(tiny.page_header(len(text), len(text), 1) + text[:-1] + b"\xff", 1),
          bad_children=one_column(text, 1, schema=[tiny.node("schema", huge)] + tiny.nodes("q", "text")),
          bad_nodes=footer_of((1, I32, zigzag(1)), (2, tiny.LIST, tiny.list_of(tiny.STRUCT, [], huge)), (3, I64, zigzag(0))),
          bad_groups=one_column(text, 1, groups=[tiny.group([], 1)] * 2))


for make in (safetensors, weight_index, pytorch, gguf, config, adapter_config, yaml, merge_yaml, text_rows, card, parquet, tokenizer, tokenizer_files, sentencepiece):
    make()
