"""`moerge card FOLDER`: the card of a build, of a folder of mergekit, of GGUF files, of any model."""
import json

from harness import rows
from test_gguf import model as model_with_merges
from tiny_gguf import STRING, U32, tiny_gguf
from tiny_mixtures import mixture_gguf, tiny_dense, tiny_mixture
from tiny_models import tiny_model

MERGE = """\
merge_method: slerp
base_model: org/one
slices:
  - sources:
      - {model: org/one, layer_range: [0, 2]}
      - {model: org/two@v1, layer_range: [0, 2]}
parameters: {t: 0.5}
"""
TIES = """\
merge_method: dare_ties
base_model: org/base
models:
  - model: org/base
  - model: {model: {path: org/one, revision: v1}, lora: who/lora}
    parameters: {density: 0.5, weight: [0, 0.3, 1]}
  - model: ./local
    parameters: {density: 0.5, weight: [{filter: mlp, value: 1}, {value: 0}]}
dtype: bfloat16
"""
MOE = """\
base_model: org/base
gate_mode: hidden
experts:
  - source_model: org/one
    positive_prompts: [a, b]
  - source_model: org/two
    positive_prompts: [c]
    negative_prompts: [d]
"""
EVAL = {"results": {"arc_challenge": {"acc,none": 0.5, "acc_norm,none": 0.5525, "acc_norm_stderr,none": 0.014},
                    "a|b": {"acc,none": 1e-6}},
        "n-shot": {"arc_challenge": 25}}
ROUTING = {"tokens": 900, "experts": [{"expert": 0, "name": "code", "share": 0.75}, {"expert": 1, "name": None, "share": 0.25}],
           "texts": [{"name": "a|b.txt", "first_share": [0.9, 0.1]}]}


def readme(case, folder="out"):
    return case.path(f"{folder}/README.md").read_text()


def front(text):
    return text.split("\n---\n")[0].removeprefix("---\n")


def card(case, *flags, folder="out"):
    return case.run("card", folder, *flags)


def printed(case, *flags, folder="out"):
    return card(case, "--print", *flags, folder=folder).exits(0).stdout


def hub_model(case, name, license=None):
    """A model in the Hugging Face cache, with a card that states a license."""
    folder = case.folder / f".cache/huggingface/hub/models--org--{name}"
    tiny_model(name).write(folder / "snapshots/abc")
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("abc")
    if license:
        (folder / "snapshots/abc/README.md").write_text(f"---\nlicense: {license}\n---\n# {name}\n")


def hub_build(case, *licenses, yaml=None):
    for name, license in zip(("base", "one", "two"), licenses):
        hub_model(case, name, license)
    case.yaml(text=yaml or MOE)
    return case.built()


# ------------------------------------------------------------------------------------------------------- of a build


@rows({
    "random gates": ("random", "", ()),
    "hidden": ("hidden", "", ()),
    "auto": ("auto", "", ()),
    "a template": ("hidden", "chat_template: chatml\n", ()),
    "a template's file": ("hidden", "chat_template: sub/mine.jinja\n", ()),
    "fused": ("random", "", ("--layout", "fused")),
    "no tokenizer": ("random", "", ("--no-copy-tokenizer",)),
    "shards": ("random", "", ("--out-shard-size", "30k")),
    "another type": ("random", "dtype: float32\n", ()),
    "one per token": ("random", "experts_per_token: 1\n", ()),
})
def test_is_the_card_that_the_build_wrote(case, mode, top, flags):
    case.write("sub/mine.jinja", "{{ messages }}")
    case.yaml(mode, top=top)
    case.moe(*flags).exits(0)
    before = readme(case)
    case.path("sub/mine.jinja").unlink()
    assert printed(case) == before
    card(case).exits(0).says("out/README.md is written")
    assert readme(case) == before
    case.path("out/README.md").unlink()
    card(case).exits(0)
    assert readme(case) == before


