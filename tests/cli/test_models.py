"""Where a model's name leads, and what its config.json may say."""
import json, os, shutil

from harness import rows
from tiny_models import tiny_model

# ------------------------------------------------------------------------------------------------------------ references


def name_base(case, reference):
    case.yaml(text=f"base_model: {reference}\ngate_mode: random\nexperts:\n  - source_model: one\n  - source_model: two\n")


@rows({
    "missing": ("nosuch", "no such folder (looked in . and the working folder), and not a model name like \"org/name\""),
    "missing, absolute": ("/no/such/folder", 'model "/no/such/folder": there is no such folder'),
    "missing, in the home": ("~/nosuch", 'model "~/nosuch": there is no such folder'),
    "missing, above": ("../nosuch", 'not a model name like "org/name"'),
    "three parts": ("a/b/c", 'model "a/b/c": no such folder', 'not a model name like "org/name"'),
    "odd letters": ("org/na$me", 'not a model name like "org/name"'),
    "dots": ("org/..name", 'not a model name like "org/name"'),
    "revision empty": ("org/name@", 'not a model name like "org/name"'),
    "revision that climbs": ("org/name@../../x", 'not a model name like "org/name"'),
    "not in the cache": ("org/name",
                         "no such folder (looked in . and the working folder), and not in the Hugging Face cache",
                         'fetch it with "moerge pull org/name"'),
    "revision not in the cache": ("org/name@v1.0", 'fetch it with "moerge pull org/name@v1.0"'),
})
def test_reference_that_leads_nowhere(case, reference, *sentences):
    name_base(case, reference)
    case.refused(2, f'model "{reference}": ', *sentences)


def test_all_missing_models_are_reported_together_and_once(case):
    case.yaml(text="base_model: a\ngate_mode: random\nexperts:\n"
                   "  - source_model: b\n  - source_model: org/c\n  - source_model: b\n")
    result = case.refused(2, 'model "a": ', 'model "b": ', 'model "org/c": ')
    assert len(result.stderr.splitlines()) == 3


def test_folder_that_is_a_link_to_itself(case):
    os.symlink("loop", case.path("loop"))
    name_base(case, "loop")
    case.refused(2, 'model "loop": no such folder')


def test_relative_to_the_yaml(case):
    case.models("configs/base", "configs/one", "configs/two")
    name_base(case, "base")
    os.rename(case.path("moe.yaml"), case.path("configs/moe.yaml"))
    case.built(config="configs/moe.yaml")


def test_relative_to_the_working_folder(case):
    name_base(case, "base")
    os.mkdir(case.path("configs"))
    os.rename(case.path("moe.yaml"), case.path("configs/moe.yaml"))
    case.built(config="configs/moe.yaml")


def test_folder_beside_the_yaml_comes_first(case):
    case.model("configs/base", hidden_size=8)
    name_base(case, "base")
    os.rename(case.path("moe.yaml"), case.path("configs/moe.yaml"))
    case.refused(2, "hidden_size differs", config="configs/moe.yaml")


def test_missing_model_names_the_yaml_s_folder(case):
    name_base(case, "nosuch")
    os.mkdir(case.path("configs"))
    os.rename(case.path("moe.yaml"), case.path("configs/moe.yaml"))
    case.refused(2, "looked in configs and the working folder", config="configs/moe.yaml")


@rows({
    "absolute": ("{work}/base",),
    "in the home": ("~/here/base",),
    "with a slash": ("base/",),
    "through another": ("one/../base",),
    "a link": ("link",),
})
def test_folder(case, reference):
    os.symlink("base", case.path("link"))
    name_base(case, reference.format(work=case.work))
    case.built()


def test_one_folder_by_two_names_is_opened_once(case):
    """Two spellings of the same folder do not count as different experts' tokenizers or checks, only as names."""
    case.model("one", rms_norm_eps=1e-6)
    case.yaml(text=f"base_model: base\ngate_mode: random\nexperts:\n  - source_model: one\n  - source_model: {case.work}/one\n")
    case.built(warning='rms_norm_eps differs: expert "one"')


# -------------------------------------------------------------------------------------------------- Hugging Face's cache


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cache_model(case, cache, revision="main", commit=COMMIT, name="models--org--name"):
    """A snapshot as huggingface_hub lays it out."""
    tiny_model("base").write(cache / name / "snapshots" / commit)
    ref = cache / name / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)


