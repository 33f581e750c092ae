#!/usr/bin/env python3
"""moerge's Xet transfers against Hugging Face's own storage server and its Python client.

usage: xet.py XET_TRANSFER --tools FOLDER     (in a Python with huggingface_hub==2.4.0 hf-xet==1.8.0)

XET_TRANSFER: cmake --preset release -DMOERGE_XET=ON && cmake --build build/release --target xet_transfer
FOLDER keeps local_cas_server, which is built into it first (crate xet-client, about 8 minutes of CPU time).
Everything runs on 127.0.0.1, with a Hub from fakehub.py. Prints what went over the wire and "N checks" at the
end; any difference is an exception.
"""
import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import fakehub

TOKEN = "hf_test"  # fakehub's user "tester"
CAS_VERSION = "1.8.0"
checks = 0


def check(fact, shown=None):
    global checks
    assert fact, shown
    checks += 1


def cas_server(tools):
    program = tools / "bin" / "local_cas_server"
    if not program.exists():
        cargo = ["cargo", "install", "--locked", "xet-client", "--version", "=" + CAS_VERSION, "--features", "simulation",
                 "--bin", "local_cas_server", "--root", tools]
        subprocess.run(cargo, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(tools / "target")})
    return program


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Wire:
    """A listener that passes everything on to `port`, counts the bytes each way, can be slow, and speaks TLS if asked."""

    def __init__(self, port, tls=None):
        self.target, self.tls, self.up, self.down, self.rate = port, tls, 0, 0, None
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.server.accept()
            threading.Thread(target=self.connect, args=(client,), daemon=True).start()

    def connect(self, client):
        try:
            client = self.tls.wrap_socket(client, server_side=True) if self.tls else client
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:  # a client that does not trust our certificate
            return
        threading.Thread(target=self.pump, args=(client, server, "up"), daemon=True).start()
        threading.Thread(target=self.pump, args=(server, client, "down"), daemon=True).start()

    def pump(self, source, sink, way):
        try:
            while data := source.recv(65536):
                setattr(self, way, getattr(self, way) + len(data))
                if self.rate:
                    time.sleep(len(data) / self.rate)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def count(self, work):
        """Bytes up and down while `work` runs."""
        up, down = self.up, self.down
        work()
        return self.up - up, self.down - down


