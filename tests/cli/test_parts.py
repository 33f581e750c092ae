"""A build that several processes share, --part K/N and --join: what comes out, and what happens when one of them dies."""
import json, os, signal, subprocess, time

from harness import TIMEOUT_S, rows

SHARDS = ("--out-shard-size", "8k")  # ten files of the tiny models' 83 kB
LARGE = ("--out-shard-size", "5M")   # of the slow models'


# ---------------------------------------------------------------------------------------------------------------- helpers


def part(case, which, *flags, **how):
    return case.moe("--part", which, *SHARDS, *flags, **how)


def parts(case, count, *flags, **how):
    """All of them, one after the other."""
    return [part(case, f"{number}/{count}", *flags, **how).exits(0) for number in range(1, count + 1)]


def join(case, *flags, **how):
    return case.built("--join", *SHARDS, *flags, **how)


def undivided(case, *flags, **how):
    """The same model by one run, in a folder of the same name, which README.md repeats."""
    return case.built(*(flags or SHARDS), out="alone/out", **how)


def start(case, *flags, config="slow.yaml"):
    run = subprocess.Popen(case.command(["moe", config, "out", "-j", "1", *flags]), cwd=case.work, env=case.variables(),
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    case.started.append(run)
    return run


def ends(run, code):
    stderr = run.communicate(timeout=TIMEOUT_S)[1].decode()
    assert run.returncode == code, f"exit code {run.returncode}, expected {code}: {stderr}"
    return stderr


def journal(case, which):
    number, count = which.split("/")
    return case.partial() / f".moerge-journal-{number}-of-{count}"


def start_until(case, which, word, *flags):
    """A part of slow.yaml that runs and whose journal has this word."""
    run, end = start(case, "--part", which, *LARGE, *flags), time.monotonic() + TIMEOUT_S
    while not (journal(case, which).exists() and word in journal(case, which).read_text()):
        assert run.poll() is None and time.monotonic() < end, f"part {which} did not begin: {run.communicate()}"
        time.sleep(0.001)
    return run


def kept(case):
    """What is in the partial folder."""
    return {path.name: path.read_bytes() for path in case.partial().iterdir()} if case.partial().exists() else {}


def refused(case, code, *sentences, flags, **how):
    """Like case.refused(), which also sees that the parts' work is as it was."""
    before = kept(case)
    case.refused(code, *sentences, flags=[*SHARDS, *flags], **how)
    assert kept(case) == before


# ------------------------------------------------------------------------------------------------ the same as one run's


@rows({"1": (1, "random"), "2": (2, "random"), "3": (3, "hidden"), "more than there are files": (20, "hidden")})
def test_parts_at_once_equal_an_undivided_build(case, count, gate_mode):
    case.fill_in()
    case.yaml(gate_mode)
    alone = undivided(case, *SHARDS, "--verify")
    runs = [start(case, "--part", f"{number}/{count}", *SHARDS, config="moe.yaml") for number in range(1, count + 1)]
    for number, run in enumerate(runs, 1):
        assert f"part {number} of {count} is finished; when all are: the same command with --join" in ends(run, 0)
    assert not case.path("out").exists()
    out = join(case, "--verify")
    out.result.says("every one of the 29 tensors equals what it was made of")
    assert out.content() == alone.content()


def test_parts_in_one_file(case):
    """Without --out-shard-size there is one file, and no index."""
    alone = undivided(case, "-j", "1")
    for number in (1, 2, 3):
        case.moe("--part", f"{number}/3").exits(0)
    assert case.built("--join").content() == alone.content()


def test_killed_part_is_restarted(case):
    """Three run at once, the second is killed when it has a file and goes on from there."""
    case.slow_models()
    alone = undivided(case, *LARGE, "--verify", config="slow.yaml")
    others = [start(case, "--part", f"{number}/3", *LARGE) for number in (1, 3)]
    killed = start_until(case, "2/3", "done")
    killed.kill()
    ends(killed, -signal.SIGKILL)
    for run in others:
        ends(run, 0)
    case.moe("--join", *LARGE, config="slow.yaml").exits(1).says("--join: not finished yet: --part 2/3: run it again")
    case.moe("--part", "2/3", *LARGE, config="slow.yaml").exits(0).says("continues what an earlier run left: ")
    out = case.built("--join", "--verify", *LARGE, config="slow.yaml")
    assert out.content() == alone.content()


@rows({"random": ("random",), "hidden": ("hidden",)})
def test_extra_part_of_the_same_build_does_nothing(case, gate_mode):
    """A part that is finished and runs again, as schedulers sometimes have it."""
    case.fill_in()
    case.yaml(gate_mode)
    alone = undivided(case)
    parts(case, 2)
    before = kept(case)
    part(case, "2/2").exits(0).says("continues what an earlier run left: ", "part 2 of 2 is finished")
    assert kept(case) == before
    assert join(case).content() == alone.content()


def test_sources_with_other_times_join(case):
    """Copies of the models on each machine have times of their own."""
    case.fill_in()
    alone = undivided(case)
    for number in (1, 2, 3):
        for name in ("base", "one", "two"):
            os.utime(case.path(f"{name}/model.safetensors"), (number * 1e6, number * 1e6))
        part(case, f"{number}/3").exits(0)
    os.utime(case.path("base/model.safetensors"), (4e6, 4e6))
    assert join(case).content() == alone.content()


def test_part_starts_anew_when_its_own_source_has_changed(case):
    parts(case, 2)
    os.utime(case.path("one/model.safetensors"), (1e6, 1e6))
    part(case, "1/2").exits(0).says(f"but {case.path('one/model.safetensors')} has changed: starts anew")
    join(case)


def test_adapted_and_converted_tensors(case):
    """Fused and in another type: tensors of several sources in one."""
    case.yaml(top="dtype: float32\n")
    flags = ("--layout", "fused", "--out-shard-size", "16k")
    alone = undivided(case, *flags, "--verify")
    for number in (1, 2):
        case.moe("--part", f"{number}/2", *flags).exits(0)
    assert case.built("--join", "--verify", *flags).content() == alone.content()


# ------------------------------------------------------------------------------------------------------------- routers


def forecast(result):
    return [line for line in result.stderr.splitlines() if "routing forecast" in line or "the first choice" in line]


def test_routers_are_reported_when_parts_are_joined(case):
    case.fill_in()
    case.yaml("hidden")
    alone = undivided(case)
    assert forecast(alone.result)
    for run in parts(case, 3):
        assert not forecast(run)
    assert forecast(join(case).result) == forecast(alone.result)


def routers_made(results):
    return [number for number, run in enumerate(results, 1) if "routers made in" in run.stderr]


def test_only_the_part_that_has_the_routers_makes_them(case):
    """A model of one layer has one router, which lies in one file."""
    for name in ("base", "one", "two"):
        case.model(name, num_hidden_layers=1)
    case.yaml("hidden")
    runs = parts(case, 4, "-v")
    owner, = routers_made(runs)
    saved = [name for name in kept(case) if name.startswith(".moerge-saved-")]
    assert saved == [f".moerge-saved-routers-{owner}-of-4"], saved
    for number in (1, 2, 3, 4):
        if number != owner:
            assert "saved" not in journal(case, f"{number}/4").read_text()
    join(case)


def test_routers_of_another_part_are_used(case):
    """Two layers, two files: the part that comes later takes what the earlier one saved."""
    case.fill_in()
    case.yaml("hidden")
    alone = undivided(case)
    runs = parts(case, 10, "-v")
    assert len(routers_made(runs)) == 1, routers_made(runs)
    assert join(case).content() == alone.content()


def test_saved_routers_that_are_damaged_are_made_again(case):
    case.fill_in()
    case.yaml("hidden")
    alone = undivided(case)
    runs = parts(case, 10, "-v")
    saved = case.partial() / f".moerge-saved-routers-{routers_made(runs)[0]}-of-10"
    saved.write_bytes(saved.read_bytes()[:-1] + b"!")
    out = join(case)
    assert out.content() == alone.content() and not forecast(out.result)


# ------------------------------------------------------------------------------------------------------------ too early


def test_join_before_all_parts_are_there(case):
    case.fill_in()
    alone = undivided(case)
    part(case, "2/3").exits(0)
    refused(case, 1, "--join: not finished yet: --part 1/3, --part 3/3: run these again", flags=["--join"])
    part(case, "1/3").exits(0)
    refused(case, 1, "--join: not finished yet: --part 3/3: run it again", flags=["--join"])
    part(case, "3/3").exits(0)
    assert join(case).content() == alone.content()


@rows({"": ("out",), "in folders that are not there": ("new/deep/out",)})
def test_join_of_nothing(case, out):
    case.refused(2, f"--join: {case.partial(out)} holds no part of a build: run the parts first", flags=["--join"], out=out)


def test_join_while_a_part_runs(case):
    case.slow_models()
    case.moe("--part", "1/2", *LARGE, config="slow.yaml").exits(0)
    run = start_until(case, "2/2", "done")
    case.moe("--join", *LARGE, config="slow.yaml").exits(1).says(f"another moerge is writing {case.path('out')} at this moment")
    ends(run, 0)
    case.built("--join", *LARGE, config="slow.yaml")


def test_file_that_lost_its_end_is_named_by_its_part(case):
    case.fill_in()
    alone = undivided(case)
    parts(case, 2)
    shard = case.partial() / json.loads(part(case, "2/2", "--dry-run", "--json").stdout)["part"]["files"][0]
    os.truncate(shard, shard.stat().st_size - 1)
    refused(case, 1, "--join: not finished yet: --part 2/2: run it again", flags=["--join"])
    part(case, "2/2").exits(0)
    assert join(case).content() == alone.content()


def test_journal_that_is_damaged(case):
    case.fill_in()
    alone = undivided(case)
    parts(case, 2)
    journal(case, "1/2").write_bytes(b"\0\0\0")
    refused(case, 1, "--part 1/2: run it again", flags=["--join"])
    part(case, "1/2").exits(0)
    assert join(case).content() == alone.content()


# -------------------------------------------------------------------------------------------------- what does not fit


def test_same_part_twice_at_once(case):
    case.slow_models()
    run = start_until(case, "1/2", "journal")
    case.moe("--part", "1/2", *LARGE, config="slow.yaml").exits(1).says(
        f"another moerge is writing {journal(case, '1/2')} at this moment")
    ends(run, 0)
    case.moe("--part", "2/2", *LARGE, config="slow.yaml").exits(0)
    case.built("--join", "--verify", *LARGE, config="slow.yaml")


def test_another_number_of_parts(case):
    part(case, "1/3").exits(0)
    refused(case, 2, f"{case.partial()} holds parts of a build in 3 as well as in 4: remove it to start anew",
            flags=["--part", "2/4"])


def other_yaml(case):
    case.yaml(top="experts_per_token: 1\n")


def other_models(case):
    for name in ("base", "one", "two"):
        case.model(name, intermediate_size=64)


def other_chat_template(case):
    case.yaml(top="chat_template: chatml\n")


@rows({"YAML": (other_yaml, []), "models": (other_models, []), "chat template": (other_chat_template, []),
       "--random-seed": (None, ["--random-seed", "7"]), "--layout": (None, ["--layout", "fused"]),
       "--no-copy-tokenizer": (None, ["--no-copy-tokenizer"])})
def test_part_of_another_build(case, prepare, flags):
    parts(case, 2)
    if prepare:
        prepare(case)
    sentence = "was made from another configuration, other models or flags, or by another version of moerge"
    refused(case, 2, f" of 2 in {case.partial()} {sentence}", flags=["--part", "2/2", *flags])
    refused(case, 2, f" of 2 in {case.partial()} {sentence}", flags=["--join", *flags])


def test_part_in_files_of_another_size(case):
    part(case, "1/2").exits(0)
    before = kept(case)
    case.refused(2, "was made from another configuration, other models or flags", flags=["--part", "2/2"])
    assert kept(case) == before


@rows({"--part": (["--part", "1/2"],), "--join": (["--join"],)})
def test_part_of_what_an_undivided_run_left(case, flags):
    case.slow_models()
    run = case.start_slow()
    run.kill()
    run.communicate(timeout=TIMEOUT_S)
    before = kept(case)
    case.refused(2, f"{case.partial()} holds what a run without --part left: run it again without, or remove it", flags=flags,
                 config="slow.yaml")
    assert kept(case) == before
    case.built(config="slow.yaml")


def test_undivided_run_where_parts_are(case):
    case.fill_in()
    alone = undivided(case)
    part(case, "1/2").exits(0)
    sentence = f"{case.partial()} holds parts of a build in 2: run the others with --part and complete it with --join, or remove it"
    refused(case, 2, sentence, flags=[])
    before = kept(case)
    case.run("extract", "alone/out", "out", "--expert", "0").exits(2).says(sentence)
    assert kept(case) == before
    part(case, "2/2").exits(0)
    assert join(case).content() == alone.content()


@rows({"--part": (["--part", "1/2"],), "--join": (["--join"],)})
def test_output_that_exists(case, flags):
    case.write("out/config.json", "{}")
    case.write("out/mine.txt", "mine")
    case.refused(2, "out exists and is not empty: choose another folder, or replace it with --overwrite", flags=flags)


def test_parts_of_a_new_version_of_an_output(case):
    """The old one stays until the parts are joined."""
    case.write("out/config.json", "{}")
    case.write("out/mine.txt", "mine")
    alone = undivided(case)
    parts(case, 2, "--overwrite")
    assert case.path("out/mine.txt").read_text() == "mine"
    refused(case, 2, "out exists and is not empty", flags=["--join"])
    assert join(case, "--overwrite").content() == alone.content()


@rows({spelling or "nothing": (spelling,) for spelling in (
    "", "1", "/", "1/", "/2", "a/b", "1/b", "0/4", "5/4", "1/0", "0/0", "-1/4", "+1/4", "1/2/3", "1.0/2", "1/100001",
    "1/99999999999999999999", "99999999999999999999/4", "1 / 2", "1/2 ")})
def test_spelling_of_a_part(case, spelling):
    case.refused(2, f"--part {spelling or chr(34) * 2}: K/N is expected, like 2/8: a number from 1 to N, and how many parts there "
                    "are (at most 100000)", flags=[f"--part={spelling}"] if spelling else ["--part", ""])


@rows({"--join": (["--part", "1/2", "--join"], "--part excludes --join"),
       "--verify": (["--part", "1/2", "--verify"], "--verify belongs to --join: a part is no model yet")})
def test_flags_that_exclude_each_other(case, flags, sentence):
    case.refused(2, sentence, flags=flags)


# --------------------------------------------------------------------------------------------------------------- signals


def test_interrupted_part_goes_on(case):
    case.slow_models()
    alone = undivided(case, *LARGE, config="slow.yaml")
    case.moe("--part", "1/2", *LARGE, config="slow.yaml").exits(0)
    run = start_until(case, "2/2", "done")
    run.send_signal(signal.SIGINT)
    assert f"what is finished stays in {case.partial()}: the same command goes on from there" in ends(run, 130)
    case.moe("--part", "2/2", *LARGE, config="slow.yaml").exits(0).says("continues what an earlier run left: ")
    assert case.built("--join", *LARGE, config="slow.yaml").content() == alone.content()


def test_second_signal_removes_the_files_of_its_part_alone(case):
    case.slow_models()
    case.moe("--part", "1/2", *LARGE, config="slow.yaml").exits(0)
    before = kept(case)
    run = start_until(case, "2/2", "done")
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGTERM)  # a second SIGINT could fall together with the first
    assert "stays in" not in ends(run, 130)
    assert kept(case) == before
    case.moe("--part", "2/2", *LARGE, config="slow.yaml").exits(0)
    case.built("--join", *LARGE, config="slow.yaml")


