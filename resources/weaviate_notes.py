"""Short notes in Weaviate, in a collection of their own: the canary, and the committed sequences.

Belongs here: writing and reading one, within seconds. They go over REST: the client's own calls
have no deadline of their own, and what they share with chunks is tuned for chunks. Does not belong
here: what is noted (`health/`, `indexing/sequence.py`).
"""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from agent_pipelines.errors import UnavailableError
from agent_pipelines.indexing.store import StoreError

#: No index has an alias like this: theirs have no capital but the first.
COLLECTION = "AgentPipelines"

#: Seconds for one request.
_DEADLINE = 5.0


class Notes:
    """One connection."""

    def __init__(self, url: str, api_key: str | None, consistency: str) -> None:
        import httpx

        self._url = url
        self._level = {"consistency_level": consistency.upper()}
        self._exists = False
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/v1",
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=_DEADLINE,
        )

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def read(self, key: str) -> str | None:
        """What was noted last under this key, or None."""
        answer = self._ask("GET", f"/objects/{COLLECTION}/{_id(key)}", params=self._level)
        if answer.status_code == 404 or (answer.is_error and not self._is_there()):
            return None
        self._refuse(answer)
        value = answer.json()["properties"].get("value")
        return None if value is None else str(value)

    def write(self, key: str, value: str, *, replicas: int) -> None:
        """Note a value, in place of the one before."""
        if not self._exists:
            self._create(replicas)
        note = {
            "class": COLLECTION,
            "id": _id(key),
            "properties": {"key": key, "value": value},
        }
        # As a batch of one: it replaces what is there, which the other calls need to be told.
        answer = self._ask("POST", "/batch/objects", params=self._level, json={"objects": [note]})
        self._refuse(answer)
        (result,) = answer.json()
        if errors := (result.get("result", {}).get("errors") or {}).get("error"):
            self._exists = False  # somebody may have deleted the collection
            raise StoreError(f"Weaviate refused a note: {errors[0].get('message')}")

    def _create(self, replicas: int) -> None:
        if not self._is_there():
            schema = {
                "class": COLLECTION,
                "description": "What agent-pipelines notes for itself: no documents.",
                "vectorizer": "none",
                "vectorIndexConfig": {"skip": True},
                "replicationConfig": {"factor": replicas},
                "properties": [
                    {
                        "name": name,
                        "dataType": ["text"],
                        "tokenization": "field",
                        "indexSearchable": False,
                        "indexFilterable": False,
                    }
                    for name in ("key", "value")
                ],
            }
            answer = self._ask("POST", "/schema", json=schema)
            # Another process may have been quicker.
            if answer.is_error and not self._is_there():
                self._refuse(answer)
        self._exists = True

    def _is_there(self) -> bool:
        answer = self._ask("GET", f"/schema/{COLLECTION}")
        if answer.status_code == 404:
            return False
        self._refuse(answer)
        return True

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        import httpx

        try:
            answer = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        else:
            if answer.status_code not in (502, 503, 504):
                return answer
            reason = f"status {answer.status_code}"
        raise UnavailableError(
            f"Weaviate at {self._url} does not answer: {reason}",
            remedy="check that it runs; `agent-pipelines dev` restarts an embedded one",
        )

    @staticmethod
    def _refuse(answer: Any) -> None:
        if answer.is_error:
            raise StoreError(f"Weaviate refused: status {answer.status_code}: {answer.text[:300]}")


def _id(key: str) -> str:
    return str(uuid5(NAMESPACE_URL, f"agent-pipelines:{key}"))
