"""For SQLAlchemy: `invalidate_on_commit`, and `row_tags` and `table_tag`, the tags of what it invalidates."""

from .integrations.sqlalchemy import invalidate_on_commit, row_tags, table_tag

__all__ = ["invalidate_on_commit", "row_tags", "table_tag"]
