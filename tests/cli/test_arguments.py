"""The command line itself: commands, flags, their values, and what is printed where."""
import json, os, pty, re

from harness import Skipped, rows

# Flags of mergekit-moe that change nothing here, with the reason that is printed.
FOREIGN_FLAGS = {
    "--cuda": "the device that --device names",
    "--low-cpu-memory": "never holds more than one layer",
    "--read-to-gpu": "copied from file to file",
    "--multi-gpu": "copied from file to file",
    "--gpu-rich": "copied from file to file",
    "--lazy-unpickle": "always read lazily",
    "--clone-tensors": "every tensor is written on its own",
    "--async-write": "written in parallel",
    "--write-threads=4": "-j sets the threads",
    "--trust-remote-code": "no code from a model folder is ever run",
    "--unsafe-truncate-embeddings": "embeddings are the base model's",
    "--lora-merge-cache=somewhere": "no merged copy is kept",
    "--lora-merge-dtype=float32": "rounded once to the model's own type",
    "--safe-serialization": "always safetensors",
}
WITH_VALUE = ("--write-threads", "--lora-merge-cache", "--lora-merge-dtype")
WITHOUT_NO = WITH_VALUE + ("--gpu-rich",)

# -------------------------------------------------------------------------------------------------------------- commands


@rows({"--help": (["--help"],), "-h": (["-h"],), "help": (["help"],)})
def test_help_lists_the_commands(case, words):
    result = case.run(*words).exits(0).prints("usage: moerge COMMAND", "moe ", "make a mixture of experts")
    assert result.stderr == ""


def test_no_command_shows_the_help_and_is_an_error(case):
    assert case.run().exits(2).says("usage: moerge COMMAND").stdout == ""


def test_version(case):
    assert case.run("--version").exits(0).stdout.startswith("moerge 0.")


def test_unknown_command(case):
    case.run("frobnicate").exits(2).says('unknown command "frobnicate"; the commands are: moe')


def test_misspelt_command_gets_a_suggestion(case):
    case.run("meo").exits(2).says('unknown command "meo" (did you mean "moe"?)')


def test_moe_help_names_every_flag(case):
    result = case.run("moe", "--help").exits(0).prints(
        "Usage: moerge moe [OPTIONS] CONFIG OUT", "--layout", "--allow-crimes", "--out-shard-size", "--overwrite",
        "--copy-tokenizer", "--write-model-card", "--verify", "--transformers-cache", "--threads", "--device", "--load-in-4bit",
        "--load-in-8bit", "--dry-run", "--json", "--quiet", "--verbose", "--random-seed",
        "--i-understand-this-is-not-useful-without-training", *(flag.split("=")[0] for flag in FOREIGN_FLAGS))
    assert result.stderr == ""


# ---------------------------------------------------------------------------------------------------------- wrong flags


@rows({
    "no arguments": ([], "CONFIG is required"),
    "no OUT": (["moe.yaml"], "OUT is required"),
    "a third argument": (["moe.yaml", "out", "more"], "more"),
    "unknown": (["moe.yaml", "out", "--frobnicate"], "unknown flag --frobnicate\n"),
    "unknown letter": (["moe.yaml", "out", "-z"], "unknown flag -z"),
    "misspelt": (["moe.yaml", "out", "--overwrit"], "unknown flag --overwrit (did you mean --overwrite?)"),
    "two letters swapped": (["moe.yaml", "out", "--laoyut", "fused"], "unknown flag --laoyut (did you mean --layout?)"),
    "another's misspelt": (["moe.yaml", "out", "--lazy-unpikle"], "(did you mean --lazy-unpickle?)"),
    "unknown layout": (["moe.yaml", "out", "--layout", "stacked"], "--layout: stacked not in {per-expert,fused}"),
    "value missing": (["moe.yaml", "out", "--layout"], "--layout"),
    "no threads": (["moe.yaml", "out", "-j", "0"], "--threads: Value 0 not in range 1 to 1024"),
    "too many threads": (["moe.yaml", "out", "--num-threads", "1025"], "--threads: Value 1025 not in range 1 to 1024"),
    "threads in words": (["moe.yaml", "out", "-j", "many"], "--threads: Value many"),
    "negative seed": (["moe.yaml", "out", "--random-seed", "-1"], "--random-seed: a whole number from 0 to 9223372036854775807 is expected, found -1"),
    "seed in words": (["moe.yaml", "out", "--random-seed", "dice"], "--random-seed"),
})
def test_usage_error_names_the_help(case, words, sentence):
    case.fill_in()
    result = case.run("moe", *words).exits(2).says("moerge: ", sentence, "moerge moe --help lists the flags")
    assert result.stdout == "" and not case.path("out").exists()


@rows({size: (size,) for size in ("big", "0", "0B", "-5B", "5X", "5Bx", "5 0", "nan", "inf", "1e30", "0.1")})
def test_shard_size_that_is_none(case, size):
    case.refused(2, f"--out-shard-size {size}: a size like 5B, 500M or 200k is expected", flags=[f"--out-shard-size={size}"])


