#!/usr/bin/env python3
"""Makes the golden tests: tiny models, and what the real mergekit writes for every case's config.yaml.

usage: ORACLE/venv/bin/python tests/golden/make.py [--oracle ORACLE] [--case NAME ...] [--models-only]

ORACLE (default ~/.cache/moerge-oracle) is a folder with two mergekits:
  venv/   a virtual environment with mergekit 0.1.5, transformers 5, torch 2 and tokenizers; its python runs this file
  old/    mergekit 0.1.4, transformers 4.57 and what they pin, installed with `pip install --target old --no-deps`;
          put in front of the same venv through PYTHONPATH
With --case only those cases are made again. The models are always written: they come from fixed seeds, so that a second run
changes no byte (git shows it if another torch or tokenizers version does).

Written by hand:  cases/CASE/config.yaml, cases/CASE/flags (one command-line word a line, optional)
Written by this file:
  models/SHAPE/{base,a,b}/       random models with a tokenizer, see SHAPES
  cases/CASE/case.json           the YAML as JSON, its sha256, and the token ids of every prompt (BOS included)
  cases/CASE/mergekit-V.json     what mergekit V wrote: see record()
  cases/CASE/transformers.json   hidden modes only: router rows from a float32 forward pass, see reference_rows()
check.py reads these with nothing but Python's standard library.
"""
import argparse, base64, hashlib, json, os, re, shutil, subprocess, sys, tempfile

import tokenizers as tk
import torch
import transformers
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
VERSIONS = ("0.1.4", "0.1.5")
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}

# ---------------------------------------------------------------------------------------------------------------- models

# One row a shape. `config` holds what differs from base_config(); a value of None removes the key.
# `tokenizer` names a row of TOKENIZERS, `dtype` is the type of the stored weights.
SHAPES = {
    # Grouped-query attention, the plain case.
    "llama_gqa": dict(dtype=torch.bfloat16, tokenizer="plain", all_have_tokenizer=True, config=dict()),
    # head_dim * heads != hidden_size: q_proj and o_proj are not square.
    "llama_headdim": dict(dtype=torch.bfloat16, tokenizer="plain", config=dict(head_dim=16, intermediate_size=96)),
    # Tied embeddings, and a tokenizer without a BOS token.
    "llama_tied": dict(dtype=torch.bfloat16, tokenizer="no_bos", config=dict(
        hidden_size=48, intermediate_size=64, num_attention_heads=6, tie_word_embeddings=True, rope_theta=500000.0,
        bos_token_id=None)),
    # Several input shards, one k/v head, SentencePiece-like tokenizer.
    "mistral_sharded": dict(dtype=torch.bfloat16, tokenizer="sentencepiece", shard_bytes=32000, config=dict(
        model_type="mistral", num_hidden_layers=3, num_key_value_heads=1, sliding_window=4096)),
    # As the first Llamas: no num_key_value_heads, no rope_theta in config.json; the tokenizer puts a space in front.
    "llama_f16": dict(dtype=torch.float16, tokenizer="prefix_space", config=dict(
        num_key_value_heads=None, rope_theta=None, intermediate_size=72, rms_norm_eps=1e-6)),
    "llama_f32": dict(dtype=torch.float32, tokenizer="plain", config=dict(num_attention_heads=2, num_key_value_heads=1)),
    # Wavelengths for head_dim 16 are 6 .. 600000: with an original length of 64 all three ranges of the rule are hit.
    "llama3_rope": dict(dtype=torch.bfloat16, tokenizer="template_bos", config=dict(
        num_attention_heads=2, num_key_value_heads=1, rope_theta=500000.0, eos_token_id=[2, 3], max_position_embeddings=512,
        rope_scaling=dict(factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=64,
                          rope_type="llama3"))),
    # The old spelling "type", as in deepseek-coder.
    "llama_linear": dict(dtype=torch.bfloat16, tokenizer="plain", config=dict(
        rope_theta=100000.0, rope_scaling=dict(type="linear", factor=4.0))),
    # config.json as transformers 5 writes it. transformers 4 does not read rope_parameters: see gates_not_judged().
    "mistral_v5": dict(dtype=torch.bfloat16, tokenizer="chat", config=dict(
        model_type="mistral", head_dim=8, rope_theta=None, torch_dtype=None, dtype="bfloat16",
        rope_parameters=dict(rope_theta=1000000.0, rope_type="default"), transformers_version="5.0.0")),
    # Biases on q, k and v; tied, as the small Qwen2.5 models are; a window that is switched off, as theirs.
    "qwen2_tied": dict(dtype=torch.bfloat16, tokenizer="no_bos", config=dict(
        model_type="qwen2", tie_word_embeddings=True, rope_theta=1000000.0, bos_token_id=None, use_sliding_window=False,
        sliding_window=1024, max_window_layers=2, intermediate_size=48)),
    # Norms over the heads of q and k, heads that do not make up the hidden size, tied.
    "qwen3_tied": dict(dtype=torch.bfloat16, tokenizer="no_bos", config=dict(
        model_type="qwen3", head_dim=16, tie_word_embeddings=True, rope_theta=1000000.0, bos_token_id=None,
        use_sliding_window=False, sliding_window=None, max_window_layers=2, intermediate_size=48)),
}
CLASSES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


