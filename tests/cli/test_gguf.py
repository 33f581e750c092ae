"""moerge gguf: what it refuses, what it writes and what it says. What the files hold: tests/gguf and
moerge/export/*_test.cpp."""
import json, os, signal, subprocess, sys, time
from pathlib import Path

from harness import Skipped, rows
from tiny_gguf import tiny_gguf
from tiny_models import tensor, tiny_model, tokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gguf"))
from reader import File as GgufFile


def model(name, *arguments, **changes):
    """A tiny model with a merge in its vocabulary: llama.cpp loads none without."""
    made = tiny_model(name, *arguments, **changes)
    made.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
    return made


def fill_in(case):
    for name in ("base", "one", "two"):
        if not case.path(name).exists():
            case.model(name, model(name))
    case.fill_in()


def gguf(case, *flags, source="base", out="out", **how):
    fill_in(case)
    return case.run("gguf", source, out, *flags, **how)


def refused(case, code, *sentences, flags=(), **how):
    fill_in(case)
    before = case.snapshot()
    result = gguf(case, *flags, **how).exits(code).says("moerge: ", *sentences)
    if result.stdout:
        result.fail("a refusal belongs on stderr, stdout is not empty")
    if case.snapshot() != before:
        result.fail("the refused run left something behind")
    return result


def names(case, folder="out"):
    return sorted(path.name for path in case.path(folder).iterdir())


def read(case, name):
    return GgufFile(case.path(name))


# ------------------------------------------------------------------------------------------------------------- arguments


def test_help_teaches(case):
    case.run("gguf", "--help").exits(0).prints("Usage: moerge gguf [OPTIONS] SOURCE OUT", "examples:", "--type", "--imatrix",
                                               "--split-max-size", "Q4_K_M", "IQ2_XXS", "the usual choice")


@rows({
    "unknown type": (["--type", "q4_k_n"], "--type q4_k_n: there is no such type (did you mean Q4_K_"),
    "empty type": (["--type", ","], "--type: a list like q4_k_m,q5_k_m is expected"),
    "unknown tensor type": (["--output-type", "q9_k"], '--output-type: "q9_k" is no type of a tensor (did you mean Q'),
    "override without type": (["--tensor-type", "ffn"], "--tensor-type ffn: PATTERN=TYPE is expected"),
    "override that is no pattern": (["--tensor-type", "(=q8_0"], '"(" is no regular expression'),
    "split size": (["--split-max-size", "much"], "--split-max-size much: a size like 5B"),
    "name with a slash": (["--name", "a/b"], "--name a/b: a file name is expected"),
    "misspelt flag": (["--overwrit"], "unknown flag --overwrit (did you mean --overwrite?)"),
    "unknown pre-tokenizer": (["--pre", "lama-bpe"], "did you mean llama-bpe?"),
    "no such importance": (["--imatrix", "none.gguf"], "none.gguf"),
})
def test_usage_errors(case, flags, sentence):
    refused(case, 1 if "none.gguf" in sentence else 2, sentence, flags=flags)


def test_type_that_needs_an_importance_matrix(case):
    case.model("base", model("base", hidden_size=256, intermediate_size=256))
    refused(case, 2, "IQ2_XS is noise without an importance matrix: give one with --imatrix FILE",
            flags=["--type", "q8_0,iq2_xs"])


def test_one_file_holds_one_type(case):
    refused(case, 2, "OUT is one file (x.gguf), and --type asks for 2 types", out="x.gguf", flags=["--type", "f16,q8_0"])


def test_source_that_does_not_exist(case):
    refused(case, 2, "nowhere", source="nowhere")
    refused(case, 2, 'SOURCE "nowhere.yaml": there is no such file', source="nowhere.yaml")


# ------------------------------------------------------------------------------------------------------------ the output


