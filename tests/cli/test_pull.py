"""moerge pull: what is asked of the Hub, what it refuses, and what is where afterwards."""
import hashlib, json, os, time
from pathlib import Path

from harness import rows
from hub_case import (BIG, NOW, REPO, TOKEN, WEIGHTS, a_hub, add_files, cache_of, files_below, no_token_left, noise,
                      nothing_wrong, repository_files, transfers)

# ------------------------------------------------------------------------------------------------------ the whole thing


def test_a_model(case):
    with a_hub(case, token=TOKEN) as hub:
        result = case.run("pull", REPO).exits(0)
        commit, folder = hub.head(REPO), cache_of(case)
        snapshot = folder / "snapshots" / commit
        assert result.stdout == f"{snapshot}\n", result.stdout
        assert files_below(snapshot) == repository_files(hub)
        assert (folder / "refs/main").read_bytes() == commit.encode()
        assert os.readlink(snapshot / "original/deep/er/x.bin").startswith("../../../../../blobs/")
        assert (folder.parent / "CACHEDIR.TAG").exists()
        tree = json.loads((folder / f"trees/{commit}.json").read_text())
        assert sorted(tree["files"]) == sorted(repository_files(hub))
        assert not list(folder.rglob("*.incomplete")) and not list(folder.rglob("*.tmp"))
        assert all(it["agent"].startswith("moerge/") for it in hub.log())
        assert len(transfers(hub)) == 2, "the same content came twice"
        no_token_left(hub)
        nothing_wrong(case, hub)

        hub.clear()
        case.run("pull", REPO).exits(0).says("all there")
        assert len(hub.log()) == 2, "more than the listing was asked for"
        hub.clear()
        case.run("pull", f"{REPO}@{commit}").exits(0)
        assert hub.log() == [], "a commit that is there needs no request"


def test_a_new_commit_brings_only_what_is_new(case):
    with a_hub(case) as hub:
        case.run("pull", REPO).exits(0)
        old = hub.head(REPO)
        new = add_files(case, hub, {"config.json": b'{"a": 2}\n'})
        hub.clear()
        result = case.run("pull", REPO, "--json").exits(0)
        assert json.loads(result.stdout)["received"] == 9
        assert transfers(hub) == []
        assert files_below(cache_of(case) / "snapshots" / new)["config.json"] == b'{"a": 2}\n'
        assert files_below(cache_of(case) / "snapshots" / old)["config.json"] == b'{"a": 1}\n'
        assert (cache_of(case) / "refs/main").read_text() == new


def test_revisions(case):
    with a_hub(case, branch="refs/pr/3") as hub:
        case.run("pull", f"{REPO}@refs/pr/3").exits(0)
        commit = hub.head(REPO, "refs/pr/3")
        assert (cache_of(case) / "refs/refs/pr/3").read_text() == commit
        case.run("pull", f"{REPO}@{commit}").exits(0)
        assert not (cache_of(case) / "refs" / commit).exists()


def test_several_models_and_adapters(case):
    with a_hub(case) as hub:
        add_files(case, hub, {"adapter.bin": noise(100)}, "acme/lora")
        result = case.run("pull", f"{REPO}#expert=1", f"{REPO}+acme/lora").exits(0)
        assert len(result.stdout.splitlines()) == 2
        assert files_below(cache_of(case, "acme/lora") / "snapshots" / hub.head("acme/lora"))["adapter.bin"] == noise(100)


def test_a_model_that_has_moved(case):
    with a_hub(case) as hub:
        add_files(case, hub, {}, "acme/new")
        hub.meta(REPO, moved="acme/new")
        case.run("pull", REPO).exits(0)
        assert files_below(cache_of(case) / "snapshots" / hub.head("acme/new")) == repository_files(hub, "acme/new")


