"""Builds on file systems that share blocks: the result takes neither new space nor other bytes than elsewhere."""
import array, ctypes, fcntl, json, os, shutil, signal, struct, subprocess, time

from harness import TIMEOUT_S, rows
from tiny_models import read_checkpoint, safetensors, safetensors_files, tiny_model

KINDS = {"xfs": ("xfs",), "btrfs": ("btrfs",)}
BLOCK = 4096

# Matrices of whole blocks, as real models have them, between norms and embeddings that are not.
SHAPE = dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=4)
EXPERT_BYTES = 4 * 3 * 2 * 256 * 1024
COUNT = 16  # experts, of three models


# ---------------------------------------------------------------------------------------------------------------- helpers


def models(case, folder="disk", names=("base", "one", "two"), **changes):
    for name in names:
        case.model(f"{folder}/{name}", **{**SHAPE, **changes})


def mixture(case, experts=None, top="", file="moe.yaml", folder="disk"):
    """A YAML of these experts, or of sixteen."""
    experts = experts or ["{source_model: %s}" % name for name in (["one", "two", "base"] * COUNT)[:COUNT]]
    case.yaml(text=f"base_model: base\ngate_mode: random\n{top}experts:\n" + "".join(f"  - {one}\n" for one in experts),
              file=f"{folder}/{file}")


def ready(case, kind="xfs", **how):
    case.disk("disk", kind, **how)
    models(case)
    mixture(case)
    sync(case.path("disk"))


def build(case, *flags, out="disk/out", config="disk/moe.yaml", **how):
    return case.built(*flags, out=out, config=config, **how)


