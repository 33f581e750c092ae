"""A build that was cut off continues with the same command, and ends as if nothing had happened; when its input or its
journal is no longer what it was, it starts anew."""
import json, os, random, shutil, signal, subprocess, time

from fault_case import JOURNAL, SHARD, Build, claimed, content, is_sanitized, written_again
from harness import rows
from tiny_models import tiny_model

# ------------------------------------------------------------------------------------------------------------------ kills


def cut_off(build, part=0.5):
    """The remains of a run that was killed after this part of its journal."""
    build.clear()
    run = build.run(f"{build.moment(part)}:kill")
    if not build.claims():
        run.fail("the journal of the killed run claims nothing")
    return run


@rows({"one thread": (["-j1"], 1), "two threads": (["-j2"], 2), "overwrite": (["--overwrite"], 3)})
def test_killed_at_random_moments(case, flags, seed):
    build = Build(case, *flags)
    delay = 3000  # microseconds a call: the build is slow, and killed anywhere
    process = build.start(delay=delay)
    wait_for_calls(build)
    start = time.monotonic()
    build.ended(process).exits(0)
    whole, chance, halfway, kills = time.monotonic() - start, random.Random(seed), 0, 0
    wanted, needed = (8, 1) if is_sanitized(case) else (20, 3)
    while kills < wanted or halfway < needed:
        assert kills < 3 * wanted, f"only {halfway} of {kills} runs were killed halfway"
        build.clear()
        process = build.start(delay=delay)
        wait_for_calls(build)
        time.sleep(chance.uniform(0, whole))
        process.kill()
        kills += 1
        run = build.ended(process)
        continues = not build.must_be_whole_or_old(run) and build.claims() > 0
        halfway += continues
        resumed = build.must_finish(*(["continu"] if continues else []))
        if continues and (again := written_again(resumed, claimed(build, run))):
            resumed.fail(f"wrote again what was on disk: {sorted(again)}")


def wait_for_calls(build):
    """Until the run touches the disk."""
    end = time.monotonic() + 60
    while not (build.trace.exists() and build.trace.stat().st_size):
        assert time.monotonic() < end, "no call to the disk in a minute"
        time.sleep(0.001)


@rows({"one thread": (["-j1"], 4), "two threads": (["-j2"], 5)})
def test_killed_until_done(case, flags, seed):
    """Every run is killed a little after it has begun; each goes on where the one before was."""
    build = Build(case, *flags)
    chance, total, sure, runs = random.Random(seed), len(build.reference.calls), set(), 0
    while not build.is_complete():
        assert runs < 60, f"not done after {runs} runs of a part of a build"
        latest = total if runs else 2 * total // 3  # how many calls there are differs with two threads
        run = build.run(f"{chance.randint(total // 3, latest)}:kill")
        if again := written_again(run, sure):
            run.fail(f"wrote again what was on disk: {sorted(again)}")
        build.must_be_whole_or_old(run)
        sure |= claimed(build, run)
        runs += 1
    build.must_finish()
    assert runs > 1


def test_repeats_less_than_a_shard(case):
    """However late the kill, what both runs write into shards is at most one shard more than the whole."""
    build = Build(case)
    shards = [len(data) for name, data in build.expected.items() if SHARD.match(name)]

    def written(run):  # without headers
        return sum(call.result for call in run.calls if call.is_write and call.done and SHARD.match(call.file) and call.offset > 0)

    for part in (0.2, 0.5, 0.9):
        first = cut_off(build, part)
        second = build.must_finish("continu")
        assert written(first) + written(second) <= sum(shards) + max(shards), \
            f"{written(first)} + {written(second)} bytes written for {sum(shards)} in shards of at most {max(shards)}"


def test_killed_just_before_the_rename(case):
    """All tensors are on disk, so none is written again, whichever of the last calls was the one too many."""
    build = Build(case)
    last = build.reference.commit.number
    for number in range(last, max(call.number for call in build.reference.calls if SHARD.match(call.file)), -1):
        run = build.run(f"{number}:kill")
        sure = claimed(build, run)
        resumed = build.must_finish()
        if again := written_again(resumed, sure):
            resumed.fail(f"killed at call {number} of {last}: wrote again what was on disk: {sorted(again)}")
        build.clear()


def test_hidden_build_continues(case):
    """Routers that are computed from the model are what they would have been."""
    case.yaml("hidden")
    build = Build(case)
    for part in (0.3, 0.8):
        cut_off(build, part)
        build.must_finish("continu")


def test_verify_of_a_continued_build(case):
    build = Build(case, "--verify")
    cut_off(build)
    build.must_finish("continu")