def test_files_bear_name_and_type(case):
    gguf(case, "--type", "F16, q8_0").exits(0)
    assert names(case) == ["base.F16.gguf", "base.Q8_0.gguf"], names(case)
    gguf(case, "--type", "bf16", "--name", "other").exits(0)
    assert names(case) == ["base.F16.gguf", "base.Q8_0.gguf", "other.BF16.gguf"]
    assert read(case, "out/base.Q8_0.gguf").keys["general.file_type"].value == 7


def test_auto_is_the_type_of_the_weights(case):
    case.model("half", model("half", "F16", torch_dtype="float16"))
    gguf(case, "--type", "auto").exits(0)
    gguf(case, "--type", "auto", source="half").exits(0)
    assert names(case) == ["base.BF16.gguf", "half.F16.gguf"]


def test_out_may_be_the_file(case):
    gguf(case, "--type", "q8_0", out="deep/x.gguf").exits(0)
    assert names(case, "deep") == ["x.gguf"]


def test_existing_files_are_skipped(case):
    case.write("out/base.F16.gguf", "mine")
    gguf(case, "--type", "f16,bf16").exits(0).says("base.F16.gguf exists already and is skipped")
    assert case.path("out/base.F16.gguf").read_text() == "mine" and "base.BF16.gguf" in names(case)
    gguf(case, "--type", "f16", "--overwrite").exits(0)
    assert case.path("out/base.F16.gguf").read_bytes()[:4] == b"GGUF"


def test_a_split_file_counts_as_existing(case):
    gguf(case, "--type", "f16", "--split-max-size", "20k").exits(0)
    parts = names(case)
    assert len(parts) > 2 and parts[0] == f"base.F16-00001-of-{len(parts):05}.gguf", parts
    gguf(case, "--type", "f16", "--split-max-size", "20k").exits(0).says("exists already and is skipped")
    whole = gguf(case, "--type", "f16", out="whole").exits(0) and read(case, "whole/base.F16.gguf")
    together = {}
    for part in parts:
        together |= {name: found.data for name, found in read(case, f"out/{part}").tensors.items()}
    assert together == {name: found.data for name, found in whole.tensors.items()}


def test_dry_run_and_json_write_nothing(case):
    fill_in(case)
    before = case.snapshot()
    gguf(case, "--dry-run").exits(0).prints("base.Q4_K_M.gguf", "bits a weight", "nothing was written (--dry-run)")
    plan = json.loads(gguf(case, "--dry-run", "--json", "--type", "q8_0,f16").exits(0).stdout)
    assert [file["type"] for file in plan["files"]] == ["Q8_0", "F16"]
    assert case.snapshot() == before
    gguf(case, "--type", "f16").exits(0)
    assert os.path.getsize(plan["files"][1]["paths"][0]) == plan["files"][1]["bytes"]


def test_types_of_tensors_can_be_chosen(case):
    gguf(case, "--type", "q8_0", "--output-type", "f16", "--embedding-type", "bf16", "--tensor-type", "attn_output=Q4_0").exits(0)
    types = {name: found.type for name, found in read(case, "out/base.Q8_0.gguf").tensors.items()}
    assert types["token_embd.weight"] == "BF16" and types["blk.0.attn_output.weight"] == "Q4_0", types
    assert types["output.weight"] == "F16" and types["blk.0.attn_q.weight"] == "Q8_0", types


def test_quiet_says_nothing(case):
    assert gguf(case, "--type", "f16", "--quiet").exits(0).stderr == ""


# ----------------------------------------------------------------------------------------------- straight from the YAML


@rows({"random": ("random", ""), "hidden": ("hidden", ""), "cheap_embed": ("cheap_embed", ""),
       "float16": ("random", "dtype: float16\n"), "float32": ("random", "dtype: float32\n")})