def test_listing_over_pages(case):
    files = {f"{i:03}.txt": b"%d" % i for i in range(25)}
    with a_hub(case, files, page=4) as hub:
        case.run("pull", REPO).exits(0)
        assert files_below(cache_of(case) / "snapshots" / hub.head(REPO)) == repository_files(hub)
        assert len([it for it in hub.log() if "/tree/" in it["path"]]) == 7


def test_include_and_exclude(case):
    with a_hub(case):
        result = case.run("pull", REPO, "--include", "*.safetensors", "--include", "*.json", "--exclude", "original/",
                          "--json").exits(0)
        model, = json.loads(result.stdout)["models"]
        assert [it["path"] for it in model["files"]] == ["config.json", WEIGHTS, "tokenizer/a b.json"]
        assert sorted(files_below(Path(model["folder"]))) == ["config.json", WEIGHTS, "tokenizer/a b.json"]
        case.run("pull", REPO, "--include", "*.gguf").exits(2).says(
            f'--include and --exclude leave none of the 7 files of "{REPO}": .gitattributes, config.json')


def test_json(case):
    with a_hub(case) as hub:
        result = json.loads(case.run("pull", REPO, "--json", "--quiet").exits(0).stdout)
        model, = result["models"]
        assert (model["model"], model["revision"], model["commit"]) == (REPO, "main", hub.head(REPO))
        sizes = {path: len(content) for path, content in repository_files(hub).items()}
        assert {it["path"]: it["bytes"] for it in model["files"]} == sizes
        assert model["bytes"] == sum(sizes.values())
        assert result["received"] == model["missing"] == model["bytes"] - 400_000, "one content comes once"


def test_a_dry_run_changes_nothing(case):
    with a_hub(case):
        before = case.snapshot()
        case.run("pull", REPO, "--dry-run").exits(0).prints(f"{REPO}@main", "400 kB  model.safetensors", "nothing was fetched")
        after = case.snapshot()
        assert {name: it for name, it in after.items() if not name.startswith("hub")} == \
            {name: it for name, it in before.items() if not name.startswith("hub")}
        case.run("pull", REPO, "--include", WEIGHTS).exits(0)
        case.run("pull", REPO, "--dry-run").exits(0).prints("model.safetensors  (there)")
        files = json.loads(case.run("pull", REPO, "--dry-run", "--json").exits(0).stdout)["models"][0]["files"]
        assert {it["path"]: it["there"] for it in files}[WEIGHTS] is True
        assert {it["path"]: it["there"] for it in files}["config.json"] is False


def test_quiet(case):
    with a_hub(case):
        assert case.run("pull", REPO, "--quiet").exits(0).stderr == ""


# ----------------------------------------------------------------------------------------------------------- the refusals


@rows({
    "no such model": (dict(), ["tester/none"], 2, 'tester/none": there is no such model at', "set HF_TOKEN"),
    "no such model, with a token": (dict(token=TOKEN), ["tester/none"], 2, "the token in HF_TOKEN does not give access"),
    "private, without a token": (dict(private=True), [REPO], 2, "or it is private and no token was sent; set HF_TOKEN"),
    "private, of somebody else": (dict(private=True, token="hf_other"), [REPO], 2, "or it is private and the token in HF_TOKEN"),
    "a wrong token": (dict(token="hf_wrong"), [REPO], 2, "the Hub does not know the token in HF_TOKEN", "/settings/tokens"),
    "gated, without a token": (dict(gated=True), [REPO], 2, "the model is gated: accept its licence at", "give your token"),
    "gated, not granted": (dict(gated=True, token="hf_other"), [REPO], 2, "with the account whose token is in HF_TOKEN"),
    "disabled": (dict(disabled=True, token=TOKEN), [REPO], 2, "the Hub has disabled access to it"),
    "no such revision": (dict(), [REPO + "@v9"], 2, 'there is no branch, tag or commit "v9"'),
    "no name": (dict(), ["gpt2"], 2, '"gpt2" is no name of a model on the Hub; expected "org/name"'),
    "a folder": (dict(), ["."], 2, '"." is here already'),
    "a wrong part": (dict(), [REPO + "#exprt=1"], 2, "did you mean"),
    "two models, one folder": (dict(), [REPO, "a/b", "--local-dir", "x"], 2, "--local-dir takes the files of one model"),
    "no models": (dict(), [], 2, "MODEL is required"),
})
def test_refusals(case, hub, arguments, code, *sentences):
    with a_hub(case, **hub):
        case.run("pull", *arguments).exits(code).says(*sentences)
        assert not (case.folder / ".cache").exists()


