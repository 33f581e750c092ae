"""LoRA adapters on base and experts ("model+adapter"): the same result as from models that were merged beforehand, and
every refusal. Numbers are chosen so that products and sums are exact: no tolerance is needed."""
import json, random

from harness import rows
from test_gguf import GgufFile, model as mergeable_model
from tiny_gguf import tiny_gguf
from tiny_mixtures import tiny_dense, tiny_mixture
from tiny_models import Tensor, pack, safetensors_files, tensor, tiny_model, zeros
from tiny_torch import StateDict, torch_file

FFN = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MODULES = [f"model.layers.{layer}.{module}" for layer in range(2) for module in ATTENTION + FFN]
PREFIX = "base_model.model."


def numbers(seed, count):
    """Multiples of 1/16 in [-1/4, 1/4]."""
    source = random.Random(seed)
    return [source.randrange(-4, 5) / 16 for _ in range(count)]


class Adapter:
    """An adapter in memory: change what you like, then write() it."""

    def __init__(self, seed, model, modules=MODULES, rank=4, dtype="F32", **config):
        self.config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": sorted(modules), **config}
        self.tensors = {}
        for module in modules:
            rows, columns = model.tensors[module + ".weight"].shape
            self.tensors[f"{PREFIX}{module}.lora_A.weight"] = tensor(dtype, [rank, columns], numbers(f"{seed}{module}A", rank * columns))
            self.tensors[f"{PREFIX}{module}.lora_B.weight"] = tensor(dtype, [rows, rank], numbers(f"{seed}{module}B", rows * rank))

    def write(self, folder, file="adapter_model.safetensors"):
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps(self.config))
        (folder / file).write_bytes(safetensors_files(self.tensors)["model.safetensors"])

    def merge(self, model, scale=2.0):
        """W + scale * B A, in place."""
        for name in [name for name in self.tensors if name.endswith(".lora_A.weight")]:
            module = name.removeprefix(PREFIX).removesuffix(".lora_A.weight")
            a, b = self.tensors[name], self.tensors[name.replace("lora_A", "lora_B")]
            weight = model.tensors[module + ".weight"]
            (rows, columns), rank, av, bv = weight.shape, a.shape[0], a.values(), b.values()
            values = [w + scale * sum(bv[i // columns * rank + k] * av[k * columns + i % columns] for k in range(rank))
                      for i, w in enumerate(weight.values())]
            model.tensors[module + ".weight"] = Tensor(weight.dtype, weight.shape, pack(weight.dtype, values))


def write(case, name, change=lambda adapter: None, **how):
    """adapters/NAME for a model of this name, which is written as well."""
    adapter = Adapter(name, case.model(name), **how)
    change(adapter)
    adapter.write(case.path(f"adapters/{name}"))
    return adapter


def yaml(case, base, one, two, gate_mode="random", file="lora.yaml"):
    case.yaml(file=file, text=f"base_model: {base}\ngate_mode: {gate_mode}\nexperts:\n"
                              f"  - source_model: {one}\n    positive_prompts: [\"def f(x):\", \"import os\"]\n"
                              f"  - source_model: {two}\n    positive_prompts: [\"2 + 2 =\", \"prove that\"]\n")
    return file


def same_tensors(a, b):
    assert a.tensors.keys() == b.tensors.keys()
    different = [name for name in a.tensors if a.tensors[name] != b.tensors[name]]
    assert not different, different


# --------------------------------------------------------------------------------------------------------- the same result


@rows({f"{mode}, {flags}": (mode, flags) for mode in ("random", "cheap_embed", "hidden") for flags in ("", "--layout fused")
       if not (flags and mode != "hidden")})
def test_result_of_merged_models(case, mode, flags):
    """Byte for byte, routers from hidden states of the adapted base among them."""
    for name in ("base", "one"):
        merged = tiny_model(name)
        write(case, name).merge(merged)
        case.model(f"merged/{name}", merged)
    lora = case.built("--verify", *flags.split(), config=yaml(case, "base+adapters/base", "one+adapters/one", "two", mode))
    same_tensors(lora, case.built(*flags.split(), out="out2",
                                  config=yaml(case, "merged/base", "merged/one", "two", mode, "merged.yaml")))
    plain = case.built(*flags.split(), out="out3", config=yaml(case, "base", "one", "two", mode, "plain.yaml"))
    assert sum(lora.tensors[name] != plain.tensors[name] for name in lora.tensors) >= 8 + 2 * (1 if flags else 3)


@rows({dtype: (dtype,) for dtype in ("BF16", "F16", "F32")})
def test_types_of_adapters_and_models(case, dtype):
    merged = tiny_model("one", dtype, torch_dtype={"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype])
    case.model("one", tiny_model("one", dtype))
    adapter = Adapter("one", merged, dtype=dtype)
    adapter.write(case.path("lora"))
    adapter.merge(merged)
    case.model("merged", merged)
    same_tensors(case.built("--verify", config=yaml(case, "base", "one+lora", "two")),
                 case.built(out="out2", config=yaml(case, "base", "merged", "two", file="merged.yaml")))


def test_the_same_model_with_and_without(case):
    """Two models, though one folder."""
    adapter = write(case, "one", modules=MODULES[4:7])
    out = case.built(config=yaml(case, "base", "one", "one+adapters/one"))
    up = "model.layers.0.block_sparse_moe.experts.{}.w3.weight"
    assert out.tensors[up.format(0)] != out.tensors[up.format(1)]
    down = "model.layers.1.block_sparse_moe.experts.{}.w2.weight"
    assert out.tensors[down.format(0)] == out.tensors[down.format(1)]


def test_adapter_on_a_gguf(case):
    merged = tiny_model("one")
    write(case, "one").merge(merged)
    case.model("merged", merged)
    tiny_gguf(case.model("one", tiny_model("one"))).write(case.path("one.gguf"))
    same_tensors(case.built("--verify", config=yaml(case, "one.gguf+adapters/one", "one.gguf+adapters/one", "two")),
                 case.built(out="out2", config=yaml(case, "merged", "merged", "two", file="merged.yaml")))


def test_map_of_model_and_lora(case):
    write(case, "one")
    texts = case.built(config=yaml(case, "base", "one+adapters/one", "two"))
    same_tensors(texts, case.built(out="out2", config=yaml(
        case, "{model: {path: base}}", "{model: {path: one}, lora: {path: adapters/one}}", "{model: two, lora: null}", file="map.yaml")))


def test_names_in_the_cache(case):
    for name, files in {"models--org--name": case.model("one"), "models--who--lora": Adapter("one", tiny_model("one"))}.items():
        folder = case.folder / ".cache/huggingface/hub" / name
        (folder / "refs").mkdir(parents=True)
        (folder / "refs/main").write_text("abc")
        (folder / "refs/v2").write_text("abc")
        files.write(folder / "snapshots/abc")
    out = case.built(config=yaml(case, "base", "org/name@main+who/lora@v2", "two"))
    card = out.read("README.md").decode()
    assert "[`org/name@main+who/lora@v2`](https://huggingface.co/org/name) (adapter [`who/lora`](https://huggingface.co/who/lora))" in card
    assert '- "who/lora"\n' in card and '- "org/name"\n' in card


def test_folder_with_a_plus_in_its_name(case):
    case.model("one+half")
    yaml(case, "base", "one+half", "two")
    case.built(config="lora.yaml")
    Adapter("one+half", case.model("one+half")).write(case.path("lora"))
    case.built(out="out2", config=yaml(case, "base", "one+half+lora", "two"))


def test_whole_modules_replace_the_bases(case):
    def change(adapter):
        adapter.config["modules_to_save"] = ["lm_head", "norm"]
        adapter.tensors[f"{PREFIX}lm_head.weight"] = tensor("F32", [260, 32], numbers(1, 260 * 32))
        adapter.tensors[f"{PREFIX}model.norm.modules_to_save.default.weight"] = tensor("F32", [32], numbers(2, 32))

    write(case, "base", change)
    out = case.built(config=yaml(case, "base+adapters/base", "one", "two"))
    assert out.tensors["lm_head.weight"].values() == numbers(1, 260 * 32)
    assert out.tensors["model.norm.weight"].values() == numbers(2, 32)


def test_head_of_its_own_unties_the_embeddings(case):
    base = tiny_model("base", tie_word_embeddings=True)
    case.model("base", base)
    adapter = Adapter("base", base, modules_to_save=["lm_head"])
    adapter.tensors[f"{PREFIX}lm_head.weight"] = tensor("BF16", [260, 32], numbers(1, 260 * 32))
    adapter.write(case.path("lora"))
    out = case.built("--verify", config=yaml(case, "base+lora", "one", "two"))
    assert out.config["tie_word_embeddings"] is False
    assert out.tensors["lm_head.weight"].values() == numbers(1, 260 * 32)
    assert out.tensors["model.embed_tokens.weight"] == base.tensors["model.embed_tokens.weight"]


def test_gguf_of_an_adapted_model_and_of_a_mixture(case):
    one = mergeable_model("one")
    adapter = Adapter("one", one)
    adapter.write(case.path("lora"))
    for name in ("base", "one", "two"):
        case.model(name, mergeable_model(name))
    adapter.merge(one)
    case.model("merged", one)

    def tensors(folder):
        file = GgufFile(next(case.path(folder).iterdir()))
        return {name: (t.type, t.ne, bytes(t.data)) for name, t in file.tensors.items()}

    case.run("gguf", "one+lora", "a", "--type", "q8_0").exits(0)
    case.run("gguf", "merged", "b", "--type", "q8_0").exits(0)
    assert [path.name for path in case.path("a").iterdir()] == ["one-lora.Q8_0.gguf"]
    assert tensors("a") == tensors("b")
    case.run("gguf", yaml(case, "one+lora", "one+lora", "two"), "c", "--type", "bf16").exits(0)
    case.run("gguf", yaml(case, "merged", "merged", "two", file="merged.yaml"), "d", "--type", "bf16").exits(0)
    assert tensors("c") == tensors("d")


def test_dry_run_and_card_name_the_adapter(case):
    write(case, "one")
    config = yaml(case, "base", "one+adapters/one", "two")
    text = case.moe("--dry-run", "-v", config=config).exits(0)
    place = case.path("one")
    text.prints("expert 0  one+adapters/one: FFN of every layer", f"{place}: model.layers.0.mlp.up_proj.weight + LoRA {case.path('adapters/one')}")
    plan = case.plan(config=config)
    assert any("+ LoRA" in entry["from"] for entry in plan["tensors"])
    assert "1. one" not in (card := case.built(config=config).read("README.md").decode()) and "`one+adapters/one`" in card


# ---------------------------------------------------------------------------------------------------------------- refusals


def set_config(**config):
    return lambda adapter: adapter.config.update(config)


def set_tensor(name, shape, dtype="F32"):
    return lambda adapter: adapter.tensors.__setitem__(PREFIX + name, zeros(dtype, shape))


def drop(name):
    return lambda adapter: adapter.tensors.pop(PREFIX + name)


UP = "model.layers.0.mlp.up_proj"


@rows({
    "another kind": (set_config(peft_type="IA3"), 2, "adapter_config.json: an adapter of type IA3; LORA is read"),
    "no kind": (set_config(peft_type=None), 1, 'adapter_config.json: no "peft_type" in it'),
    "DoRA": (set_config(use_dora=True), 2, '"use_dora" is set: DoRA; plain LoRA is read: merge it with PEFT first'),
    "DoRA by its tensors": (set_tensor(UP + ".lora_magnitude_vector", [48]), 2, "DoRA is not read"),
    "PiSSA": (set_config(init_lora_weights="pissa_niter_4"), 2, '"init_lora_weights" is "pissa_niter_4": the adapter fits a changed base'),
    "replicated layers": (set_config(layer_replication=[[0, 2], [1, 2]]), 2, "LoRA over replicated layers"),
    "parameters": (set_config(target_parameters=["mlp.experts.gate_up_proj"]), 2, "LoRA on parameters that are no modules"),
    "rank a text": (set_config(r="8"), 1, '"r" should be an integer, found string'),
    "rank zero": (set_config(r=0), 1, "the rank for model.layers.0.mlp.down_proj is 0"),
    "rank beyond": (set_config(rank_pattern={"up_proj": 1e300}), 1, "the rank for model.layers.0.mlp.up_proj is 1e+300"),
    "pattern a list": (set_config(alpha_pattern=[1]), 1, '"alpha_pattern" should be an object'),
    "pattern of texts": (set_config(alpha_pattern={"up_proj": "x"}), 1, '"up_proj" of "alpha_pattern" should be a number, found string'),
    "pattern that is none": (set_config(rank_pattern={"(up_proj": 4}), 2, 'the pattern "(up_proj" is no regular expression'),
    "pattern that explodes": (set_config(rank_pattern={"(x{1,999}){1,999}": 4}), 2, "is longer or more involved than moerge reads"),
    "another rank": (set_config(r=3), 1, '[4, 48] and "', "expected [3, 48] and [32, 3] (rank 3 by adapter_config.json)"),
    "another shape": (set_tensor(UP + ".lora_A.weight", [4, 31]), 1, '.lora_A.weight" [4, 31] and', 'do not fit "' + UP + '.weight" [48, 32] of the model'),
    "no B": (drop(UP + ".lora_B.weight"), 1, 'lora_A.weight" has no lora_B beside it'),
    "unknown module": (set_tensor("model.layers.7.mlp.up_proj.lora_A.weight", [4, 32]), 1,
                       '"model.layers.7.mlp.up_proj.weight", which the model does not have'),
    "strange tensor": (set_tensor(UP + ".lora_C.weight", [4, 32]), 2, 'lora_C.weight" is no tensor of a plain LoRA adapter'),
    "two adapters": (set_tensor(UP + ".lora_A.other.weight", [4, 32]), 2, "are for the same weight: one adapter a file is read"),
    "resized vocabulary": (set_tensor("lm_head.weight", [261, 32]), 1, 'lm_head.weight" [261, 32] replaces "lm_head.weight", which is [260, 32]',
                           "trained with another vocabulary"),
    "integers": (set_tensor(UP + ".lora_A.weight", [4, 32], "I64"), 2, "lora_A.weight\" is int64; f32, f16 and bf16 adapters are read"),
    "tokens without rows": (set_tensor("model.embed_tokens.token_adapter.trainable_tokens_delta", [2, 32]), 2, 'needs "trainable_token_indices"'),
    "tokens beyond": (lambda a: (set_config(trainable_token_indices=[3, 260])(a),
                                 set_tensor("model.embed_tokens.token_adapter.trainable_tokens_delta", [2, 32])(a)), 1,
                      '"trainable_token_indices" names token 260'),
    "negative token": (set_config(trainable_token_indices=[-1]), 1, '"trainable_token_indices" holds -1'),
    "not JSON": (lambda a: a.config.clear(), 1, "peft_type"),
    "empty": (lambda a: a.tensors.clear(), 1, "no tensors in it"),
})
def test_adapter_that_does_not_fit(case, change, code, *sentences):
    case.model("base")
    write(case, "one", change)
    case.refused(code, "adapters/one/", *sentences, config=yaml(case, "base", "one+adapters/one", "two"))


def test_head_of_tied_embeddings(case):
    base = case.model("base", tie_word_embeddings=True)
    untied = tiny_model("base")
    Adapter("base", untied, modules=["lm_head"]).write(case.path("lora"))
    case.refused(2, 'lora: it changes "lm_head.weight", and the model\'s embeddings are tied',
                 config=yaml(case, "base+lora", "one", "two"))


def test_adapter_as_a_pickle(case):
    """adapter_model.bin gives what its safetensors twin gives."""
    adapter = Adapter("one", case.model("one"))
    adapter.write(case.path("twin"))
    case.model("base")
    case.model("two")
    adapter.write(case.path("lora"))
    (case.path("lora") / "adapter_model.safetensors").unlink()
    case.write("lora/adapter_model.bin", torch_file(StateDict(adapter.tensors)))
    same_tensors(case.built(config=yaml(case, "base", "one+lora", "two")),
                 case.built(out="out2", config=yaml(case, "base", "one+twin", "two", file="twin.yaml")))


def test_adapter_on_an_expert_of_a_mixture(case):
    """MODEL#expert=1+ADAPTER is that adapter on the expert written as a model of its own."""
    case.model("mix", tiny_mixture("mix"))
    case.run("extract", "mix", "alone", "--expert", "1").exits(0)
    for name in ("base", "two"):
        case.model(name, tiny_dense(name, "mistral"))
    Adapter("lora", tiny_dense("base", "mistral")).write(case.path("lora"))
    lora = case.built("--verify", config=yaml(case, "base", "mix#expert=1+lora", "two"))
    same_tensors(lora, case.built(out="out2", config=yaml(case, "base", "alone+lora", "two", file="alone.yaml")))
    plain = case.built(out="out3", config=yaml(case, "base", "mix#expert=1", "two", file="plain.yaml"))
    name = "model.layers.1.block_sparse_moe.experts.0.w2.weight"
    assert lora.tensors[name] != plain.tensors[name]


@rows({
    "missing": ("one+nosuch", 2, 'adapter "nosuch": no such folder'),
    "missing in the cache": ("one+who/lora", 2, 'adapter "who/lora": no such folder', "moerge pull who/lora"),
    "model missing": ("nosuch+lora", 2, 'model "nosuch": no such folder'),
    "nothing": ("one+", 2, "an empty adapter reference"),
    "two": ("one+lora+lora", 2, 'model "one+lora+lora": one LoRA adapter a model ("model+adapter") is read'),
    "a model": ("one+two", 1, "two: no adapter_config.json in this folder: it is a model, not an adapter"),
    "a folder": ("one+empty", 1, "not an adapter in PEFT's layout"),
    "a file": ("one+two.gguf", 2, 'adapter "two.gguf": a GGUF file'),
})
def test_reference_that_leads_nowhere(case, reference, code, *sentences):
    case.fill_in()
    case.path("empty").mkdir()
    tiny_gguf(tiny_model("two")).write(case.path("two.gguf"))
    Adapter("one", tiny_model("one")).write(case.path("lora"))
    case.refused(code, *sentences, config=yaml(case, "base", reference, "two"))
