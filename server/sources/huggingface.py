"""The Hugging Face hub, or a mirror of it: metadata, tokens and mirrors by its own library, bytes by ours.

The library reads in pieces of 10 MB: on a slow line that shows no progress for many seconds, and a break
costs the whole piece. Here bytes are handed on as they arrive. The token goes to the hub's own address only,
never to the storage that it redirects to.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import httpx

from server import __version__
from server.catalogue import entries, nearest
from server.errors import BadField, Gated, HubUnreachable, NotAtSource, PullFailed
from server.sources import Broken, Changed, Found, Stream

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

_TIMEOUT = 10.0
"""Seconds for an answer of the hub's about a file, and for a connection."""

_HOPS = 10
_LONGEST_WAIT = 60.0
"""Seconds; the hub may ask for more, and is asked again after these."""

_REDIRECTS = (301, 302, 303, 307, 308)


class Hub:
    """The hub at `endpoint` (HF_ENDPOINT, or the public one), asked with `token` (or one its library finds).

    `stall`: seconds without a byte after which the line counts as broken.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None, *, stall: float = 30.0) -> None:
        self._endpoint = endpoint.rstrip("/") if endpoint else None
        self._token = token.strip() if token else None
        self._stall = stall

    def describe(self, path: str, repo: str, revision: str = "main") -> Found:
        """What lies there. Blocks, for 10 s where the hub does not answer.

        Raises Broken; BadField, Gated, NotAtSource or HubUnreachable where another try does not help.
        """
        hub = _library()
        with self._asking(repo, path):
            url = hub.hf_hub_url(repo, path, revision=revision, endpoint=self._endpoint)
            _check_address(url)
            about = hub.get_hf_file_metadata(
                url,
                token=self._token,
                timeout=_TIMEOUT,
                endpoint=self._endpoint,
                library_name="whisperd",
                library_version=__version__,
            )
            sha256 = about.etag or ""
            size = about.size
            # The entity tag of a large file is its SHA-256; a mirror may have tags of its own.
            if not _is_sha256(sha256) or size is None:
                sha256, size = self._listed(path, repo, about.commit_hash or revision)
        return Found(repo, path, about.commit_hash or revision, size, about.etag or sha256, sha256)

    def files(self, repo: str, revision: str = "main") -> tuple[Found, ...]:
        """All files of a repository whose size and hash the hub tells. Blocks. Raises as `describe` does."""
        with self._asking(repo, ""):
            about = self._about(repo, revision)
        found = (_described(file, repo, about.sha or revision) for file in about.siblings or ())
        return tuple(file for file in found if file)

    @asynccontextmanager
    async def read(self, found: Found, start: int) -> AsyncIterator[Stream]:
        """Its bytes from `start` on, or from 0 where the other side knows no ranges. See Source."""
        # The first time it reads all certificates.
        client = await asyncio.to_thread(_client, self._stall)
        async with client:
            try:
                answer = await self._open(client, found, start)
                try:
                    yield Stream(_start(answer, found, start), answer.aiter_raw())
                finally:
                    await answer.aclose()
            except httpx.TransportError as error:
                raise Broken(_why(error)) from error

    async def _open(self, client: httpx.AsyncClient, found: Found, start: int) -> httpx.Response:
        url, headers = await asyncio.to_thread(self._address, found)
        home = httpx.URL(url)
        asked = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        where = home
        for _ in range(_HOPS):
            private = headers if _same(where, home) else {}
            request = client.build_request("GET", where, headers=asked | private)
            try:
                answer = await client.send(request, stream=True)
            except httpx.InvalidURL as error:
                # It looks at redirects although it is not to follow them.
                raise PullFailed(f"{where.host} redirects to something that is no address") from error
            try:
                _check_etag(answer, found)
                if answer.status_code not in _REDIRECTS:
                    self._check(answer, found, at_hub=_same(where, home))
                    return answer
                where = _next(where, answer)
            except BaseException:
                await answer.aclose()
                raise
            await answer.aclose()
        raise PullFailed(f"the hub redirects {found.path} of {found.repo} in circles")

    def _address(self, found: Found) -> tuple[str, dict[str, str]]:
        """Where the bytes are, and what only the hub itself may be told."""
        hub = _library()
        with self._asking(found.repo, found.path):
            url = hub.hf_hub_url(found.repo, found.path, revision=found.revision, endpoint=self._endpoint)
            return url, hub.utils.build_hf_headers(
                token=self._token, library_name="whisperd", library_version=__version__
            )

    def _check(self, answer: httpx.Response, found: Found, *, at_hub: bool) -> None:
        status = answer.status_code
        if status in (200, 206):
            return
        if status in (408, 425, 429) or status >= 500:
            raise Broken(f"{answer.url.host} answers {status}", _retry_after(answer.headers))
        if at_hub and status in (401, 403):
            raise self._closed(status, found.repo)
        if at_hub:
            raise NotAtSource(f"the hub answers {status} for {found.path} of {found.repo}")
        # The storage's addresses are signed and expire; asking the hub again gives a fresh one.
        raise Broken(f"the storage at {answer.url.host} answers {status}")

    def _refused(self, status: int, path: str, repo: str) -> PullFailed:
        if status in (401, 403):
            return self._closed(status, repo)
        if status == 404:
            return self._missing(path, repo)
        return PullFailed(f"the hub answers {status} for {path} of {repo}")

    def _closed(self, status: int, repo: str) -> Gated:
        return Gated(
            f"the hub refuses access to {repo} ({status}): see {self._page(repo)}; a private or gated "
            "repository wants a read token of an account that may see it (HF_TOKEN)"
        )

    def _missing(self, path: str, repo: str) -> NotAtSource:
        there = self._files(repo)
        if there is None:
            return self._no_repository(path, repo)
        near = nearest(path, there)
        hint = f"near it: {', '.join(near)}" if near else f"{len(there)} GGML files are"
        return NotAtSource(f"there is no {path} in {repo}; {hint}")

    def _no_repository(self, path: str, repo: str) -> NotAtSource:
        near = nearest(path.rpartition("/")[2], [entry.id for entry in entries()])
        hint = f"; in the catalogue, near it: {', '.join(near)}" if near else ""
        return NotAtSource(
            f"there is no repository {repo} on the hub, or it is private and wants a token (HF_TOKEN){hint}"
        )

    def _files(self, repo: str) -> list[str] | None:
        """The GGML files of a repository, by their names; None where it cannot be listed."""
        try:
            about = self._api().model_info(repo, timeout=_TIMEOUT, token=self._token)
        except (OSError, ValueError, _http_error()):
            return None
        return [file.rfilename for file in about.siblings or () if file.rfilename.endswith(".bin")]

    def _listed(self, path: str, repo: str, revision: str) -> tuple[str, int]:
        """SHA-256 and size as the repository's listing has them."""
        for file in self._about(repo, revision).siblings or ():
            if file.rfilename == path and file.lfs:
                return file.lfs.sha256, file.lfs.size
        raise PullFailed(
            f"the hub tells no SHA-256 of {path} of {repo}, so that nobody could say whether it came whole"
        )

    def _about(self, repo: str, revision: str) -> "ModelInfo":
        about: ModelInfo = self._api().model_info(
            repo, revision=revision, files_metadata=True, timeout=_TIMEOUT, token=self._token
        )
        return about

    def _api(self) -> "HfApi":
        api: HfApi = _library().HfApi(endpoint=self._endpoint)
        return api

    def _page(self, repo: str) -> str:
        return f"{self._endpoint or _library().constants.ENDPOINT}/{repo}"

    @contextmanager
    def _asking(self, repo: str, path: str) -> Iterator[None]:
        """What the library raises, in our words."""
        errors = _library().errors
        try:
            yield
        except errors.HFValidationError as error:
            raise BadField(f"{repo!a} is not a repository's name: it is owner/name", "repo") from error
        except errors.GatedRepoError as error:
            raise Gated(
                f"{repo} is gated: accept its terms on {self._page(repo)}, and give this server a read token "
                "of that account (HF_TOKEN)"
            ) from error
        except errors.RemoteEntryNotFoundError as error:
            raise self._missing(path, repo) from error
        except errors.RevisionNotFoundError as error:
            raise NotAtSource(f"the hub does not know this revision of {repo}") from error
        except errors.RepositoryNotFoundError as error:
            raise self._no_repository(path, repo) from error
        except errors.OfflineModeIsEnabled as error:
            raise HubUnreachable("the hub is not asked: HF_HUB_OFFLINE is set") from error
        except errors.HfHubHTTPError as error:
            raise self._status(error.response.status_code, error.response.headers, path, repo) from error
        except (OSError, _http_error()) as error:
            raise Broken(_why(error)) from error
        except (ValueError, KeyError) as error:
            raise PullFailed(f"the hub's answer about {repo} cannot be understood") from error

    def _status(self, status: int, headers: Any, path: str, repo: str) -> Exception:
        if status in (408, 425, 429) or status >= 500:
            return Broken(f"the hub answers {status}", _retry_after(headers))
        return self._refused(status, path, repo)


