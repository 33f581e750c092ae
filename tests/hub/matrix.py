#!/usr/bin/env python3
"""Every client uploads one folder to a fake Hub of its own, every client downloads what it uploaded: equal bytes, equal
commits, equal caches, and each goes on offline with what another one fetched.

usage: matrix.py [MOERGE] [--clients python,js,moerge] [-k SUBSTRING]

Without MOERGE the official clients alone show that the fake Hub is one. Installs them if they are missing; ends with
"N passed, M failed". README.md says what of a cache is compared.
"""
import argparse, contextlib, json, os, random, struct, subprocess, sys, tempfile, traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import fakehub
import witness
from witness import Witnesses, cache_of, cache_tree, contents, differences, environment

CHUNK = 1 << 20  # of the Hub: a larger file is uploaded in parts
DOWNLOADERS = ("python", "moerge")  # the JavaScript client knows neither local folders nor offline use
NAME = "tester/model"
ODD_NAME = "na me + ä ☃%41&#?.txt"


def safetensors(seed, tensors):
    """A file with float32 vectors of these lengths."""
    header, data, values = {}, b"", random.Random(seed)
    for name, length in tensors.items():
        header[name] = {"dtype": "F32", "shape": [length], "data_offsets": [len(data), len(data) + 4 * length]}
        data += values.randbytes(4 * length)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def write_model(folder):
    """A model folder with every kind of file that clients treat differently."""
    shards = {f"model-0000{i}-of-00002.safetensors": {f"layer.{i}.weight": length} for i, length in ((1, 400_000), (2, 900))}
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    files = {
        "README.md": "---\nlicense: apache-2.0\nbase_model:\n- tester/base\ntags:\n- moe\n---\n# Ärger\n".encode(),
        "config.json": b"{\"model_type\": \"mixtral\"}\n",
        "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": weight_map}).encode(),
        "nested/folder/vocab.txt": b"a\nb\n",
        "nested/weights.bin": random.Random(3).randbytes(300),  # large by its name
        "nested/raw": b"\0\1\2" * 100,  # large by its content
        "empty.txt": b"",
        "empty.bin": b"",
        ODD_NAME: b"a name that has to be encoded\n",
        "twin.txt": b"a\nb\n",  # the same content as vocab.txt: one blob
        **{file: safetensors(i, tensors) for i, (file, tensors) in enumerate(shards.items())},
    }
    for name, content in files.items():
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert max(map(len, files.values())) > CHUNK
    return files


