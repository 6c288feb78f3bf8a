"""What a handle has on each event loop: a client, and everything that stands on it."""

from __future__ import annotations

import asyncio
import threading
import weakref

from stargraph.checkpoint.codec import Cipher, Codec
from stargraph.checkpoint.s3._cache import RecordCache
from stargraph.checkpoint.s3._connection import Connection
from stargraph.checkpoint.s3._files import RunFiles
from stargraph.checkpoint.s3._index import RunIndex
from stargraph.checkpoint.s3._keys import KeyLayout
from stargraph.checkpoint.s3._log import RunLog
from stargraph.checkpoint.s3._objects import ObjectStore
from stargraph.checkpoint.s3._options import ConnectionOptions
from stargraph.checkpoint.s3._reader import RecordReader
from stargraph.checkpoint.s3._removal import Removal
from stargraph.checkpoint.s3._retry import RetryingStore
from stargraph.checkpoint.s3._s3 import S3ObjectStore
from stargraph.checkpoint.s3._unconditional import UnconditionalStore


class Session:
    """The store on one event loop.

    Args:
        connection: the client.
        objects: the objects.
        keys: where they are.
        deadline: how long to repeat a request, in seconds.
        cache: the local copies.
        codec: makes and reads records.
        encryption: the keys that encrypt what is stored, if there are any.
        conditional: the store keeps the condition of a conditional write.
    """

    def __init__(
        self,
        connection: Connection,
        objects: ObjectStore,
        keys: KeyLayout,
        *,
        deadline: float,
        cache: RecordCache,
        codec: Codec,
        encryption: Cipher | None,
        conditional: bool,
    ) -> None:
        self.connection = connection
        self.objects = RetryingStore(objects, deadline=deadline)
        self.store = self.objects if conditional else RetryingStore(UnconditionalStore(objects), deadline=deadline)
        self.log = RunLog(self.store, keys, codec)
        self.reader = RecordReader(self.store, keys, codec, cache)
        self.index = RunIndex(self.store, keys, self.log)
        self.removal = Removal(self.store, keys, self.log, self.reader)
        self.files = RunFiles(self.store, keys, self.log, self.reader, encryption)
        self._writing: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def writing(self, run_id: str) -> asyncio.Lock:
        """Return the lock that the writes of a run take one after another.

        Args:
            run_id: the run.
        """
        return self._writing.setdefault(run_id, asyncio.Lock())


class Sessions:
    """The sessions of a handle, by event loop.

    Args:
        options: how the store is reached.
        bucket: the bucket.
        keys: where its objects are.
        cache: the local copies.
        encryption: the keys that encrypt what is stored, if there are any.
    """

    def __init__(
        self,
        options: ConnectionOptions,
        bucket: str,
        keys: KeyLayout,
        cache: RecordCache,
        encryption: Cipher | None,
    ) -> None:
        self._options = options
        self._bucket = bucket
        self._keys = keys
        self._cache = cache
        self._encryption = encryption
        self._codec = Codec(cipher=encryption)
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Session] = weakref.WeakKeyDictionary()
        self._conditional = True
        self._lock = threading.Lock()

    def current(self) -> Session:
        """Return the session of the running loop; the first call makes it, without I/O."""
        loop = asyncio.get_running_loop()
        with self._lock:
            session = self._by_loop.get(loop)
            if session is None:
                for gone in [other for other in self._by_loop if other.is_closed()]:
                    self._by_loop.pop(gone).connection.abandon()
                session = self._by_loop[loop] = self._make()
            return session

    def _make(self) -> Session:
        connection = Connection(self._options)
        objects = S3ObjectStore(connection, self._bucket, kms_key_id=self._options.kms_key_id)
        return Session(
            connection,
            objects,
            self._keys,
            deadline=self._options.deadline,
            cache=self._cache,
            codec=self._codec,
            encryption=self._encryption,
            conditional=self._conditional,
        )

    async def without_conditions(self) -> None:
        """From now on look before each write, and after it, since the store ignores conditions."""
        if self._conditional:
            self._conditional = False
            await self.close()

    async def close(self) -> None:
        """Close what belongs to the running loop, and drop what belongs to others."""
        here = asyncio.get_running_loop()
        with self._lock:
            sessions = dict(self._by_loop)
            self._by_loop.clear()
        for loop, session in sessions.items():
            connection = session.connection
            if loop is here:
                await connection.close()
            elif loop.is_running():
                loop.call_soon_threadsafe(connection.abandon)
            else:
                connection.abandon()
        await self._cache.close()