def test_direct_is_the_long_way(case, gate_mode, top):
    """Building the checkpoint first and converting it gives the same tensors and keys, but for the model's name."""
    fill_in(case)
    case.yaml(gate_mode, top)
    types = ["--type", "f32,f16,bf16,q8_0,q4_k_m,q5_0"]
    gguf(case, *types, "--name", "x", source="moe.yaml", out="direct").exits(0)
    case.built(out="x")
    gguf(case, *types, source="x", out="long").exits(0)
    assert names(case, "direct") == names(case, "long") and len(names(case, "long")) == 6
    for name in names(case, "long"):
        ours, theirs = read(case, f"direct/{name}"), read(case, f"long/{name}")
        assert ours.tensors.keys() == theirs.tensors.keys()
        for key, found in theirs.tensors.items():
            assert (found.type, found.ne, found.data) == (ours.tensors[key].type, ours.tensors[key].ne,
                                                               ours.tensors[key].data), (name, key)
        keys = lambda file: {key: value.canonical() for key, value in file.keys.items()}
        assert keys(ours) == keys(theirs), name
        assert [ours.keys[f"moerge.expert.{i}.name"].value for i in range(2)] == ["one", "two"]


def test_noise_and_scale_are_in_the_direct_file(case):
    fill_in(case)
    text = "base_model: base\ngate_mode: random\nexperts:\n  - {source_model: one, noise_scale: 0.01}\n" \
           "  - {source_model: two, residual_scale: 0.5}\n"
    case.yaml(text=text)
    gguf(case, "--type", "f32", "--name", "x", source="moe.yaml", out="direct").exits(0)
    case.built(out="x")
    gguf(case, "--type", "f32", source="x", out="long").exits(0)
    ours, theirs = read(case, "direct/x.F32.gguf"), read(case, "long/x.F32.gguf")
    assert {n: t.data for n, t in ours.tensors.items()} == {n: t.data for n, t in theirs.tensors.items()}


def test_threads_change_no_byte(case):
    fill_in(case)
    for threads in (1, 3):
        gguf(case, "--type", "q5_1", "-j", threads, source="moe.yaml", out=f"out{threads}").exits(0)
    assert case.path("out1/moe.Q5_1.gguf").read_bytes() == case.path("out3/moe.Q5_1.gguf").read_bytes()


# --------------------------------------------------------------------------------------------------- GGUF files as sources


def gguf_models(case, kind):
    for name in ("base", "one", "two"):
        tiny_gguf(tiny_model(name, intermediate_size=64), kind).write(case.path(f"{name}.gguf"))
    experts = "".join(f"  - {{source_model: {name}.gguf, positive_prompts: [{name}]}}\n" for name in ("one", "two"))
    case.yaml(text=f"base_model: base.gguf\ngate_mode: hidden\nexperts:\n{experts}")


@rows({kind: (kind,) for kind in ("f32", "f16", "bf16", "q8_0")})
def test_blocks_of_experts_are_copied_unchanged(case, kind):
    gguf_models(case, kind)
    gguf(case, "--type", kind, source="moe.yaml").exits(0)
    made = read(case, f"out/moe.{kind.upper()}.gguf")
    base, one, two = (read(case, f"{name}.gguf") for name in ("base", "one", "two"))
    assert made.keys["tokenizer.ggml.tokens"].value == base.keys["tokenizer.ggml.tokens"].value
    for name, found in made.tensors.items():
        if "_exps." in name:
            short = name.replace("_exps", "")
            assert found.type == one.tensors[short].type and found.data == one.tensors[short].data + two.tensors[short].data, name
        elif "ffn_gate_inp" not in name:  # attn_q and attn_k among them: their rows lie as llama.cpp wants them already
            assert (found.type, found.data) == (base.tensors[name].type, base.tensors[name].data), name


def test_a_gguf_is_written_anew_in_another_type(case):
    gguf_models(case, "f16")
    gguf(case, "--type", "f16,q8_0", source="base.gguf").exits(0)
    source, same = read(case, "base.gguf"), read(case, "out/base.F16.gguf")
    assert {n: t.data for n, t in source.tensors.items()} == {n: t.data for n, t in same.tensors.items()}
    assert {t.type for n, t in read(case, "out/base.Q8_0.gguf").tensors.items() if "norm" not in n} == {"Q8_0"}