def base_config(shape, vocab_size):
    c = dict(
        architectures=None, attention_bias=False, attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu",
        hidden_size=32, initializer_range=0.02, intermediate_size=64, max_position_embeddings=1024, mlp_bias=False,
        model_type="llama", num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2, pretraining_tp=1,
        rms_norm_eps=1e-5, rope_scaling=None, rope_theta=10000.0, tie_word_embeddings=False,
        torch_dtype=str(shape["dtype"]).removeprefix("torch."), transformers_version="4.40.0", use_cache=True,
        vocab_size=vocab_size)
    c.update(shape["config"])
    if c["model_type"] != "llama":
        for key in ("attention_bias", "mlp_bias", "pretraining_tp", "rope_scaling"):
            if key != "attention_bias" or c["model_type"] != "qwen3":
                del c[key]
    c["architectures"] = [CLASSES[c["model_type"]] + "ForCausalLM"]
    keep_null = {"rope_scaling", "bos_token_id"} - ({"rope_scaling"} if "rope_parameters" in c else set())
    return {k: v for k, v in sorted(c.items()) if v is not None or k in keep_null}


def random_weights(config, dtype, seed):
    """The weights of one model. Every tensor has its own generator, so that adding a tensor changes no other one."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim", hidden // heads)
    out = {}

    def add(name, *shape, std, mean=0.0):
        g = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:6], "big"))
        out[name] = (torch.randn(shape, generator=g) * std + mean).to(dtype)

    add("model.embed_tokens.weight", config["vocab_size"], hidden, std=0.1)
    for l in range(config["num_hidden_layers"]):
        p = f"model.layers.{l}."
        add(p + "input_layernorm.weight", hidden, std=0.1, mean=1.0)
        # Wide q and k make the attention choosy: a wrong rope must show in the router rows.
        add(p + "self_attn.q_proj.weight", heads * head_dim, hidden, std=0.3)
        add(p + "self_attn.k_proj.weight", kv_heads * head_dim, hidden, std=0.3)
        add(p + "self_attn.v_proj.weight", kv_heads * head_dim, hidden, std=0.1)
        add(p + "self_attn.o_proj.weight", hidden, heads * head_dim, std=0.1)
        if config["model_type"] == "qwen2":
            for part, size in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
                add(p + f"self_attn.{part}_proj.bias", size * head_dim, std=0.3)
        if config["model_type"] == "qwen3":
            add(p + "self_attn.q_norm.weight", head_dim, std=0.2, mean=1.0)
            add(p + "self_attn.k_norm.weight", head_dim, std=0.2, mean=1.0)
        add(p + "post_attention_layernorm.weight", hidden, std=0.1, mean=1.0)
        add(p + "mlp.gate_proj.weight", ffn, hidden, std=0.1)
        add(p + "mlp.up_proj.weight", ffn, hidden, std=0.1)
        add(p + "mlp.down_proj.weight", hidden, ffn, std=0.1)
    add("model.norm.weight", hidden, std=0.1, mean=1.0)
    if not config["tie_word_embeddings"]:
        add("lm_head.weight", config["vocab_size"], hidden, std=0.1)
    return out


def put_awkward_values(weights):
    """Puts numbers on which conversions differ into one expert tensor: ties, float16 subnormals, overflow, signed zeros."""
    values = [0.0, -0.0, 1e-30, -1e-30, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 3 * 2.0**-25, -6e-8, 6.1e-5, 65504.0, 65519.0,
              65520.0, -7e4, 3e38, -3.4e38, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, 1 + 2.0**-11, 1e-40, -1e-45]
    t = weights["model.layers.0.mlp.up_proj.weight"]
    t[0, :len(values)] = torch.tensor(values).to(t.dtype)


def write_json(path, data):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(data, f, ensure_ascii=False, indent=2)
        f.write("\n")


def write_golden(path, data):
    """JSON with one line an entry of the inner objects: a tensor, a config key. Short, and a diff says what changed."""
    def inner(v):
        if not isinstance(v, dict):
            return json.dumps(v, ensure_ascii=False)
        return "{\n" + ",\n".join(f"  {json.dumps(k)}: {json.dumps(x, ensure_ascii=False)}" for k, x in v.items()) + "\n }"
    with open(path, "w", encoding="utf-8") as f:
        f.write("{\n" + ",\n".join(f" {json.dumps(k)}: {inner(v)}" for k, v in data.items()) + "\n}\n")


def save_shard(path, tensors):
    save_file(tensors, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)


def write_weights(folder, weights, shard_bytes):
    if not shard_bytes:
        save_shard(os.path.join(folder, "model.safetensors"), weights)
        return
    shards = [{}]
    for name, t in weights.items():
        if shards[-1] and sum(x.nbytes for x in shards[-1].values()) + t.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = t
    where = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        save_shard(os.path.join(folder, name), shard)
        where.update(dict.fromkeys(shard, name))
    total = sum(t.nbytes for t in weights.values())
    write_json(os.path.join(folder, "model.safetensors.index.json"), {"metadata": {"total_size": total}, "weight_map": where})


def make_models():
    for shape_name, shape in SHAPES.items():
        shutil.rmtree(os.path.join(HERE, "models", shape_name), ignore_errors=True)
        files, vocab_size = TOKENIZERS[shape["tokenizer"]]()
        config = base_config(shape, vocab_size)
        for model in ("base", "a", "b"):
            folder = os.path.join(HERE, "models", shape_name, model)
            os.makedirs(folder)
            write_json(os.path.join(folder, "config.json"), config)
            weights = random_weights(config, shape["dtype"], f"{shape_name}/{model}")
            if model == "a" and shape_name in ("llama_gqa", "llama_f32"):
                put_awkward_values(weights)
            write_weights(folder, weights, shape.get("shard_bytes"))
            # mergekit reads the base's tokenizer only; most experts go without, to keep this folder small.
            if model == "base" or shape.get("all_have_tokenizer"):
                for name, text in files.items():
                    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
                        f.write(text)


# ------------------------------------------------------------------------------------------------------------ tokenizers

# Text for the tokenizers to learn a few dozen merges from.
TEXT = """
The cook put the pot on the stove and stirred the onions until they were soft. Add salt, pepper and a spoon of oil.
Write a function that returns the sum of a list: def total(values): return sum(values) if values else 0
The lighthouse keeper climbed the stairs at dusk, as she had done every evening for thirty years.
What is the derivative of x squared? The answer is two x. Then the integral from zero to three is nine.
for (int i = 0; i < n; i++) { total += values[i]; } // the loop adds up all the values
Once upon a time there was a small fox who lived at the edge of the forest and was afraid of the rain.
If a train travels 60 miles in 90 minutes, how far does it go in 2 hours? It goes 80 miles.
""".strip().split("\n")
SPECIAL = ["<unk>", "<s>", "</s>"]


def byte_level(add_prefix_space=False, bos=True, template=False, extra=()):
    """A byte-level BPE as GPT-2's and Llama 3's: 256 bytes, the special tokens, some 40 merges."""
    t = tk.Tokenizer(tk.models.BPE())
    t.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    t.decoder = tk.decoders.ByteLevel()
    special = [s for s in SPECIAL if bos or s != "<s>"] + list(extra)
    t.train_from_iterator(TEXT, tk.trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, show_progress=False, initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet()))
    if template:
        t.post_processor = bos_template(t)
    return t


def sentencepiece():
    """What Llama 2 and Mistral have: a normaliser that puts U+2581 for spaces and in front, and tokens for lone bytes."""
    marked = ["▁" + line.replace(" ", "▁") for line in TEXT]
    learner = tk.Tokenizer(tk.models.BPE())
    learner.pre_tokenizer = tk.pre_tokenizers.Split("▁", "merged_with_next")
    learner.train_from_iterator(marked, tk.trainers.BpeTrainer(vocab_size=120, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    pieces = SPECIAL + [f"<0x{b:02X}>" for b in range(256)] + sorted(learnt["vocab"], key=learnt["vocab"].get)
    t = tk.Tokenizer(tk.models.BPE(
        vocab={p: i for i, p in enumerate(pieces)}, merges=[tuple(m) for m in learnt["merges"]], unk_token="<unk>",
        fuse_unk=True, byte_fallback=True))
    t.add_special_tokens(SPECIAL)
    n = tk.normalizers
    t.normalizer = n.Sequence([n.Prepend("▁"), n.Replace(" ", "▁")])
    d = tk.decoders
    t.decoder = d.Sequence([d.Replace("▁", " "), d.ByteFallback(), d.Fuse(), d.Strip(" ", 1, 0)])
    t.post_processor = bos_template(t)
    return t


def bos_template(t):
    """Adds <s> in front of every text. mergekit writes the BOS itself and turns this off: it must not come twice."""
    return tk.processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", t.token_to_id("<s>"))])


CHAT_TEMPLATE = """{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
[INST] {{ message['content'] }} [/INST]
{%- else -%}
{{ message['content'] }}</s>
{%- endif -%}
{%- endfor -%}
"""


def tokenizer_files(t, dict_tokens=False, old_merges=False, chat=False):
    """({file name: text}, vocabulary size) of the base's files beside the weights."""
    data = json.loads(t.to_str())
    if old_merges:  # tokenizers before 0.20 wrote "a b" for ["a", "b"]
        data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    special = {f"{role}_token": s for role, s in (("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>")) if t.token_to_id(s) is not None}
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False)
    config = {
        "added_tokens_decoder": {str(a["id"]): {"content": a["content"], **flags, "special": True} for a in data["added_tokens"]},
        "bos_token": None, "clean_up_tokenization_spaces": False, "model_max_length": 1024,
        "tokenizer_class": "PreTrainedTokenizerFast", **special}
    if dict_tokens:  # the long spelling of older exports
        config.update({k: {"__type": "AddedToken", "content": v, **flags} for k, v in special.items()})
    generation = {"_from_model_config": True, "bos_token_id": t.token_to_id("<s>"), "eos_token_id": t.token_to_id("</s>"),
                  "transformers_version": "4.40.0"}
    files = {
        "tokenizer.json": json.dumps(data, ensure_ascii=False, separators=(",", ":")),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
        "special_tokens_map.json": json.dumps({k: config[k] if dict_tokens else v for k, v in special.items()}, indent=2) + "\n",
        "generation_config.json": json.dumps({k: v for k, v in generation.items() if v is not None}, indent=2) + "\n"}
    if chat:
        files["chat_template.jinja"] = CHAT_TEMPLATE
    return files, t.get_vocab_size()


