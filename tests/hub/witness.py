"""Clients of the Hub, each in a process of its own: moerge and the official ones that setup.sh installs."""
import contextlib, json, os, re, socket, subprocess, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 300
NOBODY = "http://127.0.0.1:9"  # the discard port: nobody answers here

PYTHON_UPLOAD = """
import sys
from huggingface_hub import HfApi
folder, name = sys.argv[1:]
api = HfApi()
api.create_repo(name, exist_ok=True)
print(api.upload_folder(repo_id=name, folder_path=folder, commit_message="upload").oid)
"""
PYTHON_DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], **json.loads(sys.argv[2])))
"""


class Failed(AssertionError):
    """A client that should have succeeded did not."""


def setup():
    """The folder of the witnesses, installed if they are missing."""
    done = subprocess.run([HERE / "setup.sh"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.strip())


def environment(home, endpoint, token="hf_test", **more):
    """Variables for a client that knows only this Hub and this home."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_", "XDG_"))}
    fixed = {"HOME": str(home), "HF_HOME": str(Path(home) / "hf"), "HF_ENDPOINT": endpoint, "HF_TOKEN": token,
             "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
             "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_WAIT_POLICY": "PASSIVE", "LC_ALL": "C.UTF-8"}
    variables = {**kept, **fixed, **more}
    return {key: value for key, value in variables.items() if value is not None}


def cache_of(home):
    return Path(home) / "hf" / "hub"


class Witnesses:
    """The clients. `folder`: where setup.sh put them; `moerge`: the program, if it takes part."""

    def __init__(self, folder, moerge=None):
        self.folder, self.moerge = Path(folder), moerge and str(Path(moerge).resolve())
        self.python = self.folder / "python" / "bin" / "python"

    def run(self, command, variables, code=0, cwd=None):
        """What a client prints; it has to end with this exit code."""
        done = subprocess.run([str(word) for word in command], env=variables, stdin=subprocess.DEVNULL, capture_output=True,
                              text=True, timeout=TIMEOUT_S, cwd=cwd)
        if done.returncode != code:
            words = " ".join(str(word)[:80] for word in command)
            raise Failed(f"{words}\nexit code {done.returncode}, expected {code}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done

    # ------------------------------------------------------------------------------------------------------- uploading

    def python_upload(self, folder, name, variables):
        return self.run([self.python, "-c", PYTHON_UPLOAD, folder, name], variables).stdout.strip()

    def js_upload(self, folder, name, variables):
        command = ["node", HERE / "js_client.mjs", "upload", folder, name]
        return self.run(command, {**variables, "HUB_JS": str(self.folder / "js")}).stdout.strip()

    def moerge_upload(self, folder, name, variables, *flags):
        return self.run([self.moerge, "push", folder, name, *flags], variables).stdout.strip()

    def upload(self, client, folder, name, variables):
        return getattr(self, f"{client}_upload")(folder, name, variables)

    # ----------------------------------------------------------------------------------------------------- downloading

    def python_download(self, name, variables, **arguments):
        """The snapshot's folder. `arguments` are those of snapshot_download: revision, local_dir, allow_patterns."""
        command = [self.python, "-c", PYTHON_DOWNLOAD, name, json.dumps(arguments)]
        return Path(self.run(command, variables).stdout.strip())

    def js_download(self, name, variables, revision="main"):
        command = ["node", HERE / "js_client.mjs", "download", name, cache_of(variables["HOME"]), revision]
        self.run(command, {**variables, "HUB_JS": str(self.folder / "js")})
        return snapshot(cache_of(variables["HOME"]), name, revision)

    def moerge_download(self, name, variables, revision=None, local_dir=None, allow_patterns=()):
        """The snapshot's folder, after `moerge pull` put it there. The arguments are those of snapshot_download."""
        command = [self.moerge, "pull", f"{name}@{revision}" if revision else name]
        command += [word for pattern in allow_patterns for word in ("--include", pattern)]
        command += ["--local-dir", local_dir] if local_dir else []
        self.run(command, variables)
        return Path(local_dir) if local_dir else snapshot(cache_of(variables["HOME"]), name, revision or "main")

    def download(self, client, name, variables, **arguments):
        return getattr(self, f"{client}_download")(name, variables, **arguments)

    # ------------------------------------------------------------------------------------------------- another server

    @contextlib.contextmanager
    def olah(self, folder, mirrors):
        """A third-party Hub that only reads, over working clones MIRRORS/models/USER/NAME; its URL."""
        folder = Path(folder)
        folder.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (folder / "olah.toml").write_text(
            f"[basic]\nhost = \"127.0.0.1\"\nport = {port}\nrepos-path = \"{folder}/repos\"\nmirrors-path = [\"{mirrors}\"]\n"
            "[accessibility]\noffline = true\n")
        variables = {**os.environ, "HOME": str(folder)}
        with open(folder / "log", "wb") as log:
            program = self.folder / "olah" / "bin" / "olah-cli"
            command = [program, "--config", folder / "olah.toml", "--log-path", folder / "logs"]
            server = subprocess.Popen(command, stdout=log, stderr=log, env=variables, cwd=folder)
        try:
            wait_for(port, server, folder / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def wait_for(port, server, log, patience_s=60):
    end = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        if server.poll() is not None or time.monotonic() > end:
            raise Failed(f"the server does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


# -------------------------------------------------------------------------------------------------------- what a cache holds


def repo_folder(cache, name):
    return Path(cache) / ("models--" + name.replace("/", "--"))


def snapshot(cache, name, revision="main"):
    folder = repo_folder(cache, name)
    commit = revision if re.fullmatch("[0-9a-f]{40}", revision) else (folder / "refs" / revision).read_text()
    return folder / "snapshots" / commit


def contents(folder):
    """Path -> bytes of every file below a folder, links followed; without a client's own notes."""
    folder = Path(folder)
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {name.as_posix(): (folder / name).read_bytes() for name in names if name.parts[0] != ".cache"}


def cache_tree(cache):
    """Everything in a cache that one client needs of another, as text by path: for a link its target, for a listing in trees/
    its JSON, for any other file its mode and content. Without locks."""
    found = {}
    for path in sorted(Path(cache).rglob("*")):
        name = path.relative_to(cache)
        if name.parts[0] == ".locks":
            continue
        if path.is_symlink():
            found[name.as_posix()] = "-> " + os.readlink(path)
        elif path.is_dir():
            found[name.as_posix()] = "folder"
        elif name.parent.name == "trees":
            found[name.as_posix()] = json.dumps(json.loads(path.read_text()), sort_keys=True)
        else:
            found[name.as_posix()] = f"{path.stat().st_mode & 0o777:o} {path.read_bytes()!r}"
    return found


def differences(one, two, first, second):
    """What two dictionaries do not agree on, as short lines."""
    lines = []
    for key in sorted(one.keys() | two.keys()):
        if one.get(key) != two.get(key):
            left, right = (str(side.get(key, "nothing"))[:160] for side in (one, two))
            lines.append(f"  {key}: {first} {left}, {second} {right}")
    return "\n".join(lines)


def clone_for_olah(hub, name, mirrors):
    """A working clone with its large files where git-lfs keeps them, as olah reads it."""
    clone = Path(mirrors) / "models" / name
    clone.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "GIT_LFS_SKIP_SMUDGE": "1", "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", "clone", "-q", hub.store.folder(name), clone], check=True, env=variables)
    for file in (hub.store.root / "lfs").iterdir():
        copy = clone / ".git" / "lfs" / "objects" / file.name[:2] / file.name[2:4] / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    return clone
