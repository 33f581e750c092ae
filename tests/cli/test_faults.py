"""Whatever a call to the disk does, OUT is whole or what it was, nothing is claimed that is not there, and the same command
finishes the work. Each test tries every call of a small build (under a sanitizer some of them)."""
import errno, json, os, signal

from fault_case import JOURNAL, Build, content, is_sanitized, lose_power
from harness import rows
from tiny_models import tiny_model, tokenizer

BUILDS = {
    "moe": {},
    "two threads": {"flags": ["-j2"]},
    "overwrite": {"flags": ["--overwrite"]},
    "fused": {"flags": ["-j2", "--layout", "fused"]},  # parts of one tensor by several threads
    "extract": {"words": ("extract", "mix"), "flags": ["--expert", "1"]},
}
# Without these there is no right output: an error of theirs ends the run. Of others (unlink, fallocate, exchange of two
# names, ...) the program may also find its way around.
NEEDED = {"write", "pwrite", "copy_file_range", "sendfile", "ftruncate", "fsync", "fdatasync", "mkdir", "rename"}


def build_of(case, kind):
    settings = dict(BUILDS[kind])
    if kind == "extract":
        case.moe("--no-copy-tokenizer", out="mix").exits(0)
    return Build(case, *settings.pop("flags", []), **settings)


def numbers(build, every=1, calls=None, wanted=lambda call: True):
    """The calls of an undisturbed run to try, the last ones (syncs and the rename) always among them."""
    found = [call.number for call in (calls or build.reference.calls) if wanted(call)]
    every *= 25 if is_sanitized(build.case) else 1
    return [number for i, number in enumerate(found) if (len(found) - 1 - i) % every == 0]


def check_refusal(build, run, code):
    """rc 1 and one sentence about the file and the reason."""
    failed = [call for call in run.calls if call.error == code]
    run.exits(1)
    sentences = [line for line in run.stderr.splitlines() if line.startswith("moerge: ")]
    if len(sentences) != 1:
        run.fail(f"expected one sentence, found {len(sentences)}")
    if os.strerror(code) not in sentences[0]:
        run.fail(f"the sentence lacks the reason: {os.strerror(code)} at {failed}")
    paths = {str(build.out), *(path for call in failed for path in (call.path, call.detail) if path.startswith("/"))}
    if not any(path in sentences[0] for path in paths):
        run.fail(f"the sentence names none of {sorted(paths)}")


def check_failed_call(build, fault, code):
    """After a run with one failing call: an error, or a right OUT where the call was not needed. Then the work is finished."""
    number = int(fault.split(":")[0])
    run = build.run(fault)
    call = run.call(number)
    finished = build.must_be_whole_or_old(run)
    if call is None:  # threads may need fewer calls than they did the first time
        run.exits(0)
    elif run.code == 0:
        if not finished:
            run.fail(f"exit code 0 without OUT: {call}")
        if (call.name in NEEDED or call.creates) and (run.commit is None or call.begin < run.commit.begin):
            run.fail(f"took no notice of an error: {call}")
    else:
        check_refusal(build, run, code)
        if not finished:
            build.must_be_tidy(run)
    build.must_finish(*(["continu"] if build.claims() and not finished else []))
    build.clear()


# -------------------------------------------------------------------------------------------------- each call, each fault


@rows({f"{name} {kind}": (kind, code, how) for kind in BUILDS for name, code, how in
       (("EIO", errno.EIO, "errno"), ("ENOSPC", errno.ENOSPC, "errno"), ("full disk", errno.ENOSPC, "full"))
       if kind == "moe" or (name == "EIO" and kind != "fused") or (kind, name) == ("two threads", "full disk")})
def test_call_that_fails(case, kind, code, how):
    build = build_of(case, kind)
    for number in numbers(build, 1 if kind == "moe" else 3):
        check_failed_call(build, f"{number}:{how}={code}", code)


