"""Xet for the fake Hub: a proxy in front of a real CAS server (`local_cas_server` of the crate xet-client).

The proxy reads the shards that clients register, because a Hub has to know which Xet hash belongs to which SHA-256. Clients
without Xet get such files over the CDN, as from the Hub's LFS bridge; for that the `hf_xet` of Python has to be installed.
"""
import struct, time, urllib.error, urllib.request

from hub_http import Handler

PASSED_BACK = ("content-range", "accept-ranges")
NOT_PASSED = ("host", "content-length", "transfer-encoding", "connection", "accept-encoding")


class Xet:
    def __init__(self, store, cas, hub_url):
        self.store, self.cas, self.hub_url = store, cas, hub_url
        self.url = None  # of the proxy, once it listens

    def upload_action(self, repo):
        header = {"X-Xet-Cas-Url": self.url, "X-Xet-Access-Token": "xet_t", "X-Xet-Session-Id": "s1",
                  "X-Xet-Token-Expiration": str(int(time.time()) + 3600)}
        return {"href": f"{self.hub_url}/api/models/{repo}/xet-write-token/main", "header": header}

    def file_headers(self, repo, commit, entry):
        """What resolve says of a file in the Xet store; also puts it where the CDN finds it."""
        xet_hash = self.store.xet[entry.sha256]
        self.bridge(entry)
        return {"X-Xet-Hash": xet_hash,
                "Link": f'<{self.hub_url}/api/models/{repo}/xet-read-token/{commit}>; rel="xet-auth", '
                        f'<{self.url}/v1/reconstructions/{xet_hash}>; rel="xet-reconstruction-info"'}

    def bridge(self, entry):
        file = self.store.large(entry.sha256)
        if file.exists():
            return
        import hf_xet
        session = hf_xet.XetSession()
        end = int(time.time()) + 3600
        with session.new_file_download_group(endpoint=self.cas, token="t", token_expiry_unix_secs=end) as group:
            group.start_download_file(hf_xet.XetFileInfo(self.store.xet[entry.sha256], entry.size), str(file))


class CasProxy(Handler):
    ORIGIN = "cas"

    def route(self):
        body = b"".join(self.pieces())
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_PASSED}
        request = urllib.request.Request(self.hub.xet.cas + self.path, method=self.command, headers=headers,
                                         data=body if self.command in ("POST", "PUT") else None)
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        content = answer.read()
        if self.url_path.endswith("/shards") and answer.status < 300:
            for xet_hash, sha256 in shard_files(body):
                self.hub.store.xet[sha256] = xet_hash
        kept = {name: value for name, value in answer.headers.items() if name.lower() in PASSED_BACK}
        kept["Content-Type"] = answer.headers.get("Content-Type", "application/octet-stream")
        self.send(answer.status, content, **kept)


def shard_files(shard):
    """(Xet hash, SHA-256) of the files in a shard: after a header of 48 bytes, records of 48 bytes, for each file one that
    says how many follow. https://huggingface.co/docs/xet/shard"""
    at, found = 48, []
    while shard[at:at + 32] != b"\xff" * 32:
        file = shard[at:at + 32]
        flags, count = struct.unpack("<II", shard[at + 32:at + 40])
        at += 48 + 48 * count
        if flags & 0x80000000:  # hashes to verify it with
            at += 48 * count
        if flags & 0x40000000:  # more about the file: its SHA-256
            found.append((hash_text(file), hash_text(shard[at:at + 32])))
            at += 48
    return found


def hash_text(data):
    """A hash as Xet writes it: four little-endian words."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))