class Bench:
    def __init__(self, transfer, tools, folder):
        self.transfer, self.folder = transfer, folder
        port = free_port()
        self.server = subprocess.Popen([cas_server(tools), "--data-directory", folder / "cas", "--port", str(port)],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                check(self.server.poll() is None, "local_cas_server did not start")
                time.sleep(0.1)
        self.cas = Wire(port)
        self.hub = fakehub.FakeHub(folder / "hub", cas=f"http://127.0.0.1:{self.cas.port}")
        self.url = self.hub.url
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "HF_XET_CACHE": str(folder / "xet"),
                            "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN}
        (folder / "home").mkdir()

    def stop(self):
        self.hub.close()
        self.server.kill()
        self.server.wait()

    def ask(self, path, data=None, method=None, token=TOKEN, **headers):
        if not isinstance(data, (bytes, type(None))):
            data = json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, data, {"Authorization": f"Bearer {token}", **headers}, method=method)
        return urllib.request.urlopen(request)

    def paths(self, work):
        """Of the requests to the Hub and its storage while `work` runs."""
        before = len(self.hub.log())
        work()
        return [row["path"] for row in self.hub.log()[before:]]

    def refresh(self, repo, what):
        return f"{self.url}/api/models/{repo}/xet-{what}-token/main"

    def command(self, *arguments):
        return [self.transfer, *map(str, arguments)]

    def run(self, *arguments, exit_code=0, **environment):
        """Runs xet_transfer and returns (seconds, its last progress, its stderr)."""
        start = time.monotonic()
        done = subprocess.run(self.command(*arguments), env={**self.environment, **environment}, capture_output=True, text=True)
        check(done.returncode == exit_code, (done.returncode, done.stdout[-300:], done.stderr))
        lines = done.stdout.splitlines()
        return time.monotonic() - start, lines[-1] if lines else "", done.stderr

    def upload(self, repo, *files, token=TOKEN, **options):
        pairs = [value for file in files for value in (file, hashlib.sha256(file.read_bytes()).hexdigest())]
        return self.run("upload", self.refresh(repo, "write"), token, *pairs, **options)

    def commit(self, repo, *files):
        lines = [{"key": "header", "value": {"summary": "files", "description": ""}}]
        for file in files:
            value = {"path": file.name, "algo": "sha256", "oid": hashlib.sha256(file.read_bytes()).hexdigest()}
            lines.append({"key": "lfsFile", "value": {**value, "size": file.stat().st_size}})
        self.ask(f"/api/models/{repo}/commit/main", "\n".join(map(json.dumps, lines)).encode(),
                 **{"Content-Type": "application/x-ndjson"})

    def python(self, code, *arguments):
        """Runs `code` with the official client, in a process that has seen nothing of us."""
        home = tempfile.mkdtemp(dir=self.folder)
        environment = {**self.environment, "HF_HOME": home, "HF_XET_CACHE": home + "/xet", "HF_HUB_DISABLE_TELEMETRY": "1"}
        subprocess.run([sys.executable, "-c", "import sys; from huggingface_hub import *\n" + code, *map(str, arguments)],
                       env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def xet_of(self, repo, name):
        """The Hub's Xet hash of a file, and its size."""
        class Stay(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_):
                return None
        request = urllib.request.Request(f"{self.url}/{repo}/resolve/main/{name}", method="HEAD",
                                         headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            headers = urllib.request.build_opener(Stay).open(request).headers
        except urllib.error.HTTPError as redirect:
            headers = redirect.headers
        return headers["X-Xet-Hash"], headers["X-Linked-Size"]

    def interrupt(self, reached, *arguments, **environment):
        """Sends Ctrl-C once reached() holds, asked with each line of progress; returns the seconds that the end then took."""
        process = subprocess.Popen(self.command(*arguments), env={**self.environment, **environment}, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        for line in process.stdout:
            if reached():
                break
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        check(process.wait() == 130 and process.stderr.read() == "interrupted\n", (process.returncode, line))
        return time.monotonic() - start


def one_sentence(text, *words):
    check(text.count("\n") == 1 and len(text) < 400 and TOKEN not in text and all(word in text for word in words), text)


def random_file(path, size, seed):
    source = random.Random(seed)
    with open(path, "wb") as out:
        for start in range(0, size, 10_000_000):
            out.write(source.randbytes(min(10_000_000, size - start)))
    return path


def test_upload(bench, files):
    bench.ask("/api/repos/create", {"name": "ours"})
    big, small = files
    sent = bench.cas.count(lambda: check(bench.upload("tester/ours", *files)[1:] == (
        f"progress {big.stat().st_size + small.stat().st_size} {big.stat().st_size + small.stat().st_size}", "")))[0]
    bench.commit("tester/ours", *files)
    print(f"upload of {big.stat().st_size + small.stat().st_size:,} bytes: {sent:,} sent")
    back = bench.folder / "back"
    paths = bench.paths(lambda: bench.python("snapshot_download('tester/ours', local_dir=sys.argv[1])", back))
    check(any("reconstructions" in path for path in paths), "the official client did not use Xet")
    for file in files:
        check((back / file.name).read_bytes() == file.read_bytes())


def test_download(bench):
    file = random_file(bench.folder / "theirs.safetensors", 20_000_003, 3)
    bench.python("a = HfApi(); a.create_repo('theirs'); a.upload_file(path_or_fileobj=sys.argv[1], path_in_repo='w.safetensors', "
                 "repo_id='tester/theirs')", file)
    hash, size = bench.xet_of("tester/theirs", "w.safetensors")
    check(hash and int(size) == file.stat().st_size, (hash, size))
    target = bench.folder / "got \u00fc.safetensors"
    target.write_bytes(b"x" * 30_000_000)  # longer than what comes: it must not stay at the end
    _, last, errors = bench.run("download", bench.refresh("tester/theirs", "read"), TOKEN, hash, size, target)
    check((last, errors) == (f"progress {size} {size}", "") and target.read_bytes() == file.read_bytes(), (last, errors))
    bench.run("download", bench.refresh("tester/theirs", "read"), "", hash, size, target)  # a public repository
    return hash, size


def test_errors(bench, files, hash, size):
    write, read, target = bench.refresh("tester/ours", "write"), bench.refresh("tester/theirs", "read"), bench.folder / "t"
    for words, exit_code, arguments in [
            (("401",), 1, ("upload", write, "hf_bad", files[1], "0" * 64)),
            (("403",), 1, ("upload", write, "hf_read", files[1], "0" * 64)),
            (("404",), 1, ("upload", bench.refresh("tester/nothing", "write"), TOKEN, files[1], "0" * 64)),
            (("token",), 1, ("upload", write, "hf\n", files[1], "0" * 64)),
            (("nothing.safetensors", "No such file"), 1, ("upload", write, TOKEN, bench.folder / "nothing.safetensors", "0" * 64)),
            (("sha256", "64"), 1, ("upload", write, TOKEN, files[1], "12")),
            (("401",), 1, ("download", read, "hf_bad", hash, size, target)),
            (("bytes",), 1, ("download", read, TOKEN, "0123" * 16, size, target)),
            (("hash",), 1, ("download", read, TOKEN, "zz", size, target)),
            (("bytes",), 1, ("download", read, TOKEN, hash, int(size) + 1, target)),
            (("no/folder",), 1, ("download", read, TOKEN, hash, size, "/proc/no/folder/t"))]:
        seconds, _, errors = bench.run(*arguments, exit_code=exit_code)
        print(f"  {seconds:.1f} s: {errors.strip()}")
        one_sentence(errors, *words)
        check(seconds < 30, (seconds, errors))  # a request that is tried again takes minutes


def test_interrupt(bench, hash, size):
    # The storage takes pieces of 64 MB, and what was sent is written down every 20 s, for the next upload to know of.
    often = {"HF_XET_DATA_SESSION_XORB_METADATA_FLUSH_INTERVAL": "500ms"}
    file = random_file(bench.folder / "later.safetensors", 300_000_000, 7)
    pair = (file, hashlib.sha256(file.read_bytes()).hexdigest())
    seconds, before = [], bench.cas.up
    bench.cas.rate = 30_000_000
    sent = bench.cas.count(lambda: seconds.append(bench.interrupt(
        lambda: bench.cas.up - before > 220_000_000, "upload", bench.refresh("tester/ours", "write"), TOKEN, *pair, **often)))[0]
    bench.cas.rate = 3_000_000
    before, down = bench.cas.down, bench.folder / "down"
    seconds.append(bench.interrupt(lambda: bench.cas.down - before > 3_000_000, "download",
                                   bench.refresh("tester/theirs", "read"), TOKEN, hash, size, down))
    bench.cas.rate = None
    nobody = f"http://127.0.0.1:{free_port()}/api/models/tester/theirs/xet-read-token/main"
    seconds.append(bench.interrupt(lambda: True, "download", nobody, TOKEN, hash, size, down))
    print(f"interrupted after {', '.join(f'{each:.1f}' for each in seconds)} s")
    check(max(seconds) < 3, seconds)
    again = bench.cas.count(lambda: bench.upload("tester/ours", file))[0]
    third = bench.cas.count(lambda: bench.upload("tester/ours", file))[0]
    print(f"300,000,000 bytes: {sent:,} sent until the interrupt, {again:,} by the next upload, {third:,} by a third")
    check(again < 240_000_000 and third < 1_000_000, (sent, again, third))
    data = file.read_bytes()
    file.write_bytes(data[:20_000_000] + b"a few bytes more" + data[20_000_000:])
    changed = bench.cas.count(lambda: bench.upload("tester/ours", file))[0]
    print(f"a few bytes inserted: {changed:,} sent")
    check(changed < 2_000_000, changed)


def test_telemetry(bench, hash, size):
    def told(**environment):
        paths = bench.paths(lambda: bench.run("download", bench.refresh("tester/theirs", "read"), TOKEN, hash, size,
                                              bench.folder / "t", **environment))
        return any("telemetry" in path for path in paths)
    check(not told())
    check(told(HF_XET_TELEMETRY_ENABLED="1"))
    check(not told(HF_XET_TELEMETRY_ENABLED="1", DO_NOT_TRACK="1"))
    check(not told(HF_XET_TELEMETRY_ENABLED="0"))


def test_tls(bench, hash, size):
    certificate, key = bench.folder / "certificate.pem", bench.folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    wire = Wire(int(bench.url.rsplit(":", 1)[1]), context)
    url = bench.refresh("tester/theirs", "read").replace(bench.url, f"https://localhost:{wire.port}")
    target = bench.folder / "tls"
    bench.run("download", url, TOKEN, hash, size, target, SSL_CERT_FILE=str(certificate))
    check(target.stat().st_size == int(size))
    seconds, _, errors = bench.run("download", url, TOKEN, hash, size, target, exit_code=1,
                                   HF_XET_CLIENT_RETRY_MAX_ATTEMPTS="1", HF_XET_CLIENT_RETRY_BASE_DELAY="100ms")
    print(f"  {seconds:.1f} s: {errors.strip()}")
    one_sentence(errors, "https://localhost")  # hf-xet does not say why


def test_traces(bench):
    check(not list((bench.folder / "home").rglob("*")), "it wrote into the home folder")
    cache = bench.folder / "xet"
    left = [(path.relative_to(cache), path.stat().st_size) for path in cache.rglob("*") if path.is_file()]
    for path, size in left:
        print(f"  left in HF_XET_CACHE: {path}, {size:,} bytes")
    check(sum(size for _, size in left) < 2_000_000, left)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("transfer", type=pathlib.Path)
    parser.add_argument("--tools", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        bench = Bench(arguments.transfer.resolve(), arguments.tools.resolve(), folder)
        try:
            files = random_file(folder / "model.safetensors", 50_000_000, 1), random_file(folder / "small.bin", 1000, 2)
            test_upload(bench, files)
            hash, size = test_download(bench)
            test_errors(bench, files, hash, size)
            test_interrupt(bench, hash, size)
            test_telemetry(bench, hash, size)
            test_tls(bench, hash, size)
            test_traces(bench)
        finally:
            bench.stop()
    print(f"{checks} checks")


if __name__ == "__main__":
    main()
