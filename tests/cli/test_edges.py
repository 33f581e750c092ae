"""Edges: streams that take nothing, signals, hostile numbers, refusals that must come early and be said once."""
import json, os, shutil, subprocess

from harness import rows
from tiny_models import tensor, tiny_model, tokenizer

YAML = "base_model: {}\ngate_mode: random\nexperts:\n  - {{source_model: one{}}}\n  - source_model: two\n"


@rows({"just beyond 31 bits": (2**31,), "just below 32 bits": (2**32 - 300,)})
def test_token_ids_beyond_31_bits(case, offset):
    base = tiny_model("base")
    other = tokenizer()
    other["model"]["vocab"] = {text: number + offset for text, number in other["model"]["vocab"].items()}
    base.files["tokenizer.json"] = json.dumps(other).encode()
    case.model("base", base)
    case.yaml("cheap_embed")
    case.refused(2, "the base's embeddings end at 259")


def shell(case, line):
    case.fill_in()
    return subprocess.run(["bash", "-c", line.format(moerge=case.binary)], cwd=case.work, env=case.variables(), capture_output=True)


@rows({"closed": ("2>&-",), "full": ("2>/dev/full",)})
def test_stderr_that_takes_nothing(case, redirect):
    done = shell(case, "{moerge} moe moe.yaml out " + redirect)
    assert done.returncode == 0 and case.path("out/config.json").exists(), done.returncode


def test_stderr_that_takes_nothing_and_an_error(case):
    assert shell(case, "{moerge} moe nosuch.yaml out 2>/dev/full").returncode in (1, 2)


def test_reader_of_stderr_that_goes_away(case):
    shell(case, "(sleep 0.2; exec {moerge} moe moe.yaml out) 2>&1 | head -1")
    assert not case.partial().exists()


def test_json_that_cannot_be_printed(case):
    done = shell(case, "{moerge} moe moe.yaml out --dry-run --json >/dev/full")
    assert done.returncode == 1 and b"internal error" not in done.stderr, done.stderr


@rows({"architecture": ("{model: base, override_architecture: LlamaForCausalLM}", "override_architecture")})
def test_part_of_a_model_map_that_is_not_read(case, model, word):
    case.yaml(text=YAML.format(model, ""))
    case.refused(2, "moe.yaml:1:", word)


@rows({"real": ([],), "dry": (["--dry-run"],)})
def test_torch_dtype_that_is_no_float(case, flags):
    """Either the weights' own type is taken, or the file is named; never "int8 tensors cannot be converted" half-way."""
    case.model("base", torch_dtype="int8")
    result = case.moe(*flags)
    assert result.code == 0 and "int8" not in result.stderr + result.stdout or "config.json" in result.stderr, result


def test_partial_rotary_factor_alone_is_kept(case):
    case.models("base", "one", "two", rope_scaling={"rope_type": "default", "partial_rotary_factor": 0.5})
    assert case.built().config.get("rope_scaling", {}).get("partial_rotary_factor") == 0.5


def test_json_with_a_folder_name_that_is_no_utf8(case):
    case.fill_in()
    shutil.copytree(case.path("base"), os.fsencode(case.work).decode() + "/caf\udce9")
    case.write("moe.yaml", YAML.format("XX", "").encode().replace(b"XX", b"caf\xe9"))
    json.loads(case.moe("--dry-run", "--json").exits(0).stdout)


def test_model_card_does_not_link_folders_beside_the_yaml(case):
    case.models("configs/org/base", "configs/one", "configs/two")
    case.yaml(text=YAML.format("org/base", ""), file="configs/moe.yaml")
    assert "huggingface.co" not in case.built(config="configs/moe.yaml").read("README.md").decode()


@rows({"--dry-run": (["--dry-run"],), "": ([],)})
def test_mounted_out_is_refused_before_the_work(case, flags):
    case.fill_in()
    case.tmpfs("out", "100m")
    result = case.moe(*flags)
    assert result.code == 2 and "weights: " not in result.stderr, result


def test_out_is_a_link_to_nothing(case):
    os.symlink("gone", case.path("out"))
    result = case.moe()
    assert "weights: " not in result.stderr or result.code == 0, result


def test_nan_in_the_embeddings_of_cheap_embed(case):
    base = tiny_model("base")
    base.tensors["model.embed_tokens.weight"] = tensor("BF16", [260, 32], [float("nan")] * 260 * 32)
    case.model("base", base)
    case.yaml("cheap_embed")
    case.refused(1, "infinite values or NaN")


