"""moerge push: a folder to the Hub. The Hub is tests/hub/fakehub.py; git itself says what arrived."""
import json, os, subprocess, time

from harness import rows
from push_case import REPO, sha256, noise, hub_for, model_folder, arrived, commits, requests, nothing_sent, token_stayed

# ------------------------------------------------------------------------------------------------------- what is uploaded


def test_a_new_repository_has_every_file(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        result = case.run("push", "out", REPO).exits(0)
        assert result.stdout == f"{hub.url}/{REPO}\n" and not result.warnings(), result
        arrived(hub, content)
        assert not hub.store.repos[REPO].private and commits(hub) == 1
        pointer = hub.store.git(REPO, "show", "main:one.safetensors").decode()
        assert pointer == ("version https://git-lfs.github.com/spec/v1\n"
                           f"oid sha256:{sha256(content['one.safetensors'])}\nsize 300000\n")
        subject = hub.store.git(REPO, "log", "-1", "--format=%s%b").decode()
        assert subject == "Upload with moerge\n", subject
        order = [it["path"].split("?")[0].rsplit("/", 2 if "main" in it["path"] else 1)[1] for it in hub.log()]
        assert order == ["whoami-v2", "validate-yaml", "revision", "create", "revision", "preupload", "batch",
                         *order[7:11], "commit"], order
        token_stayed(hub)
        assert all(it["agent"].startswith("moerge/") for it in hub.log())


def test_git_can_clone_what_arrived(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        case.run("push", "out", REPO, "--message", "Hällo\n\nmore").exits(0)
        clone = case.path("clone")
        subprocess.run(["git", "clone", "-q", str(hub.store.folder(REPO)), str(clone)], check=True,
                       env={**case.variables(), "GIT_LFS_SKIP_SMUDGE": "1", "GIT_CONFIG_NOSYSTEM": "1"})
        assert (clone / "tokenizer/vocab.txt").read_bytes() == content["tokenizer/vocab.txt"]
        assert sha256(content["two.safetensors"]) in (clone / "two.safetensors").read_text()
        assert hub.store.git(REPO, "log", "-1", "--format=%s").decode() == "Hällo\n"


def test_private(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        case.run("push", "out", "acme/model", "--private").exits(0).says("made the private repository")
        assert hub.store.repos["acme/model"].private
        arrived(hub, content, "acme/model")


def test_private_does_not_publish_to_what_is_public(case):
    model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.write("seed/a.txt", "a").parent)
        hub.clear()
        case.run("push", "out", REPO, "--private").exits(2).says("is public, and --private makes only new repositories private")
        nothing_sent(hub)


def test_nothing_to_change_is_no_commit(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.path("out"))
        hub.clear()
        result = case.run("push", "out", REPO, "--json").exits(0).says("nothing to commit", "6 of 6 files are there already")
        told = json.loads(result.stdout)
        assert told["commit"] is None and {it["state"] for it in told["files"]} == {"there"}, told
        assert not requests(hub, "PUT") and not requests(hub, "POST", "/commit/") and not requests(hub, "POST", "/create")
        arrived(hub, content)


def test_only_what_changed_is_sent(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.path("out"))
        hub.clear()
        content["one.safetensors"] = noise("another", 300_001)
        case.write("out/one.safetensors", content["one.safetensors"])
        told = json.loads(case.run("push", "out", REPO, "--json").exits(0).stdout)
        states = {it["path"]: it["state"] for it in told["files"]}
        assert [path for path, state in states.items() if state == "sent"] == ["one.safetensors"], states
        assert told["url"] == f"{hub.url}/{REPO}" and told["commit"] == hub.head(REPO)
        assert [it["received"] for it in requests(hub, "PUT")] == [300_001]
        arrived(hub, content)
        changed = hub.store.git(REPO, "show", "--name-only", "--format=", "main").decode()
        assert changed == "one.safetensors\n", changed


def test_files_that_only_the_repository_has_stay(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.write("seed/images/plot.txt", "of somebody").parent.parent)
        case.run("push", "out", REPO).exits(0)
        arrived(hub, {**content, "images/plot.txt": b"of somebody"})


def test_equal_files_are_sent_once(case):
    content = model_folder(case)
    content["three.safetensors"] = content["one.safetensors"]
    case.write("out/three.safetensors", content["three.safetensors"])
    with hub_for(case) as hub:
        case.run("push", "out", REPO).exits(0)
        assert len(requests(hub, "PUT")) == 2
        arrived(hub, content)


def test_many_files(case):
    content = model_folder(case)
    for i in range(300):
        content[f"parts/{i}.txt"] = f"number {i}".encode()
        case.write(f"out/parts/{i}.txt", content[f"parts/{i}.txt"])
    with hub_for(case, page=100) as hub:
        case.run("push", "out", REPO).exits(0)
        arrived(hub, content)
        assert len(requests(hub, "POST", "/preupload/")) == 2 and commits(hub) == 1
        case.run("push", "out", REPO).exits(0).says("nothing to commit")


def test_a_branch_is_made(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.write("seed/a.txt", "a").parent)
        case.run("push", "out", f"{REPO}@try/1").exits(0).says('made the branch "try/1"')
        assert hub.files(REPO, "try/1")["two.safetensors"] == content["two.safetensors"]
        assert commits(hub) == 1  # of main: the seed
        case.run("push", "out", REPO, "--revision", "try/1").exits(0).says("nothing to commit")
        case.run("push", "out", f"{REPO}@other", "--revision", "try/1").exits(2).says("names another branch than --revision")
        case.run("push", "out", f"{REPO}@{hub.head(REPO)}").exits(2).says("is a commit, which never changes")
        case.run("push", "out", f"{REPO}@refs/pr/7").exits(2).says('there is no branch, tag or commit "refs/pr/7"')


def test_a_name_alone_is_ones_own(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        case.run("push", "out", "model").exits(0).says('"model" is taken for your own "tester/model"')
        arrived(hub, content)


def test_hidden_and_half_made_files_are_left_out(case):
    content = model_folder(case)
    for name in (".git/config", ".cache/huggingface/x", ".env", ".gitattributes", "sub/.hidden", "x.gguf.moerge-partial",
                 ".out.moerge-partial/config.json"):
        case.write(f"out/{name}", "secret")
    with hub_for(case) as hub:
        case.run("push", "out", REPO).exits(0)
        arrived(hub, content)


def test_what_the_repository_ignores_is_left_out(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.write("seed/.gitignore", "*.log\n").parent)
        case.write("out/train.log", "x")
        case.run("push", "out", REPO).exits(0).says('"train.log" is left out: .gitignore of the repository names it')
        arrived(hub, {**content, ".gitignore": b"*.log\n"})


# ------------------------------------------------------------------------------------------------------------------ links


def test_a_snapshot_of_the_cache_can_be_pushed(case):
    content = model_folder(case, "real")
    snapshot = case.folder / ".cache/huggingface/hub/models--a--b/snapshots" / ("0" * 40)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    for path, text in content.items():
        (blobs / sha256(text)).write_bytes(text)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / path).symlink_to(os.path.relpath(blobs / sha256(text), (snapshot / path).parent))
    (snapshot / "again.txt").symlink_to("config.json")
    with hub_for(case) as hub:
        case.run("push", snapshot, REPO).exits(0)
        arrived(hub, {**content, "again.txt": content["config.json"]})


@rows({
    "outside": ("secret.txt", "../secret.txt", "the link leads out of the folder, to "),
    "nowhere": ("secret.txt", "nothing", 'the link leads to "nothing", which is not there'),
    "folder": ("more", "../elsewhere", "a link to a folder is not followed"),
})
def test_a_link_that_is_not_followed(case, name, target, sentence):
    model_folder(case)
    case.write("secret.txt", "of mine")
    case.write("elsewhere/a", "a")
    case.path(f"out/{name}").symlink_to(target)
    with hub_for(case) as hub:
        case.run("push", "out", REPO).exits(2).says(f"out/{name}: {sentence}")
        nothing_sent(hub)


# -------------------------------------------------------------------------------------------------------------- refusals


@rows({
    "read only": ("hf_read", "reader/model", 'the token in HF_TOKEN (of "reader") may only read'),
    "none": ("", REPO, "uploading needs a token of yours that may write"),
    "unknown": ("hf_wrong", REPO, "the Hub does not know the token in HF_TOKEN"),
    "foreign": ("hf_test", "other/model", 'is of "tester", who cannot write there; a name that starts with "tester" or "acme"'),
})
def test_a_token_that_may_not(case, token, name, sentence):
    model_folder(case)
    with hub_for(case) as hub:
        case.environment["HF_TOKEN"] = token
        result = case.run("push", "out", name).exits(2).says(sentence)
        assert len(result.stderr.splitlines()) == 1 and not result.stdout, result
        assert {it["path"] for it in hub.log()} <= {"/api/whoami-v2"}


def test_the_hub_may_still_say_no(case):
    model_folder(case)
    with hub_for(case) as hub:
        hub.fault(path="/create", status=403, body={"error": "You don't have the rights"})
        case.run("push", "out", REPO).exits(2).says("is not there, and the token in HF_TOKEN may not make it")
        hub.seed(REPO, case.write("seed/a.txt", "a").parent)
        hub.fault(path="/commit/", status=403, body={"error": "Storage limit reached"}, n=9)
        case.run("push", "out", REPO).exits(2).says("the Hub refuses (the Hub says: Storage limit reached)")
        assert len(requests(hub, "POST", "/commit/")) == 1 and commits(hub) == 1


def test_who_is_a_reader_of_an_organisation(case):
    model_folder(case)
    with hub_for(case) as hub:
        who = {"name": "tester", "orgs": [{"name": "acme", "roleInOrg": "read"}], "auth": {"accessToken": {"role": "write"}}}
        hub.fault(path="/whoami", status=200, body=who)
        case.run("push", "out", "acme/model").exits(2).says('"tester" may only read in the organisation "acme"')
        nothing_sent(hub)


def test_a_fine_grained_token_has_the_hub_decide(case):
    model_folder(case)
    with hub_for(case) as hub:
        hub.store.tokens["hf_fine"] = {"name": "tester", "orgs": [], "role": "fineGrained"}
        case.environment["HF_TOKEN"] = "hf_fine"
        case.run("push", "out", "acme/model").exits(2).says("is not there, and the token in HF_TOKEN may not make it")
        assert not requests(hub, "PUT")


@rows({
    "open": ("---\nlicense: mit\n# A model\n", "the closing --- is missing"),
    "licence": ("---\nlicense: mine\n---\n", "must be one of the Hub's license ids"),
})
def test_a_card_with_an_error(case, card, sentence):
    model_folder(case)
    case.write("out/README.md", card)
    with hub_for(case) as hub:
        case.run("push", "out", REPO).exits(2).says("out/README.md: the Hub refuses the model card: ", sentence)
        nothing_sent(hub)


def test_a_card_with_a_warning(case):
    content = model_folder(case)
    content["README.md"] = b"# A model\n"
    case.write("out/README.md", content["README.md"])
    with hub_for(case) as hub:
        result = case.run("push", "out", REPO).exits(0)
        assert result.warnings() == ["warning: out/README.md: the Hub says: empty or missing yaml metadata in repo card"]
        arrived(hub, content)


def test_a_folder_without_a_card(case):
    content = model_folder(case)
    case.path("out/README.md").unlink()
    content.pop("README.md")
    with hub_for(case) as hub:
        case.run("push", "out", REPO).exits(0).says('out has no README.md, so the page on the Hub will be empty; '
                                                    '"moerge card out" writes one')
        arrived(hub, content)


def test_no_card_leaves_that_of_the_repository(case):
    content = model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.write("seed/README.md", "# Edited\n").parent)
        case.run("push", "out", REPO, "--no-card").exits(0)
        arrived(hub, {**content, "README.md": b"# Edited\n"})


@rows({
    "not there": (("push", "nowhere", REPO), "nowhere: there is no such folder"),
    "a file": (("push", "out/config.json", REPO), "a folder is expected"),
    "no model": (("push", "out/tokenizer", REPO), "neither config.json nor a .gguf file is there"),
    "dashes": (("push", "out", "tester/a--b"), "cannot be a repository"),
    "slashes": (("push", "out", "a/b/c"), "cannot be a repository"),
    "git": (("push", "out", "tester/a.git"), "cannot be a repository"),
    "no gguf": (("push", "out", REPO, "--gguf", "out/tokenizer"), "no .gguf file is there"),
    "bad branch": (("push", "out", REPO, "--revision", "a/../b"), "this cannot be a branch"),
})
def test_arguments_that_cannot_be(case, arguments, sentence):
    model_folder(case)
    with hub_for(case) as hub:
        case.run(*arguments).exits(2).says(sentence)
        nothing_sent(hub)


def test_a_name_that_the_hub_cannot_take(case):
    model_folder(case)
    case.write("out/a\\b", "x")
    with hub_for(case) as hub:
        case.run("push", "out", REPO).exits(2).says("the Hub cannot take a file of this name")
        nothing_sent(hub)


def test_offline(case):
    model_folder(case)
    case.environment["HF_HUB_OFFLINE"] = "1"
    case.run("push", "out", REPO).exits(2).says("HF_HUB_OFFLINE")


def test_a_large_file_that_the_hub_does_not_want_in_lfs(case):
    model_folder(case)
    case.write("out/notes.txt", b"x" * 11_000_000)
    with hub_for(case) as hub:
        names = ["README.md", "config.json", "empty.txt", "notes.txt", "one.safetensors", "tokenizer/vocab.txt",
                 "two.safetensors"]
        hub.fault(path="/preupload/", status=200,
                  body={"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})
        case.run("push", "out", REPO).exits(1).says("out/notes.txt: 11.0 MB is too large for a file outside of LFS")
        assert not requests(hub, "PUT") and commits(hub) == 0


@rows({
    "refused": (lambda oid: {"objects": [{"oid": oid, "size": 3, "error": {"code": 422, "message": "too many"}}]}, 2,
                '"one.safetensors": the Hub does not take the file: too many'),
    "xet": (lambda oid: {"transfer": "xet", "objects": [{"oid": oid, "size": 3, "actions": {"upload": {"href": "http://x/"}}}]},
            2, "the Hub takes this file by its Xet protocol alone"),
    "silent": (lambda oid: {"objects": []}, 1, 'the answer says nothing of "one.safetensors"'),
    "no list": (lambda oid: {}, 1, "the answer lists no objects"),
    "no address": (lambda oid: {"objects": [{"oid": oid, "size": 3, "actions": {"upload": {"href": "file:///etc/passwd"}}}]}, 1,
                   "which is no address that can be used"),
    "wrong parts": (lambda oid: {"objects": [{"oid": oid, "size": 3, "actions": {"upload": {
        "href": "http://127.0.0.1:9/", "header": {"chunk_size": "2", "1": "http://127.0.0.1:9/"}}}}]}, 1,
                    'wants "one.safetensors" in 1 parts of 2 bytes'),
})
def test_an_answer_of_the_store_that_makes_no_sense(case, answer, code, sentence):
    model_folder(case)
    case.path("out/two.safetensors").unlink()
    case.write("out/one.safetensors", "new")
    with hub_for(case) as hub:
        hub.fault(path="/objects/batch", status=200, body=answer(sha256(b"new")))
        case.run("push", "out", REPO).exits(code).says(sentence)
        assert not requests(hub, "PUT") and commits(hub) == 0


# --------------------------------------------------------------------------------------------------------------- dry runs


def test_dry_run_compares_and_changes_nothing(case):
    model_folder(case)
    with hub_for(case) as hub:
        result = case.run("push", "out", REPO, "--dry-run").exits(0).says(f'"{REPO}" has no repository yet')
        result.prints(f"{hub.url}/{REPO}\n", "in 6 files would be sent", "nothing was changed (--dry-run)")
        nothing_sent(hub)
        assert REPO not in hub.store.repos
        hub.seed(REPO, case.path("out"))
        hub.clear()
        case.write("out/config.json", '{"model_type": "other"}\n')
        case.write("out/one.safetensors", noise("changed", 300_000))
        told = json.loads(case.run("push", "out", REPO, "--dry-run", "--json").exits(0).stdout)
        states = {it["path"]: it["state"] for it in told["files"]}
        assert sorted(path for path, state in states.items() if state == "to send") == ["config.json", "one.safetensors"], states
        assert told["commit"] is None and len(states) == 6
        nothing_sent(hub)


def test_dry_run_says_what_would_be_refused(case):
    model_folder(case)
    with hub_for(case) as hub:
        case.run("push", "out", "other/model", "--dry-run").exits(2).says("who cannot write there")
        case.write("out/README.md", "---\nlicense: mine\n---\n")
        case.run("push", "out", REPO, "--dry-run").exits(2).says("the Hub refuses the model card")
        nothing_sent(hub)


@rows({"offline": ({"HF_HUB_OFFLINE": "1"},), "nobody there": ({"HF_ENDPOINT": "http://127.0.0.1:9"},),
       "without a token": ({"HF_TOKEN": ""},)})
def test_dry_run_without_an_answer_lists_all(case, environment):
    model_folder(case)
    with hub_for(case) as hub:
        hub.seed(REPO, case.path("out"), private=True)
        hub.clear()
        case.environment.update(environment)
        begin = time.monotonic()
        case.run("push", "out", REPO, "--dry-run").exits(0).prints("in 6 files would be sent")
        assert time.monotonic() - begin < 5
        nothing_sent(hub)


# -------------------------------------------------------------------------------------------------------------- GGUF files


def test_gguf_files_go_to_a_repository_of_their_own(case):
    content = model_folder(case)
    ggufs = {"m.Q8_0.gguf": noise("q8", 20_000), "m.Q4_K_M.gguf": noise("q4", 10_000), "README.md": b"---\nlicense: mit\n---\n# Q\n"}
    for path, text in ggufs.items():
        case.write(f"out/gguf/{path}", text)
    case.write("out/gguf/notes.txt", "not for anybody")
    with hub_for(case) as hub:
        result = case.run("push", "out", REPO, "--gguf", "out/gguf", "--json").exits(0)
        arrived(hub, content)
        arrived(hub, ggufs, REPO + "-GGUF")
        told = json.loads(result.stdout)
        assert told["gguf"]["url"] == f"{hub.url}/{REPO}-GGUF" and told["gguf"]["commit"] == hub.head(REPO + "-GGUF")
        again = case.run("push", "out", REPO, "--gguf", "out/gguf").exits(0)
        assert again.stdout == f"{hub.url}/{REPO}\n{hub.url}/{REPO}-GGUF\n"


def test_gguf_files_beside_the_model(case):
    content = model_folder(case)
    gguf = noise("q8", 20_000)
    case.write("out/m.Q8_0.gguf", gguf)
    with hub_for(case) as hub:
        case.run("push", "out", REPO, "--gguf", "out", "--private", "--no-card").exits(0)
        content.pop("README.md")
        arrived(hub, content)
        arrived(hub, {"m.Q8_0.gguf": gguf}, REPO + "-GGUF")
        assert hub.store.repos[REPO + "-GGUF"].private


def test_a_folder_of_gguf_files_alone(case):
    gguf = noise("q8", 20_000)
    case.write("q/m.gguf", gguf)
    with hub_for(case) as hub:
        case.run("push", "q", REPO + "-GGUF").exits(0)
        arrived(hub, {"m.gguf": gguf}, REPO + "-GGUF")


def test_no_card_of_either_may_have_an_error(case):
    model_folder(case)
    case.write("q/m.gguf", noise("q8", 20_000))
    case.write("q/README.md", "---\nlicense: mine\n---\n")
    with hub_for(case) as hub:
        case.run("push", "out", REPO, "--gguf", "q").exits(2).says("q/README.md: the Hub refuses the model card")
        nothing_sent(hub)