TOKENIZERS = {
    "plain": lambda: tokenizer_files(byte_level()),
    "no_bos": lambda: tokenizer_files(byte_level(bos=False)),
    "prefix_space": lambda: tokenizer_files(byte_level(add_prefix_space=True)),
    "template_bos": lambda: tokenizer_files(byte_level(template=True, extra=["<|eot|>"])),
    "sentencepiece": lambda: tokenizer_files(sentencepiece(), dict_tokens=True, old_merges=True),
    "chat": lambda: tokenizer_files(byte_level(template=True), chat=True),
}

# ------------------------------------------------------------------------------------------------------------------ cases


def all_experts(config):
    """Shared experts follow the others, as their router rows do."""
    return config["experts"] + (config.get("shared_experts") or [])


def prompt_ids(case_dir, config):
    """Token ids of every expert's prompts, straight from the base's tokenizer.json, which is the truth in this matter."""
    base = os.path.join(case_dir, config["base_model"])
    t = tk.Tokenizer.from_file(os.path.join(base, "tokenizer.json"))
    with open(os.path.join(base, "tokenizer_config.json"), encoding="utf-8") as f:
        bos = json.load(f).get("bos_token") or ""
    bos = bos["content"] if isinstance(bos, dict) else bos
    return [{key: [t.encode(bos + p, add_special_tokens=False).ids for p in e.get(key) or []]
             for key in ("positive_prompts", "negative_prompts")} for e in all_experts(config)]