@rows({size: (size, files) for size, files in {
    "83000": 2, "30k": 3, "30kB": 3, "30KB": 3, "0.03M": 3, "1mb": 1, "5B": 1, "1GB": 1, "1g": 1}.items()})
def test_shard_size_with_a_unit(case, size, files):
    plan = case.plan("--out-shard-size", size)
    found = len({entry["file"] for entry in plan["tensors"]})
    assert found == files, f"{found} files, expected {files}"


def test_4_bit_and_8_bit_exclude_each_other(case):
    case.refused(2, "--load-in-4bit and --load-in-8bit exclude each other", flags=["--load-in-4bit", "--load-in-8bit"])


def test_unknown_device(case):
    case.yaml("hidden")
    case.refused(2, 'this build has no device "nosuch" (it has "', flags=["--device", "nosuch"])


def test_unknown_device_in_a_dry_run(case):
    case.yaml("hidden")
    case.refused(2, 'this build has no device "nosuch"', flags=["--device", "nosuch", "--dry-run"])


@rows({"cpu": ("cpu",), "auto": ("auto",)})
def test_known_device(case, device):
    case.yaml("hidden")
    case.built("--device", device)


@rows({"4 bit": ("--load-in-4bit",), "8 bit": ("--load-in-8bit",)})
def test_hidden_states_from_quantised_weights(case, flag):
    case.yaml("hidden")
    exact = case.built(out="exact").tensors
    found = case.built(flag).tensors
    assert exact.keys() == found.keys()
    for name in exact:
        if not name.endswith("layers.1.block_sparse_moe.gate.weight"):
            assert exact[name] == found[name], name


# ------------------------------------------------------------------------------------------------- mergekit-moe's own


def test_mergekit_moe_by_its_name(case):
    """Through a link of that name the program is mergekit-moe: no command word, and messages call it so."""
    program = case.folder / "mergekit-moe"
    os.symlink(case.binary, program)
    case.fill_in()
    case.run("moe.yaml", "merge", program=program).exits(0)
    assert (case.path("merge") / "config.json").exists()
    case.run("moe.yaml", program=program).exits(2).says("OUT is required", "mergekit-moe --help lists the flags")
    case.run("--help", program=program).exits(0).prints("Usage: mergekit-moe [OPTIONS] CONFIG OUT")


@rows({
    "short": ("mergekit-moe config.yaml merge --copy-tokenizer",),
    "long": ("mergekit-moe config.yaml merge --copy-tokenizer --allow-crimes --out-shard-size 1B --lazy-unpickle",),
})
def test_command_line_of_the_tutorials(case, line):
    program = case.folder / "mergekit-moe"
    os.symlink(case.binary, program)
    case.fill_in()
    case.yaml("hidden", top="dtype: bfloat16\nexperts_per_token: 2\n", file="config.yaml")
    result = case.run(*line.split()[1:], program=program).exits(0)
    assert not result.warnings()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in case.path("merge").iterdir()}


@rows({flag.split("=")[0]: (flag, reason) for flag, reason in FOREIGN_FLAGS.items()})
def test_foreign_flag_says_that_it_has_no_effect(case, flag, reason):
    plain = case.built(out="plain")
    with_flag = case.built(*flag.split("="))
    with_flag.result.says(f"{flag.split('=')[0]} has no effect: ", reason)
    assert with_flag.tensors == plain.tensors


@rows({flag.split("=")[0]: (flag,) for flag in FOREIGN_FLAGS if flag.split("=")[0] not in WITHOUT_NO})
def test_foreign_flag_is_also_accepted_as_no(case, flag):
    case.moe("--dry-run", flag.replace("--", "--no-", 1)).exits(0).says("has no effect")


def test_all_foreign_flags_together(case):
    result = case.moe("--dry-run", *FOREIGN_FLAGS).exits(0)
    assert result.stderr.count("has no effect") == len(FOREIGN_FLAGS)


# ------------------------------------------------------------------------------------------------------ CONFIG and OUT


@rows({
    "missing": ("nosuch.yaml", 'CONFIG "nosuch.yaml": there is no such file'),
    "a folder": ("base", "base is not a regular file"),
    "a named pipe": ("pipe", "pipe is not a regular file"),
    "too large": ("large.yaml", "large.yaml: 20.0 MB is too large, at most 1.0 MB expected here"),
    "not text": ("binary.yaml", "binary.yaml: not a text file"),
})
def test_config_that_cannot_be_read(case, config, sentence):
    case.fill_in()
    os.mkfifo(case.path("pipe"))
    os.truncate(case.write("large.yaml", ""), 20_000_000)
    case.write("binary.yaml", b"base_model: \0\n")
    before = case.snapshot()
    result = case.run("moe", config, "out").says("moerge: ", sentence)
    assert result.code in (1, 2) and case.snapshot() == before


def test_messages_name_the_config_as_it_was_given(case):
    case.yaml(text="experts: 5\n", file="some/where/my.yaml")
    case.refused(2, "some/where/my.yaml:1:10: ", config="some/where/my.yaml")


# ---------------------------------------------------------------------------------------------------- what is reported