CACHE_VARIABLES = {
    "HF_HUB_CACHE": ("HF_HUB_CACHE", ""),
    "HUGGINGFACE_HUB_CACHE": ("HUGGINGFACE_HUB_CACHE", ""),
    "HF_HOME": ("HF_HOME", "hub"),
    "XDG_CACHE_HOME": ("XDG_CACHE_HOME", "huggingface/hub"),
    "HOME": ("HOME", ".cache/huggingface/hub"),
}


@rows(CACHE_VARIABLES)
def test_model_in_the_cache(case, variable, below):
    place = case.folder / "place"
    cache_model(case, place / below)
    case.environment[variable] = str(place)
    name_base(case, "org/name")
    case.built()


@rows(CACHE_VARIABLES)
def test_the_searched_cache_is_named(case, variable, below):
    place = case.folder / "place"
    case.environment[variable] = str(place)
    name_base(case, "org/name")
    case.refused(2, f"not in the Hugging Face cache {place / below if below else place};")


def test_first_cache_variable_wins(case):
    cache_model(case, case.folder / "right")
    case.environment |= {"HF_HUB_CACHE": str(case.folder / "right"), "HF_HOME": str(case.folder / "wrong")}
    name_base(case, "org/name")
    case.built()


def test_empty_cache_variable_is_none(case):
    cache_model(case, case.folder / ".cache/huggingface/hub")
    case.environment["HF_HUB_CACHE"] = ""
    name_base(case, "org/name")
    case.built()


def test_transformers_cache_flag(case):
    cache_model(case, case.folder / "place")
    case.environment["HF_HUB_CACHE"] = str(case.folder / "elsewhere")
    name_base(case, "org/name")
    case.built("--transformers-cache", case.folder / "place")
    case.refused(2, f"not in the Hugging Face cache {case.folder}/empty",
                 flags=["--transformers-cache", f"{case.folder}/empty"], out="out2")


@rows({"branch": ("v1.0", "org/name@v1.0"), "pull request": ("refs/pr/3", "org/name@refs/pr/3"),
       "commit": ("other", f"org/name@{COMMIT}")})
def test_revision_in_the_cache(case, revision, reference):
    cache_model(case, case.folder / "place", revision)
    case.environment["HF_HUB_CACHE"] = str(case.folder / "place")
    name_base(case, f'"{reference}"')
    case.built()


def test_snapshot_of_links_to_blobs(case):
    """How huggingface_hub stores files: the snapshot holds links only, sharded weights too."""
    cache = case.folder / "place"
    cache_model(case, cache)
    repository = cache / "models--org--name"
    tiny_model("base").write(repository / "new", shards=2)
    (repository / "blobs").mkdir()
    shutil.rmtree(repository / "snapshots" / COMMIT)
    (repository / "snapshots" / COMMIT).mkdir()
    for file in (repository / "new").iterdir():
        file.rename(repository / "blobs" / f"sha-of-{file.name}")
        os.symlink(f"../../blobs/sha-of-{file.name}", repository / "snapshots" / COMMIT / file.name)
    case.environment["HF_HUB_CACHE"] = str(cache)
    name_base(case, "org/name")
    out = case.built()
    assert not [path for path in out.folder.iterdir() if path.is_symlink()]


@rows({
    "climbs": ("../../../../here/base",),
    "empty": ("",),
    "without its snapshot": ("f" * 40,),
})
def test_ref_that_leads_nowhere(case, content):
    cache_model(case, case.folder / "place")
    (case.folder / "place/models--org--name/refs/main").write_text(content)
    case.environment["HF_HUB_CACHE"] = str(case.folder / "place")
    name_base(case, "org/name")
    case.refused(2, 'fetch it with "moerge pull org/name"')


def test_ref_that_is_too_large(case):
    cache_model(case, case.folder / "place")
    (case.folder / "place/models--org--name/refs/main").write_text("0" * 2000)
    case.environment["HF_HUB_CACHE"] = str(case.folder / "place")
    name_base(case, "org/name")
    case.refused(1, "refs/main: 2.0 kB is too large, at most 1.0 kB expected here")


def test_folder_of_that_name_comes_before_the_cache(case):
    case.model("org/name", hidden_size=8)
    cache_model(case, case.folder / "place")
    case.environment["HF_HUB_CACHE"] = str(case.folder / "place")
    name_base(case, "org/name")
    case.refused(2, "hidden_size differs")