def test_of_a_build_from_the_hub_links_and_licenses(case):
    out = hub_build(case, "apache-2.0", "apache-2.0", "apache-2.0")
    assert front(readme(case)) == (
        'license: apache-2.0\nbase_model:\n- "org/base"\n- "org/one"\n- "org/two"\nbase_model_relation: merge\n'
        'library_name: transformers\ntags:\n- moe\n- frankenmoe\n- merge\n- moerge\n- "org/base"\n- "org/one"\n- "org/two"\n'
        'pipeline_tag: text-generation'), readme(case)
    assert "1. [`org/two`](https://huggingface.co/org/two) (1 prompt, 1 negative)\n" in readme(case)
    assert "license" not in out.result.stderr and printed(case) == readme(case)


def test_licenses_that_differ_are_left_out_and_named(case):
    out = hub_build(case, "apache-2.0", "mit", None)
    says = 'README.md states no license: "org/base" has apache-2.0, "org/one" has mit, "org/two" states none in its README.md'
    out.result.says(says, "--license ID")
    assert "license" not in front(readme(case))
    card(case).exits(0).says(says)
    card(case, "--license", "CC-BY-NC-4.0").exits(0)
    assert front(readme(case)).startswith("license: cc-by-nc-4.0\n")
    assert "no license" not in card(case).exits(0).stderr and front(readme(case)).startswith("license: cc-by-nc-4.0\n")


def test_a_folder_called_like_a_repository_stays_a_folder(case):
    for name in ("base", "one", "two"):
        case.model(f"configs/org/{name}")
    case.yaml(text=MOE, file="configs/moe.yaml")
    case.built(config="configs/moe.yaml")
    before = readme(case)
    assert "huggingface.co" not in before and printed(case) == before


def test_a_grown_mixture(case):
    case.model("mix", tiny_mixture("mix"))
    case.model("new", tiny_dense("new", "mistral"))
    case.yaml(text="base_model: mix\ngate_mode: random\nexperts:\n  - source_model: new\n")
    case.built()
    assert "`mix` with its 3 experts, as they were" in readme(case) and printed(case) == readme(case)