def _library() -> Any:
    """huggingface-hub, imported when it is first needed, since that takes a while."""
    # Its telemetry asks the hub for a list on first use and names what else runs on this machine.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


def _http_error() -> type[Exception]:
    """The root of its HTTP client's errors; which client that is changes with its versions."""
    return cast(type[Exception], vars(_library().errors)["HTTPError"])


def _check_address(url: str) -> None:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        address = httpx.URL()
    if address.scheme not in ("http", "https") or not address.host:
        raise HubUnreachable(f"the hub's address is neither http nor https: {url[:80]!a}")


def _client(stall: float) -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=httpx.Timeout(_TIMEOUT, read=stall), verify=_certificates())


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


def _same(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether both have the same origin."""
    return (one.scheme, one.host, _port(one)) == (other.scheme, other.host, _port(other))


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def _next(where: httpx.URL, answer: httpx.Response) -> httpx.URL:
    try:
        target = where.join(answer.headers.get("Location", ""))
    except (httpx.InvalidURL, ValueError) as error:
        raise PullFailed(f"{where.host} redirects to something that is no address") from error
    if target.scheme not in ("http", "https") or not target.host:
        raise PullFailed(f"{where.host} redirects to {str(target)[:80]!a}, which is not http or https")
    if where.scheme == "https" and target.scheme == "http":
        raise PullFailed(f"{where.host} redirects from https to http at {target.host}")
    return target


def _check_etag(answer: httpx.Response, found: Found) -> None:
    """The hub says of each answer which file it is; its storage does not."""
    tag = answer.headers.get("X-Linked-Etag")
    if tag and found.etag and tag.removeprefix("W/").strip('"') != found.etag:
        raise Changed


def _start(answer: httpx.Response, found: Found, start: int) -> int:
    """Where the bytes of an answer begin. Raises Changed where its sizes are not those of the file."""
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise Broken(f"{answer.url.host} sends the file compressed, though it was asked not to")
    if answer.status_code == 200:
        if answer.headers.get("Content-Length", str(found.size)) != str(found.size):
            raise Changed
        return 0
    got, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if total not in (str(found.size), "*"):
        raise Changed
    if got.partition("-")[0] != str(start):
        raise Broken(f"{answer.url.host} sends bytes {got or '?'}, not those from {start} on")
    return start


def _described(file: "RepoSibling", repo: str, revision: str) -> Found | None:
    """A file of a listing; None where that does not tell enough to know whether it came whole."""
    if file.lfs:
        return Found(repo, file.rfilename, revision, file.lfs.size, "", file.lfs.sha256)
    if file.size is None or not file.blob_id:
        return None
    return Found(repo, file.rfilename, revision, file.size, "", "", file.blob_id)


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def _retry_after(headers: Any) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), _LONGEST_WAIT) if value.isdecimal() else 0.0


def _why(error: Exception) -> str:
    """One line; the libraries' own sentences are often empty."""
    names = {"ReadTimeout": "no byte came for too long", "ConnectTimeout": "nobody answers"}
    words = names.get(type(error).__name__) or str(error).strip() or type(error).__name__
    return words.splitlines()[0]