# What mergekit's tokenize_prompts does, without the padding. Runs under either transformers.
ASK_TOKENIZER = """
import json, sys, transformers
base, config = json.load(sys.stdin)
t = transformers.AutoTokenizer.from_pretrained(base)
print(json.dumps([{k: [t((t.bos_token or "") + p, add_special_tokens=False)["input_ids"] for p in e.get(k) or []]
                   for k in ("positive_prompts", "negative_prompts")} for e in config["experts"] + (config.get("shared_experts") or [])]))
"""

ASK_VERSIONS = """
import json, torch, transformers, importlib.metadata as m
print(json.dumps({"mergekit": m.version("mergekit"), "transformers": transformers.__version__, "torch": torch.__version__}))
"""


class Oracle:
    def __init__(self, folder, version):
        self.version = version
        self.python = os.path.join(folder, "venv/bin/python")
        # One thread: sums come in the same order wherever this runs.
        self.env = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
        self.env.pop("PYTHONPATH", None)
        if version == "0.1.4":
            self.env["PYTHONPATH"] = os.path.join(folder, "old")
        self.versions = json.loads(self.ask(ASK_VERSIONS))
        if self.versions["mergekit"] != version:
            sys.exit(f"{folder}: found mergekit {self.versions['mergekit']} where {version} was expected")

    def ask(self, code, stdin=""):
        run = subprocess.run([self.python, "-c", code], env=self.env, input=stdin, capture_output=True, text=True)
        if run.returncode:
            sys.exit(f"mergekit {self.version}'s Python failed:\n{run.stderr[-3000:]}")
        return run.stdout.strip().split("\n")[-1]

    def merge(self, config_path, out, flags):
        """None, or the line that mergekit ended with."""
        # Relative paths in the YAML are meant from its own folder; mergekit takes them from the current one.
        run = subprocess.run([self.python, "-m", "mergekit.scripts.moe", config_path, out, "--random-seed", "0", *flags],
                             env=self.env, cwd=os.path.dirname(config_path), capture_output=True, text=True)
        if run.returncode == 0:
            return None
        lines = [l for l in run.stderr.strip().split("\n") if l.strip() and not re.match("ERROR:root:(  [*]|All supported)", l)]
        return re.sub(r"^ERROR:root:", "", lines[-1] if lines else f"exit status {run.returncode}")


