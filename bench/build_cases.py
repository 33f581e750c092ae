"""What builds.py measures: models of one shape, `moerge moe` on them beside its peers, on XFS, and killed half way."""
import contextlib
import dataclasses
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import make_models
from measure import drop_caches, evict, run, run_measured, touch_free_memory, warm

MAKER = pathlib.Path(make_models.__file__)
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}  # of OpenMP's threads, as moerge's tests set it
FAMILY_EXPERTS = {"code": "a", "maths": "b", "prose": "c", "dialogue": "base"}  # -> whose prompts in make_models.py
MARGIN = 1 << 30  # bytes of the disk that stay free


@dataclasses.dataclass(frozen=True)
class Case:
    """YAML files for all gate modes in `folder`, the models they name, and what a build of them writes."""
    name: str
    folder: pathlib.Path
    base: pathlib.Path
    sources: list
    result_bytes: int
    source_bytes: int

    def build(self, moerge, mode, out):
        return [moerge, "moe", self.folder / f"{mode}.yaml", out, "--quiet"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def weights(folder):
    return sorted(folder.glob("*.safetensors"))


def size_of(files):
    return sum(file.stat().st_size for file in files)


def shape_of(name, layers):
    shape = make_models.SHAPES[name]
    return dataclasses.replace(shape, layers=layers) if layers else shape


def sizes(name, layers):
    """Bytes of the sources and of the result, without the headers."""
    shape = shape_of(name, layers)
    model = make_models.model_bytes(shape)
    ffn = sum(make_models.bytes_of(it) for tensor, it in make_models.tensors(shape) if ".mlp." in tensor)
    return model * len(shape.models), model + ffn * (len(shape.models) - 1)


def make_case(name, folder, layers):
    """Makes the models below `folder`, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == "tiny":
        family = make_models.FAMILY
        make_models.write_yamls(folder, family / "base", {family / it: make_models.PROMPTS[prompts]
                                                          for it, prompts in FAMILY_EXPERTS.items()})
        sources = [file for it in ("base", *FAMILY_EXPERTS) for file in weights(family / it)]
        return Case(name, folder, family / "base", sources, size_of(sources), size_of(sources))
    say(f"{name}: making the models")
    run([sys.executable, MAKER, folder, "--shape", name, *(["--layers", str(layers)] if layers else [])])
    sources = sorted(folder.glob("*/*.safetensors"))
    return Case(name, folder, folder / "base", sources, sizes(name, layers)[1], size_of(sources))


# ---- the page cache

def memory_bytes():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


class PageCache:
    """Before each command: its files in the page cache and the others not, where all files of a command fit into half of the
    memory; else nothing is in it."""

    def __init__(self, case, peer):
        self.files, self.result_bytes = [*case.sources, *peer], case.result_bytes
        self.warm = max(size_of(case.sources), size_of(peer)) <= memory_bytes() / 2

    def prepare(self, files):
        os.sync()
        if not self.warm:
            self.dropped = drop_caches()
        if self.warm or not self.dropped:
            evict(set(self.files) - set(files) if self.warm else self.files)
        if self.warm:
            warm(files)
            touch_free_memory(3 * self.result_bytes)  # what is touched is not all that is handed out

    def __str__(self):
        if self.warm:
            return "sources in the page cache, and three times as much free memory touched as the result takes"
        return "page cache dropped before each command" if self.dropped else "sources evicted from the page cache before each command"


# ---- rounds

def folder_to_copy(case, moerge, scratch):
    """The result of a build; where the disk has no room for it and a copy of it besides, source files of as many bytes."""
    folder = scratch / "reference"
    shutil.rmtree(folder, ignore_errors=True)
    if shutil.disk_usage(scratch).free > 2 * case.result_bytes + MARGIN:
        run(case.build(moerge, "random", folder), **PASSIVE)
        return folder, "of the result"
    folder.mkdir()
    left = case.result_bytes
    for number, file in enumerate(case.sources):
        if file.stat().st_size <= left:
            os.link(file, folder / f"{number}.safetensors")
            left -= file.stat().st_size
        else:
            subprocess.run(["dd", f"if={file}", f"of={folder / 'part'}", "bs=1M", "iflag=count_bytes", f"count={left}", "status=none"],
                           check=True)
            break
    return folder, "of as many bytes of the sources"


def measure_rounds(case, a, scratch):
    """Row name -> one Usage a round; and a sentence on how."""
    result = scratch / "result"
    copied, what = folder_to_copy(case, a.moerge, scratch)
    peer = [file for file in copied.iterdir() if file.is_file()]
    cache, rows = PageCache(case, peer), {}

    def once(name, command, files, **environment):
        cache.prepare(files)
        rows.setdefault(name, []).append(run_measured(command, **environment))
        say(f"{case.name}, {name}: {rows[name][-1]}")

    for _ in range(a.rounds):
        once("read of the base, `cat BASE/*`", ["cat", *weights(case.base)], weights(case.base))
        shutil.rmtree(result, ignore_errors=True)
        once(f"`cp -r` {what}", ["cp", "-r", copied, result], peer)
        rows.setdefault("`sync -f` after it", []).append(run_measured(["sync", "-f", result]))
        for mode in make_models.GATE_MODES:
            shutil.rmtree(result)
            once(f"`moerge moe`, {mode}", case.build(a.moerge, mode, result), case.sources, **PASSIVE)
        if a.mergekit and case.name != "7b":
            shutil.rmtree(result)
            once("`mergekit-moe`, hidden", [a.mergekit, case.folder / "hidden.yaml", result, "--quiet"], case.sources,
                 HF_HUB_OFFLINE="1")
    shutil.rmtree(result)
    shutil.rmtree(copied)
    return rows, f"{a.rounds} rounds, each with every command once; {cache}"


# ---- killed and resumed

def measure_resume(case, a, scratch):
    """A build killed when half of it is written, and the same command again: Markdown."""
    result = scratch / "resumed"
    cache = PageCache(case, [])
    command = case.build(a.moerge, "random", result)
    cache.prepare(case.sources)
    whole = run_measured(command, **PASSIVE)
    shard = max(file.stat().st_size for file in weights(result)) / 1e6
    shutil.rmtree(result)
    lines = ["| killed after MB | MB of the second run | repeated MB | second run, wall s | undisturbed, wall s |", "|---|---|---|---|---|"]
    for _ in range(a.rounds):
        cache.prepare(case.sources)
        first = run_measured(command, kill_after=whole.written / 2, **PASSIVE)
        if not first.killed:
            sys.exit(f"{case.name}: the build was over before it could be killed; it is too small for this measurement")
        second = run_measured(command, **PASSIVE)
        say(f"{case.name}, resumed: {first} {second}")
        lines.append(f"| {first.written:.0f} | {second.written:.0f} | {first.written + second.written - whole.written:.0f} | "
                     f"{second.wall:.1f} | {whole.wall:.1f} |")
        shutil.rmtree(result)
    return "\n".join([f"`moerge moe`, gate_mode random, killed (SIGKILL) when half of its {whole.written:.0f} MB were written, and the same "
                      f"command again. Its largest shard has {shard:.0f} MB.", "", *lines])


# ---- a file system that shares blocks

@contextlib.contextmanager
def mounted_xfs(scratch, size):
    """A folder with an XFS of `size` bytes in it, None where such a thing cannot be mounted. The file it lies in is sparse."""
    image, place = scratch / "xfs.image", scratch / "xfs"
    place.mkdir(exist_ok=True)
    try:
        with open(image, "wb") as file:
            file.truncate(size)
        try:
            subprocess.run(["mkfs.xfs", "-q", "-f", "-m", "reflink=1", image], check=True, capture_output=True)
            subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", b"").decode().strip() or str(error)
            say(f"no measurement on XFS, it cannot be made and mounted here: {reason}")
            yield None
            return
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        image.unlink(missing_ok=True)
        place.rmdir()


def free_bytes(place):
    """When nothing is left to be written or freed."""
    before = None
    while True:
        subprocess.run(["sync", "-f", place], check=True)
        state = os.statvfs(place)
        if state.f_bfree == before:
            return state.f_bfree * state.f_frsize
        before = state.f_bfree
        time.sleep(0.5)


def measure_xfs(name, a, scratch):
    """Markdown, or None where XFS cannot be mounted."""
    source_bytes, result_bytes = sizes(name, a.layers)
    with mounted_xfs(scratch, source_bytes + 2 * result_bytes + 4 * MARGIN) as place:
        if not place:
            return None
        case = make_case(name, place, a.layers)
        reference, result = place / "reference", place / "result"
        run(case.build(a.moerge, "random", reference), **PASSIVE)
        peer = weights(reference)
        cache, rows = PageCache(case, peer), {}
        commands = {"`cp -r --reflink=always` of the result": (["cp", "-r", "--reflink=always", reference, result], peer),
                    "`moerge moe`, random": (case.build(a.moerge, "random", result), case.sources)}
        for _ in range(a.rounds):
            for label, (command, files) in commands.items():
                cache.prepare(files)
                before = free_bytes(place)
                usage = run_measured(command, **PASSIVE)
                synced = usage.wall + run_measured(["sync", "-f", place]).wall
                rows.setdefault(label, []).append((usage.wall, synced, (before - free_bytes(place)) / 1e6))
                say(f"{name} on XFS, {label}: {rows[label][-1]}")
                shutil.rmtree(result)
        megabytes = size_of(peer) / 1e6
    lines = ["| command | wall s | with `sync -f` after it, wall s | new space MB | of the result |", "|---|---|---|---|---|"]
    for label, row in rows.items():
        wall, synced, space = (statistics.median(column) for column in zip(*row))
        lines.append(f"| {label} | {wall:.2f} | {synced:.2f} | {space:.1f} | {100 * space / megabytes:.2f} % |")
    return "\n".join([f"The result has {megabytes:.0f} MB; its sources lie on the same XFS, loop-mounted; medians of {a.rounds} rounds.", "",
                      *lines])
