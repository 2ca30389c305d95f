"""The GPUs that a process here may use, with their memory, as the driver tells.

Belongs here: asking NVML, without a context on any GPU, which would take memory of it. Does not
belong here: whether there are any, told by device files alone (`local/accelerators.py`).
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from agent_pipelines.gpu.devices import Device


def visible_devices() -> list[Device]:
    """Those that this process may use, MIG slices each for itself; none where NVML does not tell.

    Of their speed nothing is known here, and it is 0.
    """
    try:
        import pynvml  # comes with the `gpu` extra
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = [
            (pynvml.nvmlDeviceGetUUID(handle), _device(pynvml, handle))
            for handle in _handles(pynvml)
        ]
    finally:
        pynvml.nvmlShutdown()
    return chosen(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _handles(pynvml: Any) -> Iterator[Any]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        yield from _slices(pynvml, handle) or [handle]


def _slices(pynvml: Any, handle: Any) -> list[Any]:
    """Of a GPU in MIG mode, those that a container was given."""
    try:
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    except pynvml.NVMLError:
        return []
    found = []
    for index in range(most):
        try:
            found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        except pynvml.NVMLError:
            continue  # this place is not taken, or not ours
    return found


def _device(pynvml: Any, handle: Any) -> Device:
    product = str(pynvml.nvmlDeviceGetName(handle))
    return Device(
        name=product,
        memory=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        bandwidth=0.0,
        flops=0.0,
        capability=tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)),
        price=0.0,
        products=(product,),
    )


def chosen(found: Sequence[tuple[str, Device]], named: str | None) -> list[Device]:
    """Those of (UUID, device) that CUDA_VISIBLE_DEVICES names; all, where it names nothing.

    As CUDA reads it: by place or by the beginning of a UUID, and what stands behind one that does
    not exist is hidden, too.
    """
    if named is None:
        return [device for _, device in found]
    devices = []
    for name in map(str.strip, named.split(",")):
        if name.isdigit():
            device = found[int(name)][1] if int(name) < len(found) else None
        else:
            device = next((d for uuid, d in found if name and uuid.startswith(name)), None)
        if device is None:
            break
        devices.append(device)
    return devices
