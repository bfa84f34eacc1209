"""Files that we have written into a folder of the user, which holds others, too.

A tool may replace what it wrote there before, and nothing else. A hidden list in the folder has the
names and digests of what we wrote; a file that is not in it, or has been changed, is the user's.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import FileError
from core.settings.digests import digest_of
from core.settings.files import write_bytes

LIST = ".trislim-written"  # lines of JSON: name, digest
_UNFINISHED = "unfinished"


class WrittenFiles:
    """Writes into a folder without replacing what is not ours.

    Args:
        folder: The folder; it need not be there.

    Raises:
        FileError: The list in it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, list[str]] = {}
        try:
            lines = (folder / LIST).read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, ValueError) as error:
            raise FileError(f"{folder / LIST}: cannot be read: {error}; remove it") from error
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):  # of a process that was killed
                name, digest = json.loads(line)
                self._known.setdefault(str(name), []).append(str(digest))

    def check(self, names: Iterable[str]) -> None:
        """Refuse names of files that are there and that we did not write.

        Raises:
            FileError: Names the first such file.
        """
        for name in names:
            path, known = self.folder / name, self._known.get(name, [])
            if known[-1:] == [_UNFINISHED] or not (path.exists() or path.is_symlink()):
                continue
            try:
                ours = path.is_file() and known and digest_of(path) in known
            except OSError as error:
                raise FileError(f"{path}: cannot be read: {error.strerror}") from error
            if not ours:
                how = "was changed since" if known else "is there, and not written by this tool"
                raise FileError(f"{path}: {how}; move it, or name another folder")

    @contextlib.contextmanager
    def writing(self, names: Sequence[str]) -> Iterator[None]:
        """Note what the block writes under some names by other means; some may stay away.

        Only if the process is killed meanwhile, files of these names count as ours until the next
        time.

        Raises:
            FileError: As `check`, or the list cannot be written.
        """
        self.check(names)
        self._note(dict.fromkeys(names, _UNFINISHED))
        try:
            yield
        finally:
            paths = {name: self.folder / name for name in names}
            self._note({n: digest_of(p) if p.is_file() else "" for n, p in paths.items()})

    def expect(self, name: str, source: Path) -> None:
        """Note a file that is moved to a name next.

        Raises:
            FileError: As `check`, or the list cannot be written.
        """
        self.check([name])
        self._note({name: digest_of(source)})

    def write(self, name: str, content: bytes) -> None:
        """Write a file, with its folder, whole or not at all.

        Raises:
            FileError: As `check`, or it cannot be written.
        """
        self.check([name])
        self._note({name: hashlib.sha256(content).hexdigest()})
        write_bytes(self.folder / name, content)

    def _note(self, digests: dict[str, str]) -> None:
        lines = ""
        for name, digest in digests.items():
            known = self._known.setdefault(name, [])
            if known[-1:] != [digest]:
                known.append(digest)
                lines += f"\n{json.dumps([name, digest])}"  # apart from half a line before it
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / LIST, "a", encoding="utf-8") as file:
                file.write(lines)
        except OSError as error:
            where = error.filename or self.folder / LIST
            raise FileError(f"{where}: cannot be written: {error.strerror}") from error


def replace_json(file: Path, content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
    """Write a JSON file; one that is there is replaced if it has a key in common with the new one.

    Of a list, the keys of the first entry count.

    Raises:
        FileError: It holds something else, or cannot be written.
    """
    try:
        before = json.loads(file.read_bytes())
    except FileNotFoundError:
        before = content
    except (OSError, ValueError, RecursionError):  # a folder, or no JSON
        before = None
    if not (before == content or _keys(before) & _keys(content)):
        raise FileError(f"{file}: is there, and holds something else; name another file")
    write_bytes(file, f"{json.dumps(content, indent=1)}\n".encode())


def _keys(content: Any) -> set[str]:
    first = content[0] if isinstance(content, list) and content else content
    return set(first) if isinstance(first, Mapping) else set()
