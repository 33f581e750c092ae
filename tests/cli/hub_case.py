"""What the tests of commands that talk with the Hub need: a Hub of our own (tests/hub), and judgements of what came from it."""
import contextlib, hashlib, random, subprocess, sys, time
from pathlib import Path

from harness import TIMEOUT_S, Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "hub"))
import fakehub

REPO, TOKEN = "tester/m", "hf_test"
WEIGHTS = "model.safetensors"
BIG = 3_000_000
NOW = {"Retry-After": "0"}  # else tests would wait


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def small_files():
    """One of each kind: small, large, empty, in folders, twice the same content."""
    return {"config.json": b'{"a": 1}\n', WEIGHTS: noise(400_000), "tokenizer/a b.json": b"{}\n", "empty.txt": b"",
            "original/copy.safetensors": noise(400_000), "original/deep/er/x.bin": noise(5000, 2)}


@contextlib.contextmanager
def a_hub(case, files=None, repo=REPO, token=None, page=1000, **meta):
    """A Hub that has one repository, and the environment that leads to it."""
    with fakehub.start(case.folder / "hub", page=page) as hub:
        add_files(case, hub, small_files() if files is None else files, repo, **meta)
        case.uses(hub, no_proxy="*")
        if token:
            case.environment["HF_TOKEN"] = token
        hub.clear()
        yield hub


def add_files(case, hub, files, repo=REPO, **how):
    folder = case.folder / "seed"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return hub.seed(repo, folder, **how)


def cache_of(case, repo=REPO):
    return case.folder / ".cache/huggingface/hub" / ("models--" + repo.replace("/", "--"))


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def repository_files(hub, repo=REPO, revision="main"):
    return {path: content for path, content in hub.files(repo, revision).items()}


def start(case, *arguments):
    run = subprocess.Popen(case.command(["pull", *arguments]), cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    case.started.append(run)
    return run


def finish(run):
    out, error = run.communicate(timeout=TIMEOUT_S)
    return Result(run.args, run.returncode, out.decode(), error.decode())


def the_partial(case, at_least=1):
    """Waits until the partial file of the weights has grown so far."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        path = cache_of(case) / "blobs" / (hashlib.sha256(noise(BIG)).hexdigest() + ".incomplete")
        if path.exists() and path.stat().st_size >= at_least:
            return path
        time.sleep(0.01)
    raise AssertionError("no partial file")


def transfers(hub):
    """Requests for the bytes of large files."""
    return [it for it in hub.log() if it["origin"] == "cdn" and it["method"] == "GET"]


def nothing_wrong(case, hub, repo=REPO):
    """Whatever has its final name has the right content."""
    for path in cache_of(case, repo).glob("blobs/*"):
        if path.suffix == ".incomplete":
            continue
        content = path.read_bytes()
        found = {hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
        assert path.name in found, f"{path} has other content"
    for path in cache_of(case, repo).glob("snapshots/*/**/*"):
        assert not path.is_symlink() or path.exists(), f"{path} points to nothing"


def no_token_left(hub):
    assert not [it for it in hub.log() if it["origin"] != "hub" and (it["token"] or it["auth"])]
