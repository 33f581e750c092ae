"""The fake Hub's own origin: the routes that clients use, as far as the official clients of Python and JavaScript show them."""
import base64, json, re, time
from urllib.parse import parse_qs, quote, unquote

import hub_card
from hub_http import Handler
from hub_store import Entry, HubError, coded, is_large

ID = r"((?:datasets/)?[^/]+(?:/[^/]+)?)"  # of a data set "datasets/org/name", as its page has it
BATCH = 256  # files that one preupload or LFS batch may hold
REGULAR_CONTENT = 14_000_000  # characters of a regular file in base64
ROUTES = [(method, re.compile(pattern), name) for method, pattern, name in (
    ("GET", "/api/whoami-v2", "whoami"),
    ("POST", "/api/repos/create", "create"),
    ("DELETE", "/api/repos/delete", "delete"),
    ("POST", "/api/validate-yaml", "validate_yaml"),
    ("POST", "/api/complete_multipart", "complete_multipart"),
    ("GET", f"/api/resolve-cache/models/{ID}/([0-9a-f]{{40}})/(.+)", "resolve_cache"),
    ("POST", rf"/{ID}\.git/info/lfs/objects/batch", "lfs_batch"),
    ("POST", rf"/{ID}\.git/info/lfs/objects/verify", "lfs_verify"),
    ("GET", f"/{ID}/resolve/([^/]+)/(.+)", "resolve"),
    ("GET", f"/api/models/{ID}/revision/([^/]+)", "info"),
    ("GET", f"/api/models/{ID}/tree/([^/]+)(?:/(.*))?", "tree"),
    ("POST", f"/api/models/{ID}/paths-info/([^/]+)", "paths_info"),
    ("POST", f"/api/models/{ID}/preupload/([^/]+)", "preupload"),
    ("POST", f"/api/models/{ID}/commit/([^/]+)", "commit"),
    ("GET", f"/api/models/{ID}/refs", "refs"),
    ("POST", f"/api/models/{ID}/branch/([^/]+)", "branch"),
    ("POST", f"/api/models/{ID}/tag/([^/]+)", "tag"),
    ("GET", f"/api/models/{ID}/xet-(read)-token/([^/]+)", "xet_token"),
    ("GET", f"/api/models/{ID}/xet-(write)-token/([^/]+)", "xet_token"),
    ("GET", f"/api/models/{ID}", "info"),
)]


def kind_of(repo):
    return "dataset" if repo.startswith("datasets/") else "model"


