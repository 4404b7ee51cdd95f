"""Module: the base class of everything with parameters.

A module is a dict. What is assigned to its attributes as an array, dict, list or tuple (and so every submodule) is kept
in the dict and seen by `parameters`, `children`, `update` and the rest; everything else is an ordinary attribute. This
file knows arrays and files only through the public functions of mlxr, and no layer.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import mlxr as mx
from mlxr.errors import InvalidValueError
from mlxr.nn.errors import StructureError, UnknownMemberError, WeightsError
from mlxr.utils import tree_flatten, tree_unflatten

__all__ = ["Module"]

Filter = Callable[["Module", str, Any], bool]


class Module(dict):
    """The base class of layers and models.

    A subclass calls ``super().__init__()``, assigns its parameters (arrays) and submodules to attributes, and defines
    ``__call__``.

    Examples
    --------
    >>> class Affine(Module):
    ...     def __init__(self, dims):
    ...         super().__init__()
    ...         self.weight = mx.ones((dims,))
    ...         self.bias = mx.zeros((dims,))
    ...     def __call__(self, x):
    ...         return x * self.weight + self.bias
    >>> sorted(Affine(2).parameters())
    ['bias', 'weight']
    """

    __call__: Callable

    # Arrays that `unfreeze` leaves frozen, because they are no parameters: statistics that the layer keeps itself.
    _never_trainable: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self._no_grad: set[str] = set()
        self._training = True

    # ---- attributes ----

    def __getattr__(self, name: str) -> Any:
        # Python comes here after ordinary attributes have failed.
        if name in self:
            return self[name]
        return super().__getattribute__(name)  # raises, and keeps the message of a property that failed

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, (mx.array, dict, list, tuple)):
            super().__setattr__(name, value)
            self.pop(name, None)
            return
        if name in self.__dict__:
            super().__delattr__(name)
        elif hasattr(type(self), name) and name not in self:
            raise AttributeError(
                f"{type(self).__name__}.{name} is defined by the class, so the attribute would hide the value"
            )
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self:
            del self[name]
        else:
            super().__delattr__(name)

    @property
    def training(self) -> bool:
        """Whether the module is in training mode; see `train`."""
        return self._training

    @property
    def state(self) -> Module:
        """The module itself: the tree of everything that it holds."""
        return self

    # ---- printing ----

    def _extra_repr(self) -> str:
        return ""

    def __repr__(self) -> str:
        children = tree_flatten(self.children(), is_leaf=self.is_module)
        lines = "".join(f"\n{textwrap.indent(f'({name}): {child!r}', '  ')}" for name, child in children)
        return f"{type(self).__name__}({self._extra_repr()}{lines}" + ("\n)" if children else ")")

    # ---- files ----

    def load_weights(
        self, file_or_weights: str | os.PathLike[str] | list[tuple[str, mx.array]], strict: bool = True
    ) -> Module:
        """Replace parameters by those of a file or a list.

        Parameters
        ----------
        file_or_weights
            A file that `mlxr.load` reads as a dict of arrays, or pairs of dotted name and array.
        strict
            Whether names and shapes must be exactly those of the module. Where False, what the module does not have
            is ignored, and what is missing stays as it is.

        Returns
        -------
        Module
            The module itself.

        Raises
        ------
        WeightsError
            If `strict`, and names are missing or unknown, or a value is no array or has another shape. The module is
            as before.
        """
        loaded: Any = file_or_weights
        if isinstance(file_or_weights, (str, os.PathLike)):
            loaded = mx.load(os.fspath(file_or_weights))
        weights: dict[str, Any] = dict(loaded)
        current = tree_flatten(self.parameters(), destination={})
        if strict:
            _require_same(current, weights)
        # Only names that exist are unflattened: a name from a file may spell an index of any size.
        known = {name: value for name, value in weights.items() if name in current}
        if known:
            self.update(tree_unflatten(known), strict=False)
        return self

    def save_weights(self, file: str | os.PathLike[str]) -> None:
        """Write the parameters to a file.

        Parameters
        ----------
        file
            Its extension says the format: ``.safetensors`` or ``.npz``.

        Raises
        ------
        InvalidValueError
            If the extension is another one.
        """
        path = os.fspath(file)
        parameters = tree_flatten(self.parameters(), destination={})
        if path.endswith(".safetensors"):
            mx.save_safetensors(path, parameters)
        elif path.endswith(".npz"):
            mx.savez(path, **parameters)
        else:
            raise InvalidValueError(f"weights are saved as .safetensors or .npz, and {path!r} is neither", file=path)

    # ---- walking ----

    @staticmethod
    def is_module(value: Any) -> bool:
        """Return whether `value` is a `Module`."""
        return isinstance(value, Module)

    @staticmethod
    def valid_child_filter(module: Module, key: str, value: Any) -> bool:
        """Return whether `value` is a submodule or may contain one."""
        return isinstance(value, (dict, list))

    @staticmethod
    def valid_parameter_filter(module: Module, key: str, value: Any) -> bool:
        """Return whether `value` is a parameter or may contain one. Names that begin with ``_`` are private."""
        return isinstance(value, (dict, list, mx.array)) and not key.startswith("_")

    @staticmethod
    def trainable_parameter_filter(module: Module, key: str, value: Any) -> bool:
        """Return whether `value` is a parameter that is not frozen, or may contain one."""
        return Module.valid_parameter_filter(module, key, value) and key not in module._no_grad

    def filter_and_map(
        self, filter_fn: Filter, map_fn: Callable[[Any], Any] | None = None, is_leaf_fn: Filter | None = None
    ) -> dict[str, Any]:
        """Select and map what the module and its submodules hold.

        Parameters
        ----------
        filter_fn
            Called as ``filter_fn(module, key, value)``; selects values. Inside a list or dict of a module the key is
            dotted (``"layers.0"``), and a value that is not selected leaves ``{}`` in its place.
        map_fn
            Applied to every selected leaf; the identity by default.
        is_leaf_fn
            Called as `filter_fn` is; says what is a leaf. By default everything but modules, dicts and lists.

        Returns
        -------
        dict
            A tree of dicts and lists with the mapped leaves.

        Raises
        ------
        StructureError
            If a selected value is neither a leaf nor a module, dict or list.
        """
        map_fn = map_fn or _identity
        is_leaf_fn = is_leaf_fn or _is_no_container

        def select(owner: Module) -> dict[str, Any]:
            return {k: visit(owner, k, v) for k, v in owner.items() if filter_fn(owner, k, v)}

        def visit(owner: Module, key: str, value: Any) -> Any:
            if is_leaf_fn(owner, key, value):
                return map_fn(value)
            if isinstance(value, Module):
                return select(value)
            if isinstance(value, dict):
                return {k: visit_inside(owner, f"{key}.{k}", v) for k, v in value.items()}
            if isinstance(value, list):
                return [visit_inside(owner, f"{key}.{i}", v) for i, v in enumerate(value)]
            raise StructureError(f"{key!r} holds a {type(value).__name__}, which is neither a leaf nor a container")

        def visit_inside(owner: Module, key: str, value: Any) -> Any:
            return visit(owner, key, value) if filter_fn(owner, key, value) else {}

        return select(self)

    def parameters(self) -> dict[str, Any]:
        """Return the tree of all arrays whose names do not begin with ``_``."""
        return self.filter_and_map(self.valid_parameter_filter)

    def trainable_parameters(self) -> dict[str, Any]:
        """Return the tree of the parameters that are not frozen."""
        return self.filter_and_map(self.trainable_parameter_filter)

    def children(self) -> dict[str, Any]:
        """Return the tree of the direct submodules."""
        return self.filter_and_map(self.valid_child_filter, is_leaf_fn=lambda m, k, v: isinstance(v, Module))

    def leaf_modules(self) -> dict[str, Any]:
        """Return the tree of the submodules that have no submodules themselves."""

        def is_leaf(module: Module, key: str, value: Any) -> bool:
            return isinstance(value, Module) and not tree_flatten(value.children())

        return self.filter_and_map(self.valid_child_filter, is_leaf_fn=is_leaf)

    def apply_to_modules(self, apply_fn: Callable[[str, Module], Any]) -> Module:
        """Call ``apply_fn(path, module)`` for the module itself (its path is ``""``) and every submodule.

        A module comes before its children, and later children come before earlier ones.

        Returns
        -------
        Module
            The module itself.
        """
        for path, module in self._walk():
            apply_fn(path, module)
        return self

    def _walk(self) -> Iterator[tuple[str, Module]]:
        # Children are listed after the caller has seen their parent, so that it may replace them.
        stack: list[tuple[str, Module]] = [("", self)]
        while stack:
            path, module = stack.pop()
            yield path, module
            stack.extend(tree_flatten(module.children(), prefix=path and f".{path}", is_leaf=self.is_module))

    def modules(self) -> list[Module]:
        """Return the module itself and every submodule, in the order of `apply_to_modules`."""
        return [module for _, module in self._walk()]

    def named_modules(self) -> list[tuple[str, Module]]:
        """Return the paths and modules of `apply_to_modules`."""
        return list(self._walk())

    # ---- replacing ----

    def update(self, parameters: dict[str, Any], strict: bool = True) -> Module:  # type: ignore[override]
        """Replace parameters by those of a tree.

        Parameters
        ----------
        parameters
            A tree like that of `parameters`, whole or in part. An empty dict or list replaces nothing.
        strict
            Whether everything in the tree must be a place of the module, and every new value an array. Where False,
            what fits nowhere is ignored.

        Returns
        -------
        Module
            The module itself.

        Raises
        ------
        StructureError
            If `strict`, and something does not fit. The module is as before.
        """
        return self._replace(parameters, strict, _fits_parameter)

    def update_modules(self, modules: dict[str, Any], strict: bool = True) -> Module:
        """Replace submodules by those of a tree.

        Parameters
        ----------
        modules
            A tree like that of `children` or `leaf_modules`, whole or in part. An empty dict or list replaces nothing.
        strict
            As in `update`.

        Returns
        -------
        Module
            The module itself.

        Raises
        ------
        StructureError
            If `strict`, and something does not fit. The module is as before.
        """
        return self._replace(modules, strict, _fits_module)

    def _replace(self, tree: Any, strict: bool, fits: Callable[[Any, Any, str, bool], bool]) -> Module:
        # Everything is checked before anything is changed.
        replacements: list[tuple[Any, Any, Any]] = []
        _plan_replacements(self, tree, "", strict, fits, replacements)
        for container, key, value in replacements:
            container[key] = value
        return self

    def apply(self, map_fn: Callable[[mx.array], mx.array], filter_fn: Filter | None = None) -> Module:
        """Replace every parameter that `filter_fn` selects (by default all) by ``map_fn(parameter)``.

        Returns
        -------
        Module
            The module itself.
        """
        return self.update(self.filter_and_map(filter_fn or Module.valid_parameter_filter, map_fn))

    def set_dtype(
        self,
        dtype: mx.Dtype,
        predicate: Callable[[mx.Dtype], bool] | None = lambda dtype: mx.issubdtype(dtype, mx.floating),
    ) -> None:
        """Cast the parameters.

        Parameters
        ----------
        dtype
            The new dtype.
        predicate
            Says by its dtype whether a parameter is cast; by default floating ones are. None casts all.
        """
        self.apply(lambda p: p.astype(dtype) if predicate is None or predicate(p.dtype) else p)

    # ---- freezing ----

    def freeze(self, *, recurse: bool = True, keys: str | list[str] | None = None, strict: bool = False) -> Module:
        """Take parameters out of `trainable_parameters`.

        Parameters
        ----------
        recurse
            Whether the submodules are frozen too.
        keys
            The names to freeze, such as ``"bias"``; None freezes all.
        strict
            Whether every key must be a member of the module (of some module below, where `recurse`).

        Returns
        -------
        Module
            The module itself.

        Raises
        ------
        UnknownMemberError
            If `strict` and a key is unknown. Nothing is frozen.
        """
        for module, names in self._frozen_names(recurse, keys, strict):
            module._no_grad.update(module._parameter_names() if names is None else names)
        return self

    def unfreeze(self, *, recurse: bool = True, keys: str | list[str] | None = None, strict: bool = False) -> Module:
        """Put parameters back into `trainable_parameters`; the parameters are those of `freeze`."""
        for module, names in self._frozen_names(recurse, keys, strict):
            module._no_grad.difference_update(set(module._no_grad) if names is None else names)
            module._no_grad.update(module._never_trainable)
        return self

    def _frozen_names(
        self, recurse: bool, keys: str | list[str] | None, strict: bool
    ) -> Iterator[tuple[Module, list[str] | None]]:
        """Return the modules that `freeze` and `unfreeze` change and the names that they change there."""
        modules = self.modules() if recurse else [self]
        names = [keys] if isinstance(keys, str) else keys
        if strict:
            for name in names or ():
                if not any(name in module for module in modules):
                    raise UnknownMemberError(f"{type(self).__name__} has no member {name!r}", name=name)
        return ((module, names) for module in modules)

    def _parameter_names(self) -> list[str]:
        """Return the dotted names of the module's own parameters, without those of submodules."""

        def own(module: Module, key: str, value: Any) -> bool:
            return not isinstance(value, Module) and module.valid_parameter_filter(module, key, value)

        return [name for name, _ in tree_flatten(self.filter_and_map(own))]

    # ---- modes ----

    def train(self, mode: bool = True) -> Module:
        """Set training mode (or evaluation mode) here and in every submodule; some layers act on it.

        Returns
        -------
        Module
            The module itself.
        """
        return self.apply_to_modules(lambda _, module: module._set_training_mode(mode))

    def eval(self) -> Module:
        """Set evaluation mode; the same as ``train(False)``."""
        return self.train(False)

    def _set_training_mode(self, mode: bool) -> None:
        self._training = mode