def test_result_is_announced_on_stderr(case):
    result = case.built().result.says(
        "Mixtral: 2 layers, 2 experts, 2 per token, 41.5k parameters (41.5k active), bfloat16",
        "base      base: attention, norms, embeddings (15 tensors, 45.9 kB)",
        "expert 0  one: FFN of every layer (6 tensors, 18.4 kB), 2 prompts",
        "expert 1  two: FFN of every layer (6 tensors, 18.4 kB), 2 prompts",
        "routers   gate_mode random: normal noise",
        "written   83.0 kB in 1 file: 82.8 kB copied, 0 bytes converted, 256 bytes computed",
        "weights: 83.0 kB in ", "out is ready: load it with transformers, vLLM or llama.cpp")
    assert result.stdout == ""


def test_quiet_prints_nothing_on_success(case):
    result = case.built("--quiet").result
    assert result.stdout == "" and result.stderr == ""


def test_quiet_still_warns(case):
    case.model("one", rms_norm_eps=1e-6)
    result = case.built("--quiet", warning="rms_norm_eps differs").result
    assert len(result.stderr.splitlines()) == 1


def test_quiet_is_quiet_about_foreign_flags(case):
    assert case.built("--quiet", "--cuda").result.stderr == ""


def test_verbose_says_where_every_tensor_comes_from(case):
    case.yaml("hidden")
    case.built("-v").result.says(
        f"model.norm.weight  bfloat16 [32]  <- {case.path('base')}: model.norm.weight",
        f"model.layers.1.block_sparse_moe.experts.1.w2.weight  bfloat16 [32, 48]  <- {case.path('two')}: "
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.0.block_sparse_moe.gate.weight  bfloat16 [2, 32]  <- router, gate_mode hidden", "routers made in ")


def test_verbose_names_noise_scale_and_conversion(case):
    case.yaml(text="""\
base_model: base
gate_mode: random
dtype: float16
experts:
  - {source_model: one, noise_scale: 0.25, residual_scale: 0.5}
  - source_model: two
""")
    case.built("--verbose").result.says(
        "one: model.layers.0.mlp.down_proj.weight (bfloat16) + noise 0.25 x 0.5", "expert 0  one: ", "noise 0.25", "down x 0.5")


def test_progress_on_a_terminal(case):
    """One line that is drawn again and again, and cleared before the next message."""
    case.slow_models()
    try:
        terminal, stderr = pty.openpty()
    except OSError as error:
        raise Skipped(f"no pseudo-terminals here: {error}")
    run = case.start_slow(stderr=stderr)
    os.close(stderr)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    assert run.wait(timeout=60) == 0
    text = shown.decode()
    line = re.search(r"\r\x1b\[Kweights: [0-9.]+ [kM]?B of 61.5 MB \([0-9]+ %\), [0-9.]+ [kMG]?B/s, [0-9]+ s left", text)
    assert line, f"no progress line in {text!r}"
    assert re.search(r"\r\x1b\[Kweights: 61.5 MB in ", text), text


def test_dry_run_prints_the_plan_and_writes_nothing(case):
    case.fill_in()
    before = case.snapshot()
    case.moe("--dry-run").exits(0).prints("Mixtral: 2 layers, 2 experts", "nothing was written (--dry-run)")
    assert case.snapshot() == before


def test_dry_run_shows_every_step_when_verbose(case):
    case.moe("--dry-run", "-v").exits(0).prints("lm_head.weight  bfloat16 [260, 32]  <- ")


def test_dry_run_checks_what_a_real_run_checks(case):
    case.model("two", hidden_size=16)
    case.refused(2, "hidden_size differs", flags=["--dry-run"])


def test_json_is_the_plan(case):
    result = case.moe("--dry-run", "--json").exits(0)
    assert result.stderr == ""
    plan = json.loads(result.stdout)
    assert not case.path("out").exists()
    assert plan["architecture"] == "MixtralForCausalLM" and plan["dtype"] == "bfloat16" and plan["gate_mode"] == "random"
    assert plan["base_model"] == {"source_model": "base", "folder": str(case.path("base"))}
    assert [expert["source_model"] for expert in plan["experts"]] == ["one", "two"]
    assert plan["warnings"] == [] and plan["config"]["num_local_experts"] == 2
    assert plan["bytes"] == {"total": 83008, "shared": 0, "copied": 82752, "converted": 0, "computed": 256}


def test_json_plan_is_what_gets_written(case):
    plan = case.plan("--out-shard-size", "30k")
    tensors = case.built("--out-shard-size", "30k").tensors
    assert {entry["name"]: entry["shape"] for entry in plan["tensors"]} == {name: t.shape for name, t in tensors.items()}
    assert plan["config"] == json.loads(case.path("out/config.json").read_text())


def test_json_of_a_real_run(case):
    result = case.built("--json").result
    assert json.loads(result.stdout)["parameters"]["total"] == 41504
    assert "out is ready" in result.stderr


def test_json_lists_warnings(case):
    case.model("one", rms_norm_eps=1e-6)
    plan = case.plan()
    assert len(plan["warnings"]) == 1 and plan["warnings"][0].startswith("rms_norm_eps differs")
