"""The SQL console's own process: one SELECT on one SQLite file, and nothing else.

It is run by its path with a request on standard input, so that a statement can be ended whatever it
does: inside of one function call SQLite asks nobody whether time is up. Only Python's own library
is imported here.

Request: {"uri", "statement", "bound", "max_rows", "timeout_s"}. Answer: {"columns", "rows",
"is_cut"}, or {"error", "is_refused"}. A value of bytes is {"bytes": how many}.
"""

import json
import resource
import signal
import sqlite3
import sys
import time
from typing import Any

ALLOWED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
FORBIDDEN_FUNCTIONS = {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
MAX_CELL = 10_000_000
"""Bytes of one value."""
MAX_ANSWER = 64_000_000
"""Characters and bytes of all values together."""
MEMORY_BYTES = 2**30
OPCODES = 200
"""Steps of SQLite's machine between two looks at the clock."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    connection = sqlite3.connect(request["uri"], uri=True)
    deadline = time.monotonic() + request["timeout_s"]
    refused: list[str] = []

    def authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
        is_good = action in ALLOWED and not (
            action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FORBIDDEN_FUNCTIONS
        )
        if not is_good:
            refused.append(first or second or "")
        return sqlite3.SQLITE_OK if is_good else sqlite3.SQLITE_DENY

    try:
        connection.execute("PRAGMA query_only = ON")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_CELL)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, OPCODES)
        connection.set_authorizer(authorize)
        cursor = connection.execute(request["statement"], request["bound"])
        if cursor.description is None:
            return {"error": "that is not a SELECT", "is_refused": True}
        rows: list[list[Any]] = []
        size, most = 0, request["max_rows"]
        for row in cursor:
            rows.append([_plain(value) for value in row])
            size += sum(len(v) for v in row if isinstance(v, str | bytes))
            if size > MAX_ANSWER:
                return {
                    "error": f"it answers with over {MAX_ANSWER:,} characters",
                    "is_refused": False,
                }
            if len(rows) > most:
                break
        columns = [d[0] for d in cursor.description]
        return {"columns": columns, "rows": rows[:most], "is_cut": len(rows) > most}
    except (sqlite3.Error, sqlite3.Warning, ValueError) as error:  # UnicodeError is a ValueError
        return {"error": str(error), "is_refused": bool(refused)}
    except MemoryError:
        return {"error": "it needs more memory than it may have", "is_refused": False}
    finally:
        connection.close()


def _plain(value: Any) -> Any:
    return {"bytes": len(value)} if isinstance(value, bytes) else value


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to act on
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    json.dump(answer(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
