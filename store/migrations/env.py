"""Alembic's entry: each migration runs in one transaction with its version row."""

from alembic import context

from store.schema import Base

engine = context.config.attributes["engine"]
with engine.connect() as connection:
    is_sqlite = engine.dialect.name == "sqlite"
    if is_sqlite:
        # SQLite changes a table by writing it anew: rows that refer to it would stand in the way.
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
    if is_sqlite:
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.commit()
        if broken:
            raise RuntimeError(f"a migration left rows that refer to nothing: {broken[:3]}")
