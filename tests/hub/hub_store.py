"""What a fake Hub keeps: git repositories and large files. Nothing here knows HTTP, except the errors that it throws.

A repository is a real bare git repository, so commit ids, blob ids and LFS pointers are git's own and `git clone` is one more
witness of an upload. Large files lie beside them under their SHA-256, as the Hub's object store has them.
"""
import base64, dataclasses, fnmatch, hashlib, os, re, shutil, subprocess, tempfile, threading, uuid
from pathlib import Path

LFS_SUFFIXES = """7z arrow bin bz2 ckpt ftz gguf gz h5 joblib model msgpack npy npz onnx parquet pb pickle pkl pt pth rar
safetensors tar tgz zip""".split()
GITATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
LARGE = 10_000_000  # bytes: a file above this is never an ordinary git blob
SAMPLE = 512  # bytes that a client sends along to show whether a file is binary

TOKENS = {
    "hf_test": {"name": "tester", "orgs": ["acme"], "role": "write"},
    "hf_other": {"name": "other", "orgs": [], "role": "write"},
    "hf_read": {"name": "reader", "orgs": [], "role": "read"},
}

POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize (\d+)\n")


class HubError(Exception):
    """An answer that is no success: a status, headers and a JSON body."""

    def __init__(self, status, body=None, **headers):
        super().__init__(status, body)
        self.status, self.body = status, body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def coded(status, code, message):
    """An error as the Hub marks those that clients have to tell apart."""
    return HubError(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)


@dataclasses.dataclass
class Meta:
    """What is known of a repository besides its git."""
    owner: str
    private: bool = False
    gated: bool = False
    granted: list = dataclasses.field(default_factory=list)  # users whom a gated repository lets in
    disabled: bool = False
    moved: str = None  # the name that it has now: requests are redirected there
    listing: list = None  # rows that tree and info answer instead of what git says


@dataclasses.dataclass
class Entry:
    """A file of a commit."""
    path: str
    oid: str  # of the git blob
    size: int  # of the file that a user sees
    blob_size: int
    sha256: str = None  # of the large file that the blob points to

    @property
    def present(self):
        """The hash by which a client may find that it has nothing to upload."""
        return self.sha256 or self.oid


@dataclasses.dataclass
class Upload:
    """A large file that arrives in parts."""
    sha256: str
    size: int
    chunk: int
    file: Path
    etags: dict = dataclasses.field(default_factory=dict)


