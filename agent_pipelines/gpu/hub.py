"""A model's numbers by its name: of a folder, of the hub's cache on this machine, or of the hub.

Belongs here: asking the hub, of which only config.json and the headers of weights are fetched. Does
not belong here: what the numbers mean (`model`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_pipelines.errors import UnavailableError, UserError
from agent_pipelines.gpu.model import ModelShape, Tensor, read_shape, shape_of

#: Seconds for the hub's first answer.
_TIMEOUT = 10.0


def find_shape(model: str) -> ModelShape:
    """The numbers of a model: a folder, or a name on the hub.

    Raises:
        UserError: there is none, it may not be read, or it is not one that can be read this way.
        UnavailableError: the hub does not answer.
    """
    folder = Path(model).expanduser()
    if model.startswith((".", "/", "~")) or folder.is_dir():
        return read_shape(folder)
    return _cached(model) or _from_hub(model)


def _cached(name: str) -> ModelShape | None:
    """Of a model that was downloaded to this machine; None where it was not, or not all of it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return read_shape(Path(snapshot_download(name, local_files_only=True)), name)
    except (LocalEntryNotFoundError, HFValidationError, UserError):
        return None


def _from_hub(name: str) -> ModelShape:
    from huggingface_hub import constants, get_safetensors_metadata, get_session, hf_hub_download

    with _explained(name):
        # The client asks again for half a minute where nobody answers.
        get_session().head(constants.ENDPOINT, timeout=_TIMEOUT)
        config = json.loads(Path(hf_hub_download(name, "config.json")).read_text())
        files = get_safetensors_metadata(name).files_metadata.values()
        tensors = (
            Tensor(tensor, found.dtype, found.parameter_count)
            for file in files
            for tensor, found in file.tensors.items()
        )
        return shape_of(name, config, tensors)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """What the hub refuses, as something a person can put right."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"model {name} is shown by the hub only to who has accepted its terms",
            remedy="accept them on its page, and set HF_TOKEN; or name a folder that has it",
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise UserError(
            f"the hub has no model {name!r}, or does not show it to us",
            remedy="name it like Qwen/Qwen3-8B, or a folder like ./model; for a private one set "
            "HF_TOKEN",
        ) from error
    except (
        errors.NotASafetensorsRepoError,
        errors.SafetensorsParsingError,
        errors.RemoteEntryNotFoundError,
        KeyError,
    ) as error:
        raise UserError(
            f"model {name} of the hub cannot be read: {error}",
            remedy="name a decoder-only model with config.json and *.safetensors",
        ) from error
    # What answers with an error, does not answer at all, or is not to be asked (HF_HUB_OFFLINE).
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        raise UnavailableError(
            f"the hub does not say what model {name} is like: {str(error).splitlines()[0]}",
            remedy="download the model where the hub can be reached, and name its folder",
        ) from error