# ------------------------------------------------------------------------------------------------------------- bad models


def changed(change):
    made = model("base")
    change(made)
    return made


@rows({
    "missing": (lambda m: m.tensors.pop("model.layers.1.mlp.up_proj.weight"), 'no tensor becomes "blk.1.ffn_up.weight"'),
    "unknown": (lambda m: m.tensors.update({"score.weight": tensor("F32", (2, 2), [1.0] * 4)}),
                'tensor "score.weight" has no place in a GGUF of the family llama'),
    "shape": (lambda m: m.tensors.update({"model.norm.weight": tensor("F32", (3,), [1.0] * 3)}),
              '"output_norm.weight" has shape [3], expected ['),
    "family": (lambda m: m.config.update(model_type="mamba"), 'model_type "mamba" cannot be written as GGUF (these can: '),
})
def test_model_that_does_not_fit(case, change, sentence):
    case.model("base", changed(change))
    code = 2 if "family" in sentence or "mamba" in sentence else 1
    refused(case, code, sentence)


def test_values_that_cannot_be_quantised(case):
    made = model("base")
    name = "model.layers.0.mlp.up_proj.weight"
    shape = made.tensors[name].shape
    count = shape[0] * shape[1]
    made.tensors[name] = tensor("F32", shape, [float("inf")] + [0.0] * (count - 1))
    case.model("base", made)
    refused(case, 1, '"blk.0.ffn_up.weight": infinite values or NaN cannot be quantised to Q8_0', flags=["--type", "q8_0"])


# ---------------------------------------------------------------------------------------------------- what goes wrong


def test_full_disk_leaves_nothing(case):
    fill_in(case)
    before = case.snapshot()
    result = gguf(case, "--type", "f32", limit=40).exits(1)
    assert "cannot" in result.stderr and case.snapshot() == before, result.stderr


def test_too_little_space_is_said_before(case):
    case.tmpfs("small", "64k")
    fill_in(case)
    gguf(case, "--type", "f32", out="small/x").exits(1).says("not enough space in", "needed", "free")
    assert list(case.path("small").iterdir()) == []


def test_interrupted_run_leaves_nothing(case):
    case.slow_models()
    for name in ("base", "one", "two"):
        case.write(f"{name}/tokenizer.json", json.dumps(tokenizer(merges=True)))
    before = case.snapshot()
    run = subprocess.Popen(case.command(["gguf", "slow.yaml", "out", "-j", "1", "--type", "q8_0"]), cwd=case.work,
                           env=case.variables(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    case.started.append(run)
    end = time.monotonic() + 60
    while not case.path("out/.slow.Q8_0.gguf.moerge-partial").exists():
        if run.poll() is not None or time.monotonic() > end:
            raise Skipped("the run was over before it could be interrupted")
        time.sleep(0.001)
    run.send_signal(signal.SIGINT)
    _, words = run.communicate(timeout=60)
    assert run.returncode == 130, words
    assert case.snapshot() == before


def test_routers_are_reported(case):
    one, two = "a long prompt about programming", "a long prompt about programmin"
    case.yaml(text="base_model: base\ngate_mode: hidden\nexperts:\n" + "".join(
        f"  - source_model: {name}\n    positive_prompts: ['{prompt}']\n" for name, prompt in (("one", one), ("two", two))))
    result = gguf(case, "--type", "q8_0", source="moe.yaml").exits(0)
    result.says("routing forecast, over ", "the first choice is the expert that was meant for ")
    case.yaml(text=case.path("moe.yaml").read_text().replace(f"'{two}'", f"'{one}', '{one}'"))
    gguf(case, "--type", "q8_0", "--overwrite", source="moe.yaml").exits(0).says("nearly coincide in every layer")
