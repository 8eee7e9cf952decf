"""SQL storage: typed models, migrations, recording and read-only inspection."""