@rows({
    "own and private": (dict(private=True, token=TOKEN),),
    "own and gated": (dict(gated=True, token=TOKEN),),
    "granted": (dict(gated=True, granted=["other"], token="hf_other"),),
})
def test_with_the_right_token(case, how):
    with a_hub(case, **how) as hub:
        case.run("pull", REPO).exits(0)
        assert files_below(cache_of(case) / "snapshots" / hub.head(REPO)) == repository_files(hub)
        no_token_left(hub)


@rows({
    "429 with RateLimit, once": (dict(status=429, headers={"RateLimit": '"api";r=0;t=0'}), 0, ""),
    "503 once": (dict(status=503, headers=NOW), 0, ""),
    "500 once, of a file": (dict(status=500, headers=NOW, origin="cdn"), 0, ""),
    "no answer, once": (dict(lost_answer=True, origin="hub"), 0, ""),
    "an expired address, once": (dict(status=403, origin="cdn"), 0, ""),
    "429 for long": (dict(status=429, headers={"RateLimit": '"api";r=0;t=9000'}, n=99), 1,
                     "too many requests to the Hub; try again in 9000 s (with a token more are allowed)"),
    "500 for ever": (dict(status=500, headers=NOW, n=99), 1, "the Hub has a fault of its own (HTTP 500)"),
    "503 for ever, of a file": (dict(status=503, headers=NOW, n=99, origin="cdn"), 1, "answered HTTP 503"),
    "403 of a file": (dict(status=403, path="/resolve/", n=99), 2, "the Hub refuses (the Hub says: injected): no token was sent"),
    "403 of the store": (dict(status=403, origin="cdn", n=99), 1, "where the Hub sends us for it, answered HTTP 403"),
    "a file that has vanished": (dict(status=404, path="/resolve/", headers={"X-Error-Code": "EntryNotFound"}, n=99), 2,
                                 'there is no such file at revision "main"'),
    "no JSON": (dict(status=200, body="<html>log in</html>", n=9), 1, "did not answer as a Hugging Face Hub does"),
    "JSON without a commit": (dict(status=200, body={"id": "x"}, n=9), 1, "did not answer as a Hugging Face Hub does"),
    "to nowhere": (dict(redirect="file:///etc/passwd", path="/resolve/", n=99), 1, "which is no web address"),
    "in circles": (dict(redirect="/again", n=99), 1, "too many redirects"),
})
def test_answers(case, fault, code, sentence):
    with a_hub(case) as hub:
        hub.fault(**fault)
        result = case.run("pull", REPO, "-j", "1").exits(code).says(sentence)
        if code == 0:
            assert files_below(cache_of(case) / "snapshots" / hub.head(REPO)) == repository_files(hub)
        else:
            assert result.stdout == ""
            assert not (cache_of(case) / "refs").exists()
        nothing_wrong(case, hub)


def test_nobody_there(case):
    del case.environment["HF_HUB_OFFLINE"]
    case.environment.update(HF_ENDPOINT="http://127.0.0.1:1", no_proxy="*")
    case.run("pull", REPO).exits(1).says("did not answer", "is the network up, and HF_ENDPOINT right?")
    case.environment["HF_ENDPOINT"] = "huggingface.co"
    case.run("pull", REPO).exits(2).says('HF_ENDPOINT is "huggingface.co"; expected a URL')


