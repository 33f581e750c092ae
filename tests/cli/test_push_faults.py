"""moerge push when something goes wrong on the way: broken connections, lost answers, killed runs, files that change."""
import json, signal, time

from harness import TIMEOUT_S, rows
from push_case import REPO, sha256, noise, hub_for, model_folder, arrived, commits, requests, token_stayed, start, until

# --------------------------------------------------------------------------------------------------- faults on the way


def test_parts_are_sent_in_parallel(case):
    content = model_folder(case)
    with hub_for(case, chunk=30_000) as hub:
        hub.fault(path="/part/", stall=0.6, n=10)
        begin = time.monotonic()
        case.run("push", "out", REPO).exits(0)
        assert time.monotonic() - begin < 5, "ten parts that take 0.6 s each"
        assert len(requests(hub, "PUT", "/part/")) == 17 and len(requests(hub, "POST", "/complete_multipart")) == 2
        arrived(hub, content)
        token_stayed(hub)
        assert not [it for it in requests(hub, "POST", "/complete_multipart") if it["auth"]]


@rows({
    "part 403": (dict(path=r"/part/.*/3\?", status=403), 1),
    "completion 503": (dict(path="/complete_multipart", status=503), 0),
    "completion without an answer": (dict(path="/complete_multipart", lost_answer=True), 1),
    "verify 502": (dict(path="/verify", status=502), 0),
    "preupload 429": (dict(path="/preupload/", status=429, headers={"Retry-After": "0"}), 0),
    "batch without an answer": (dict(path="/objects/batch", lost_answer=True), 1),
    "create in conflict": (dict(path="/create", status=409, body={"error": "another conflicting operation is in progress"}), 0),
    "create without an answer": (dict(path="/create", lost_answer=True), 0),
    "commit 503": (dict(path="/commit/", status=503), 0),
    "commit 429": (dict(path="/commit/", status=429, headers={"RateLimit": '"api";r=0;t=0'}), 0),
    "commit cut": (dict(path="/commit/", cut=100), 0),
    "commit without an answer": (dict(path="/commit/", lost_answer=True), 0),
})
def test_a_fault_on_the_way(case, fault, more_batches):
    content = model_folder(case)
    with hub_for(case, chunk=90_000) as hub:
        hub.fault(**fault)
        case.run("push", "out", REPO).exits(0)
        assert not hub.journal.faults[0]["n"], "the fault never happened"
        arrived(hub, content)
        assert commits(hub) == 1 and len(requests(hub, "POST", "/objects/batch")) == 1 + more_batches
        token_stayed(hub)


def test_parts_that_fail_are_sent_again(case):
    content = model_folder(case)
    with hub_for(case, chunk=90_000) as hub:
        for number, fault in enumerate((dict(status=500), dict(status=429, headers={"Retry-After": "0"}), dict(cut=1000),
                                        dict(lost_answer=True)), 1):
            hub.fault(path=rf"/part/.*/{number}\?", **fault)
        case.run("push", "out", REPO).exits(0)
        assert not any(fault["n"] for fault in hub.journal.faults), "a fault never happened"
        assert len(requests(hub, "PUT", "/part/")) >= 7 + 2 and len(requests(hub, "POST", "/objects/batch")) == 1
        arrived(hub, content)


