#!/usr/bin/env python3
"""Holds the fake Hub's refusals and faults to the official client: each has to make huggingface_hub raise, retry or go on as
it does with the Hub.

usage: errors.py        (installs the witnesses if they are missing; ends with "N passed, M failed")
"""
import os, sys, tempfile, traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.dont_write_bytecode = True

import fakehub
import witness

MIB = 1 << 20
PIECE = 10 * MIB  # what the client writes at once; it goes on from a multiple of it
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def cases(api, hub, home):
    """Name -> (what to do, the exception that it has to end with or None, faults, requests that must be in the log)."""
    from huggingface_hub import errors as e
    serial = iter(range(1000))

    def load(file=CONFIG, repo="tester/model", token=None, revision=None):
        api.hf_hub_download(repo, file, token=token, revision=revision, cache_dir=home / f"cache{next(serial)}")

    def put(content=b"x", path="a.txt", **how):
        api.upload_file(path_or_fileobj=content + str(next(serial)).encode(), path_in_repo=path, repo_id="tester/model", **how)

    def meta(**fields):
        hub.meta("tester/model", **fields)

    def card(content):
        from huggingface_hub import ModelCard
        ModelCard(content).validate()

    def cdn(**fault):
        return {"origin": "cdn", **fault}

    def list_also(path):
        """A snapshot of a repository whose listing names this path besides."""
        def run():
            hub.listing("tester/listed", [{"path": CONFIG, "content": "{}"}, {"path": path, "content": "x"}])
            api.snapshot_download("tester/listed", cache_dir=home / f"cache{next(serial)}")
        return run

    def hidden(action):
        return with_meta(action, {"private": True}, {"private": False})

    def gated(action, granted=()):
        return with_meta(action, {"gated": True, "granted": list(granted)}, {"gated": False, "granted": []})

    def with_meta(action, before, after):
        def run():
            meta(**before)
            try:
                action()
            finally:
                meta(**after)
        return run

    weights_at_the_stranger = f"{hub.stranger}/get/{hub.entry('tester/model', WEIGHTS).sha256}"
    limited = {"RateLimit": '"api";r=0;t=1', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    return {
        # what is not there
        "a file": (load, None),
        "a large file": (lambda: load(WEIGHTS), None),
        "an empty file": (lambda: load("empty.txt"), None),
        "an empty large file": (lambda: load("empty.safetensors"), None),
        "a branch": (lambda: load(revision="side/branch"), None),
        "a pull request": (lambda: load(revision="refs/pr/1"), None),
        "no such file": (lambda: load("nope.json"), e.EntryNotFoundError),
        "no such revision": (lambda: load(revision="nope"), e.RevisionNotFoundError),
        "no such repository": (lambda: load(repo="tester/nope"), e.RepositoryNotFoundError),
        "no such repository, without a token": (lambda: load(repo="tester/nope", token=False), e.RepositoryNotFoundError),
        "a repository that moved": (lambda: load(repo="tester/old"), None),
        "a listing": (list_also("a/b"), None),
        "a listing that leads out": (list_also("a/../../evil"), ValueError),
        "a listing with an absolute path": (list_also("/evil"), ValueError),
        # who may read
        "public, without a token": (lambda: load(token=False), None),
        "private, without a token": (hidden(lambda: load(token=False)), e.RepositoryNotFoundError),
        "private, of somebody else": (hidden(lambda: load(token="hf_other")), e.RepositoryNotFoundError),
        "private, ours": (hidden(load), None),
        "a bad token": (lambda: load(token="hf_bad"), e.HfHubHTTPError),
        "gated, without a token": (gated(lambda: load(token=False)), e.GatedRepoError),
        "gated, not granted": (gated(lambda: load(token="hf_other")), e.GatedRepoError),
        "gated, granted": (gated(lambda: load(token="hf_other"), ["other"]), None),
        "disabled": (with_meta(lambda: api.model_info("tester/model"), {"disabled": True}, {"disabled": False}),
                     e.DisabledRepoError),
        # who may write
        "whoami": (lambda: api.whoami(), None),
        "whoami, bad token": (lambda: api.whoami(token="hf_bad"), e.HfHubHTTPError),
        "create": (lambda: api.create_repo("tester/new"), None),
        "create in an organization": (lambda: api.create_repo("acme/new"), None),
        "create what exists": (lambda: api.create_repo("tester/model"), e.HfHubHTTPError),
        "create what exists, exist_ok": (lambda: api.create_repo("tester/model", exist_ok=True), None),
        "create for somebody else": (lambda: api.create_repo("other/new"), e.HfHubHTTPError),
        "create with a read token": (lambda: api.create_repo("reader/new", token="hf_read"), e.HfHubHTTPError),
        "upload": (put, None),
        "upload with a read token": (lambda: put(token="hf_read"), e.HfHubHTTPError),
        "upload to somebody else's": (lambda: put(token="hf_other"), e.HfHubHTTPError),
        "upload to a branch": (lambda: put(revision="side/branch"), None),
        "upload to no branch": (lambda: put(revision="nope"), e.RevisionNotFoundError),
        "upload as a pull request": (lambda: put(create_pr=True), None),
        "upload over a commit that is not the last": (lambda: put(parent_commit="0" * 40), e.HfHubHTTPError),
        "make a branch": (lambda: api.create_branch("tester/model", branch="new"), None),
        "make a branch that exists": (lambda: api.create_branch("tester/model", branch="side/branch"), e.HfHubHTTPError),
        "make a tag": (lambda: api.create_tag("tester/model", tag="v1"), None),
        "make a tag that exists": (lambda: api.create_tag("tester/model", tag="main-tag"), e.HfHubHTTPError),
        "delete": (lambda: api.delete_repo("tester/gone"), None),
        # model cards
        "a card": (lambda: card("---\nlicense: mit\nbase_model:\n- a/b\ntags: [moe]\n---\n# x\n"), None),
        "a card, license": (lambda: card("---\nlicense: mitt\n---\n# x\n"), ValueError),
        "a card, base_model": (lambda: card("---\nbase_model: a b/c\n---\n# x\n"), ValueError),
        # faults
        "HEAD 503": (load, None, [{"method": "HEAD", "path": "/resolve/", "status": 503}]),
        "HEAD without X-Repo-Commit": (load, e.LocalEntryNotFoundError,
                                       [{"method": "HEAD", "path": "resolve", "n": 9, "drop_headers": ["X-Repo-Commit"]}]),
        "GET 503": (lambda: load(WEIGHTS), e.HfHubHTTPError, [cdn(method="GET", status=503)]),
        "GET 429": (lambda: load(WEIGHTS), None, [cdn(method="GET", status=429, headers={"Retry-After": "1"})], {"GET": 2}),
        "GET cut": (lambda: load(WEIGHTS), None, [cdn(method="GET", cut=PIECE + 9)], {f"bytes={PIECE}-": 1}),
        "GET cut, Range ignored": (lambda: load(WEIGHTS), None, [cdn(method="GET", cut=PIECE + 9), cdn(ignore_range=True)]),
        "GET stalls": (lambda: load(WEIGHTS), None, [cdn(method="GET", stall=1, stall_after=MIB)], {"GET": 1}),
        "a wrong size": (lambda: load(WEIGHTS), OSError, [{"method": "HEAD", "size": 7}]),
        "redirected to a stranger": (lambda: load(WEIGHTS), None,
                                     [{"method": "GET", "path": "/get/", "redirect": weights_at_the_stranger}]),
        "preupload 429": (put, None, [{"path": "/preupload/", "status": 429, "headers": limited}], {"POST": 3}),
        "PUT 500": (lambda: put(b"\0"), None, [cdn(method="PUT", status=500)], {"PUT": 2}),
        "part PUT 500": (lambda: put(b"\0" * 3 * MIB), None, [cdn(method="PUT", status=500)], {"PUT": 5}),
        "commit 503": (put, e.HfHubHTTPError, [{"path": "/commit/", "status": 503}], {"/commit/": 1}),
        "commit without an answer": (put, Exception, [{"path": "/commit/", "lost_answer": True}], {"/commit/": 1}),
    }


def check(hub, action, expected, faults=(), requests=None):
    hub.clear()
    for fault in faults:
        hub.fault(**fault)
    try:
        action()
        raised = None
    except Exception as error:
        raised = error
    if expected is None and raised is not None:
        raise AssertionError(f"expected success, found {type(raised).__name__}: {raised}") from raised
    if expected is not None and not isinstance(raised, expected):
        raise AssertionError(f"expected {expected.__name__}, found {type(raised).__name__}: {raised}") from raised
    log = hub.log()
    for what, count in (requests or {}).items():
        found = [it for it in log if it["method"] == what or it["range"] == what or what in it["path"]]
        assert len(found) == count, f"{len(found)} requests with {what}, expected {count}: {[it['path'] for it in log]}"
    if leaks := [it for it in log if it["origin"] != "hub" and it["token"]]:
        raise AssertionError(f"a token left the Hub: {leaks}")


def main():
    folder = witness.setup()
    if Path(sys.prefix) != folder / "python":
        python = str(folder / "python" / "bin" / "python")
        os.execv(python, [python, __file__, *sys.argv[1:]])
    failed = 0
    with tempfile.TemporaryDirectory(prefix="moerge-hub-") as home, fakehub.start(Path(home) / "hub", chunk=MIB) as hub:
        home = Path(home)
        model = home / "model"
        model.mkdir()
        files = {CONFIG: b"{}", WEIGHTS: os.urandom(PIECE + MIB), "empty.txt": b"", "empty.safetensors": b""}
        for name, content in files.items():
            (model / name).write_bytes(content)
        for repo in ("tester/model", "tester/gone", "tester/listed"):
            hub.seed(repo, model)
        hub.seed("tester/model", model, branch="side/branch")
        for ref in ("refs/pr/1", "refs/tags/main-tag"):
            hub.store.git("tester/model", "update-ref", ref, hub.head("tester/model"))
        hub.seed("tester/old", model, moved="tester/model")
        os.environ.update(witness.environment(home, hub.url))
        from huggingface_hub import HfApi
        table = cases(HfApi(endpoint=hub.url), hub, home)
        for name, case in table.items():
            try:
                check(hub, *case)
            except Exception as error:
                failed += 1
                print(f"FAIL {name}\n  {error}", flush=True)
                if not isinstance(error, AssertionError):
                    traceback.print_exc()
    print(f"{len(table) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