@rows({kind: (kind,) for kind in BUILDS})
def test_call_that_is_short_or_interrupted(case, kind):
    """Less than asked for, or nothing because a signal came: no error, the rest is asked for again."""
    build = build_of(case, kind)
    for number in numbers(build, 1 if kind == "moe" else 3, wanted=lambda call: call.is_write):
        for fault in ("short", f"errno={errno.EINTR}"):
            run = build.run(f"{number}:{fault}")
            call = run.call(number)
            if call and not call.is_write:  # with threads the number may be another call's, which may not be tried again
                build.must_be_whole_or_old(run)
                build.must_finish()
            else:
                run.exits(0)
                if not build.is_complete():
                    run.fail(f"OUT is not what it should be after {number}:{fault}")
            build.clear()


@rows({"EIO": (f"errno={errno.EIO}",), "short": ("short",)})
def test_source_that_cannot_be_read(case, fault):
    """A file of a model fails: an error about it. Nothing is left out because it could not be read."""
    build = Build(case, below=("base", "one", "two"))
    for number in numbers(build):
        run = build.run(f"{number}:{fault}")
        if fault == "short":
            run.exits(0)
        if not build.must_be_whole_or_old(run):
            check_refusal(build, run, errno.EIO)
            build.must_be_tidy(run)
        build.must_finish()
        build.clear()


def test_every_call_short(case):
    build = Build(case, shard="1GB")
    faults = ",".join(f"{number}:short" for number in range(1, 500))
    build.run(faults).exits(0)
    assert build.is_complete()


@rows({kind: (kind,) for kind in BUILDS})
def test_killed_at_a_call(case, kind):
    build = build_of(case, kind)
    for fault in [f"{number}:kill" for number in numbers(build, 1 if kind in ("moe", "overwrite") else 3)] + \
                 [f"{build.reference.calls[-1].number}:killafter"]:
        run = build.run(fault)
        if run.call(int(fault.split(":")[0])):
            run.exits(-signal.SIGKILL)
        finished = build.must_be_whole_or_old(run)
        build.must_finish(*(["continu"] if build.claims() and not finished else []))
        build.clear()


@rows({f"{kind} {lost}": (kind, lost) for kind in BUILDS for lost in ("bytes", "sizes", "names")
       if kind == "moe" or (kind != "extract" and lost != "sizes")})
def test_power_cut_at_a_call(case, kind, lost):
    """What was not synced is gone, but nothing that the journal or OUT's name promises."""
    build = build_of(case, kind)
    for number in numbers(build, 1 if kind == "moe" else 2):
        run = build.run(f"{number}:kill")
        lose_power(build, run, lost)
        build.must_be_whole_or_old(run)
        build.must_finish()
        build.clear()


def test_power_cut_after_the_end(case):
    build = build_of(case, "moe")
    run = build.run().exits(0)
    lose_power(build, run, "names")
    build.must_be_whole_or_old(run)


@rows({"EIO": (f"errno={errno.EIO}",), "full disk": (f"full={errno.ENOSPC}",), "short": ("short",), "kill": ("kill",),
       "power cut": ("kill", True), "SIGINT": ("signal=2",)})
def test_resumed_run_meets_the_next_fault(case, fault, power_cut=False):
    """A second accident while an interrupted build continues."""
    build = build_of(case, "moe")
    first = build.moment(0.5)
    build.run(f"{first}:kill")
    second = build.run().calls
    build.clear()
    for number in numbers(build, 2, calls=second):
        build.run(f"{first}:kill")
        run = build.run(f"{number}:{fault}")
        if power_cut:
            lose_power(build, run, "names")
        finished = build.must_be_whole_or_old(run)
        if fault == "short":
            run.exits(0)
        elif "=" in fault and run.code == 1:
            check_refusal(build, run, int(fault.split("=")[1]))
        if not finished and not build.is_worth_keeping():
            run.fail("what the first run had done is lost")
        build.must_finish()
        build.clear()


# ----------------------------------------------------------------------------------------------------------- the order


