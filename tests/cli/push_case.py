"""What the tests of moerge push need: a Hub of our own (tests/hub), a folder to upload, and judgements of what arrived."""
import contextlib, hashlib, subprocess, sys, time
from pathlib import Path

from harness import TIMEOUT_S

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "hub"))

import fakehub

CARD = "---\nlicense: apache-2.0\ntags:\n- moe\n---\n# A model\n"
REPO = "tester/model"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def noise(name, size):
    """Bytes that no other file has."""
    return b"\0" + hashlib.shake_256(name.encode()).digest(size - 1)


@contextlib.contextmanager
def hub_for(case, **options):
    with fakehub.start(case.folder / "hub", **options) as hub:
        case.uses(hub, HF_TOKEN="hf_test")
        yield hub


def model_folder(case, name="out"):
    """A folder that looks like a model; its files by name. Two of them are large: LFS has what ends in .safetensors."""
    content = {"config.json": b'{"model_type": "llama"}\n', "README.md": CARD.encode(), "tokenizer/vocab.txt": b"a\nb\n",
               "empty.txt": b"", "one.safetensors": noise("one", 300_000), "two.safetensors": noise("two", 200_000)}
    for path, text in content.items():
        case.write(f"{name}/{path}", text)
    return content


def arrived(hub, content, repo=REPO):
    """The branch has these files, bit for bit, and nothing else but the repository's own .gitattributes."""
    found = hub.files(repo)
    found.pop(".gitattributes")
    assert found == content, sorted(path for path in {*found, *content} if found.get(path) != content.get(path))


def commits(hub, repo=REPO):
    """Without the one that made the repository."""
    return len(hub.store.git(repo, "rev-list", "main").split()) - 1


def requests(hub, method, path="", origin=None):
    return [it for it in hub.log() if it["method"] == method and path in it["path"] and origin in (None, it["origin"])]


def nothing_sent(hub):
    """No request that changes something or carries a file."""
    changing = [it for it in hub.log() if it["method"] != "GET" and "validate-yaml" not in it["path"]]
    assert not changing, changing


def token_stayed(hub):
    assert not [it for it in hub.log() if it["origin"] != "hub" and (it["auth"] or it["token"])]


def start(case, *arguments):
    run = subprocess.Popen(case.command(["push", *arguments]), cwd=case.work, env=case.variables(), stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    case.started.append(run)
    return run


def until(hub, what):
    """Waits for a request in the log that fits."""
    end = time.monotonic() + TIMEOUT_S
    while not any(what(it) for it in list(hub.journal.records)):
        assert time.monotonic() < end, "the request never came"
        time.sleep(0.01)
