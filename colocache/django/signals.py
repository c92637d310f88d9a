"""Invalidation by the signals of models, after commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from django.db.models import Model
from django.db.models.signals import class_prepared, m2m_changed, post_delete, post_save

from .commits import Invalidated, invalidate_on_commit, of_arguments


def invalidate_with(
    model: type[Model],
    *,
    keys: Callable[[Any], Iterable[Any]] | Iterable[Any] = (),
    tags: Callable[[Any], Iterable[str]] | Iterable[str] = (),
    cache: Invalidated = "default",
) -> Callable[[], None]:
    """Invalidate keys and tags whenever an object of a model is saved or deleted, or its many-to-many fields change.

    This happens when the transaction is committed: see `invalidate_on_commit`. ``keys`` and ``tags`` are tuples, or
    functions that make them of the object as it is at the signal::

        invalidate_with(User, keys=lambda user: [f"user:{user.pk}"], tags=("users",))

    Subclasses of the model count, also those that are defined later. So the model may be abstract. Call this once, in
    the module of the models or in ``AppConfig.ready``. It returns a function that ends it.

    ``QuerySet.update``, ``bulk_create``, ``bulk_update``, raw SQL, and cascades in the database send no signals. Call
    `invalidate_on_commit` after them.
    """
    if not (isinstance(model, type) and issubclass(model, Model)):
        raise TypeError(f"a model is a class, not {model!r:.80}: call this where it can be imported")
    watch = _Watch(model, of_arguments(keys, "keys"), of_arguments(tags, "tags"), cache)
    watch.begin()
    return watch.end


class _Watch:
    """One call of `invalidate_with`."""

    def __init__(
        self,
        model: type[Model],
        keys_of: Callable[..., Iterable[Any]],
        tags_of: Callable[..., Iterable[str]],
        cache: Invalidated,
    ) -> None:
        self._model = model
        self._keys_of = keys_of
        self._tags_of = tags_of
        self._cache = cache
        self._undo: list[Callable[[], object]] = []

    def begin(self) -> None:
        """Connect each class, because one receiver for all classes would slow down the deletions of all models."""
        self._connect(class_prepared, self._on_class, None)
        for model in {self._model, *_below(self._model)}:
            self._watch(model)

    def end(self) -> None:
        """Disconnect."""
        while self._undo:
            self._undo.pop()()

    def _on_class(self, sender: type[Model], **_: Any) -> None:
        if issubclass(sender, self._model):
            self._watch(sender)

    def _watch(self, model: type[Model]) -> None:
        if model._meta.abstract:
            return
        self._connect(post_save, self._on_object, model)
        self._connect(post_delete, self._on_object, model)
        for field in model._meta.many_to_many:
            through = field.remote_field.through
            if isinstance(through, str) and "." not in through:  # not defined yet; Django connects it later
                through = f"{model._meta.app_label}.{through}"
            self._connect(m2m_changed, partial(self._on_relation, model, field.name), through)

    def _connect(self, signal: Any, receiver: Callable[..., None], sender: Any) -> None:
        uid = (id(self), len(self._undo))  # because several classes may have the same table
        signal.connect(receiver, sender=sender, weak=False, dispatch_uid=uid)
        self._undo.append(lambda: signal.disconnect(sender=sender, dispatch_uid=uid))

    def _on_object(self, instance: Any, using: str, **_: Any) -> None:
        self._invalidate([instance], using)

    def _on_relation(
        self, owner: type[Model], field: str, *, instance: Any, action: str, reverse: bool, model: type[Model],
        pk_set: set[Any] | None, using: str, **_: Any,
    ) -> None:  # fmt: skip
        """Invalidate when a relation changes: of one of our objects, or, from its other side, of several of them."""
        changed = action == "post_clear" or (action in ("post_add", "post_remove") and pk_set)
        if changed and not reverse and isinstance(instance, owner):
            self._invalidate([instance], using)
        if not issubclass(owner, model):
            return
        objects = owner._base_manager.using(using)
        if changed and pk_set:
            self._invalidate(objects.filter(pk__in=pk_set), using)
        elif action == "pre_clear":  # because after it nobody knows which they were
            self._invalidate(objects.filter(**{field: instance}), using)

    def _invalidate(self, objects: Iterable[Any], using: str) -> None:
        for each in objects:
            invalidate_on_commit(self._cache, *self._keys_of(each), tags=self._tags_of(each), using=using)


def _below(model: type[Model]) -> Iterable[type[Model]]:
    for each in model.__subclasses__():
        yield each
        yield from _below(each)