def test_second_signal_to_the_only_part_leaves_nothing(case):
    case.slow_models()
    run = start_until(case, "1/1", "done")
    run.send_signal(signal.SIGINT)
    run.send_signal(signal.SIGTERM)
    ends(run, 130)
    assert not case.partial().exists()


# ------------------------------------------------------------------------------------------------ what lies in the folder


def test_what_is_no_part_of_the_build_is_gone_after_the_join(case):
    case.fill_in()
    alone = undivided(case)
    case.write("elsewhere/mine.txt", "mine")
    part(case, "1/2").exits(0)
    (case.partial() / "model-00007-of-00009.safetensors").write_text("old")
    (case.partial() / ".moerge-journal-of-mine").write_text("no journal")
    (case.partial() / "sub").mkdir()
    (case.partial() / "sub/file").write_text("old")
    os.symlink(case.path("elsewhere"), case.partial() / "link")
    os.symlink(case.path("elsewhere/mine.txt"), case.partial() / "config.json")
    part(case, "2/2").exits(0)
    assert join(case).content() == alone.content()
    assert case.path("elsewhere/mine.txt").read_text() == "mine"


@rows({"a file of weights": ("model-00001-of-00010.safetensors",), "the journal": (".moerge-journal-1-of-1",)})
def test_link_where_a_part_writes(case, name):
    """Whoever can write into the folder must not make us write elsewhere."""
    case.write("elsewhere", "mine")
    case.partial().mkdir()
    os.symlink(case.path("elsewhere"), case.partial() / name)
    part(case, "1/1").exits(1).says(f"{case.partial()}/{name}")
    assert case.path("elsewhere").read_text() == "mine"


