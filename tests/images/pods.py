"""Pods: a task in a container of its image, as Kubeflow's pods have it and more strictly.

kfp.local's own runner for containers has them removed when they end and takes one it no longer finds for finished; here
a task fails unless `podman run` ends with 0.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from kfp.local import status, subprocess_task_handler

from pipelines.placement import HOME, USER

STRICT = (
    "--rm", "--pull=never", "--read-only", "--read-only-tmpfs=false", "--cap-drop=all",
    "--security-opt=no-new-privileges", "--network=none", "--shm-size=1g", "--tmpfs=/tmp:rw,mode=1777",
    f"--tmpfs={HOME}:rw,mode=0777",
)  # fmt: skip
"""No network, no capability, nothing to write but /tmp, /dev/shm and an empty /cache."""


def command(image: str, inside: Sequence[str], mounts: Collection[str] = (), user: str = f"{USER}:0") -> list[str]:
    """`podman run` of a command; mounts are PATH or PATH:ro, the same inside."""
    volumes = [f"--volume={path}:{mount}" for mount in mounts for path in [mount.removesuffix(":ro")]]
    return ["podman", "run", *STRICT, f"--user={user}", *volumes, image, *inside]


@contextlib.contextmanager
def tasks_in(images: Collection[str], mounts: Sequence[Path | str]) -> Iterator[list[str]]:
    """kfp.local runs tasks of these images in containers, others as processes; the images of those it did."""
    plain = subprocess_task_handler.SubprocessTaskHandler
    ran: list[str] = []

    class InContainer(plain):  # type: ignore[misc, valid-type]
        def run(self) -> status.Status:
            if self.image not in images:
                return super().run()
            ran.append(self.image)
            line = command(self.image, self.full_command, [*map(str, mounts)])
            code = subprocess_task_handler.run_local_subprocess(line)
            return status.Status.SUCCESS if code == 0 else status.Status.FAILURE

    subprocess_task_handler.SubprocessTaskHandler = InContainer
    try:
        yield ran
    finally:
        subprocess_task_handler.SubprocessTaskHandler = plain