def test_other_number_of_threads_continues(case):
    build = Build(case)
    cut_off(build)
    build.flags[build.flags.index("-j1")] = "-j3"
    build.must_finish("continu")


def test_old_output_stays_until_the_end(case):
    build = Build(case, "--overwrite")
    run = cut_off(build)
    assert content(build.out) == build.old
    build.run(f"{len(run.calls)}:signal=15")
    assert content(build.out) in (build.old, build.expected)
    build.must_finish()


# ------------------------------------------------------------------------------------------------------------- full disk


def test_full_disk_and_room_again(case):
    case.path("disk").mkdir()
    disk = case.tmpfs("disk", "80m")
    build = Build(case)
    process = build.stopped(f"{build.moment(0.3)}:pause")
    with open(disk / "filler", "wb") as filler:
        try:
            while True:
                os.write(filler.fileno(), bytes(1 << 16))
        except OSError:
            pass
    while True:  # the last page, too
        try:
            with open(disk / f"filler{random.random()}", "wb") as filler:
                os.write(filler.fileno(), bytes(4096))
        except OSError:
            break
    process.send_signal(signal.SIGCONT)
    run = build.ended(process).exits(1).says("No space left on device")
    for path in disk.glob("filler*"):
        path.unlink()
    build.must_be_whole_or_old(run)
    assert build.claims(), "nothing is left to continue"
    build.must_finish("continu")


# ------------------------------------------------------------------------------------------------------- changed input


def edit_yaml(case, build):
    text = case.path("moe.yaml").read_text()
    case.path("moe.yaml").write_text(text.replace("0.1", "0.2"))


def comment_in_yaml(case, build):
    case.path("moe.yaml").write_text("# mine\n" + case.path("moe.yaml").read_text())


def change_weights(case, build):
    """Same size, other values, a later time of change."""
    file = case.path("two/model.safetensors")
    data, stat = bytearray(file.read_bytes()), file.stat()
    for i in range(len(data) - 40_000, len(data), 2):
        data[i] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))


def replace_weights(case, build):
    """A file of another size: its header has more spaces, its values are others."""
    model = tiny_model("another", num_hidden_layers=1)
    model.write(case.path("one"))
    file = case.path("one/model.safetensors")
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    file.write_bytes((length + 16).to_bytes(8, "little") + data[8:8 + length] + b" " * 16 + data[8 + length:])


def change_tokenizer(case, build):
    file = case.path("base/tokenizer_config.json")
    file.write_text(file.read_text().replace("{", '{"model_max_length": 77, ', 1))


def change_type(case, build):
    case.path("moe.yaml").write_text("dtype: float32\n" + case.path("moe.yaml").read_text())


def change_flag(*flags):
    return lambda case, build: build.flags.extend(flags)


def change_shards(case, build):
    build.flags[build.flags.index("--out-shard-size") + 1] = "20kB"


CHANGES = {
    "YAML": (edit_yaml, True), "values of a source": (change_weights, True), "size of a source": (replace_weights, True),
    "seed": (change_flag("--random-seed", "7"), True), "dtype": (change_type, True), "shards": (change_shards, True),
    "layout": (change_flag("--layout", "fused"), True), "comment in the YAML": (comment_in_yaml, None),
    "tokenizer": (change_tokenizer, None), "card": (change_flag("--no-write-model-card"), None),
}


@rows(CHANGES)
def test_changed_input(case, change, anew):
    """Starts anew and says so where a tensor may have changed; the rest may also be continued. The result is the new input's."""
    build = Build(case)
    cut_off(build)
    change(case, build)
    build.expect_new()
    run = build.must_finish(*(["anew"] if anew else []))
    if anew and "continu" in run.stderr:
        run.fail("says that it continues")


def test_other_config_for_the_same_output(case):
    """What another mixture left is not taken for this one's."""
    build = Build(case)
    cut_off(build)
    case.yaml(text="base_model: base\ngate_mode: random\nexperts: [{source_model: two}, {source_model: one}]\n", file="other.yaml")
    build.words = ("moe", "other.yaml")
    build.expect_new()
    build.must_finish("anew")


# ---------------------------------------------------------------------------------------------------- damaged remains


def lines_of(build):
    return (build.partial / JOURNAL).read_bytes().splitlines(keepends=True)


def write_journal(build, data):
    (build.partial / JOURNAL).write_bytes(data)


def absurd(value):
    """Replaces every number of the journal's lines after the head, however deep."""
    def change(found):
        if isinstance(found, dict):
            return {key: change(inner) for key, inner in found.items()}
        if isinstance(found, list):
            return [change(inner) for inner in found]
        return value if isinstance(found, (int, float)) and not isinstance(found, bool) else found

    def damage(build):
        head, *rest = lines_of(build)
        write_journal(build, head + b"".join(json.dumps(change(json.loads(line))).encode() + b"\n" for line in rest))
    return damage