def test_names_that_would_leave_the_folder(case):
    with a_hub(case) as hub:
        for path in ("../evil", "/etc/evil", "a/../../evil", ".git/config", "a\\b", "a\n"):
            hub.listing(REPO, [{"path": path, "content": "x"}])
            case.run("pull", REPO).exits(1).says("which would not stay in its folder")
            assert not cache_of(case).exists()


def test_a_stranger_gets_no_token(case):
    with a_hub(case, token=TOKEN, private=True) as hub:
        sha256 = hashlib.sha256(noise(400_000)).hexdigest()
        hub.fault(path=f"/resolve/.*/{WEIGHTS}", redirect=f"{hub.stranger}/get/{sha256}?sig=1")
        case.run("pull", REPO, "--include", WEIGHTS).exits(0)
        assert [it for it in hub.log() if it["origin"] == "stranger"], "the stranger was not asked"
        no_token_left(hub)
        nothing_wrong(case, hub)
        # A stranger who says that he has something else gets nowhere either.
        hub.fault(path="/resolve/.*/config.json", redirect=f"{hub.stranger}/x")
        case.run("pull", REPO).exits(1).says('"config.json"', "9 bytes are expected", "has 10")
        no_token_left(hub)


# ------------------------------------------------------------------------------------------------------------ the cache


def test_offline(case):
    with a_hub(case) as hub:
        case.environment["HF_HUB_OFFLINE"] = "1"
        case.run("pull", REPO).exits(2).says("is not in the cache", "HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) is set")
        del case.environment["HF_HUB_OFFLINE"]
        case.run("pull", REPO, "--include", "*.json").exits(0)
        folder = case.run("pull", REPO).exits(0).stdout
        hub.clear()
        case.environment["HF_HUB_OFFLINE"] = "1"
        assert case.run("pull", REPO).exits(0).stdout == folder
        (cache_of(case) / "snapshots" / hub.head(REPO) / WEIGHTS).unlink()
        os.unlink(cache_of(case) / "snapshots" / hub.head(REPO) / "original/copy.safetensors")
        (cache_of(case) / "blobs" / hashlib.sha256(noise(400_000)).hexdigest()).unlink()
        case.run("pull", REPO).exits(2).says("2 of 7 files (400 kB) are not in the cache")
        case.run("pull", REPO, "--include", "*.json").exits(0)
        case.run("pull", REPO, "--local-dir", "x").exits(2).says("cannot be fetched into x")
        # What older clients left has no list of files: then what is there is all.
        (cache_of(case) / f"trees/{hub.head(REPO)}.json").unlink()
        assert case.run("pull", REPO).exits(0).stdout == folder
        assert hub.log() == []


def test_what_python_left(case):
    """Blobs that are links into a store that repositories share, and snapshots of before there were lists."""
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        sha256 = hashlib.sha256(noise(BIG)).hexdigest()
        store, blob = cache_of(case).parent / "blobs/ab" / ("ab" * 32), cache_of(case) / "blobs" / sha256
        store.parent.mkdir(parents=True)
        store.write_bytes(noise(BIG))
        blob.parent.mkdir(parents=True)
        blob.symlink_to("../../blobs/ab/" + "ab" * 32)
        case.run("pull", REPO).exits(0)
        assert transfers(hub) == []
        assert blob.is_symlink()
        # One that points to nothing, and one of a wrong size, are fetched.
        store.unlink()
        case.run("pull", REPO).exits(0)
        assert len(transfers(hub)) == 1 and blob.read_bytes() == noise(BIG)
        blob.write_bytes(b"an error page")
        case.run("pull", REPO).exits(0)
        assert blob.read_bytes() == noise(BIG)


def test_without_symlinks(case):
    with a_hub(case) as hub:
        case.environment["HF_HUB_DISABLE_SYMLINKS"] = "1"
        case.run("pull", REPO).exits(0)
        snapshot = cache_of(case) / "snapshots" / hub.head(REPO)
        assert files_below(snapshot) == repository_files(hub)
        assert not [path for path in snapshot.rglob("*") if path.is_symlink()]
        assert list((cache_of(case) / "blobs").iterdir()) == []
        hub.clear()
        case.run("pull", REPO).exits(0).says("all there")
        assert transfers(hub) == []


