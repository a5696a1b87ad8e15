"""Files that are whole whenever someone looks, and whenever the machine stops."""

import os
import uuid
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write so that a reader, or a kill, finds the old file or the new, never a part.

    The content is on disk before it takes the name: a file system may otherwise rename first,
    and a loss of power would then leave an empty file. Several may write at once: the last wins.
    """
    temporary = path.with_name(f'{path.name}.{uuid.uuid4().hex[:8]}.tmp')
    try:
        with open(temporary, 'wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