def cut_journal(to):
    def damage(build):
        data = (build.partial / JOURNAL).read_bytes()
        write_journal(build, data[:int(len(data) * to)])
    return damage


def foreign_journal(build):
    """The journal of another build that was nearly done: it claims almost everything, under another plan's hash."""
    kept = build.partial.rename(build.case.path("kept"))
    build.flags += ["--random-seed", "7"]
    build.run(f"{build.moment(0.5)}:kill")
    foreign = (build.partial / JOURNAL).read_bytes()
    del build.flags[-2:]
    shutil.rmtree(build.partial)
    kept.rename(build.partial)
    write_journal(build, foreign)


def lines_twice(build):
    head, *rest = lines_of(build)
    write_journal(build, head + b"".join(rest * 3))


def no_head(build):
    write_journal(build, b"".join(lines_of(build)[1:]))


def torn_line(build):
    """Its last line is half there, and the next run's lines must not be glued to it."""
    write_journal(build, (build.partial / JOURNAL).read_bytes() + lines_of(build)[-1][:-5])


def appended(data):
    return lambda build: write_journal(build, (build.partial / JOURNAL).read_bytes() + data)


def each_shard(action):
    def damage(build):
        for path in build.partial.iterdir():
            if SHARD.match(path.name):
                action(path)
    return damage


def first_shard(action):
    def damage(build):
        action(min(path for path in build.partial.iterdir() if SHARD.match(path.name)))
    return damage


def replaced(make):
    """Another thing in the place of the file."""
    def act(path):
        path.unlink()
        make(path)
    return act


def journal(action):
    return lambda build: action(build.partial / JOURNAL)


VICTIM = b"somebody's file\n" * 1000


def link_to_victim(path):
    path.unlink(missing_ok=True)
    path.symlink_to(path.parent.parent.parent / "victim")


def hard_link_to_victim(path):
    path.unlink(missing_ok=True)
    os.link(path.parent.parent.parent / "victim", path)


DAMAGE = {
    "journal is garbage": lambda build: write_journal(build, random.Random(1).randbytes(5000)),
    "journal is empty": lambda build: write_journal(build, b""),
    "journal is zeros": lambda build: write_journal(build, bytes(4096)),
    "journal is one long line": lambda build: write_journal(build, b"[" * 1_000_000),
    "journal is huge": lambda build: os.truncate(build.partial / JOURNAL, 1 << 40),
    "journal is gone": journal(lambda path: path.unlink()),
    "journal has no head": no_head,
    "journal is another build's": foreign_journal,
    "journal is said three times": lines_twice,
    "journal has a torn line": torn_line,
    "journal ends in garbage": appended(b"\xff\xfe\x00{]\n"),
    "journal ends in zeros": appended(bytes(512)),
    "journal ends in other JSON": appended(b'null\n[]\n{}\n"x"\n17\n{"tensors": {}}\n{"done": [[[[]]]]}\n'),
    "journal ends in deep JSON": appended(b"[" * 100_000 + b"]" * 100_000 + b"\n"),
    "journal is a link": journal(replaced(link_to_victim)),
    "journal is a hard link": journal(replaced(hard_link_to_victim)),
    "journal is a folder": journal(replaced(lambda path: path.mkdir())),
    "journal is a pipe": journal(replaced(lambda path: os.mkfifo(path))),
    "journal may not be read": journal(lambda path: path.chmod(0)),
    "shards are gone": each_shard(lambda path: path.unlink()),
    "a shard is gone": first_shard(lambda path: path.unlink()),
    "a shard is empty": first_shard(lambda path: os.truncate(path, 0)),
    "a shard is short": first_shard(lambda path: os.truncate(path, path.stat().st_size - 1)),
    "a shard is long": first_shard(lambda path: os.truncate(path, path.stat().st_size + 1)),
    "a shard is huge": first_shard(lambda path: os.truncate(path, 1 << 40)),
    "a shard is a link": first_shard(replaced(link_to_victim)),
    "shards are links": each_shard(replaced(link_to_victim)),
    "a shard is a hard link": first_shard(replaced(hard_link_to_victim)),
    "a shard is a folder": first_shard(replaced(lambda path: path.mkdir())),
    "a shard is a pipe": first_shard(replaced(lambda path: os.mkfifo(path))),
    "config.json is a link": lambda build: link_to_victim(build.partial / "config.json"),
    "README.md is a hard link": lambda build: hard_link_to_victim(build.partial / "README.md"),
    "a folder more": lambda build: shutil.copytree(build.partial, build.partial / "sub"),
    "a shard more": lambda build: (build.partial / "model-00099-of-00099.safetensors").write_bytes(b"old"),
    **{f"numbers of the journal are {value}": absurd(value)
       for value in (-1, 1 << 31, 1 << 62, 1 << 63, 1 << 64, 1e300, 0.5, "17", None, [], {})},
    **{f"journal is cut at {percent} %": cut_journal(percent / 100) for percent in range(5, 100, 10)},
}