def test_numbers(case):
    case.yaml(top="experts_per_token: 1\n")
    case.built()
    text = readme(case)
    line = next(line for line in text.splitlines() if line.startswith("| `MixtralForCausalLM`"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    plan = case.plan(out="other")
    total = plan["parameters"]["total"]
    assert cells[1] == f"{total / 1000:.1f}k" and cells[2] == f"{plan['parameters']['active'] / 1000:.1f}k", cells
    assert cells[3:5] == ["2", "1"] and cells[-2] == "bfloat16", cells


def test_messages_where_there_is_a_chat_template(case):
    case.yaml()
    case.built()
    assert "AutoModelForCausalLM" in readme(case) and "messages" not in readme(case)
    case.built("--overwrite", config=case.yaml(top="chat_template: chatml\n"), warning="chatml")
    assert "messages = [" in readme(case) and "AutoModelForCausalLM" not in readme(case)


# ------------------------------------------------------------------------------------------------------- of mergekit


def mergekit_mixture(case):
    case.model("out", tiny_mixture("out", experts=2))
    case.write("out/mergekit_moe_config.yml", MOE)
    config = json.loads(case.path("out/config.json").read_text())
    case.write("out/config.json", json.dumps(config | {"transformers_version": "4.57.0"}))


def test_of_a_mixture_by_mergekit(case):
    mergekit_mixture(case)
    text = printed(case)
    assert "A Mixtral mixture of 2 experts" in text and "made with mergekit." in text
    assert "- mergekit\n" in front(text) and "- moerge\n" not in text
    assert '- "org/two"\n' in front(text) and "0. [`org/one`](https://huggingface.co/org/one) (2 prompts)\n" in text
    assert f"```yaml\n{MOE}```\n" in text


def test_of_a_mixture_whose_yaml_moerge_does_not_read(case):
    mergekit_mixture(case)
    case.write("out/mergekit_moe_config.yml", MOE.replace("gate_mode: hidden", "gate_mode: orthogonal"))
    result = card(case, "--print").exits(0).says('unknown gate_mode "orthogonal"', "the card names no experts")
    assert "A Mixtral mixture of 2 experts" in result.stdout


@rows({
    "slerp": (MERGE, ["Merged with the method `slerp` from:",
                      "- [`org/one`](https://huggingface.co/org/one) (layers 0 to 1, the base)\n",
                      "- [`org/two@v1`](https://huggingface.co/org/two) (layers 0 to 1)\n"], ["org/one", "org/two"]),
    "dare_ties": (TIES, ["- [`org/base`](https://huggingface.co/org/base) (the base)\n",
                         "- [`org/one@v1+who/lora`](https://huggingface.co/org/one) (adapter [`who/lora`]"
                         "(https://huggingface.co/who/lora)) (density 0.5, weight 0, 0.3, 1)\n",
                         "- `./local` (density 0.5, weight by layer or tensor)\n"], ["org/base", "org/one", "who/lora"]),
})
def test_of_a_dense_merge(case, yaml, parts, ids):
    case.model("out")
    case.write("out/mergekit_config.yml", yaml)
    text = printed(case)
    for part in ["made with mergekit.", f"```yaml\n{yaml}```\n", *parts]:
        assert part in text, f"{part}\n--- not in\n{text}"
    expected = "".join(f'- "{name}"\n' for name in ids)
    assert f"base_model:\n{expected}base_model_relation: merge\n" in text, text
    assert f"tags:\n- merge\n- mergekit\n{expected}pipeline" in text, text


def test_of_a_family_that_moerge_does_not_know(case):
    case.model("out")
    config = json.loads(case.path("out/config.json").read_text())
    case.write("out/config.json", json.dumps(config | {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}))
    text = printed(case)
    assert "A Gemma2 model with " in text and "moerge gguf" not in text and "AutoModelForCausalLM" in text


def test_of_a_plain_model(case):
    case.model("out")
    text = printed(case)
    assert "base_model" not in text and "made with" not in text and "tags" not in text, text
    assert "parameters" in text and "moerge gguf out model.Q4_K_M.gguf" in text


# ------------------------------------------------------------------------------------------------------ of GGUF files


def test_of_gguf_files(case):
    model = tiny_model("out", intermediate_size=64)
    for kind, number in (("q8_0", 7), ("bf16", 32)):
        gguf = tiny_gguf(model, kind)
        gguf.metadata["general.file_type"] = (U32, number)
        gguf.metadata["general.license"] = (STRING, "mit")
        case.path("files").mkdir(exist_ok=True)
        gguf.write(case.path(f"files/m|odel.{kind}.gguf"))
    text = printed(case, "--source", "me/out", "--repo", "me/out-GGUF", folder="files")
    assert front(text) == ('license: mit\nbase_model:\n- "me/out"\nbase_model_relation: quantized\ntags:\n- gguf\n'
                           "pipeline_tag: text-generation"), text
    for part in ("\n# out-GGUF\n", "GGUF files of [`me/out`](https://huggingface.co/me/out)",
                 "| m\\|odel.q8_0.gguf | Q8_0 | as good as the unquantised model |",
                 "llama-cli -hf me/out-GGUF:", "ollama run hf.co/me/out-GGUF:", "moerge chat 'm|odel.bf16.gguf'"):
        assert part in text, f"{part}\n--- not in\n{text}"
    text = printed(case, "--name", "Mine", folder="files")
    assert "\n# Mine\n" in text and "base_model" not in text and "-hf" not in text and "FROM ./'m|odel" in text


def test_of_a_split_gguf(case):
    case.model("base", model_with_merges("base"))
    case.run("gguf", "base", "files", "--name", "m", "--type", "bf16", "--split-max-size", "30k").exits(0)
    parts = sorted(path.name for path in case.path("files").iterdir())
    assert len(parts) > 1, parts
    text = printed(case, folder="files")
    assert text.count("| `m.") == 1 and "Ollama" not in text and f"moerge chat {parts[0]}\n" in text


def test_of_a_mixture_as_gguf(case):
    case.path("files").mkdir()
    gguf = mixture_gguf(tiny_mixture("mix"))
    for i, name in enumerate(("code", "ma`ths", "chat")):
        gguf.metadata[f"moerge.expert.{i}.name"] = (STRING, name)
    gguf.write(case.path("files/m.gguf"))
    text = printed(case, folder="files")
    assert "a mixture of 3 experts with " in text and "0. `code`\n1. ``ma`ths``\n2. `chat`\n" in text
    assert "- gguf\n- moe\n" in front(text)


def test_gguf_files_that_moerge_wrote_of_a_yaml(case):
    for name in ("base", "one", "two"):
        case.model(name, model_with_merges(name))
    case.yaml()
    case.run("gguf", "moe.yaml", "files", "--type", "q8_0,f16").exits(0)
    card(case, folder="files").exits(0)
    text = readme(case, "files")
    assert "0. `one`\n1. `two`\n" in text and "| Q8_0 |" in text and "| F16 |" in text
    again = readme(case, "files")
    card(case, folder="files").exits(0)
    assert readme(case, "files") == again


# --------------------------------------------------------------------------------------------------- what flags add


def test_flags_add_to_the_card(case):
    case.built()
    case.write("eval.json", json.dumps(EVAL))
    case.write("routing.json", json.dumps(ROUTING))
    card(case, "--name", "My # MoE", "--repo", "me/my-moe", "--license", "other", "--license-name", "mine",
         "--license-link", "https://x.org", "--language", "en,no", "--eval", "eval.json", "--routing", "routing.json",
         "--quantized", "me/my-moe-GGUF").exits(0)
    text = readme(case)
    for part in ('language:\n- en\n- "no"\nlicense: other\nlicense_name: mine\nlicense_link: "https://x.org"\n',
                 "\n# My \\# MoE\n", 'model_id = "me/my-moe"', "moerge chat my-moe\n",
                 "| `arc_challenge` | `acc_norm` | 25 | 0.5525 | 0.014 |\n", "| a\\|b | `acc` |  | 0.0 |  |\n",
                 '  - task:\n      type: text-generation\n', '      value: 0.5525\n', "num_few_shot: 25\n",
                 "| Expert | Chosen | a\\|b.txt |\n| --- | ---: | ---: |\n| 0 code | 75 % | 90 % |\n| 1 | 25 % | 10 % |\n",
                 "Quantised as GGUF: [`me/my-moe-GGUF`](https://huggingface.co/me/my-moe-GGUF)."):
        assert part in text, f"{part}\n--- not in\n{text}"


def test_scores_of_moerge_eval(case):
    case.built()
    group = {"name": "TruthfulQA", "tasks": ["truthfulqa_mc2"], "metric": "acc", "score": 45.5, "stderr": 1.5}
    case.write("results.json", json.dumps({
        "results": {"truthfulqa_mc2": {"alias": "truthfulqa_mc2", "acc,none": 0.455, "acc_stderr,none": 0.015}, "mine": {"acc,none": 0.5}},
        "n-shot": {"truthfulqa_mc2": 0}, "n-samples": {"truthfulqa_mc2": {"original": 817, "effective": 200}, "mine": {"original": 9, "effective": 9}},
        "moerge": {"version": "9.9", "suites": [{"title": "No|us", "average": 44.0, "stderr": 0.5,
                                                 "groups": [group, {"name": "Big<b>Bench", "score": 42.5, "stderr": 0.5}]}]}}))
    text = printed(case, "--eval", "results.json")
    for part in ("## Benchmark: No\\|us\n", "| TruthfulQA | 45.50 | 1.50 |\n| Big\\<b\\>Bench | 42.50 | 0.50 |\n| Average | 44.00 | 0.50 |\n",
                 "Measured with moerge eval 9.9.\n", "| `truthfulqa_mc2` | `mc2` | 0 | 0.455 | 0.015 | 200 of 817 |\n",
                 "| `mine` | `acc` |  | 0.5 |  | all |\n",
                 '      name: "TruthfulQA"\n      type: "truthfulqa/truthful_qa"\n      config: "multiple_choice"\n      split: "validation"\n'
                 '      args:\n        num_few_shot: 0\n        limit: 200\n', '    - type: "mc2"\n      value: 0.455\n'):
        assert part in text, f"{part}\n--- not in\n{text}"


def test_what_route_prints(case):
    case.yaml("hidden")
    case.built()
    report = case.run("route", "out", "--prompt", "one=def f(x):", "--prompt", "two=2 + 2", "--json").exits(0).stdout
    case.write("routing.json", report)
    text = printed(case, "--routing", "routing.json")
    assert "## Routing\n" in text and "| 0 one |" in text and "| 1 two |" in text, text


@rows({
    "no such file": ({}, ["--eval", "eval.json"], "eval.json"),
    "no JSON": ({"eval.json": "nothing"}, ["--eval", "eval.json"], "eval.json: "),
    "another JSON": ({"eval.json": "{}"}, ["--eval", "eval.json"], 'eval.json: no object "results" in it'),
    "no numbers": ({"eval.json": '{"results": {}}'}, ["--eval", "eval.json"], "holds no number"),
    "routing of another kind": ({"r.json": '{"results": {}}'}, ["--routing", "r.json"], 'r.json: no list "experts" in it: what `moerge route --json` prints'),
    "shares that are none": ({"r.json": json.dumps(ROUTING | {"experts": [{"share": 7}], "texts": []})}, ["--routing", "r.json"], '"share" should be a share from 0 to 1'),
    "too few shares": ({"r.json": json.dumps(ROUTING | {"texts": [{"name": "x", "first_share": []}]})}, ["--routing", "r.json"], 'of the text "x" should have 2 entries'),
})
def test_reports_that_are_none(case, files, flags, sentence):
    case.built()
    before = readme(case)
    for name, content in files.items():
        case.write(name, content)
    assert card(case, *flags).exits(1).says(sentence).stdout == ""
    assert readme(case) == before


@rows({
    "license": (["--license", "apache-2"], 'the Hub has no such license (did you mean "apache-2.0"?)'),
    "license name alone": (["--license-name", "x"], "add --license other"),
    "repository": (["--repo", "me"], '--repo me: a repository like "user/name" is expected'),
    "revision": (["--repo", "me/x@v1"], "--repo me/x@v1: a repository"),
    "source of a folder": (["--source", "me/x"], "--source is for GGUF files"),
    "misspelt": (["--licence", "mit"], "did you mean --license"),
})
def test_flags_that_are_wrong(case, flags, sentence):
    case.built()
    before = case.snapshot()
    card(case, *flags).exits(2).says(sentence)
    assert case.snapshot() == before


def test_folders_that_are_none(case):
    case.path("empty").mkdir()
    case.run("card", "nosuch").exits(2).says('FOLDER "nosuch": there is no such folder')
    case.run("card", "empty").exits(1).says("empty: no config.json and no .gguf file in it")
    case.write("half/config.json", "{}")
    case.run("card", "half").exits(1).says("half: no weights in this folder")


# ----------------------------------------------------------------------------------------------- README.md of others


@rows({
    "by hand": ("# Mine\n", "was not written by moerge"),
    "edited": (None, "was edited after moerge wrote it"),
})
def test_other_peoples_words_are_kept(case, text, why):
    case.built()
    card_before = readme(case)
    case.write("out/README.md", text or card_before.replace("# out", "# My mixture"))
    kept = readme(case)
    card(case).exits(2).says(f"out/README.md {why}: --overwrite replaces it")
    assert readme(case) == kept and printed(case) == card_before
    card(case, "--overwrite").exits(0)
    assert readme(case) == card_before


def test_the_card_of_an_extracted_expert_is_not_lost(case):
    case.model("mix", tiny_mixture("mix"))
    case.run("extract", "mix", "out", "--expert", "1").exits(0)
    before = readme(case)
    assert "expert 1 of 3 of the mixture `mix#expert=1`" in before
    card(case, "--license", "mit").exits(2).says("out/README.md says where this model was taken from")
    assert readme(case) == before
    card(case, "--overwrite").exits(0)
    assert "mixture" not in readme(case)


def test_nothing_is_left_where_writing_fails(case):
    case.built()
    before = readme(case)
    case.path("out/.README.md.moerge-partial").mkdir()
    card(case).exits(1)
    assert readme(case) == before