def read_tensors(folder):
    out = {}
    for f in sorted(os.listdir(folder)):
        if f.endswith(".safetensors"):
            with safe_open(os.path.join(folder, f), "pt") as st:
                out.update({k: st.get_tensor(k) for k in st.keys()})
    return out


def per_expert(tensors, model_type):
    """The family's names on the Hub, one tensor an expert, out of those or the fused ones that 0.1.5 writes."""
    mixtral = model_type == "mixtral"
    gate, up, down = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")
    out = {}
    for k, v in tensors.items():
        layer, _, rest = k.partition(".mlp.")
        moe = f"{layer}.block_sparse_moe" if mixtral else f"{layer}.mlp"
        if rest == "experts.gate_up_proj":
            for e in range(v.shape[0]):
                out[f"{moe}.experts.{e}.{gate}.weight"], out[f"{moe}.experts.{e}.{up}.weight"] = v[e].chunk(2)
        elif rest == "experts.down_proj":
            for e in range(v.shape[0]):
                out[f"{moe}.experts.{e}.{down}.weight"] = v[e]
        elif rest == "gate.weight":
            out[f"{moe}.gate.weight"] = v
        else:
            out[k] = v
    return out


def raw_bytes(t):
    return t.contiguous().view(torch.uint8).numpy().tobytes()