@rows({name: (damage,) for name, damage in DAMAGE.items()})
def test_damaged_remains(case, damage):
    """Whatever lies in the partial folder: continued rightly or started anew, never a wrong OUT, and no file elsewhere is
    written."""
    if is_sanitized(case) and list(DAMAGE.values()).index(damage) % 4:
        return
    victim = case.write("victim", VICTIM)
    build = Build(case)
    cut_off(build)
    damage(build)
    build.must_finish()
    assert victim.read_bytes() == VICTIM, "a file elsewhere was written"
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in build.out.iterdir()), "OUT has links"


# ------------------------------------------------------------------------------------------------- more than one program


def test_two_builds_into_one_folder(case):
    """One waits in the middle, the other is refused at once, the first ends as if it had been alone."""
    build = Build(case)
    for part in (0.1, 0.5, 0.95):
        process = build.stopped(f"{int(len(build.reference.calls) * part)}:pause")
        case.moe("--out-shard-size", "12kB", out="disk/out").exits(1).says("another moerge is writing")
        process.send_signal(signal.SIGCONT)
        run = build.ended(process).exits(0)
        if not build.is_complete():
            run.fail("OUT is not what it should be")
        build.clear()


def test_two_builds_continue_at_once(case):
    build = Build(case)
    for _ in range(2 if is_sanitized(case) else 10):
        cut_off(build)
        both = [subprocess.Popen(build.command, cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
        ends = [process.communicate(timeout=60)[1].decode() for process in both]
        codes = sorted(process.returncode for process in both)
        assert codes[0] == 0 and codes[1] in (1, 2), f"{codes}: {ends}"
        assert build.is_complete() and content(build.disk).keys() == {f"out/{name}" for name in build.expected}


# --------------------------------------------------------------------------------------- sources that change underfoot

# The second expert's values are computed (a noise is added), everything else is copied.
MEANWHILE = {
    "truncated": lambda path: os.truncate(path, 4096),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "rewritten in place": lambda path: rewrite(path),
    "replaced": lambda path: (path.rename(path.with_suffix(".old")), path.write_bytes(inverted(path.with_suffix(".old")))),
    "grown": lambda path: os.truncate(path, path.stat().st_size + 4096),
}


def inverted(path):
    data = path.read_bytes()
    return data[:len(data) - 30_000] + bytes(byte ^ 1 for byte in data[len(data) - 30_000:])


def rewrite(path):
    data = inverted(path)
    with open(path, "r+b") as file:
        file.write(data)


@rows({f"{source} {name}": (source, change) for source in ("one", "two") for name, change in MEANWHILE.items()})
def test_source_changes_during_the_build(case, source, change):
    """Refused, or right: what the source was at the start."""
    build = Build(case, hidden_size=64, intermediate_size=96)
    file = case.path(f"{source}/model.safetensors")
    data, stat = file.read_bytes(), file.stat()
    for part in (0.2,) if is_sanitized(case) else (0.1, 0.3, 0.5, 0.7, 0.9):
        build.clear()
        process = build.stopped(f"{int(len(build.reference.calls) * part)}:pause")
        change(file)
        process.send_signal(signal.SIGCONT)
        run = build.ended(process)
        if not build.must_be_whole_or_old(run):
            run.exits(1)
            sentences = [line for line in run.stderr.splitlines() if line.startswith("moerge: ")]
            if len(sentences) != 1 or f"/{source}" not in sentences[0]:
                run.fail("expected one sentence about the source")
        elif run.code != 0:
            run.fail("an error, but OUT is there")
        file.unlink(missing_ok=True)
        file.write_bytes(data)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        if run.code != 0:
            build.must_finish()


@rows({"weights": ("two/model.safetensors",), "all": ("two",)})
def test_source_in_the_output_behind_a_link(case, name):
    """A source that is a link to what --overwrite would remove."""
    case.fill_in()
    shutil.copytree(case.path("two"), case.path("out"))
    path = case.path(name)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    os.symlink(case.path("out") / name.removeprefix("two").lstrip("/"), path)
    before = content(case.path("out"))
    result = case.moe("--overwrite")
    if result.code == 0 or content(case.path("out")) != before:
        result.fail("the source is gone")
    result.exits(2)
