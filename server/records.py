"""The records of jobs and stored files: a database that outlives the server.

SQLite in the data folder; the statements are SQLAlchemy's, so that another database takes them too. All calls
block, for a few milliseconds.
"""

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from server.types import Delivery, Job, JobError, JobLog, JobRequest, JobState, Priority

log = logging.getLogger(__name__)

SCHEMA = 1
"""Version of the tables below; `_MIGRATIONS` leads older ones here."""

_MIGRATIONS: dict[int, tuple[str, ...]] = {}
"""Statements that turn tables of a version into those of the next one."""

_HEAD_START: dict[Priority, float] = {"high": -3600.0, "normal": 0.0, "low": 3600.0}
"""Seconds that a job is set back in line: a priority, and yet nobody waits for ever."""

OVERHEAD = 4096
"""Bytes that a job takes beside its result, rounded up."""

_META = sa.MetaData()

_VERSION = sa.Table("schema_version", _META, sa.Column("version", sa.Integer, primary_key=True))

_JOBS = sa.Table(
    "jobs",
    _META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("priority", sa.String, nullable=False),
    sa.Column("due", sa.Float, nullable=False),
    sa.Column("private", sa.Boolean, nullable=False),
    sa.Column("key", sa.String),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("file", sa.String, nullable=False),
    sa.Column("file_size", sa.Integer, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("error", sa.Text),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("webhook", sa.String, nullable=False),
    sa.Column("delivered", sa.Float),
    sa.Column("deliveries", sa.Text, nullable=False),
    sa.Column("logs", sa.Text, nullable=False),
    sa.Index("jobs_by_key", "owner", "key", unique=True),
    sa.Index("jobs_in_line", "state", "due", "id"),
)

_FILES = sa.Table(
    "files",
    _META,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("owner", sa.String, nullable=False),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("media_type", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False, index=True),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)

_UNFINISHED = ("queued", "running")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a client stored, by the id in its address."""

    id: str
    name: str
    media_type: str
    sha256: str
    size: int
    """Bytes."""
    created: float
    expires: float
    """Unix seconds."""
    owner: str = ""


class Records:
    """The database at `path`, made or brought up to this version."""

    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}", poolclass=sa.pool.StaticPool)
        sa.event.listen(self._engine, "connect", _set_up)
        with self._engine.begin() as db:
            _migrate(db)

    def close(self) -> None:
        self._engine.dispose()

    # Jobs ---------------------------------------------------------------------------------------------

    def add(self, job: Job, fingerprint: str, file_size: int = 0) -> Job | None:
        """Keep a new job. Where its owner's key is known already, nothing is kept: the job of that key.

        `fingerprint`: what was asked for, to tell a repeated request from another one; see `fingerprint`.
        `file_size`: bytes of its media.
        """
        row = {
            **_row(job),
            "due": job.created + _HEAD_START[job.priority],
            "fingerprint": fingerprint,
            "model": job.request.model,
            "file": job.request.file,
            "file_size": file_size,
        }
        with self._engine.begin() as db:
            if job.key and (found := _one(db, _JOBS.c.owner == job.owner, _JOBS.c.key == job.key)):
                return found
            db.execute(_JOBS.insert().values(row))
        return None

    def fingerprint(self, id: str) -> str:
        """What `add` was given for the job."""
        with self._engine.connect() as db:
            return str(db.scalar(sa.select(_JOBS.c.fingerprint).where(_JOBS.c.id == id)))

    def find(self, id: str) -> Job | None:
        with self._engine.connect() as db:
            return _one(db, _JOBS.c.id == id)

    def find_key(self, owner: str, key: str) -> Job | None:
        with self._engine.connect() as db:
            return _one(db, _JOBS.c.owner == owner, _JOBS.c.key == key)

    def select(
        self,
        *,
        owner: str | None = None,
        states: Sequence[JobState] = (),
        model: str = "",
        key: str = "",
        before: str = "",
        limit: int = 20,
    ) -> list[Job]:
        """Jobs, newest first; `before`: an id that all of them are older than; `owner` None: everybody's."""
        wanted: list[sa.ColumnElement[bool]] = []
        if owner is not None:
            wanted.append(_JOBS.c.owner == owner)
        if states:
            wanted.append(_JOBS.c.state.in_(states))
        if model:
            wanted.append(_JOBS.c.model == model)
        if key:
            wanted.append(_JOBS.c.key == key)
        if before:
            wanted.append(_JOBS.c.id < before)
        query = _JOBS.select().where(*wanted).order_by(_JOBS.c.id.desc()).limit(limit)
        with self._engine.connect() as db:
            return [_job(row) for row in db.execute(query)]

    def claim(self) -> Job | None:
        """The next job in line, which is running from now on."""
        following = (
            sa.select(_JOBS.c.id).where(_JOBS.c.state == "queued").order_by(_JOBS.c.due, _JOBS.c.id).limit(1)
        )
        claimed = (
            _JOBS.update()
            .where(_JOBS.c.id == following.scalar_subquery())
            .values(state="running", started=time.time(), attempts=_JOBS.c.attempts + 1)
            .returning(*_JOBS.c)
        )
        with self._engine.begin() as db:
            row = db.execute(claimed).first()
            return _job(row) if row else None

    def again(self, id: str, more: int = 1) -> int:
        """A running job is started once more; how often it has been by now."""
        counted = (
            _JOBS.update()
            .where(_JOBS.c.id == id)
            .values(attempts=_JOBS.c.attempts + more)
            .returning(_JOBS.c.attempts)
        )
        with self._engine.begin() as db:
            return db.scalar(counted) or 0

    def position(self, id: str) -> int | None:
        """How many jobs are before this one in line; None where it is not in line."""
        here = sa.select(_JOBS.c.due).where(_JOBS.c.id == id, _JOBS.c.state == "queued").scalar_subquery()
        with self._engine.connect() as db:
            if (due := db.scalar(sa.select(here))) is None:
                return None
            sooner = (_JOBS.c.due < due) | ((_JOBS.c.due == due) & (_JOBS.c.id < id))
            count = sa.select(sa.func.count()).where(_JOBS.c.state == "queued", sooner)
            return int(db.scalar(count) or 0)

    def count(self, state: JobState) -> int:
        with self._engine.connect() as db:
            return int(
                db.scalar(sa.select(sa.func.count()).select_from(_JOBS).where(_JOBS.c.state == state)) or 0
            )

    def finish(
        self,
        id: str,
        state: JobState,
        *,
        size: int = 0,
        error: JobError | None = None,
        logs: Iterable[JobLog] = (),
    ) -> bool:
        """The job has come to its end; False where it had before."""
        values = {"state": state, "finished": time.time(), "size": size, "logs": _json(tuple(logs))}
        if error:
            values["error"] = _json(error)
        ended = _JOBS.update().where(_JOBS.c.id == id, _JOBS.c.state.in_(_UNFINISHED)).values(values)
        with self._engine.begin() as db:
            return db.execute(ended).rowcount > 0

    def deliver(self, id: str, delivery: Delivery, *, over: bool) -> None:
        """Note a try to send the webhook; `over`: there will be no other."""
        with self._engine.begin() as db:
            if job := _one(db, _JOBS.c.id == id):
                noted = {"deliveries": _json((*job.deliveries, delivery))}
                ended = {"delivered": delivery.at} if over else {}
                db.execute(_JOBS.update().where(_JOBS.c.id == id).values(noted | ended))

    def undone(self) -> list[Job]:
        """Jobs that somebody works on, or whose webhook is still to be sent, oldest first."""
        untold = (
            _JOBS.c.state.in_(("succeeded", "failed")) & (_JOBS.c.webhook != "") & _JOBS.c.delivered.is_(None)
        )
        query = _JOBS.select().where((_JOBS.c.state == "running") | untold).order_by(_JOBS.c.id)
        with self._engine.connect() as db:
            return [_job(row) for row in db.execute(query)]

    def remove(self, id: str) -> bool:
        with self._engine.begin() as db:
            return db.execute(_JOBS.delete().where(_JOBS.c.id == id)).rowcount > 0

    def wipe(self) -> None:
        """Nothing of what was removed is in the files of the database any longer."""
        with self._engine.connect() as db:
            db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def ids(self) -> set[str]:
        """Of all jobs."""
        with self._engine.connect() as db:
            return set(db.scalars(sa.select(_JOBS.c.id)))

    def expired(self, before: float, size: int, most: int = 1000, *, private: float = 0.0) -> list[str]:
        """Finished jobs that must go: older than `before`, and the oldest of what is more than `size` bytes.

        `private`: the same as `before`, for private jobs. A job whose webhook is still being tried stays.
        """
        told = (_JOBS.c.webhook == "") | _JOBS.c.delivered.isnot(None) | (_JOBS.c.state == "cancelled")
        finished = _JOBS.c.state.notin_(_UNFINISHED) & told
        newer = sa.func.sum(_JOBS.c.size + OVERHEAD).over(order_by=_JOBS.c.id.desc())
        sized = (
            sa.select(_JOBS.c.id, _JOBS.c.private, _JOBS.c.finished, newer.label("newer"))
            .where(finished)
            .subquery()
        )
        unclaimed = sized.c.private & (sized.c.finished < private)
        query = (
            sa.select(sized.c.id)
            .where((sized.c.finished < before) | unclaimed | (sized.c.newer > size))
            .order_by(sized.c.id)
            .limit(most)
        )
        with self._engine.connect() as db:
            return list(db.scalars(query))

    # Files --------------------------------------------------------------------------------------------

    def add_file(self, file: StoredFile) -> str:
        """Keep a file; the hash of what had its id before, if anything."""
        same = _FILES.c.id == file.id
        with self._engine.begin() as db:
            replaced = db.scalar(_FILES.delete().where(same).returning(_FILES.c.sha256))
            db.execute(_FILES.insert().values(msgspec.to_builtins(file)))
        return replaced or ""

    def file(self, id: str) -> StoredFile | None:
        with self._engine.connect() as db:
            row = db.execute(_FILES.select().where(_FILES.c.id == id, _FILES.c.expires > time.time())).first()
            return _file(row) if row else None

    def sizes(self, owner: str) -> tuple[int, int]:
        """Bytes of all stored files and the media of unfinished jobs, and of this owner's."""
        files = sa.select(sa.func.coalesce(sa.func.sum(_FILES.c.size), 0))
        media = sa.select(sa.func.coalesce(sa.func.sum(_JOBS.c.file_size), 0)).where(
            _JOBS.c.state.in_(_UNFINISHED)
        )
        mine = files.where(_FILES.c.owner == owner), media.where(_JOBS.c.owner == owner)
        with self._engine.connect() as db:
            all_sizes, my_sizes = (
                sum(int(db.scalar(query) or 0) for query in queries) for queries in ((files, media), mine)
            )
        return all_sizes, my_sizes

    def remove_files_of(self, owner: str, sha256: str) -> None:
        """Forget the files of this owner that are made of these bytes."""
        with self._engine.begin() as db:
            db.execute(_FILES.delete().where(_FILES.c.owner == owner, _FILES.c.sha256 == sha256))

    def remove_files(self, before: float) -> None:
        """Forget the files whose time was over then."""
        with self._engine.begin() as db:
            db.execute(_FILES.delete().where(_FILES.c.expires <= before))

    def in_use(self) -> set[str]:
        """Hashes of what stored files and unfinished jobs are made of."""
        with self._engine.connect() as db:
            files = db.scalars(sa.select(_FILES.c.sha256).distinct())
            return {*files, *db.scalars(_sources())}

    def uses(self, sha256: str) -> bool:
        """Whether a stored file or an unfinished job is made of these bytes."""
        with self._engine.connect() as db:
            if db.scalar(sa.select(_FILES.c.id).where(_FILES.c.sha256 == sha256).limit(1)):
                return True
            return db.scalar(_sources().where(_JOBS.c.file == sha256).limit(1)) is not None


def _sources() -> sa.Select[tuple[str]]:
    return sa.select(_JOBS.c.file).where(_JOBS.c.state.in_(_UNFINISHED), _JOBS.c.file != "").distinct()


def _set_up(connection: Any, _: object) -> None:
    connection.execute("PRAGMA auto_vacuum=FULL")
    connection.execute("PRAGMA journal_mode=WAL")
    # An acknowledged job outlives also a power cut.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=10000")
    # What is removed is overwritten: rows of private jobs must leave nothing.
    connection.execute("PRAGMA secure_delete=ON")


def _migrate(db: sa.Connection) -> None:
    _VERSION.create(db, checkfirst=True)
    version = db.scalar(sa.select(_VERSION.c.version))
    if version is None:
        _META.create_all(db)
        db.execute(_VERSION.insert().values(version=SCHEMA))
        return
    if version > SCHEMA:
        raise RuntimeError(f"the jobs were stored by a newer whisperd (version {version}, not {SCHEMA})")
    for step in range(version, SCHEMA):
        log.info("the store of jobs: version %d becomes %d", step, step + 1)
        for statement in _MIGRATIONS[step]:
            db.execute(sa.text(statement))
    db.execute(_VERSION.update().values(version=SCHEMA))


def _row(job: Job) -> dict[str, Any]:
    """The job's own columns."""
    return {
        "id": job.id,
        "owner": job.owner,
        "state": job.state,
        "priority": job.priority,
        "private": job.private,
        "key": job.key or None,
        "created": job.created,
        "started": job.started,
        "finished": job.finished,
        "attempts": job.attempts,
        "request": _json(job.request),
        "error": _json(job.error) if job.error else None,
        "size": job.size,
        "webhook": job.webhook,
        "delivered": job.delivered,
        "deliveries": _json(job.deliveries),
        "logs": _json(job.logs),
    }


def _one(db: sa.Connection, *wanted: sa.ColumnElement[bool]) -> Job | None:
    row = db.execute(_JOBS.select().where(*wanted)).first()
    return _job(row) if row else None


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        id=row.id,
        request=msgspec.json.decode(row.request, type=JobRequest),
        owner=row.owner,
        state=row.state,
        priority=row.priority,
        private=row.private,
        key=row.key or "",
        created=row.created,
        started=row.started,
        finished=row.finished,
        attempts=row.attempts,
        error=msgspec.json.decode(row.error, type=JobError) if row.error else None,
        size=row.size,
        webhook=row.webhook,
        delivered=row.delivered,
        deliveries=msgspec.json.decode(row.deliveries, type=tuple[Delivery, ...]),
        logs=msgspec.json.decode(row.logs, type=tuple[JobLog, ...]),
    )


def _file(row: sa.Row[Any]) -> StoredFile:
    return StoredFile(**row._mapping)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