# ----------------------------------------------------------------------------------------------------------- config.json


def with_config(case, content, **how):
    """The base has this config.json: bytes as they are, or changes to a good one."""
    base = tiny_model("base")
    if isinstance(content, bytes):
        base.files["config.json"] = content
    else:
        base.config |= content
    case.model("base", base)
    return base


def test_no_config_json(case):
    base = tiny_model("base")
    base.files["config.json"] = None
    case.model("base", base)
    case.refused(1, f"{case.path('base')}: no config.json in this folder")


@rows({
    "empty": (b"", "not valid JSON: "),
    "cut off": (b'{"model_type": "llama"', "not valid JSON: parse error at line 1, column 23"),
    "more after it": (b"{} {}", "not valid JSON: parse error at line 1, column 4"),
    "bad UTF-8": (b'{"model_type": "llama\xff"}', "not valid JSON: "),
    "number too large": (b'{"model_type": "llama", "rms_norm_eps": 1e999}', "not valid JSON: number overflow"),
    "NaN": (b'{"rms_norm_eps": NaN}', "not valid JSON: "),
    "a list": (b"[]", "config.json: should be a JSON object"),
    "null": (b"null", "config.json: should be a JSON object"),
    "65 levels": (b'{"a":' * 65 + b"1" + b"}" * 65, "JSON nested deeper than 64 levels"),
    "a million levels": (b"[" * 1_000_000, "JSON nested deeper than 64 levels"),
})
def test_config_json_that_is_none(case, content, sentence):
    with_config(case, content)
    case.refused(1, f"{case.path('base')}/config.json: ", sentence)


def test_config_json_that_is_a_folder(case):
    base = tiny_model("base")
    base.files["config.json"] = None
    case.model("base", base)
    os.mkdir(case.path("base/config.json"))
    case.refused(1, "base/config.json is not a regular file")


def test_config_json_that_is_too_large(case):
    case.model("base")
    os.truncate(case.path("base/config.json"), 70_000_000)
    case.refused(1, "base/config.json: 70.0 MB is too large, at most 4.2 MB expected here")