class Store:
    def __init__(self, root):
        self.root = Path(root)
        self.tokens = dict(TOKENS)
        self.repos = {}  # name -> Meta
        self.xet = {}  # SHA-256 -> Xet hash, of files that lie in a Xet store (hub_xet.py)
        self.uploads = {}  # id -> Upload
        self.lock = threading.RLock()
        self.trees = {}  # (repo, commit) -> rows; a commit never changes
        for folder in ("repos", "lfs", "parts"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    # ------------------------------------------------------------------------------------------------------------- git

    def folder(self, repo):
        return self.root / "repos" / (repo.replace("/", "--") + ".git")

    def git(self, repo, *arguments, stdin=None, index=None, check=True):
        """The output of a git command; None if it failed and `check` is off."""
        environment = {**os.environ, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(self.root)}
        if index:
            environment["GIT_INDEX_FILE"] = str(index)
        command = ["git", "--git-dir", str(self.folder(repo)), *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, env=environment)
        if done.returncode and check:
            raise RuntimeError(f"git {arguments}: {done.stderr.decode()}")
        return None if done.returncode else done.stdout

    def create(self, repo, **meta):
        with self.lock:
            self.repos[repo] = Meta(owner=repo.removeprefix("datasets/").split("/")[0], **meta)
            subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.folder(repo))], check=True)
            self.commit(repo, "refs/heads/main", [("file", {"path": ".gitattributes", "content": GITATTRIBUTES})],
                        "initial commit")

    def delete(self, repo):
        with self.lock:
            del self.repos[repo]
            shutil.rmtree(self.folder(repo))
            self.trees = {key: rows for key, rows in self.trees.items() if key[0] != repo}

    def refs(self, repo):
        """Full name -> commit. A tag with a message counts as the commit that it names."""
        lines = self.git(repo, "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)").decode().splitlines()
        return {words[0]: words[-1] for words in map(str.split, lines)}

    def find_commit(self, repo, revision):
        refs = self.refs(repo)
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name in refs:
                return refs[name]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            if found := self.git(repo, "rev-parse", "-q", "--verify", revision + "^{commit}", check=False):
                return found.decode().strip()
        raise coded(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def full_ref(self, repo, revision):
        """The branch or pull request that a commit can be added to."""
        name = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if name not in self.refs(repo):
            raise coded(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return name

    def blob(self, repo, oid):
        return self.git(repo, "cat-file", "blob", oid)

    def blobs(self, repo, oids):
        """Many small blobs with one process."""
        oids = list(oids)
        out = self.git(repo, "cat-file", "--batch", stdin="".join(oid + "\n" for oid in oids).encode())
        found, at = {}, 0
        for oid in oids:
            line, _, _ = out[at:at + 200].partition(b"\n")
            size, begin = int(line.split()[2]), at + len(line) + 1
            found[oid] = out[begin:begin + size]
            at = begin + size + 1
        return found

    def tree(self, repo, commit):
        """All folders (as a path and an id) and files (as an Entry) of a commit, by path."""
        if (repo, commit) in self.trees:
            return self.trees[repo, commit]
        rows = {}
        for line in filter(None, self.git(repo, "ls-tree", "-z", "-r", "-t", "-l", commit).split(b"\0")):
            words, path = line.decode().split("\t", 1)
            _, kind, oid, size = words.split()
            rows[path] = oid if kind == "tree" else Entry(path, oid, int(size), int(size))
        small = {row.oid for row in rows.values() if isinstance(row, Entry) and row.size < 200}
        pointers = {oid: match for oid, data in self.blobs(repo, small).items() if (match := POINTER.fullmatch(data))}
        for row in rows.values():
            if isinstance(row, Entry) and (match := pointers.get(row.oid)):
                row.sha256, row.size = match[1].decode(), int(match[2])
        self.trees[repo, commit] = rows
        return rows

    def entry(self, repo, commit, path):
        row = self.tree(repo, commit).get(path)
        return row if isinstance(row, Entry) else None

    def last_commit(self, repo, commit, path):
        return self.git(repo, "log", "-1", "--format=%H", commit, "--", path).decode().strip()

    def commit(self, repo, ref, operations, summary, description="", parent=None):
        """Adds a commit to a ref that exists, or makes the ref with it. The operations are those of the Hub's protocol.
        `parent`: the commit that the client believes to be the ref's."""
        with self.lock:
            head = self.refs(repo).get(ref)
            if parent and not (head or "").startswith(parent):
                raise HubError(412, {"error": "A commit has happened since. Please refresh and try again."})
            stream = [f"commit {ref}\ncommitter hub <hub@localhost> now\n".encode()]
            stream.append(data_block((summary + ("\n\n" + description if description else "")).encode()))
            if head:
                stream.append(f"from {head}\n".encode())
            for kind, value in operations:
                path = quoted(value["path"])
                if kind in ("deletedFile", "deletedFolder"):
                    stream.append(b"D " + path + b"\n")
                    continue
                if kind == "lfsFile":
                    content = pointer(value["oid"], value["size"])
                else:
                    content = value["content"]
                    content = base64.b64decode(content) if value.get("encoding") == "base64" else content.encode()
                stream += [b"M 100644 inline " + path + b"\n", data_block(content)]
            self.git(repo, "fast-import", "--quiet", "--date-format=now", stdin=b"".join(stream))
            return self.refs(repo)[ref]

    # ---------------------------------------------------------------------------------------------------- large files

    def large(self, sha256):
        return self.root / "lfs" / sha256

    def has_large(self, sha256):
        return self.large(sha256).exists() or sha256 in self.xet

    def keep_large(self, pieces, sha256=None):
        """Stores what arrives; its SHA-256. Refuses it if that is not the one announced."""
        partial = self.root / "parts" / uuid.uuid4().hex
        digest = hashlib.sha256()
        try:
            with open(partial, "wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            if sha256 and digest.hexdigest() != sha256:
                raise HubError(400, {"error": "The body does not have the SHA-256 that was announced"})
            os.replace(partial, self.large(digest.hexdigest()))
        finally:
            partial.unlink(missing_ok=True)
        return digest.hexdigest()

    def begin_upload(self, sha256, size, chunk):
        upload = uuid.uuid4().hex
        file = self.root / "parts" / upload
        with open(file, "wb") as made:
            made.truncate(size)
        self.uploads[upload] = Upload(sha256, size, chunk, file)
        return upload

    def keep_part(self, upload, number, pieces):
        """Stores one part where it belongs in the file; its ETag."""
        it = self.uploads[upload]
        at = (number - 1) * it.chunk
        expected = min(it.chunk, it.size - at)
        with open(it.file, "r+b") as file:
            file.seek(at)
            arrived = 0
            for piece in pieces:
                arrived += len(piece)
                if arrived > expected:
                    raise HubError(400, {"error": f"part {number} is larger than {expected} bytes"})
                file.write(piece)
        if arrived != expected:
            raise HubError(400, {"error": f"part {number} has {arrived} bytes, expected {expected}"})
        it.etags[number] = uuid.uuid4().hex
        return it.etags[number]

    def finish_upload(self, upload, sha256, parts):
        it = self.uploads.get(upload)
        if not it or it.sha256 != sha256:
            raise HubError(404, {"error": "no such upload"})
        named = {part["partNumber"]: part["etag"].strip('"') for part in parts}
        if named != it.etags or sorted(named) != list(range(1, -(-it.size // it.chunk) + 1)):
            raise HubError(400, {"error": "the parts are not those that were uploaded"})
        digest = hashlib.sha256()
        with open(it.file, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        if digest.hexdigest() != sha256:
            raise HubError(400, {"error": "The parts do not have the SHA-256 that was announced"})
        os.replace(it.file, self.large(sha256))
        del self.uploads[upload]

    # ------------------------------------------------------------------------------------------- how a file is stored

    def tracked(self, repo, commit, paths, attributes=None):
        """Those paths that .gitattributes sends to LFS: the one of the commit, or this text. Git itself decides."""
        if attributes is None:
            entry = self.entry(repo, commit, ".gitattributes")
            attributes = self.blob(repo, entry.oid) if entry else b""
        with tempfile.TemporaryDirectory() as folder:
            index = Path(folder) / "index"
            oid = self.git(repo, "hash-object", "-w", "--stdin", stdin=attributes).decode().strip()
            self.git(repo, "update-index", "--add", "--cacheinfo", f"100644,{oid},.gitattributes", index=index)
            names = "".join(path + "\0" for path in paths).encode()
            out = self.git(repo, "check-attr", "--cached", "-z", "--stdin", "filter", stdin=names, index=index)
        words = out.decode().split("\0")
        return {words[i] for i in range(0, len(words) - 2, 3) if words[i + 2] == "lfs"}

    def ignored(self, repo, commit, path, text=None):
        """Whether .gitignore names a path: plain patterns only, no negation."""
        if text is None:
            entry = self.entry(repo, commit, ".gitignore")
            text = self.blob(repo, entry.oid).decode() if entry else ""
        patterns = [line.strip().rstrip("/") for line in text.splitlines() if line.strip() and line[0] not in "#!"]
        names = path.split("/")
        return any(fnmatch.fnmatchcase(path, pattern.lstrip("/")) or any(fnmatch.fnmatchcase(name, pattern) for name in names)
                   for pattern in patterns)

    def seed(self, repo, folder, branch="main", message="seeded", **meta):
        """Commits a local folder, large files to LFS, without a client; the new commit. Makes the repository and the branch
        if they are missing; `meta` are fields of Meta."""
        folder = Path(folder)
        with self.lock:
            if repo not in self.repos:
                self.create(repo)
            for key, value in meta.items():
                setattr(self.repos[repo], key, value)
            refs, ref = self.refs(repo), f"refs/heads/{branch}"
            if ref not in refs:
                self.git(repo, "update-ref", ref, refs["refs/heads/main"])
            head = self.refs(repo)[ref]
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))
                 if path.is_file() and ".git" not in path.relative_to(folder).parts}
        own = files[".gitattributes"].read_bytes() if ".gitattributes" in files else None
        tracked = self.tracked(repo, head, list(files), own)
        operations = []
        for name, path in files.items():
            with open(path, "rb") as file:
                size, sample = path.stat().st_size, file.read(SAMPLE)
                file.seek(0)
                if is_large(size, sample, name in tracked):
                    sha256 = self.keep_large(iter(lambda: file.read(1 << 20), b""))
                    operations.append(("lfsFile", {"path": name, "oid": sha256, "size": size}))
                else:
                    content = base64.b64encode(file.read()).decode()
                    operations.append(("file", {"path": name, "content": content, "encoding": "base64"}))
        return self.commit(repo, ref, operations, message)


def is_large(size, sample, tracked):
    """Whether a file goes to LFS. An empty one never does."""
    return size > 0 and (tracked or size > LARGE or b"\0" in sample)


def blob_id(content):
    """The id that git gives to a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256, size):
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def data_block(content):
    """Bytes in the language of git fast-import."""
    return b"data %d\n%s\n" % (len(content), content)


def quoted(path):
    """A path in the language of git fast-import."""
    if any(part in ("", ".", "..", ".git") for part in path.split("/")):
        raise HubError(400, {"error": f"Invalid path in commit: {path!r}"})
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return b'"' + escaped.encode() + b'"'