def _identity(value: Any) -> Any:
    return value


def _is_no_container(module: Module, key: str, value: Any) -> bool:
    return not isinstance(value, (dict, list))


def _fits_parameter(old: Any, new: Any, path: str, strict: bool) -> bool:
    """Return whether `new` takes the place of `old`, or (False) both are looked into."""
    if not isinstance(old, mx.array):
        return False
    if strict and not isinstance(new, mx.array):
        raise StructureError(f"{path!r} is an array, and the new value is a {type(new).__name__}", path=path)
    return True


def _fits_module(old: Any, new: Any, path: str, strict: bool) -> bool:
    """Return whether `new` takes the place of `old`, or (False) both are looked into."""
    return isinstance(old, Module) and isinstance(new, Module)


def _plan_replacements(
    into: Any,
    tree: Any,
    path: str,
    strict: bool,
    fits: Callable[[Any, Any, str, bool], bool],
    plan: list[tuple[Any, Any, Any]],
) -> None:
    """Append ``(container, key, value)`` to `plan` for every value of `tree` that has a place below `into`."""
    if isinstance(tree, dict):
        entries: Any = tree.items()
    elif isinstance(tree, list):
        entries = enumerate(tree)
    elif strict:
        raise StructureError(f"{path!r} takes no {type(tree).__name__}", path=path)
    else:
        return
    for key, new in entries:
        if _is_placeholder(new):
            continue
        here = f"{path}.{key}" if path else str(key)
        if not _has(into, key):
            if strict:
                raise StructureError(f"the module has no {here!r}", path=here)
            continue
        old = into[key]
        if fits(old, new, here, strict):
            plan.append((into, key, new))
        else:
            _plan_replacements(old, new, here, strict, fits, plan)