def sync(folder):
    """What was written and removed is so on the disk; free space is only then what it says."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


def used(folder):
    sync(folder)
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def shared_bytes(path):
    """Bytes of a file whose blocks other files have too: FIEMAP, linux/fiemap.h."""
    head, extent, total, start = struct.Struct("=QQIIII"), struct.Struct("=QQQ16xI12x"), 0, 0
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        while True:
            room = array.array("B", head.pack(start, 2**64 - 1, 0, 0, 256, 0) + bytes(256 * extent.size))
            fcntl.ioctl(file, 0xC020660B, room)  # FS_IOC_FIEMAP
            count = head.unpack_from(room)[3]
            for i in range(count):
                at, _, length, flags = extent.unpack_from(room, head.size + i * extent.size)
                total += length if flags & 0x2000 else 0  # FIEMAP_EXTENT_SHARED
                start = at + length
                if flags & 1:  # FIEMAP_EXTENT_LAST
                    return total
            if count == 0:
                return total


def weights(folder):
    return sorted(folder.glob("*.safetensors"))


def shared(out):
    return sum(shared_bytes(file) for file in weights(out.folder))


def plan(case, *flags, out="disk/out", config="disk/moe.yaml"):
    return json.loads(case.run("plan", config, out, "--json", *flags).exits(0).stdout)


# ---------------------------------------------------------------------------------------------------------- space and time


@rows(KINDS)
def test_build_takes_no_new_space(case, kind):
    """A hundred megabytes; what is not shared are norms, embeddings, routers and the ends of shared stretches."""
    ready(case, kind)
    before = used(case.path("disk"))
    out = build(case, "--verify")
    new = used(case.path("disk")) - before
    written = sum(file.stat().st_size for file in weights(out.folder))
    assert written > COUNT * EXPERT_BYTES
    assert shared(out) > 0.98 * written, f"{shared(out)} of {written} bytes are shared"
    assert new < 0.02 * written + (1 << 20), f"{new} bytes more are used, of {written}"
    assert out.tensors == build(case, "--layout-files", "size", out="size").tensors


def test_build_by_size_shares_little(case):
    """What the layout is good for; and that the test above can fail."""
    ready(case)
    before = used(case.path("disk"))
    out = build(case, "--layout-files", "size")
    written = sum(file.stat().st_size for file in weights(out.folder))
    assert shared(out) < 0.5 * written and used(case.path("disk")) - before > 0.5 * written


@rows(KINDS)
def test_plan_says_what_is_shared(case, kind):
    ready(case, kind)
    report = plan(case)
    sizes = report["bytes"]
    assert sizes["shared"] > 0.98 * sizes["total"]
    assert sizes["shared"] + sizes["copied"] + sizes["converted"] + sizes["computed"] == sizes["total"]
    assert report["disk"]["needed"] < sizes["total"] - sizes["shared"] + (65 << 20)
    case.run("plan", "disk/moe.yaml", "disk/out").exits(0).prints("MB shared with the sources, ")
    assert plan(case, "--layout-files", "size")["bytes"]["shared"] == 0
    assert "shared with the sources" not in case.run("plan", "disk/moe.yaml", "disk/out", "--layout-files", "size").stdout
    out = build(case)
    # Extents end where a file's last block does.
    assert sizes["shared"] <= shared(out) <= sizes["shared"] + BLOCK * len(weights(out.folder))


@rows(KINDS)
def test_dry_run_leaves_nothing(case, kind):
    """Whether blocks can be shared is found out by sharing one."""
    def files():
        return {path: path.lstat().st_mtime_ns for path in case.path("disk").rglob("*")}

    ready(case, kind)
    before, space = files(), used(case.path("disk"))
    assert case.plan(config="disk/moe.yaml", out="disk/new/out")["bytes"]["shared"] > 0
    plan(case)
    assert files() == before and used(case.path("disk")) - space < 1 << 18


def test_disk_on_which_a_copy_would_not_fit(case):
    ready(case)
    disk = case.path("disk")
    with open(disk / "ballast", "wb") as file:  # all but 80 MB
        os.posix_fallocate(file.fileno(), 0, os.statvfs(disk).f_bavail * BLOCK - (80 << 20))
    sync(disk)
    assert os.statvfs(disk).f_bavail * BLOCK < COUNT * EXPERT_BYTES
    case.moe("--layout-files", "size", config="disk/moe.yaml", out="disk/out").exits(1).says("not enough space for disk/out: ")
    build(case, "--verify")


# ------------------------------------------------------------------------------------------------------ what can be shared


def on_other_file_system(case):
    case.disk("disk", "xfs")
    case.tmpfs("models", "100m")
    models(case, "models")
    mixture(case, folder="models")
    return "models/moe.yaml"


def converted(case):
    ready(case)
    mixture(case, top="dtype: float32\n")
    return "disk/moe.yaml"


def on_ext4(case):
    case.disk("disk", "ext4")
    models(case)
    mixture(case)
    return "disk/moe.yaml"


def headers_of_odd_length(case):
    """As early versions of the library wrote them: a header that is padded would not begin where they do."""
    case.disk("disk", "xfs")
    for name in ("base", "one", "two"):
        model = tiny_model(name, **SHAPE)
        content = safetensors_files(model.tensors)["model.safetensors"]
        length = struct.unpack("<Q", content[:8])[0]
        model.files["model.safetensors"] = safetensors(content[8:8 + length] + b" ", content[8 + length:])
        case.model(f"disk/{name}", model)
    mixture(case)
    return "disk/moe.yaml"


@rows({"models on another file system": (on_other_file_system,), "another dtype": (converted,), "ext4": (on_ext4,),
       "headers of odd length": (headers_of_odd_length,)})
def test_nothing_to_share(case, prepare):
    """Then the files are those of --layout-files size."""
    config = prepare(case)
    assert plan(case, config=config)["bytes"]["shared"] == 0
    out = build(case, config=config)
    assert shared(out) == 0
    assert out.content() == build(case, "--layout-files", "size", config=config, out="size/out").content()


@rows({"in another type": ("dtype",), "with noise": ("noise",), "on another file system": ("place",)})
def test_one_expert_is_shared_and_one_is_not(case, difference):
    case.disk("disk", "xfs")
    models(case)
    second = "{source_model: two}"
    if difference == "dtype":
        case.model("disk/two", tiny_model("two", dtype="F16", **SHAPE))
    elif difference == "noise":
        second = "{source_model: two, noise_scale: 0.1}"
    else:
        models(case, "elsewhere", ["two"])
        second = "{source_model: ../elsewhere/two}"
    mixture(case, ["{source_model: one}", second])
    sizes = plan(case)["bytes"]
    assert 0 < sizes["total"] - sizes["shared"] - EXPERT_BYTES < 1 << 20
    out = build(case, "--verify")
    assert sizes["shared"] <= shared(out) <= sizes["shared"] + BLOCK * len(weights(out.folder))
    assert out.tensors == build(case, "--layout-files", "size", out="size").tensors


@rows(KINDS)
def test_models_that_are_links_into_a_cache(case, kind):
    ready(case, kind)
    for name in ("base", "one", "two"):
        folder, blobs = case.path(f"disk/{name}"), case.path(f"disk/blobs/{name}")
        os.renames(folder, blobs)
        folder.mkdir()
        for file in blobs.iterdir():
            os.symlink(f"../blobs/{name}/{file.name}", folder / file.name)
    out = build(case)
    assert shared(out) > 0.98 * COUNT * EXPERT_BYTES


def test_models_on_a_mount_that_is_read_only(case):
    """The same file system at another place: kernels from 5.19 on share across mounts. What the plan says is what happens."""
    ready(case)
    case.mount("models", "a folder once more", "-o", "bind", case.path("disk"))
    subprocess.run(["mount", "-o", "remount,bind,ro", case.path("models")], check=True)
    sizes = plan(case, config="models/moe.yaml")["bytes"]
    kernel = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert sizes["shared"] > 0 or kernel < (5, 19)
    out = build(case, config="models/moe.yaml")
    assert sizes["shared"] <= shared(out) <= sizes["shared"] + BLOCK * len(weights(out.folder))
    assert out.tensors == build(case, out="size", config="models/moe.yaml").tensors


def test_models_in_several_files(case):
    case.disk("disk", "xfs")
    for name in ("base", "one", "two"):
        case.model(f"disk/{name}", tiny_model(name, **SHAPE), shards=3)
    mixture(case)
    sizes = plan(case)["bytes"]
    out = build(case, "--verify")
    assert sizes["shared"] <= shared(out) <= sizes["shared"] + BLOCK * len(weights(out.folder))
    assert sizes["shared"] > 0.8 * COUNT * EXPERT_BYTES  # a file for less than a quarter of it would not be worth it


@rows({"odd": (dict(hidden_size=200, intermediate_size=600),), "of half a block": (dict(intermediate_size=1028),)})
def test_matrices_that_are_no_whole_blocks(case, shape):
    """They shift what follows, and the blocks at both of their ends are not shared."""
    case.disk("disk", "xfs")
    models(case, **shape)
    mixture(case)
    sizes = plan(case)["bytes"]
    out = build(case, "--verify")
    assert sizes["shared"] <= shared(out) + BLOCK * len(weights(out.folder))
    assert out.tensors == build(case, "--layout-files", "size", out="size").tensors


@rows({"": ("3M",), "smaller than a matrix": ("300k",)})
def test_shards_are_no_larger_than_wanted(case, size):
    """But for a tensor that is larger by itself."""
    ready(case)
    limit = {"3M": 3_000_000, "300k": 300_000}[size]
    out = build(case, "--out-shard-size", size)
    assert len(weights(out.folder)) >= COUNT * EXPERT_BYTES // max(limit, 2 * 256 * 1024)
    for file in weights(out.folder):
        content = file.read_bytes()
        begin = 8 + struct.unpack("<Q", content[:8])[0]
        assert len(content) - begin <= limit or len(json.loads(content[8:begin])) == 2, file.name  # and __metadata__
    assert shared(out) > 0.9 * COUNT * EXPERT_BYTES
    assert out.tensors == build(case, "--layout-files", "size", out="size").tensors


def test_extract_shares(case):
    ready(case)
    build(case)
    before = used(case.path("disk"))
    case.run("extract", "disk/out", "disk/expert", "--expert", "1").exits(0)
    assert used(case.path("disk")) - before < 2 << 20
    assert sum(map(shared_bytes, weights(case.path("disk/expert")))) > 0.9 * EXPERT_BYTES
    found, expected = read_checkpoint(case.path("disk/expert")), read_checkpoint(case.path("disk/two"))
    for name in expected:
        if ".mlp." in name:
            assert found[name] == expected[name], name


# --------------------------------------------------------------------------------------------------------- what comes after


@rows(KINDS)
def test_result_does_not_need_its_sources(case, kind):
    """They are removed, or written over: the result stays."""
    ready(case, kind)
    out = build(case)
    before = out.content()
    with open(case.path("disk/one/model.safetensors"), "r+b") as file:
        file.seek(BLOCK)
        file.write(b"\0" * (1 << 20))
        os.fsync(file.fileno())
    assert out.content() == before
    for name in ("base", "one", "two"):
        shutil.rmtree(case.path(f"disk/{name}"))
    sync(case.path("disk"))
    assert out.content() == before


@rows(KINDS)
def test_build_that_was_killed_goes_on_sharing(case, kind):
    """Experts with noise take the time in which it is killed."""
    ready(case, kind)
    noisy = ["{source_model: %s, noise_scale: 0.1}" % name for name in ("one", "two") * 4]
    mixture(case, ["{source_model: one}", "{source_model: two}", "{source_model: base}"] * 3 + noisy)
    flags = ("--out-shard-size", "4M", "-j", "1")
    alone = build(case, *flags, out="disk/alone/out").content()
    command = case.command(["moe", "disk/moe.yaml", "disk/out", *flags])
    run = subprocess.Popen(command, cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    case.started.append(run)
    journal, end = case.partial("disk/out") / ".moerge-journal", time.monotonic() + TIMEOUT_S
    while not (journal.exists() and "done" in journal.read_text()):
        assert run.poll() is None and time.monotonic() < end, f"did not begin: {run.communicate()}"
        time.sleep(0.001)
    run.kill()
    run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == -signal.SIGKILL
    out = build(case, *flags)
    out.result.says("continues what an earlier run left: ")
    assert out.content() == alone
    assert shared(out) > 0.98 * 9 * EXPERT_BYTES


def test_parts_share(case):
    ready(case)
    flags = ("--out-shard-size", "20M")
    alone = build(case, *flags, "--verify", out="disk/alone/out").content()
    before = used(case.path("disk"))
    for number in (1, 2, 3):
        case.moe("--part", f"{number}/3", *flags, config="disk/moe.yaml", out="disk/out").exits(0)
    out = build(case, "--join", "--verify", *flags)
    assert out.content() == alone
    assert used(case.path("disk")) - before < 0.03 * COUNT * EXPERT_BYTES + (1 << 20)
