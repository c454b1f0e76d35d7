"""Servers on loopback that speak the protocols of the Hugging Face hub, of the host its files lie on, and of S3."""

import datetime
import hashlib
import hmac
import json
import re
import urllib.parse

from loopback import LoopbackServer, reply

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FileHost(LoopbackServer):
    """Where large files lie: by SHA-256, with ranges. `break_after`: bytes after which each answer is cut off."""

    def __init__(self):
        super().__init__()
        self.files = {}
        self.break_after = None

    def answer(self, request):
        data = self.files[request.path.strip("/")]
        begin = 0
        if found := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            begin = int(found.group(1))
        part = data[begin:]
        headers = {"Content-Length": str(len(part)), "Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        if self.break_after is not None and len(part) > self.break_after:
            reply(request, 206 if begin else 200, part[:self.break_after], headers)
            request.wfile.flush()
            request.close_connection = True
            return
        reply(request, 206 if begin else 200, part, headers)


class FakeHub(LoopbackServer):
    """repos: {"org/name": {file: bytes}}; those in `gated` want the token."""

    def __init__(self, host, repos, token=None, gated=()):
        super().__init__()
        self.host, self.repos, self.token, self.gated = host, repos, token, gated
        self.revisions = {"main": COMMIT, COMMIT: COMMIT}
        self.lies = {}  # file: the checksum that is said instead

    def answer(self, request):
        path = urllib.parse.unquote(request.path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            return self.list_files(request, *found.groups())
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path):
            return self.send_file(request, *found.groups())
        return reply(request, 404)

    def is_refused(self, request, repo):
        if repo not in self.repos:
            reply(request, 401, headers={"X-Error-Code": "RepoNotFound"})
            return True
        if repo in self.gated and request.headers.get("Authorization") != f"Bearer {self.token}":
            reply(request, 401, headers={"X-Error-Code": "GatedRepo"})
            return True
        return False

    def list_files(self, request, repo, revision):
        if self.is_refused(request, repo):
            return
        if revision not in self.revisions:
            reply(request, 404, headers={"X-Error-Code": "RevisionNotFound"})
            return
        listing = {"id": repo, "sha": self.revisions[revision],
                   "siblings": [{"rfilename": name} for name in self.repos[repo]]}
        reply(request, 200, json.dumps(listing).encode())

    def send_file(self, request, repo, commit, name):
        if self.is_refused(request, repo):
            return
        data = self.repos[repo][name]
        if name.endswith((".safetensors", ".gguf")):
            digest = hashlib.sha256(data).hexdigest()
            self.host.files[digest] = data
            reply(request, 302, headers={"Location": f"{self.host.url}/{digest}", "X-Repo-Commit": commit,
                                              "X-Linked-Etag": f'"{self.lies.get(name, digest)}"',
                                              "X-Linked-Size": str(len(data))})
            return
        digest = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        reply(request, 200, data, {"ETag": f'"{self.lies.get(name, digest)}"', "X-Repo-Commit": commit})


class FakeS3(LoopbackServer):
    """objects: {"bucket/key": bytes}. Requests must be signed for this identity (AWS Signature Version 4)."""

    def __init__(self, objects, access_key_id, secret, region="eu-test-1"):
        super().__init__()
        self.objects, self.access_key_id, self.secret, self.region = objects, access_key_id, secret, region

    def signature(self, request, date, signed):
        """As the specification computes it from the request that arrived."""
        stamp = request.headers["X-Amz-Date"]
        payload = request.headers["X-Amz-Content-Sha256"]
        canonical = "\n".join([
            request.command, request.path, "",
            *(f"{name}:{request.headers[name].strip()}" for name in signed), "", ";".join(signed), payload])
        scope = f"{date}/{self.region}/s3/aws4_request"
        text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
        key = f"AWS4{self.secret}".encode()
        for part in (date, self.region, "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    def is_signed(self, request):
        found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
                             r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})",
                             request.headers.get("Authorization", ""))
        if not found:
            return False
        identity, date, region, signed, signature = found.groups()
        today = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d")
        return (identity == self.access_key_id and region == self.region and date == today and
                request.headers.get("X-Amz-Content-Sha256") == hashlib.sha256(b"").hexdigest() and
                {"host", "x-amz-content-sha256", "x-amz-date"} <= set(signed.split(";")) and signature == self.signature(request, date, signed.split(";")))

    def answer(self, request):
        if not self.is_signed(request):
            return reply(request, 403)
        data = self.objects.get(urllib.parse.unquote(request.path).strip("/"))
        return reply(request, 404) if data is None else reply(request, 200, data)