@rows({
    "num_hidden_layers a fraction": ({"num_hidden_layers": 2.0}, '"num_hidden_layers" should be an integer, found number'),
    "num_hidden_layers a text": ({"num_hidden_layers": "2"}, '"num_hidden_layers" should be an integer, found string'),
    "num_hidden_layers true": ({"num_hidden_layers": True}, '"num_hidden_layers" should be an integer, found boolean'),
    "num_hidden_layers zero": ({"num_hidden_layers": 0}, '"num_hidden_layers" is 0'),
    "num_hidden_layers far too many": ({"num_hidden_layers": 100_001}, '"num_hidden_layers" is 100001'),
    "hidden_size negative": ({"hidden_size": -32}, '"hidden_size" is -32'),
    "hidden_size far too large": ({"hidden_size": 2**30 + 1}, f'"hidden_size" is {2**30 + 1}'),
    "hidden_size beyond 63 bits": ({"hidden_size": 2**63}, '"hidden_size" is too large'),
    "hidden_size beyond 64 bits": ({"hidden_size": 2**70}, '"hidden_size" should be an integer'),
    "hidden_size no multiple": ({"hidden_size": 30},
                                "hidden_size 30 is no multiple of num_attention_heads 4, and there is no head_dim"),
    "intermediate_size zero": ({"intermediate_size": 0}, '"intermediate_size" is 0'),
    "num_attention_heads zero": ({"num_attention_heads": 0}, '"num_attention_heads" is 0'),
    "num_key_value_heads zero": ({"num_key_value_heads": 0}, '"num_key_value_heads" is 0'),
    "num_key_value_heads no divisor": ({"num_key_value_heads": 3},
                                       "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    "head_dim zero": ({"head_dim": 0}, '"head_dim" is 0'),
    "vocab_size a list": ({"vocab_size": [260]}, '"vocab_size" should be an integer, found array'),
    "vocab_size negative": ({"vocab_size": -1}, '"vocab_size" is -1'),
    "max_position_embeddings zero": ({"max_position_embeddings": 0}, '"max_position_embeddings" is 0'),
    "rms_norm_eps a text": ({"rms_norm_eps": "1e-5"}, '"rms_norm_eps" should be a number, found string'),
    "rms_norm_eps zero": ({"rms_norm_eps": 0}, '"rms_norm_eps" is 0'),
    "hidden_act a number": ({"hidden_act": 5}, '"hidden_act" should be a string, found number'),
    "tie_word_embeddings a number": ({"tie_word_embeddings": 1}, '"tie_word_embeddings" should be true or false, found number'),
    "attention_bias a text": ({"attention_bias": "no"}, '"attention_bias" should be true or false, found string'),
    "sliding_window a text": ({"model_type": "mistral", "sliding_window": "wide"},
                              '"sliding_window" should be an integer, found string'),
    "rope_theta negative": ({"rope_theta": -1}, '"rope_theta" is -1'),
    "rope_theta a text": ({"rope_theta": "high"}, '"rope_theta" should be a number, found string'),
    "rope_scaling a list": ({"rope_scaling": [2]}, '"rope_scaling" should be an object'),
    "rope_scaling of a wrong type": ({"rope_scaling": {"type": 2}}, '"type" should be a string, found number'),
    "rope_parameters a text": ({"rope_parameters": "yarn"}, '"rope_parameters" should be an object'),
    "theta in rope_parameters zero": ({"rope_parameters": {"rope_theta": 0}}, '"rope_theta" is 0'),
    "model_type a number": ({"model_type": 7}, '"model_type" should be a string, found number'),
    "torch_dtype a list": ({"torch_dtype": ["bfloat16"]}, '"torch_dtype" should be a string, found array'),
    "quant_method a number": ({"quantization_config": {"quant_method": 4}}, '"quant_method" should be a string, found number'),
})
def test_wrong_value_in_config_json(case, changes, sentence):
    with_config(case, changes)
    case.refused(1, f"{case.path('base')}/config.json: {sentence}")


@rows({
    "another family": ({"model_type": "gpt2"}, 'model_type "gpt2" is not supported (supported: llama, mistral, qwen2, qwen3, '),
    "no family": ({"model_type": None}, 'model_type "" is not supported (supported: llama, mistral, qwen2, qwen3, '),
    "quantised": ({"quantization_config": {"quant_method": "awq"}},
                  "the weights are quantised (awq), which is not read: use the model that they were made from"),
    "quantised in an unknown way": ({"quantization_config": {}},
                                    "the weights are quantised (in a way that it does not name)"),
})
def test_model_that_is_not_supported(case, changes, sentence):
    with_config(case, changes)
    case.refused(2, f"{case.path('base')}/config.json: {sentence}")


def test_problems_of_several_models_appear_together(case):
    case.model("base", tiny_model("base", model_type="gpt2"))
    case.model("one", tiny_model("one", rms_norm_eps=0))
    case.model("two", tiny_model("two", quantization_config={"quant_method": "gptq"}))
    case.refused(2, 'base/config.json: model_type "gpt2"', 'one/config.json: "rms_norm_eps" is 0',
                 "two/config.json: the weights are quantised (gptq)")


@rows({
    "as many k/v heads as heads": ({"num_key_value_heads": None}, {"num_key_value_heads": 4}),
    "null quantization_config": ({"quantization_config": None}, {}),
    "unknown torch_dtype": ({"torch_dtype": "strange"}, {"torch_dtype": "bfloat16"}),
    "dtype for torch_dtype": ({"torch_dtype": None, "dtype": "float32"}, {"torch_dtype": "float32"}),
    "explicit head_dim": ({"head_dim": 8}, {"head_dim": 8}),
})
def test_value_that_config_json_may_have(case, changes, expected):
    for name in ("base", "one", "two"):
        model = tiny_model(name, **({"num_key_value_heads": 4} if "num_key_value_heads" in changes else {}))
        model.config |= changes
        case.model(name, model)
    config = case.built().config
    assert {key: config[key] for key in expected} == expected


def test_missing_values_are_those_of_the_family(case):
    """transformers' LlamaConfig: what config.json leaves out has the defaults of its class."""
    for name in ("base", "one", "two"):
        case.model(name, tiny_model(name, rope_theta=None, max_position_embeddings=None, rms_norm_eps=None, hidden_act=None))
    config = case.built().config
    defaults = {"rope_theta": 10000.0, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    assert {key: config[key] for key in defaults} == defaults
    assert json.loads(case.path("base/config.json").read_text()).keys() < config.keys()