@rows({kind: (kind,) for kind in BUILDS})
def test_synced_before_it_is_said(case, kind):
    """A line of the journal follows a sync of shards; the rename follows a sync of every file and of the folder; a sync of
    the parent follows the rename, and only then the old output goes."""
    build = build_of(case, kind)
    run = build.run().exits(0)
    commit = run.commit
    assert commit, "no rename to OUT"
    journal = [call for call in run.calls if call.file == JOURNAL and call.is_write]
    assert len(journal) >= 2, f"{len(journal)} lines in the journal of a build of several shards"
    for last, line in zip(journal, journal[1:]):
        assert any(call.is_sync and call.done and last.end < call.begin and call.end < line.begin and call.file != JOURNAL
                   for call in run.calls), f"nothing was synced before the journal was written: {line}"
    inside = {call.path for call in run.calls if call.path.startswith(f"{build.partial}/") and call.begin < commit.begin}
    names = set(build.expected)
    assert {os.path.basename(path) for path in inside} >= names, "OUT has files whose calls were not seen"
    for path in sorted(inside):
        calls = [call for call in run.calls if call.path == path and call.begin < commit.begin]
        changed = [call.end for call in calls if call.is_write or call.name == "ftruncate"]
        if changed and os.path.basename(path) in names:
            assert any(call.is_sync and call.done and call.begin > max(changed) for call in calls), \
                f"{path} is not synced before the rename"
    entries = [call.end for call in run.calls if call.end is not None and call.begin < commit.begin and call.path in inside
               and (call.creates or call.name == "unlink")]
    assert any(call.name == "fsync" and call.path == str(build.partial) and max(entries) < call.begin and call.end < commit.begin
               for call in run.calls), "the folder is not synced between its last new file and the rename"
    after = [call for call in run.calls if call.begin > commit.end and call.name == "fsync" and call.path == str(build.disk)]
    assert after, "the folder of OUT is not synced after the rename"
    removed = [call for call in run.calls if call.begin > commit.end and call.name == "unlink"]
    assert not removed or removed[0].begin > after[0].end, "the old output is removed before the new one's name is on disk"
    build.clear()


# --------------------------------------------------------------------------------------------------------------- signals


@rows({"SIGINT": (signal.SIGINT,), "SIGTERM": (signal.SIGTERM,), "SIGHUP": (signal.SIGHUP,)})
def test_signal_once(case, number):
    """Ends the run, and what is on disk stays for the next."""
    build = build_of(case, "moe")
    kept = 0
    for at in numbers(build, 1 if number == signal.SIGINT else 9):
        run = build.run(f"{at}:signal={int(number)}")
        if not build.must_be_whole_or_old(run):
            run.exits(130).says("interrupted")
            build.must_be_tidy(run)
            kept += bool(build.claims())
        build.must_finish(*(["continu"] if build.claims() else []))
        build.clear()
    assert kept or is_sanitized(case), "no interrupted run left anything to continue"


def test_signal_twice(case):
    """The second one: nothing is kept. (Two of one kind could become one where they meet.)"""
    build = build_of(case, "moe")
    for at in numbers(build, 2):
        run = build.run(f"{at}:signal=2,{at + 1}:signal=15")
        if build.must_be_whole_or_old(run) or run.call(at + 1) is None:
            build.clear()
            continue
        if run.code != -signal.SIGTERM:  # both came before there was anything to remove
            run.exits(130).says("interrupted")
        if left := [path.name for path in build.disk.iterdir()]:
            run.fail(f"left behind after two signals at the calls {at} and {at + 1}: {left}")


# ------------------------------------------------------------------------------------------------------- single files


@rows({"errno": (f"errno={errno.ENOSPC}",), "short": ("short",), "kill": ("kill",)})
def test_gguf(case, fault):
    """A GGUF file appears whole or not at all, too."""
    model = tiny_model("base", num_hidden_layers=1)
    model.files["tokenizer.json"] = json.dumps(tokenizer(merges=True)).encode()
    case.model("base", model)
    build = Build(case, words=("gguf", "base"), out="out.gguf", shard=None)
    for number in numbers(build, 2, wanted=lambda call: fault != "short" or call.is_write):
        run = build.run(f"{number}:{fault}")
        build.must_be_whole_or_old(run)
        if fault == "short":
            run.exits(0)
        if run.code == 1:
            check_refusal(build, run, errno.ENOSPC)
            assert content(build.disk) in ({}, {"out.gguf": build.expected}), f"{sorted(content(build.disk))} after {number}"
        build.clear()
