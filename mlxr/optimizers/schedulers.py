"""Schedules: functions from the number of a step to the value of a parameter of an optimizer.

The number is an integer array or a Python integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlxr as mx
from mlxr.errors import InvalidValueError

__all__ = ["cosine_decay", "exponential_decay", "join_schedules", "linear_schedule", "step_decay"]

Schedule = Callable[[Any], mx.array]


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InvalidValueError(f"{name} must be at least 1, not {value}", **{name: value})


def exponential_decay(init: float, decay_rate: float) -> Schedule:
    """Return a schedule that begins with `init` and is multiplied by `decay_rate` at every step.

    Examples
    --------
    >>> exponential_decay(0.5, 0.5)(2)
    0.125
    """

    def schedule(step: Any) -> Any:
        return init * decay_rate**step

    return schedule


def step_decay(init: float, decay_rate: float, step_size: int) -> Schedule:
    """Return a schedule that begins with `init` and is multiplied by `decay_rate` at every `step_size`-th step.

    Raises
    ------
    InvalidValueError
        If `step_size` is below 1.

    Examples
    --------
    >>> step_decay(0.5, 0.5, 10)(29)
    0.125
    """
    _require_positive("step_size", step_size)

    def schedule(step: Any) -> Any:
        return init * decay_rate ** (step // step_size)

    return schedule


def cosine_decay(init: float, decay_steps: int, end: float = 0.0) -> Schedule:
    """Return a schedule that goes from `init` to `end` in `decay_steps` steps, along half a cosine, and stays there.

    Raises
    ------
    InvalidValueError
        If `decay_steps` is below 1.
    """
    _require_positive("decay_steps", decay_steps)

    def schedule(step: Any) -> mx.array:
        angle = mx.minimum(step, decay_steps) * (math.pi / decay_steps)
        return end + (0.5 * (1.0 + mx.cos(angle))) * (init - end)

    return schedule


def linear_schedule(init: float, end: float, steps: int) -> Schedule:
    """Return a schedule that goes from `init` to `end` in `steps` equal steps, and stays there.

    Raises
    ------
    InvalidValueError
        If `steps` is below 1.
    """
    _require_positive("steps", steps)

    def schedule(step: Any) -> mx.array:
        return init + mx.minimum(step, steps) * ((end - init) / steps)

    return schedule


def join_schedules(schedules: list[Schedule], boundaries: list[int]) -> Schedule:
    """Return a schedule that goes over from one schedule to the next at every boundary.

    Parameters
    ----------
    schedules
        The schedules; each counts from its own beginning.
    boundaries
        The steps at which all schedules but the first begin.

    Raises
    ------
    InvalidValueError
        If there is no schedule, or not one boundary fewer than schedules.
    """
    if not schedules:
        raise InvalidValueError("at least one schedule is needed", schedules=schedules)
    if len(boundaries) != len(schedules) - 1:
        raise InvalidValueError(
            f"{len(schedules)} schedules need {len(schedules) - 1} boundaries, not {len(boundaries)}",
            boundaries=boundaries,
        )

    def joined(step: Any) -> mx.array:
        value = schedules[0](step)
        for boundary, schedule in zip(boundaries, schedules[1:], strict=True):
            value = mx.where(step < boundary, value, schedule(step - boundary))
        return value

    return joined