def record(folder):
    """What is kept of an output: hashes of the copied tensors, the router rows themselves, config.json."""
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    tensors, gates = {}, {}
    for name, t in sorted(per_expert(read_tensors(folder), config["model_type"]).items()):
        row = {"dtype": DTYPES[t.dtype], "shape": list(t.shape)}
        if name.endswith((".gate.weight", ".shared_expert_gate.weight")):
            gates[name] = {**row, "data": base64.b64encode(raw_bytes(t)).decode()}
        else:
            tensors[name] = {**row, "sha256": hashlib.sha256(raw_bytes(t)).hexdigest()}
    return {"tensors": tensors, "gates": gates, "config": config}


def gates_not_judged(oracle, case_dir, config, tokens):
    """Why this mergekit's router rows say nothing about ours, or None."""
    mode = config.get("gate_mode", "hidden")
    if mode in ("random", "uniform_random"):
        return "random"
    base = os.path.join(case_dir, config["base_model"])
    if json.loads(oracle.ask(ASK_TOKENIZER, json.dumps([base, config]))) != tokens:
        return "the prompts' tokens differ from those of tokenizer.json"
    if mode == "hidden_avg" and any(len({len(ids) for ids in prompts}) > 1 for e in tokens for prompts in e.values()):
        return "hidden_avg of prompts with different lengths: the padding is averaged in"
    with open(os.path.join(base, "config.json"), encoding="utf-8") as f:
        if mode != "cheap_embed" and oracle.version == "0.1.4" and "rope_parameters" in json.load(f):
            return "transformers 4 does not read rope_parameters: the base runs with another rope_theta"
    return None


def make_same_type(case_dir, config_text, temp):
    """A copy of the YAML whose experts have the base's config.json. mergekit itself never mixes architectures for Mixtral;
    this is what --allow-crimes has to come to, since only the experts' FFN tensors are used."""
    config = yaml.safe_load(config_text)
    base_config_json = os.path.join(case_dir, config["base_model"], "config.json")
    for e in config["experts"]:
        copy = os.path.join(temp, e["source_model"].strip("./").replace("/", "_"))
        if not os.path.exists(copy):
            shutil.copytree(os.path.join(case_dir, e["source_model"]), copy)
            shutil.copy(base_config_json, copy)
        e["source_model"] = copy
    config["base_model"] = os.path.join(case_dir, config["base_model"])
    path = os.path.join(temp, "config.yaml")
    with open(path, "w", encoding="utf-8") as f:
        yaml.safe_dump(config, f)
    return path