@rows({"noise_scale": (", noise_scale: 1e300",), "residual_scale": (", residual_scale: 1e300",)})
def test_scale_beyond_float32(case, scale):
    case.yaml(text=YAML.format("base", scale))
    case.refused(2, "moe.yaml:4:")


@rows({"beyond 64 bits": ("99999999999999999999",), "beyond 63 bits": ("9223372036854775808",)})
def test_seed_that_is_too_large(case, seed):
    case.refused(2, "--random-seed", flags=["--random-seed", seed])


def test_message_about_a_negative_seed_is_readable(case):
    case.fill_in()
    assert len(case.run("moe", "moe.yaml", "out", "--random-seed", "-1").stderr) < 200


def test_panic_of_the_tokenizer_is_one_line(case):
    base = tiny_model("base")
    base.files["tokenizer.json"] = json.dumps(tokenizer() | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}).encode()
    case.model("base", base)
    case.yaml("hidden")
    assert len(case.refused(1, "base/tokenizer.json: ").stderr.splitlines()) == 1


def test_prompt_that_cannot_be_tokenised_is_named(case):
    base = tiny_model("base")
    base.files["tokenizer.json"] = json.dumps(tokenizer() | {"model": {"type": "WordLevel", "unk_token": "x", "vocab": {"a": 0}}}).encode()
    case.model("base", base)
    case.yaml("hidden")
    case.refused(1, "base", "expert 0", 'def f(x):')


@rows({"empty": ("",), "comment": ("# nothing\n",)})
def test_position_in_an_empty_document(case, text):
    case.yaml(text=text)
    case.refused(2, "moe.yaml:1:1: ")


def test_second_document_is_not_dropped_silently(case):
    case.yaml(text=YAML.format("base", "") + "---\ndtype: float32\n")
    assert case.moe().code == 2 or "document" in case.moe("--overwrite").stderr


def test_one_sentence_for_one_mistake(case):
    case.yaml(text="base_model: base\nexperts: one\n")
    assert len(case.refused(2, "should be a list").stderr.splitlines()) == 1


def test_refusals_come_before_the_plan(case):
    assert len(case.refused(2, "lie in one another", out="base/out").stderr.splitlines()) == 1


def test_dry_run_finds_a_parent_that_is_a_file(case):
    case.write("file", "x")
    case.refused(1, "file", flags=["--dry-run"], out="file/out")


def test_empty_out(case):
    case.fill_in()
    case.run("moe", "moe.yaml", "").exits(2).says("OUT")


def test_missing_yaml_is_a_usage_error(case):
    case.fill_in()
    case.run("moe", "nosuch.yaml", "out").exits(2)


def test_unknown_device_even_when_it_is_not_needed(case):
    case.refused(2, "no device", flags=["--device", "nosuch"])


def test_git_lfs_pointer(case):
    base = tiny_model("base")
    base.files["model.safetensors"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"
    case.model("base", base)
    case.refused(1, "git lfs pull")


def test_very_long_reference_is_reported_like_others(case):
    case.yaml(text=YAML.format("x" * 300, "").replace("one", "nosuch"))
    case.refused(2, 'model "nosuch"')


def test_reference_to_a_file_is_not_sent_to_the_hub(case):
    case.yaml(text=YAML.format("base/config.json", ""))
    assert "moerge pull" not in case.moe().stderr


def test_exit_code_does_not_depend_on_the_order_of_models(case):
    case.model("base", torch_dtype="bfloat16", model_type="llama", rms_norm_eps=0)
    case.model("two", quantization_config={"quant_method": "gptq"})
    first = case.moe().code
    case.model("base", quantization_config={"quant_method": "gptq"})
    case.model("two", rms_norm_eps=0)
    assert case.moe().code == first


def test_damaged_checkpoint_has_one_exit_code(case):
    base = tiny_model("base")
    del base.tensors["model.norm.weight"]
    case.model("base", base)
    case.refused(1, "is missing")


@rows({"SIGHUP": ("HUP",)})
def test_terminal_that_goes_away(case, name):
    case.slow_models()
    run = case.start_slow()
    subprocess.run(["kill", f"-{name}", str(run.pid)], check=True)
    run.communicate(timeout=60)
    assert run.returncode == 130 and not case.path("out").exists()
    case.built()
