"""The replicas of Weaviate's objects one by one, over REST: no other call says which node it asked.

Belongs here: which nodes keep a collection, what each of them holds of an object, and deleting what
only some of them hold. Does not belong here: which copy is right (`indexing/replicas.py`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent_pipelines.errors import UnavailableError
from agent_pipelines.indexing.store import Replication, Stored, StoreError
from resources.weaviate_objects import stored_of

if TYPE_CHECKING:
    import httpx

#: Seconds for one request. Weaviate itself retries for longer where a node lacks the shard.
_DEADLINE = 5.0

#: Objects whose copies are asked for at once.
_AT_ONCE = 16

#: Statuses that say: ask another time.
_AWAY = (500, 502, 503, 504)


class Replicas:
    """Connects anew for every question: there are few, and most collections have one replica."""

    def __init__(self, url: str, api_key: str | None, consistency: str) -> None:
        self._url = url
        self._api_key = api_key
        self._level = {"consistency_level": consistency.upper()}

    def of(self, collection: str) -> Replication:
        """See `VectorStore`."""
        found: Replication = self._run(self._replication, collection)
        return found

    def copies(
        self, replication: Replication, chunk_ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, Stored | None]]:
        """See `VectorStore`."""
        found: Mapping[str, Mapping[str, Stored | None]]
        found = self._run(self._copies, replication, chunk_ids)
        return found

    def purge(self, collection: str, chunk_ids: Sequence[str]) -> None:
        """See `VectorStore`."""
        self._run(self._purge, collection, chunk_ids)

    def _run(self, work: Any, *arguments: Any) -> Any:
        """In a loop of its own: whoever asks may be in one already."""
        from anyio.from_thread import start_blocking_portal

        async def connected() -> Any:
            import httpx

            headers = {"Authorization": f"Bearer {self._api_key}"} if self._api_key else {}
            async with httpx.AsyncClient(
                base_url=f"{self._url.rstrip('/')}/v1", headers=headers, timeout=_DEADLINE
            ) as http:
                return await work(http, *arguments)

        with start_blocking_portal() as portal:
            return portal.call(connected)

    async def _replication(self, http: "httpx.AsyncClient", collection: str) -> Replication:
        schema = await self._ask(http, "GET", f"/schema/{collection}")
        _refuse(schema)
        factor = int((schema.json().get("replicationConfig") or {}).get("factor") or 1)
        if factor == 1:
            return Replication(collection, 1)
        answer = await self._ask(http, "GET", f"/nodes/{collection}", params={"output": "verbose"})
        _refuse(answer)
        # A node that is away is not listed, or without its shards.
        shards = {
            node["name"]: {shard["name"] for shard in node.get("shards") or ()}
            for node in answer.json()["nodes"]
            if node.get("status") == "HEALTHY"
        }
        listed = sum(len(kept) for kept in shards.values())
        silent = factor * len(set().union(*shards.values())) - listed
        nodes = sorted(name for name, kept in shards.items() if kept)
        return Replication(collection, factor, tuple(nodes), silent)

    async def _copies(
        self, http: "httpx.AsyncClient", replication: Replication, chunk_ids: Sequence[str]
    ) -> Mapping[str, Mapping[str, Stored | None]]:
        turns = asyncio.Semaphore(_AT_ONCE)

        async def of_one(id_: str) -> Mapping[str, Stored | None]:
            async with turns:
                return await self._copies_of(http, replication, id_)

        found = await asyncio.gather(*map(of_one, chunk_ids))
        return dict(zip(chunk_ids, found, strict=True))

    async def _copies_of(
        self, http: "httpx.AsyncClient", replication: Replication, id_: str
    ) -> Mapping[str, Stored | None]:
        """Of the nodes that keep the object; the others take their time to say that they do not.

        Which they are is nowhere to be asked.
        """
        path = f"/objects/{replication.collection}/{id_}"
        asked = {asyncio.create_task(self._copy(http, path, n)): n for n in replication.nodes}
        found: dict[str, Stored | None] = {}
        waiting = set(asked)
        reason: BaseException | None = None
        try:
            while waiting and len(found) < replication.factor:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if (error := task.exception()) is None:
                        found[asked[task]] = task.result()
                    elif not isinstance(error, UnavailableError):
                        raise error
                    else:
                        reason = error
        finally:
            for task in waiting:
                task.cancel()
        if len(found) < replication.factor:
            assert isinstance(reason, UnavailableError)
            raise reason
        return found

    async def _copy(self, http: "httpx.AsyncClient", path: str, node: str) -> Stored | None:
        named = {"node_name": node, "include": "vector"}
        answer = await self._ask(http, "GET", path, params=named)
        if answer.status_code == 404:
            return None
        _refuse(answer)
        found = answer.json()
        return stored_of(found["id"], found.get("properties") or {}, found.get("vectors"))

    async def _purge(
        self, http: "httpx.AsyncClient", collection: str, chunk_ids: Sequence[str]
    ) -> None:
        # By id it goes to every replica; by a filter only to those that were found to have it.
        for id_ in chunk_ids:
            path = f"/objects/{collection}/{id_}"
            answer = await self._ask(http, "DELETE", path, params=self._level)
            if answer.status_code != 404:
                _refuse(answer)

    async def _ask(self, http: "httpx.AsyncClient", method: str, path: str, **more: Any) -> Any:
        import httpx

        try:
            answer = await http.request(method, path, **more)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        else:
            if answer.status_code not in _AWAY:
                return answer
            reason = f"status {answer.status_code}: {answer.text[:200]}"
        asked = (more.get("params") or {}).get("node_name")
        raise UnavailableError(
            f"Weaviate at {self._url} does not answer"
            + (f" for its node {asked}" if asked else "")
            + f": {reason}",
            remedy="check that all of its nodes run",
        )


def _refuse(answer: Any) -> None:
    if answer.is_error:
        raise StoreError(f"Weaviate refused: status {answer.status_code}: {answer.text[:300]}")