def reference_rows(case_dir, config, tokens):
    """[layers, experts, hidden] float32: the base's hidden states entering each layer, without padding and without rounding to
    bfloat16; mean over the prompts, minus that of the negative ones, then unit length."""
    base = transformers.AutoModelForCausalLM.from_pretrained(
        os.path.join(case_dir, config["base_model"]), dtype=torch.float32, attn_implementation="eager").eval()
    average = config.get("gate_mode", "hidden") == "hidden_avg"

    def mean_hidden(prompts):
        rows = []
        for ids in prompts:
            with torch.no_grad():
                h = torch.stack(base(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[:-1])[:, 0]
            rows.append(h.mean(1) if average else h[:, -1])
        return torch.stack(rows).mean(0)

    experts = []
    for e in tokens:
        if not e["positive_prompts"]:
            continue  # a shared expert without a router
        h = mean_hidden(e["positive_prompts"])
        if e["negative_prompts"]:
            h = h - mean_hidden(e["negative_prompts"])
        experts.append(h / h.norm(dim=-1, keepdim=True).clamp(min=1e-8))
    return torch.stack(experts, dim=1).contiguous()


def worst_cosine(gates, rows):
    """For the log: how far mergekit's bfloat16 run is from the float32 one."""
    worst = 1.0
    for layer in range(rows.shape[0]):
        stored = [g for name, g in gates.items() if name.startswith(f"model.layers.{layer}.")]  # ".gate" before ".shared"
        dtype = {v: k for k, v in DTYPES.items()}[stored[0]["dtype"]]
        t = torch.cat([torch.frombuffer(bytearray(base64.b64decode(g["data"])), dtype=dtype).view(g["shape"]).float()
                       for g in stored])
        worst = min(worst, torch.nn.functional.cosine_similarity(t, rows[layer], dim=-1).min().item())
    return worst


def make_case(name, oracles):
    case_dir = os.path.join(HERE, "cases", name)
    config_path = os.path.join(case_dir, "config.yaml")
    with open(config_path, encoding="utf-8") as f:
        text = f.read()
    config = yaml.safe_load(text)
    flags = []
    if os.path.exists(os.path.join(case_dir, "flags")):
        with open(os.path.join(case_dir, "flags"), encoding="utf-8") as f:
            flags = f.read().split()
    tokens = prompt_ids(case_dir, config)
    write_golden(os.path.join(case_dir, "case.json"), {
        "config": config, "config_sha256": hashlib.sha256(text.encode()).hexdigest(), "tokens": tokens})

    rows = None
    if config.get("gate_mode", "hidden").startswith("hidden"):
        rows = reference_rows(case_dir, config, tokens)
        write_golden(os.path.join(case_dir, "transformers.json"), {
            "provenance": {"transformers": transformers.__version__, "torch": torch.__version__, "made_by": "make.py reference_rows"},
            "dtype": "F32", "shape": list(rows.shape), "data": base64.b64encode(raw_bytes(rows)).decode()})

    for oracle in oracles:
        result = {"provenance": {**oracle.versions, "command": " ".join(
            ["cd", f"cases/{name}", "&&", "mergekit-moe", "config.yaml", "OUT", "--random-seed", "0", *flags])}}
        with tempfile.TemporaryDirectory() as temp:
            out = os.path.join(temp, "out")
            error = oracle.merge(config_path, out, flags)
            if error:
                result["error"] = error
            if error and "--allow-crimes" in flags:
                result["then"] = "made again with the base's config.json in every expert"
                error = oracle.merge(make_same_type(case_dir, text, temp), out, flags)
            if not error:
                result["gates_not_judged"] = gates_not_judged(oracle, case_dir, config, tokens)
                result.update(record(out))
        write_golden(os.path.join(case_dir, f"mergekit-{oracle.version}.json"), result)
        note = result.get("error", "")
        if rows is not None and "gates" in result:
            note += f" rows against float32: {worst_cosine(result['gates'], rows):.6f}"
        print(f"{name} mergekit {oracle.version}: {len(result.get('tensors', ()))} tensors {note} {result.get('gates_not_judged') or ''}", flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--oracle", default=os.path.expanduser("~/.cache/moerge-oracle"))
    ap.add_argument("--case", action="append", help="make only this case; may be given again")
    ap.add_argument("--models-only", action="store_true")
    args = ap.parse_args()

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    make_models()
    if args.models_only:
        return
    oracles = [Oracle(args.oracle, v) for v in VERSIONS]
    for name in sorted(args.case or os.listdir(os.path.join(HERE, "cases"))):
        make_case(name, oracles)


if __name__ == "__main__":
    main()