def test_a_commit_is_sent_once_and_looked_for(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.fault(path="/commit/", lost_answer=True)
        told = json.loads(case.run("push", "out", REPO, "--json").exits(0).stdout)
        assert len(requests(hub, "POST", "/commit/")) == 1 and told["commit"] == hub.head(REPO)
        case.write("out/config.json", "{}")
        hub.fault(path="/commit/", lost_answer=True)
        hub.fault(path="/revision/", n=1)  # that before the upload
        hub.fault(path="/revision/", n=100, status=404, body={"error": "gone"})
        case.run("push", "out", REPO).exits(2).says("whether the commit was made is not known, the same command finds out")
        hub.clear()
        case.run("push", "out", REPO).exits(0).says("nothing to commit")
        arrived(hub, {**content, "config.json": b"{}"})
        assert commits(hub) == 2


def test_a_repository_that_has_another_name_now(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed("tester/old", case.write("seed/a.txt", "a").parent)
        hub.seed(REPO, case.path("seed"))
        hub.meta("tester/old", moved=REPO)
        case.run("push", "out", "tester/old").exits(0)
        arrived(hub, {**content, "a.txt": b"a"})


def test_expired_addresses_are_asked_for_again(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.fault(path="/put/", status=403, n=2, body="Request has expired")
        case.run("push", "out", REPO).exits(0)
        assert len(requests(hub, "POST", "/objects/batch")) == 2
        arrived(hub, content)
        hub.fault(path="/put/", status=403, n=100, body="Access denied")
        case.write("out/one.safetensors", b"new")
        case.run("push", "out", REPO).exits(1).says('"one.safetensors" could not be sent', "HTTP 403")
        assert len(requests(hub, "POST", "/objects/batch")) == 5 and commits(hub) == 1


def test_a_store_that_fails_ends_it_and_the_next_push_goes_on(case):
    content = model_folder(case)
    second = sha256(content["two.safetensors"])
    with hub_for(case) as hub:
        hub.fault(path=second, status=500, n=1000, headers={"Retry-After": "0"})
        case.run("push", "out", REPO).exits(1).says(
            '"two.safetensors" could not be sent', "HTTP 500", "files that were sent whole are kept")
        assert len(requests(hub, "PUT", second)) == 6 and commits(hub) == 0
        hub.clear()
        case.run("push", "out", REPO).exits(0).says("1 of 2 large files were in the Hub's store already")
        assert [it["path"] for it in requests(hub, "PUT")] == [f"/put/{second}?sig=1"]
        arrived(hub, content)


@rows({"killed": (signal.SIGKILL, -9), "interrupted": (signal.SIGINT, 130)})
def test_after_an_interruption_the_next_push_goes_on(case, number, code):
    content = model_folder(case)
    content["two.safetensors"] = noise("large", 24_000_000)  # more than waits in the buffers of a socket
    case.write("out/two.safetensors", content["two.safetensors"])
    first, second = sha256(content["one.safetensors"]), sha256(content["two.safetensors"])
    with hub_for(case) as hub:
        hub.fault(path=f"/put/{second}", stall=2)
        run = start(case, "out", REPO)
        until(hub, lambda it: first in it["path"] and it["status"] == 200)
        until(hub, lambda it: second in it["path"])
        run.send_signal(number)
        assert run.wait(TIMEOUT_S) == code and commits(hub) == 0
        hub.clear()
        case.run("push", "out", REPO).exits(0)
        assert not requests(hub, "PUT", first) and requests(hub, "PUT", second)[-1]["status"] == 200
        arrived(hub, content)


def test_a_file_that_changes_is_not_committed(case):
    content = model_folder(case)
    first = sha256(content["one.safetensors"])
    with hub_for(case) as hub:
        hub.fault(path=first, stall=1)
        run = start(case, "out", REPO)
        until(hub, lambda it: first in it["path"])
        case.write("out/one.safetensors", noise("later", 300_000))
        _, said = run.communicate(timeout=TIMEOUT_S)
        assert run.returncode == 1 and "out/one.safetensors: the file changed while it was being uploaded" in said, said
        assert commits(hub) == 0


def test_a_small_file_that_changes_is_not_committed(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.fault(path=sha256(content["one.safetensors"]), stall=1)
        run = start(case, "out", REPO)
        until(hub, lambda it: it["method"] == "PUT")
        case.write("out/config.json", "{}")
        _, said = run.communicate(timeout=TIMEOUT_S)
        assert run.returncode == 1 and "out/config.json: the file changed while it was being uploaded" in said, said
        assert commits(hub) == 0


def test_a_commit_of_somebody_else_stays(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.write("seed/a.txt", "a").parent)
        hub.fault(path=sha256(content["one.safetensors"]), stall=1)
        run = start(case, "out", REPO)
        until(hub, lambda it: it["method"] == "PUT")
        case.write("other/b.txt", "theirs")
        case.write("other/config.json", "theirs")
        theirs = hub.seed(REPO, case.path("other"))
        _, said = run.communicate(timeout=TIMEOUT_S)
        assert run.returncode == 0 and f"somebody else committed {theirs[:10]}" in said, said
        arrived(hub, {**content, "a.txt": b"a", "b.txt": b"theirs"})
        assert hub.store.git(REPO, "rev-parse", "main^").decode().strip() == theirs


def test_a_redirect_takes_no_file_to_a_stranger(case):
    model_folder(case)
    with hub_for(case) as hub:
        hub.fault(method="PUT", redirect=hub.stranger + "/put", n=100)
        case.run("push", "out", REPO).exits(1).says("where this request must not follow")
        assert not [it for it in hub.log() if it["origin"] == "stranger"] and commits(hub) == 0