class Api(Handler):
    ORIGIN = "hub"

    def route(self):
        self.store = self.hub.store
        method = "GET" if self.command == "HEAD" else self.command
        path = re.sub("^/api/(resolve-cache/)?datasets/", r"/api/\1models/datasets/", self.url_path)
        for wanted, pattern, name in ROUTES:
            if wanted == method and (match := pattern.fullmatch(path)):
                arguments = [None if group is None else unquote(group) for group in match.groups()]
                getattr(self, name)(*arguments)
                return
        raise HubError(404, {"error": "Sorry, we can't find the page you are looking for."})

    # -------------------------------------------------------------------------------------------------- who may do what

    def user(self, required=False):
        value = self.headers.get("Authorization")
        if value is not None:
            if user := self.store.tokens.get(value.removeprefix("Bearer ")):
                return user
            message = "Invalid credentials in Authorization header"
        elif not required:
            return None
        else:
            message = "Invalid username or password."
        raise HubError(401, {"error": "Invalid username or password."}, X_Error_Message=message)

    def repo(self, repo, write=False, content=False):
        """What is known of a repository, if the user may read it, write to it, or read the content of its files."""
        user, meta = self.user(), self.store.repos.get(repo)
        own = meta and user and (meta.owner == user["name"] or meta.owner in user["orgs"])
        if not meta or (meta.private and not own):
            raise coded(404 if user else 401, "RepoNotFound", "Repository not found")
        if meta.moved:
            raise HubError(307, {"error": "moved"}, Location=self.path.replace(repo, meta.moved, 1))
        if meta.disabled:
            raise HubError(403, {"error": "disabled"}, X_Error_Message="Access to this resource is disabled.")
        if content and meta.gated and not own and not (user and user["name"] in meta.granted):
            what = f"{kind_of(repo)} {repo.removeprefix('datasets/')}"
            raise coded(403 if user else 401, "GatedRepo",
                        f"Access to {what} is restricted. You must have access to it and be authenticated to access it.")
        if write:
            if not user:
                raise HubError(401, {"error": "Invalid username or password."})
            if not own or user["role"] != "write":
                message = "Forbidden: you must use a write token to upload to a repository." if own or user["role"] == "read" \
                    else "You don't have the required permissions to perform this action."
                raise HubError(403, {"error": message}, X_Error_Message=message)
        return meta

    def whoami(self):
        user = self.user(required=True)
        self.send(200, {
            "type": "user", "id": "1", "name": user["name"], "fullname": user["name"], "isPro": False,
            "orgs": [{"type": "org", "name": name, "fullname": name, "roleInOrg": "write"} for name in user["orgs"]],
            "auth": {"type": "access_token", "accessToken": {"displayName": "t", "role": user["role"],
                                                             "createdAt": "2026-01-01T00:00:00.000Z"}}})

    # ---------------------------------------------------------------------------------------------------- repositories

    def named_repo(self, what):
        user, arguments = self.user(required=True), self.json()
        kind = arguments.get("type") or "model"
        if kind not in ("model", "dataset"):
            raise HubError(400, {"error": "This server has models and data sets only"})
        owner, name = arguments.get("organization") or user["name"], str(arguments.get("name", ""))
        if not re.fullmatch(r"[\w.-]{1,96}", name) or "--" in name or ".." in name or name.endswith(".git"):
            raise HubError(400, {"error": f"Invalid repo name: {owner}/{name}"})
        if user["role"] != "write" or (owner != user["name"] and owner not in user["orgs"]):
            raise HubError(403, {"error": f"You don't have the rights to {what} a {kind} under the namespace \"{owner}\"."})
        return f"{'datasets/' if kind == 'dataset' else ''}{owner}/{name}", arguments

    def create(self):
        repo, arguments = self.named_repo("create")
        with self.store.lock:
            if repo in self.store.repos:
                raise HubError(409, {"error": f"You already created this {kind_of(repo)} repo", "url": f"{self.hub.url}/{repo}"})
            self.store.create(repo, private=bool(arguments.get("private")) or arguments.get("visibility") == "private")
        self.send(200, {"url": f"{self.hub.url}/{repo}", "name": repo, "id": "1"})

    def delete(self):
        repo, _ = self.named_repo("delete")
        self.repo(repo, write=True)
        self.store.delete(repo)
        self.send(200, "OK")

    def info(self, repo, revision="main"):
        meta = self.repo(repo)
        commit = self.store.find_commit(repo, revision)
        rows = [row for row in self.rows(repo, commit) if row["type"] == "file"]
        if self.query.get("blobs", "").lower() == "true":
            siblings = [{"rfilename": row["path"], "size": row["size"], "blobId": row["oid"],
                         **({"lfs": {"sha256": row["lfs"]["oid"], "size": row["lfs"]["size"],
                                     "pointerSize": row["lfs"]["pointerSize"]}} if "lfs" in row else {})} for row in rows]
        else:
            siblings = [{"rfilename": row["path"]} for row in rows]
        self.send(200, {
            "_id": "1", "id": repo.removeprefix("datasets/"), "modelId": repo, "author": meta.owner, "sha": commit, "private": meta.private,
            "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z", "tags": [], "downloads": 0,
            "likes": 0, "gated": "manual" if meta.gated else False, "disabled": meta.disabled, "siblings": siblings})

    def rows(self, repo, commit, folder="", recursive=True):
        """The files and folders below a folder, as tree answers them."""
        if (listing := self.store.repos[repo].listing) is not None:
            return [{key: value for key, value in row.items() if key != "content"} for row in listing]
        rows, start = [], folder + "/" if folder else ""
        for path, row in self.store.tree(repo, commit).items():
            if not path.startswith(start) or (not recursive and "/" in path[len(start):]):
                continue
            if not isinstance(row, Entry):
                rows.append({"type": "directory", "oid": row, "size": 0, "path": path})
                continue
            rows.append({"type": "file", "oid": row.oid, "size": row.size, "path": path})
            if row.sha256:
                rows[-1]["lfs"] = {"oid": row.sha256, "size": row.size, "pointerSize": row.blob_size}
                if row.sha256 in self.store.xet:
                    rows[-1]["xetHash"] = self.store.xet[row.sha256]
        if folder and not rows:
            raise coded(404, "EntryNotFound", f"{folder} does not exist on \"{commit}\"")
        return rows

    def tree(self, repo, revision, folder=None):
        self.repo(repo, content=True)
        commit = self.store.find_commit(repo, revision)
        rows = self.rows(repo, commit, (folder or "").strip("/"), self.query.get("recursive", "").lower() == "true")
        begin = int(self.query.get("cursor") or 0)
        end = begin + self.hub.page
        headers = {"X-Repo-Commit": commit}
        if end < len(rows):
            query = "&".join(f"{key}={quote(value)}" for key, value in {**self.query, "cursor": str(end)}.items())
            headers["Link"] = f'<{self.hub.url}{self.url_path}?{query}>; rel="next"'
        self.send(200, rows[begin:end], **headers)

    def paths_info(self, repo, revision):
        content = b"".join(self.pieces()).decode()
        self.repo(repo)
        commit = self.store.find_commit(repo, revision)
        arguments = json.loads(content) if content.startswith("{") else parse_qs(content)
        rows = [row for row in self.rows(repo, commit) if row["path"] in arguments["paths"]]
        if str(arguments.get("expand")).lower() in ("true", "['true']"):
            for row in rows:
                row["lastCommit"] = {"id": self.store.last_commit(repo, commit, row["path"]), "title": "commit",
                                     "date": "2026-01-01T00:00:00.000Z"}
        self.send(200, rows)

    def refs(self, repo):
        self.repo(repo)
        refs = self.store.refs(repo)

        def below(start):
            return [{"name": name.removeprefix(start), "ref": name, "targetCommit": commit}
                    for name, commit in refs.items() if name.startswith(start)]
        answer = {"branches": below("refs/heads/"), "tags": below("refs/tags/"), "converts": below("refs/convert/")}
        if self.query.get("include_prs"):
            answer["pullRequests"] = below("refs/pr/")
        self.send(200, answer)

    def new_ref(self, repo, name, commit):
        with self.store.lock:
            if name in self.store.refs(repo):
                raise HubError(409, {"error": f"Reference already exists: {name}"})
            self.store.git(repo, "update-ref", name, commit)
        self.send(200, {})

    def branch(self, repo, name):
        arguments = self.json()
        self.repo(repo, write=True)
        self.new_ref(repo, f"refs/heads/{name}", self.store.find_commit(repo, arguments.get("startingPoint") or "main"))

    def tag(self, repo, revision):
        arguments = self.json()
        self.repo(repo, write=True)
        self.new_ref(repo, f"refs/tags/{arguments['tag']}", self.store.find_commit(repo, revision))

    # -------------------------------------------------------------------------------------------------------- uploading

    def validate_yaml(self):
        arguments = self.json()
        errors, warnings = hub_card.check_card(arguments.get("content", ""))
        messages = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        self.send(400 if errors else 200, messages)

    def preupload(self, repo, revision):
        arguments = self.json()
        self.repo(repo, write=True)
        commit = self.store.find_commit(repo, revision)
        files = arguments["files"]
        if len(files) > BATCH:
            raise HubError(400, {"error": f"at most {BATCH} files"})
        tracked = self.store.tracked(repo, commit, [file["path"] for file in files])
        rows = []
        for file in files:
            path, now = file["path"], self.store.entry(repo, commit, file["path"])
            large = is_large(file["size"], base64.b64decode(file["sample"]), path in tracked)
            rows.append({"path": path, "uploadMode": "lfs" if large else "regular",
                         "shouldIgnore": self.store.ignored(repo, commit, path, arguments.get("gitIgnore"))})
            if now:
                rows[-1]["oid"] = now.present
        self.send(200, {"files": rows, "commitOid": commit})

    def lfs_batch(self, repo):
        arguments = self.json()
        self.repo(repo, write=True)
        transfers, objects = arguments.get("transfers", ["basic"]), arguments["objects"]
        if len(objects) > BATCH:
            raise HubError(413, {"message": f"at most {BATCH} objects"})
        transfer = "basic"
        if "xet" in transfers and self.hub.xet:
            transfer = "xet"
        elif "multipart" in transfers and self.hub.chunk:
            transfer = "multipart"
        rows = []
        for it in objects:
            sha256, size = it["oid"], it["size"]
            rows.append({"oid": sha256, "size": size})
            if not re.fullmatch("[0-9a-f]{64}", sha256):
                rows[-1]["error"] = {"code": 422, "message": "oid is not a SHA-256"}
            elif transfer == "xet":
                if not self.store.has_large(sha256):
                    rows[-1]["actions"] = {"upload": self.hub.xet.upload_action(repo)}
            elif not self.store.has_large(sha256):
                if transfer == "multipart" and size > self.hub.chunk:
                    upload, chunk = self.store.begin_upload(sha256, size, self.hub.chunk), self.hub.chunk
                    parts = {f"{number:05d}": f"{self.hub.cdn}/part/{upload}/{number}?sig=1"
                             for number in range(1, -(-size // chunk) + 1)}
                    action = {"href": f"{self.hub.url}/api/complete_multipart?uploadId={upload}",
                              "header": {"chunk_size": str(chunk), **parts}}
                else:
                    action = {"href": f"{self.hub.cdn}/put/{sha256}?sig=1"}
                verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/objects/verify", "header": {}}
                rows[-1].update(authenticated=True, actions={"upload": action, "verify": verify})
        self.send(200, {"transfer": transfer, "objects": rows}, **{"Content-Type": "application/vnd.git-lfs+json"})

    def complete_multipart(self):
        arguments = self.json()
        self.store.finish_upload(self.query.get("uploadId"), arguments["oid"], arguments["parts"])
        self.send(200, {})

    def lfs_verify(self, repo):
        arguments = self.json()
        self.repo(repo, write=True)
        file = self.store.large(arguments["oid"])
        if not file.exists() or file.stat().st_size != arguments["size"]:
            raise HubError(404, {"message": "not found"})
        self.send(200, {})

    def commit(self, repo, revision):
        content = b"".join(self.pieces())
        self.repo(repo, write=True)
        lines = [json.loads(line) for line in content.split(b"\n") if line.strip()]
        if not lines or lines[0]["key"] != "header":
            raise HubError(400, {"error": "first line must be the header"})
        header, operations = lines[0]["value"], [(line["key"], line["value"]) for line in lines[1:]]
        for kind, value in operations:
            if kind not in ("file", "lfsFile", "deletedFile", "deletedFolder"):
                raise HubError(400, {"error": f"unknown operation: {kind}"})
            if kind == "lfsFile":
                if not self.store.has_large(value["oid"]):
                    raise HubError(400, {"error": f"LFS pointer pointed to a file that does not exist: {value['path']}"})
                file = self.store.large(value["oid"])
                if file.exists():
                    if value.setdefault("size", file.stat().st_size) != file.stat().st_size:
                        raise HubError(400, {"error": f"LFS pointer has a wrong size: {value['path']}"})
            if kind == "file" and len(value["content"]) > REGULAR_CONTENT:
                raise HubError(413, {"error": f"file too large, use LFS: {value['path']}"})
        ref, answer = self.store.full_ref(repo, revision), {}
        with self.store.lock:
            if self.query.get("create_pr") in ("1", "true"):
                number = 1 + sum(name.startswith("refs/pr/") for name in self.store.refs(repo))
                self.store.git(repo, "update-ref", f"refs/pr/{number}", self.store.refs(repo)[ref])
                ref = f"refs/pr/{number}"
                answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{number}"
            commit = self.store.commit(repo, ref, operations, header["summary"], header.get("description") or "",
                                       header.get("parentCommit"))
        self.send(200, {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}",
                        "hookOutput": "", **answer})

    # ------------------------------------------------------------------------------------------------------ downloading

    def listed_content(self, repo, path):
        """The content of a row of the listing that a test has put in place of git's."""
        for row in self.store.repos[repo].listing or []:
            if row["path"] == path and "content" in row:
                return row["content"].encode(), row["oid"]
        return None

    def resolve(self, repo, revision, path):
        self.repo(repo, content=True)
        commit = self.store.find_commit(repo, revision)
        headers = {"X-Repo-Commit": commit}
        if listed := self.listed_content(repo, path):
            self.send_file(*listed, **headers)
            return
        entry = self.store.entry(repo, commit, path)
        if not entry:
            error = coded(404, "EntryNotFound", "Entry not found")
            error.headers.update(headers)
            raise error
        if not entry.sha256:
            if not self.hub.resolve_cache:
                self.send_file(self.store.blob(repo, entry.oid), entry.oid, **headers)
                return
            models = "models/" if kind_of(repo) == "model" else ""
            location = f"/api/resolve-cache/{models}{repo}/{commit}/{quote(path)}?etag=%22{entry.oid}%22"
            self.send(307, b"", ETag=f'"{entry.oid}"', Location=location, **headers)
            return
        headers["X-Linked-Etag"] = f'"{entry.sha256}"'
        headers["X-Linked-Size"] = str(entry.size)
        headers["Location"] = f"{self.hub.cdn}/get/{entry.sha256}?sig=1"
        if entry.sha256 in self.store.xet:
            headers.update(self.hub.xet.file_headers(repo, commit, entry))
        self.send(302, b"", **headers)

    def resolve_cache(self, repo, commit, path):
        self.repo(repo, content=True)
        entry = self.store.entry(repo, commit, path)
        if not entry or entry.sha256:
            raise coded(404, "EntryNotFound", "Entry not found")
        self.send_file(self.store.blob(repo, entry.oid), entry.oid, **{"X-Repo-Commit": commit})

    def xet_token(self, repo, what, _revision):
        if not self.hub.xet:
            raise HubError(404, {"error": "xet is not enabled"})
        self.repo(repo, write=what == "write")
        url, end = self.hub.xet.url, int(time.time()) + 3600
        self.send(200, {"accessToken": "xet_t", "exp": end, "casUrl": url},
                  **{"X-Xet-Cas-Url": url, "X-Xet-Access-Token": "xet_t", "X-Xet-Token-Expiration": str(end)})
