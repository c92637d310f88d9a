"""The table, and three users to begin with."""

from __future__ import annotations

from typing import Any

from django.db import migrations, models


def add_users(apps: Any, schema_editor: Any) -> None:
    """Add them."""
    user = apps.get_model("django_app", "User")
    user.objects.bulk_create(user(name=name) for name in ("Ada", "Grace", "Edsger"))


class Migration(migrations.Migration):
    """The first one."""

    operations = (
        migrations.CreateModel(
            name="User",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=200)),
            ],
        ),
        migrations.RunPython(add_users, migrations.RunPython.noop),
    )