class Matrix:
    def __init__(self, folder, clients, moerge):
        self.folder, self.clients = Path(folder), clients
        self.witnesses = Witnesses(witness.setup(), moerge)
        self.files = write_model(self.folder / "model")
        self.hubs, self.serial = {}, 0

    def home(self):
        self.serial += 1
        home = self.folder / f"home{self.serial}"
        home.mkdir()
        return home

    def variables(self, hub, home=None, **more):
        return environment(home or self.home(), hub.url if hub else witness.NOBODY, **more)

    def hub(self, client):
        """The Hub that this client uploaded to."""
        if client not in self.hubs:
            raise AssertionError(f"{client} did not upload")
        return self.hubs[client]

    def downloaders(self):
        return [client for client in self.clients if client in DOWNLOADERS]

    def checks(self, hubs):
        """(name, function) in the order in which they have to run."""
        for up in self.clients:
            yield f"{up} uploads", lambda up=up: self.upload(up, hubs.enter_context(
                fakehub.start(self.folder / f"hub-{up}", chunk=CHUNK, page=5)))
        for up in self.clients:
            yield f"the commit of {up}", lambda up=up: self.same_commit(up)
            for down in self.clients:
                yield f"{up} -> {down}", lambda up=up, down=down: self.download(up, down)
        for down in self.downloaders():
            yield f"{down} again", lambda down=down: self.again(down)
            yield f"{down} fetches a revision", lambda down=down: self.revisions(down)
            yield f"{down} fetches a local folder", lambda down=down: self.local_folder(down)
            yield f"{down} fetches from olah", lambda down=down: self.olah(down)
            for other in self.downloaders():
                yield f"{other} offline after {down}", lambda one=down, two=other: self.offline(one, two)
                yield f"{other} online after {down}", lambda one=down, two=other: self.online(one, two)
            yield f"{down} offline with shared blobs", lambda down=down: self.shared_blobs(down)
            yield f"python offline after a part by {down}", lambda down=down: self.partial(down)
            if down != "python":
                yield f"caches of {down} and python", lambda down=down: self.same_cache(down)
                yield f"caches of a part of {down} and python", lambda down=down: self.same_cache(down, ["*.json"])
        if "moerge" in self.clients:
            yield "moerge uploads again", self.upload_again

    # -------------------------------------------------------------------------------------------------------- the checks

    def upload(self, client, hub):
        self.witnesses.upload(client, self.folder / "model", NAME, self.variables(hub))
        self.hubs[client] = hub
        found = hub.files(NAME)
        assert found.pop(".gitattributes")
        self.same_files(found)
        log = hub.log()
        self.no_leak(log)
        parts = [it for it in log if "/part/" in it["path"]]
        assert len(parts) == 2 and sum(it["received"] for it in parts) > CHUNK, "the large file did not come in two parts"

    def same_commit(self, client):
        """The tree of git, with its pointers to large files, has the same id whoever uploaded it."""
        ids = {}
        for name in (client, self.clients[0]):
            hub = self.hub(name)
            ids[name] = hub.store.git(NAME, "rev-parse", "HEAD^{tree}").decode().strip()
            hub.store.git(NAME, "fsck", "--strict")
            listing = {line for line in hub.store.git(NAME, "ls-tree", "-r", "HEAD").decode().splitlines()}
            ids[name] += "\n" + "\n".join(sorted(listing))
        assert len(set(ids.values())) == 1, "\n".join(ids.values())

    def download(self, up, down):
        hub, revision = self.hub(up), "main"
        if down == "js":  # it puts names into URLs as they are, so it cannot fetch one that has a % or # in it
            revision = "without"
            hub.store.git(NAME, "update-ref", "refs/heads/without", hub.head(NAME))
            hub.store.commit(NAME, "refs/heads/without", [("deletedFile", {"path": ODD_NAME})], "without")
        hub.clear()
        snapshot = self.witnesses.download(down, NAME, self.variables(hub), revision=revision)
        found = contents(snapshot)
        assert found.pop(".gitattributes")
        self.same_files(found, {ODD_NAME} if down == "js" else ())
        commit = hub.head(NAME, revision)
        assert snapshot.name == commit, f"the snapshot is {snapshot.name}, the commit {commit}"
        self.no_leak(hub.log())

    def again(self, client):
        """A second run fetches no file."""
        hub, home = self.hub(client), self.home()
        self.witnesses.download(client, NAME, self.variables(hub, home))
        before = cache_tree(cache_of(home))
        hub.clear()
        self.witnesses.download(client, NAME, self.variables(hub, home))
        self.fetched_nothing(hub)
        assert cache_tree(cache_of(home)) == before, "the second run changed the cache"

    def revisions(self, client):
        hub = self.hub(client)
        commit = hub.head(NAME)
        refs = {"side/branch": "refs/heads/side/branch", "v1": "refs/tags/v1", "refs/pr/1": "refs/pr/1"}
        for revision, ref in refs.items():
            hub.store.git(NAME, "update-ref", ref, commit)
            home = self.home()
            assert self.witnesses.download(client, NAME, self.variables(hub, home), revision=revision).name == commit
            written = witness.repo_folder(cache_of(home), NAME) / "refs" / revision
            assert written.read_bytes() == commit.encode(), f"{written}: {written.read_bytes()}"
        home = self.home()
        assert self.witnesses.download(client, NAME, self.variables(hub, home), revision=commit).name == commit
        refs = witness.repo_folder(cache_of(home), NAME) / "refs"
        assert not refs.exists() or not list(refs.iterdir()), "a commit needs no ref"

    def local_folder(self, client):
        hub, home = self.hub(client), self.home()
        local = self.folder / f"local-{client}"
        self.witnesses.download(client, NAME, self.variables(hub, home), local_dir=str(local))
        found = contents(local)
        assert found.pop(".gitattributes")
        self.same_files(found)
        for path in local.rglob("*"):
            assert not path.is_symlink(), f"{path} is a link"
        hub.clear()  # the other one finds the first one's notes and fetches nothing
        self.witnesses.download("python", NAME, self.variables(hub), local_dir=str(local))
        assert not [it for it in hub.log() if it["method"] == "GET" and ("/get/" in it["path"] or "resolve" in it["path"])]

    def olah(self, client):
        """Another server: it ignores Range, quotes no ETag, has no redirects."""
        mirrors, home = self.folder / f"mirrors-{client}", self.home()
        witness.clone_for_olah(self.hub(client), NAME, mirrors)
        with self.witnesses.olah(self.folder / f"olah-{client}", mirrors) as url:
            snapshot = self.witnesses.download(client, NAME, environment(home, url))
        found = contents(snapshot)
        assert found.pop(".gitattributes")
        self.same_files(found)

    def offline(self, first, second):
        hub, home = self.hub(first), self.home()
        fetched = self.witnesses.download(first, NAME, self.variables(hub, home))
        variables = self.variables(None, home, HF_HUB_OFFLINE="1")
        assert self.witnesses.download(second, NAME, variables) == fetched
        by_commit = self.witnesses.download(second, NAME, variables, revision=fetched.name)
        assert by_commit == fetched

    def shared_blobs(self, client):
        """A cache in which a large file lies where Python puts what it fetched from a Xet store: once for all repositories."""
        hub, home = self.hub(client), self.home()
        fetched = self.witnesses.download("python", NAME, self.variables(hub, home))
        cache = cache_of(home)
        for blob in list((witness.repo_folder(cache, NAME) / "blobs").iterdir()):
            if len(blob.name) == 64:
                shared = cache / "blobs" / blob.name[:2] / blob.name
                shared.parent.mkdir(parents=True, exist_ok=True)
                blob.rename(shared)
                blob.symlink_to(Path("..", "..", "blobs", blob.name[:2], blob.name))
        (cache / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
        before = cache_tree(cache)
        assert self.witnesses.download(client, NAME, self.variables(None, home, HF_HUB_OFFLINE="1")) == fetched
        hub.clear()
        assert self.witnesses.download(client, NAME, self.variables(hub, home)) == fetched
        self.fetched_nothing(hub)
        assert cache_tree(cache) == before, "the cache changed:\n" + differences(before, cache_tree(cache), "before", "after")

    def online(self, first, second):
        hub, home = self.hub(first), self.home()
        fetched = self.witnesses.download(first, NAME, self.variables(hub, home))
        before = cache_tree(cache_of(home))
        hub.clear()
        assert self.witnesses.download(second, NAME, self.variables(hub, home)) == fetched
        self.fetched_nothing(hub)
        after = cache_tree(cache_of(home))
        assert after == before, "the cache changed:\n" + differences(before, after, "before", "after")

    def partial(self, client):
        """Python has to see that what it finds offline is not everything."""
        hub, home = self.hub(client), self.home()
        self.witnesses.download(client, NAME, self.variables(hub, home), allow_patterns=["*.json"])
        variables = self.variables(None, home, HF_HUB_OFFLINE="1")
        snapshot = self.witnesses.download("python", NAME, variables, allow_patterns=["*.json"])
        assert sorted(contents(snapshot)) == ["config.json", "model.safetensors.index.json"], sorted(contents(snapshot))
        try:
            self.witnesses.download("python", NAME, variables)
        except witness.Failed as error:
            assert "IncompleteSnapshotError" in str(error), str(error)
        else:
            raise AssertionError("a part was taken for the whole repository")

    def same_cache(self, client, patterns=()):
        hub, trees = self.hub(client), {}
        for name in (client, "python"):
            home = self.home()
            arguments = {"allow_patterns": patterns} if patterns else {}
            self.witnesses.download(name, NAME, self.variables(hub, home), **arguments)
            trees[name] = cache_tree(cache_of(home))
        assert trees[client] == trees["python"], differences(trees[client], trees["python"], client, "python")

    def upload_again(self):
        hub = self.hub("moerge")
        before = hub.head(NAME)
        hub.clear()
        self.witnesses.upload("moerge", self.folder / "model", NAME, self.variables(hub))
        assert hub.head(NAME) == before, "nothing had changed, yet there is a new commit"
        assert not [it for it in hub.log() if it["method"] == "PUT"], "a file was sent once more"

    # --------------------------------------------------------------------------------------------------------- judging

    def same_files(self, found, without=()):
        expected = {name: content for name, content in self.files.items() if name not in without}
        if found != expected:
            raise AssertionError("other files than those of the folder:\n" + differences(found, expected, "found", "expected"))

    def fetched_nothing(self, hub):
        files = [it for it in hub.log() if it["method"] == "GET" and it["sent"] and
                 (it["origin"] != "hub" or "/resolve" in it["path"])]
        assert not files, f"fetched once more: {[it['path'] for it in files]}"

    def no_leak(self, log):
        leaks = [it for it in log if it["token"] and it["origin"] != "hub"]
        assert not leaks, f"a token left the Hub: {leaks}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("moerge", metavar="MOERGE", nargs="?", help="the program")
    parser.add_argument("--clients", help="python,js,moerge, as far as they are there")
    parser.add_argument("-k", metavar="SUBSTRING", default="", help="only checks whose name contains this; uploads always run")
    arguments = parser.parse_args()
    clients = (arguments.clients or ("python,js,moerge" if arguments.moerge else "python,js")).split(",")
    if unknown := set(clients) - {"python", "js", "moerge"}:
        sys.exit(f"no such client: {', '.join(sorted(unknown))}")
    if "moerge" in clients and not (arguments.moerge and os.access(arguments.moerge, os.X_OK)):
        sys.exit(f"{arguments.moerge or 'MOERGE'}: not an executable file")
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="moerge-hub-") as folder, contextlib.ExitStack() as hubs:
        for name, check in Matrix(folder, clients, arguments.moerge).checks(hubs):
            if arguments.k not in name and not name.endswith("uploads"):
                continue
            try:
                check()
                passed += 1
                print(f"ok   {name}", flush=True)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"FAIL {name}\n{error or traceback.format_exc()}", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