def test_another_cache(case):
    with a_hub(case):
        result = case.run("pull", REPO, "--cache", "elsewhere").exits(0)
        assert result.stdout.startswith("elsewhere/models--tester--m/snapshots/")
        assert not (case.folder / ".cache").exists()
        assert case.run("pull", REPO, "--transformers-cache", "elsewhere").exits(0).stdout == result.stdout


def test_a_full_disk(case):
    folder = case.tmpfs("small", "2m")
    with a_hub(case, {WEIGHTS: noise(BIG)}):
        case.run("pull", REPO, "--cache", folder).exits(1).says("3.0 MB have still to come", "free: make room, or choose another")
        assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_written(case):
    case.write("file", "")
    with a_hub(case):
        case.run("pull", REPO, "--cache", "file/x").exits(1).says("file/x")


# -------------------------------------------------------------------------------------------------- a folder of one's own


def test_local_dir(case):
    with a_hub(case) as hub:
        result = case.run("pull", REPO, "--local-dir", "here").exits(0)
        assert result.stdout == "here\n"
        folder = case.path("here")
        found = {name: it for name, it in files_below(folder).items() if not name.startswith(".cache/")}
        assert found == repository_files(hub)
        assert not [path for path in folder.rglob("*") if path.is_symlink()]
        notes = folder / ".cache/huggingface"
        commit, etag, when = (notes / f"download/{WEIGHTS}.metadata").read_text().splitlines()
        assert (commit, etag) == (hub.head(REPO), hashlib.sha256(noise(400_000)).hexdigest())
        assert abs(float(when) - time.time()) < 60
        assert (notes / ".gitignore").read_text() == "*" and not list(notes.rglob("*.incomplete"))
        assert not (case.folder / ".cache").exists()

        hub.clear()
        case.run("pull", REPO, "--local-dir", "here").exits(0).says("all there")
        assert len(hub.log()) == 2

        # Without the notes the content decides.
        for note in notes.rglob("*.metadata"):
            note.unlink()
        case.run("pull", REPO, "--local-dir", "here").exits(0).says("all there")
        assert transfers(hub) == [] and (notes / f"download/{WEIGHTS}.metadata").exists()


def test_local_dir_changed_files(case):
    with a_hub(case) as hub:
        case.run("pull", REPO, "--local-dir", "here").exits(0)
        add_files(case, hub, {"config.json": b"new\n"})
        assert case.run("pull", REPO, "--local-dir", "here").exits(0).warnings() == []
        assert case.path("here/config.json").read_bytes() == b"new\n"
        case.write("here/config.json", b"mine")
        os.utime(case.path("here/config.json"), (time.time() + 100, time.time() + 100))
        warning, = case.run("pull", REPO, "--local-dir", "here").exits(0).warnings()
        assert "here/config.json was something else: it is replaced" in warning
        assert case.path("here/config.json").read_bytes() == b"new\n"


def test_local_dir_resumes(case):
    with a_hub(case, {WEIGHTS: noise(BIG)}) as hub:
        hub.fault(origin="cdn", cut=1000)
        hub.fault(origin="cdn", status=404, n=99)
        case.run("pull", REPO, "--local-dir", "here").exits(1)
        etag = hashlib.sha256(noise(BIG)).hexdigest()
        partial = case.path(f"here/.cache/huggingface/download/{etag}.incomplete")
        assert partial.stat().st_size == 1000
        hub.clear()
        case.run("pull", REPO, "--local-dir", "here").exits(0)
        assert [it["range"] for it in transfers(hub)] == ["bytes=1000-"]


