"""moerge pull: bytes that come in pieces, wrong, slowly, or not at all."""
import hashlib, json, re, signal, time

from harness import rows
from hub_case import (BIG, NOW, REPO, WEIGHTS, a_hub, add_files, cache_of, files_below, finish, noise, nothing_wrong,
                      repository_files, start, the_partial, transfers)


def test_dropped_connections(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        for cut in (1_000_000, 700_000, 1):
            hub.fault(origin="cdn", cut=cut)
        case.run("pull", REPO).exits(0)
        ranges = [it["range"] for it in transfers(hub)]
        assert ranges == [None, "bytes=1000000-", "bytes=1700000-", "bytes=1700001-"], ranges
        assert sum(it["sent"] for it in transfers(hub)) == BIG
        nothing_wrong(case, hub)


def test_a_connection_that_never_gets_further(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", cut=1000)
        hub.fault(origin="cdn", status=503, headers=NOW, n=99)
        case.run("pull", REPO).exits(1).says("answered HTTP 503")
        assert len(transfers(hub)) == 7
        assert the_partial(case).stat().st_size == 1000
        hub.clear()
        case.run("pull", REPO).exits(0)
        assert [it["range"] for it in transfers(hub)] == ["bytes=1000-"]


def test_killed_and_resumed(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", rate=2_000_000)
        run = start(case, REPO)
        the_partial(case, 500_000)
        run.kill()
        run.wait()
        partial = the_partial(case)
        held = partial.stat().st_size
        assert 0 < held < BIG and partial.read_bytes() == noise(BIG)[:held]
        assert not list(cache_of(case).glob(f"snapshots/*/{WEIGHTS}"))
        assert not (cache_of(case) / "refs").exists(), "main must not point to half a model"
        hub.clear()
        result = json.loads(case.run("pull", REPO, "--json").exits(0).stdout)
        assert result["received"] >= BIG - held
        assert [(it["range"], it["sent"]) for it in transfers(hub)] == [(f"bytes={held}-", BIG - held)]
        assert files_below(cache_of(case) / "snapshots" / hub.head(REPO)) == repository_files(hub)


def test_interrupted(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", rate=1_000_000)
        run = start(case, REPO)
        the_partial(case, 100_000)
        run.send_signal(signal.SIGINT)
        result = finish(run).exits(130).says("moerge: interrupted")
        assert result.stdout == ""
        held = the_partial(case).stat().st_size
        assert 0 < held < BIG
        hub.clear()
        case.run("pull", REPO).exits(0)
        assert [it["range"] for it in transfers(hub)] == [f"bytes={held}-"]


def test_interrupted_while_the_server_is_silent(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", stall=8, stall_after=1000)
        run = start(case, REPO)
        the_partial(case, 1000)
        begin = time.monotonic()
        run.send_signal(signal.SIGTERM)
        finish(run).exits(130)
        assert time.monotonic() - begin < 4


def test_silence_ends_a_connection(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        case.environment["HF_HUB_DOWNLOAD_TIMEOUT"] = "1"
        hub.fault(origin="cdn", stall=20, stall_after=1000)
        case.run("pull", REPO).exits(0)
        assert [it["range"] for it in transfers(hub)] == [None, "bytes=1000-"]


def test_a_server_without_ranges(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", cut=500_000)
        hub.fault(origin="cdn", ignore_range=True)
        case.run("pull", REPO).exits(0)
        assert [(it["range"], it["sent"]) for it in transfers(hub)] == [(None, 500_000), ("bytes=500000-", BIG)]
        nothing_wrong(case, hub)


def left_over(case, content):
    """A partial file of a run before."""
    path = cache_of(case) / "blobs" / (hashlib.sha256(noise(BIG)).hexdigest() + ".incomplete")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@rows({
    "wrong": (b"x" * 1000, ["bytes=1000-", None], 2 * BIG - 1000),
    "longer than the file": (noise(BIG) + b"x", [None], BIG),
    "whole but wrong": (b"x" * BIG, [None], BIG),
    "whole": (noise(BIG), [], 0),
    "right so far": (noise(BIG)[:1234], ["bytes=1234-"], BIG - 1234),
    "empty": (b"", [None], BIG),
})
def test_a_partial_file(case, content, ranges, sent):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        left_over(case, content)
        case.run("pull", REPO).exits(0)
        assert [it["range"] for it in transfers(hub)] == ranges
        assert sum(it["sent"] for it in transfers(hub)) == sent
        assert files_below(cache_of(case) / "snapshots" / hub.head(REPO)) == repository_files(hub)


def test_416_starts_again_once(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        left_over(case, noise(BIG)[:1000])
        hub.fault(origin="cdn", status=416)
        case.run("pull", REPO).exits(0)
        assert [it["range"] for it in transfers(hub)] == ["bytes=1000-", None]
        hub.clear()


@rows({
    "one byte": (dict(corrupt=12_345), 1, "the SHA-256 [0-9a-f]{64} is expected, the bytes that arrived have [0-9a-f]{64}"),
    "one byte, for ever": (dict(corrupt=12_345, n=99), 1, "nothing of it was kept"),
})
def test_wrong_bytes(case, fault, requests, sentence):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", **fault)
        result = case.run("pull", REPO).exits(1).says(f'"{WEIGHTS}" of "{REPO}"')
        if not re.search(sentence, result.stderr):
            result.fail(f"stderr lacks: {sentence}")
        assert len(transfers(hub)) == requests
        assert not list((cache_of(case) / "blobs").glob(hashlib.sha256(noise(BIG)).hexdigest() + "*"))
        assert not list(cache_of(case).glob(f"snapshots/*/{WEIGHTS}"))
        nothing_wrong(case, hub)


def test_wrong_bytes_after_a_broken_connection_come_anew_once(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", cut=1_000_000)
        hub.fault(origin="cdn", corrupt=2_000_000)
        case.run("pull", REPO).exits(0)
        assert [it["range"] for it in transfers(hub)] == [None, "bytes=1000000-", None]
        nothing_wrong(case, hub)


def test_wrong_bytes_of_a_small_file(case):
    with a_hub(case) as hub:
        hub.fault(origin="hub", path="resolve-cache.*config", corrupt=3)
        case.run("pull", REPO).exits(1).says('"config.json"', "the git id ")
        nothing_wrong(case, hub)


def test_a_file_of_another_size(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        other = noise(1000, 7)
        add_files(case, hub, {"x.bin": other})
        sha256 = hashlib.sha256(other).hexdigest()
        hub.fault(path=f"/resolve/.*/{WEIGHTS}", redirect=f"{hub.cdn}/get/{sha256}?sig=1", n=99)
        case.run("pull", REPO).exits(1).says(f'"{WEIGHTS}" of "{REPO}": {BIG} bytes are expected', "has 1000")
        nothing_wrong(case, hub)


def test_lies_in_headers_change_nothing(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(path="/resolve/", etag="0" * 64, size=7, n=99)
        case.run("pull", REPO).exits(0)
        nothing_wrong(case, hub)


def test_one_bad_file_ends_the_others(case):
    files = {f"{i}.bin": noise(1_000_000, i) for i in range(4)}
    with a_hub(case, files) as hub:
        hub.fault(path="/resolve/.*/0.bin", status=403, n=99)
        hub.fault(origin="cdn", rate=100_000, n=99)
        begin = time.monotonic()
        case.run("pull", REPO).exits(2).says('"0.bin"')
        assert time.monotonic() - begin < 6


def test_two_at_once(case):
    files = {f"{i}.bin": noise(600_000, i) for i in range(3)}
    with a_hub(case, files) as hub:
        hub.fault(origin="cdn", rate=1_500_000, n=99)
        for result in [finish(run) for run in [start(case, REPO), start(case, REPO)]]:
            result.exits(0)
        assert sum(it["sent"] for it in transfers(hub)) == 3 * 600_000, "a blob came twice"
        assert len(transfers(hub)) == 3
        assert files_below(cache_of(case) / "snapshots" / hub.head(REPO)) == repository_files(hub)


def test_a_disk_that_becomes_full(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        case.run("pull", REPO, limit=2000).exits(1).says("cannot write", "File too large")
        held = the_partial(case).stat().st_size
        assert held == 2000 * 512, held
        hub.clear()
        case.run("pull", REPO).exits(0)
        assert [it["range"] for it in transfers(hub)] == [f"bytes={held}-"]