def _is_placeholder(value: Any) -> bool:
    """Return whether `value` is what `Module.filter_and_map` leaves of a value that is not selected."""
    return isinstance(value, (dict, list)) and not value and not isinstance(value, Module)


def _has(container: Any, key: Any) -> bool:
    if isinstance(container, dict):
        return key in container
    return isinstance(container, list) and isinstance(key, int) and key < len(container)


def _require_same(current: dict[str, mx.array], weights: dict[str, Any]) -> None:
    """Raise `WeightsError`, with all that is wrong, unless names, types and shapes agree."""
    unexpected = sorted(weights.keys() - current.keys())
    missing = sorted(current.keys() - weights.keys())
    mismatched = {}
    for name in sorted(current.keys() & weights.keys()):
        new = weights[name]
        if not isinstance(new, mx.array):
            mismatched[name] = f"expected an array, got {type(new).__name__}"
        elif new.shape != current[name].shape:
            mismatched[name] = f"expected shape {current[name].shape}, got {new.shape}"
    problems = []
    if unexpected:
        problems.append(f"{len(unexpected)} parameters are not in the model: {', '.join(unexpected)}")
    if missing:
        problems.append(f"{len(missing)} parameters are missing: {', '.join(missing)}")
    problems.extend(f"{name}: {problem}" for name, problem in mismatched.items())
    if problems:
        raise WeightsError("; ".join(problems), missing=missing, unexpected=unexpected, mismatched=mismatched)