def test_local_dir_links_that_lead_out(case):
    with a_hub(case):
        outside = case.path("outside")
        outside.mkdir()
        case.path("here").mkdir()
        case.path("here/original").symlink_to(outside)
        case.run("pull", REPO, "--local-dir", "here").exits(1).says("a link in this path leads out of here")
        assert list(outside.iterdir()) == []
        # A link in the place of a file is replaced, and what it points to stays as it is.
        case.path("here/original").unlink()
        case.write("mine", b"mine")
        (case.path("here/config.json")).unlink(missing_ok=True)
        case.path("here/config.json").symlink_to("../mine")
        case.run("pull", REPO, "--local-dir", "here").exits(0)
        assert case.path("mine").read_bytes() == b"mine"
        assert case.path("here/config.json").read_bytes() == b'{"a": 1}\n'


def test_local_dir_notes_of_others(case):
    with a_hub(case) as hub:
        hub.listing(REPO, [{"path": ".cache/huggingface/download/config.json.metadata", "content": "x"},
                           {"path": "a.txt", "oid": hashlib.sha1(b"blob 1\0y").hexdigest(), "content": "y"}])
        warning, = case.run("pull", REPO, "--local-dir", "here").exits(0).warnings()
        assert "where notes about downloads are kept: they are left out" in warning
        assert not case.path("here/.cache/huggingface/download/config.json.metadata").exists()
        assert case.path("here/a.txt").read_bytes() == b"y"


def test_a_file_that_comes_by_xet_alone(case):
    with a_hub(case) as hub:
        hub.listing(REPO, [{"path": WEIGHTS, "oid": "1" * 40, "size": 51_000_000_000, "xetHash": "a" * 64,
                            "lfs": {"oid": "b" * 64, "size": 51_000_000_000, "pointerSize": 130}}])
        case.run("pull", REPO).exits(2).says(WEIGHTS, "Xet", "-DMOERGE_XET=ON")
        assert not [it for it in hub.log() if "/resolve/" in it["path"]]


def test_a_data_set(case):
    name, repo = "tester/items", "datasets/tester/items"
    with a_hub(case, {"README.md": b"---\n---\n", "data/test.jsonl": b"{}\n", "all.parquet": noise(50_000)}, repo=repo) as hub:
        result = case.run("pull", name, "--repo-type", "dataset", "--include", "data/*").exits(0)
        commit, folder = hub.head(repo), cache_of(case).with_name("datasets--tester--items")
        assert result.stdout == f"{folder / 'snapshots' / commit}\n", result.stdout
        assert files_below(folder / "snapshots" / commit) == {"data/test.jsonl": b"{}\n"}
        case.run("pull", name, "--repo-type", "dataset").exits(0)
        assert files_below(folder / "snapshots" / commit) == repository_files(hub, repo)
        assert (folder / "refs/main").read_text() == commit
        row, = json.loads(case.run("pull", name, "--repo-type", "dataset", "--json").exits(0).stdout)["datasets"]
        assert (row["dataset"], row["missing"]) == (name, 0)
        case.run("pull", name).exits(2).says(f'"{name}": there is no such model at')
        case.run("pull", "tester/nothing", "--repo-type", "dataset").exits(2).says(
            '"tester/nothing": there is no such data set at')
        case.run("pull", "a/b/c", "--repo-type", "dataset").exits(2).says('"a/b/c" is no name of a data set on the Hub')
        case.run("pull", name, "--repo-type", "dataset", "--only", "ffn").exits(2).says("--only fetches parts of models")
        hub.meta(repo, gated=True)
        case.run("pull", name, "--repo-type", "dataset").exits(2).says(
            f"the data set is gated: accept its licence at {hub.url}/{repo} and give your token in HF_TOKEN")
        hub.meta(repo, gated=False, moved="datasets/acme/items")
        add_files(case, hub, {"new.jsonl": b"{}\n"}, "datasets/acme/items")
        case.run("pull", name, "--repo-type", "dataset", "--include", "new.jsonl").exits(0)
