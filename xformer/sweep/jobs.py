"""Workers of a sweep as jobs of a cluster."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from xformer.config import UserError

MINUTES = 1440  # of a job, where it asks for no others; submitit's own are 5


def parse_request(text: str) -> dict[str, Any]:
    """What a job asks for, 'timeout_min=720 slurm_partition=gpu' as a dictionary."""
    request = {'timeout_min': MINUTES}
    for part in text.split():
        name, equals, value = part.partition('=')
        if not equals or not value:
            raise UserError(f'--job has {part!r}, which is not NAME=VALUE')
        request[name] = int(value) if value.isdecimal() else value
    return request


def submit(work: Callable[[], None], folder: Path, cluster: str, count: int,
           request: dict[str, Any]) -> list[str]:
    """The ids of `count` jobs that do `work` on 'slurm', or as processes of this machine, 'local'.

    Their logs are in `folder`. Raises UserError where there is no such cluster or request.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--submit needs submitit, not installed here; install it, in "
                        "xformer's folder, with: pip install -e '.[slurm]'") from None
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**request)
        return [executor.submit(work).job_id for _ in range(count)]
    except (AssertionError, NameError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f'cannot submit to {cluster}: {reason}') from None