# ------------------------------------------------------------------------------------------------------ what is reported


@rows({"--part": (["--part", "2/3"],), "--join": (["--join"],)})
def test_dry_run_writes_nothing(case, flags):
    parts(case, 3)
    before, folder = kept(case), case.snapshot()
    result = case.moe("--dry-run", *SHARDS, *flags).exits(0).prints("nothing was written (--dry-run)")
    if "--part" in flags:
        result.prints("  part      2 of 3: 3 of the 10 files, ")
    assert kept(case) == before and case.snapshot() == folder


def test_dry_run_before_there_is_a_part(case):
    case.fill_in()
    before = case.snapshot()
    part(case, "2/3", "--dry-run").exits(0)
    assert case.snapshot() == before
    case.refused(2, f"--join: {case.partial()} holds no part of a build", flags=["--join", "--dry-run"])


def test_json_of_a_part(case):
    """Together the parts are the files of the build, each once and of like size."""
    whole = case.plan(*SHARDS)
    assert "part" not in whole
    found = [json.loads(run.stdout)["part"] for run in parts(case, 3, "--json", "--quiet")]
    assert [(one["number"], one["count"]) for one in found] == [(1, 3), (2, 3), (3, 3)]
    files = [file for one in found for file in one["files"]]
    assert sorted(files) == sorted({tensor["file"] for tensor in whole["tensors"]})
    assert sum(one["bytes"] for one in found) == whole["bytes"]["total"]
    assert max(one["bytes"] for one in found) < 1.5 * min(one["bytes"] for one in found)
    out = json.loads(join(case, "--json", "--quiet").result.stdout)
    assert out == whole


def test_part_without_a_file_says_so(case):
    case.moe("--part", "2/3").exits(0).says(
        "part      2 of 3: nothing to do, there is 1 file (--out-shard-size makes smaller ones)")
