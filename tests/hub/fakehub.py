#!/usr/bin/env python3
"""A Hugging Face Hub for tests, on this machine alone: real git repositories behind the Hub's protocol.

usage: fakehub.py FOLDER [--port N] [--page N] [--chunk BYTES] [--cas URL]

Prints one line of JSON, {"hub": URL, "cdn": URL, "stranger": URL}, and serves until it is ended. In a Python program:

    with fakehub.start(folder) as hub:
        hub.seed("tester/model", "a/folder")          a commit, without a client
        hub.fault(method="GET", origin="cdn", cut=1000)
        ...                                           HF_ENDPOINT=hub.url, HF_TOKEN=hf_test
        assert not [it for it in hub.log() if it["origin"] == "stranger" and it["token"]]

Three origins: the Hub; its CDN, which has the large files and refuses a Hub token, as an object store does; a stranger, who
serves whatever he is asked for and only the log tells what he got. Tokens: hf_test (user tester, member of acme), hf_other
(user other), hf_read (user reader, may only read). hub_http.py says what faults there are; the log has for each request
method, path, origin, range, auth (an Authorization header came), token (a token of the Hub was anywhere in it), agent, status,
sent and received (bytes of the bodies). Needs Python's standard library and git.
"""
import argparse, contextlib, json, re, sys, threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hub_api import Api
from hub_http import Handler, Journal, Server
from hub_store import HubError, Meta, Store, blob_id
import hub_xet


class Cdn(Handler):
    """The store of large files: presigned URLs. A Hub token must never arrive here."""
    ORIGIN = "cdn"

    def route(self):
        store = self.hub.store
        if self.headers.get("Authorization", "").startswith("Bearer "):
            raise HubError(400, {"error": "Only one auth mechanism allowed"})
        if "sig" not in self.query:
            raise HubError(403, {"error": "The URL is not signed"})
        self.object(store)

    def object(self, store):
        path, reading = self.url_path, self.command in ("GET", "HEAD")
        if reading and (match := re.fullmatch("/get/([0-9a-f]{64})", path)):
            if not store.large(match[1]).exists():
                raise HubError(404)
            self.send_file(str(store.large(match[1])), match[1])
        elif self.command == "PUT" and self.chunked:
            raise HubError(411, {"error": "You must provide the Content-Length HTTP header."})
        elif self.command == "PUT" and (match := re.fullmatch("/put/([0-9a-f]{64})", path)):
            store.keep_large(self.pieces(), match[1])
            self.send(200, b"", ETag='"x"')
        elif self.command == "PUT" and (match := re.fullmatch(r"/part/([0-9a-f]{32})/(\d+)", path)):
            if match[1] not in store.uploads:
                raise HubError(404, {"error": "no such upload"})
            self.send(200, b"", ETag=f'"{store.keep_part(match[1], int(match[2]), self.pieces())}"')
        else:
            raise HubError(404)


class Stranger(Cdn):
    """Somebody else's server. It takes everything, so that only the log tells what it was given."""
    ORIGIN = "stranger"

    def route(self):
        try:
            self.object(self.hub.store)
        except HubError:
            self.send(200, "a stranger")


class FakeHub:
    def __init__(self, folder, port=0, page=1000, chunk=None, resolve_cache=True, cas=None):
        """`page`: rows that tree answers at once. `chunk`: the size of the parts of a large file; None: one PUT each.
        `resolve_cache`: small files come over a redirect, as from the Hub. `cas`: the URL of a Xet CAS server."""
        self.store, self.journal = Store(folder), Journal()
        self.page, self.chunk, self.resolve_cache, self.xet = page, chunk, resolve_cache, None
        origins = [Api, Cdn, Stranger] + ([hub_xet.CasProxy] if cas else [])
        self.servers = [Server(port + i if port else 0, origin, self) for i, origin in enumerate(origins)]
        self.url, self.cdn, self.stranger = (server.url for server in self.servers[:3])
        if cas:
            self.xet = hub_xet.Xet(self.store, cas, self.url)
            self.xet.url = self.servers[3].url
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self):
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def seed(self, repo, folder, branch="main", **meta):
        """Commits a local folder, large files to LFS; the commit's id. `meta`: private, gated, granted, ..."""
        return self.store.seed(repo, folder, branch, **meta)

    def head(self, repo, revision="main"):
        return self.store.find_commit(repo, revision)

    def entry(self, repo, path, revision="main"):
        """A file of a commit, an Entry, or None."""
        return self.store.entry(repo, self.head(repo, revision), path)

    def files(self, repo, revision="main"):
        """Path -> content of a commit, straight from git and the store of large files. For small repositories."""
        entries = [row for row in self.store.tree(repo, self.head(repo, revision)).values() if not isinstance(row, str)]
        return {it.path: self.store.large(it.sha256).read_bytes() if it.sha256 else self.store.blob(repo, it.oid)
                for it in entries}

    def meta(self, repo, **fields):
        """Changes fields of Meta: private, gated, granted, disabled, moved."""
        for name, value in fields.items():
            if name not in Meta.__dataclass_fields__:
                raise ValueError(f"a repository has no {name}; it has {sorted(Meta.__dataclass_fields__)}")
            setattr(self.store.repos[repo], name, value)

    def listing(self, repo, rows):
        """What tree and info answer for a repository instead of the truth: rows of tree, {"path": ...} at least, with
        "content" (text) if resolve is to serve it. None: the truth again."""
        if rows is not None:
            usual = [(row, row.get("content", "").encode()) for row in rows]
            rows = [{"type": "file", "oid": blob_id(content), "size": len(content), **row} for row, content in usual]
        self.store.repos[repo].listing = rows

    def log(self):
        return self.journal.log()

    def fault(self, **fault):
        self.journal.add_fault(fault)

    def clear(self, log=True, faults=True):
        self.journal.clear(log, faults)


@contextlib.contextmanager
def start(folder, **options):
    hub = FakeHub(folder, **options)
    try:
        yield hub
    finally:
        hub.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the repositories and large files lie")
    parser.add_argument("--port", type=int, default=0, help="the Hub's; the other origins have the next ones (free ones)")
    parser.add_argument("--page", type=int, default=1000, help="rows that a listing holds at once (1000)")
    parser.add_argument("--chunk", type=int, help="large files above this come in parts of this many bytes")
    parser.add_argument("--cas", help="URL of a Xet CAS server")
    with start(**vars(parser.parse_args())) as hub:
        print(json.dumps({"hub": hub.url, "cdn": hub.cdn, "stranger": hub.stranger}), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
