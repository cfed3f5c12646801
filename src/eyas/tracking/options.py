"""Options that a tracker does not have, refused with the list of those that it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from eyas.errors import OptionError, problem


def build(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    """factory(**options). Raises OptionError for an option that it lacks or a value that it refuses."""
    known = list(inspect.signature(factory).parameters)
    unknown = [o for o in options if o not in known]
    if unknown:
        what = f"{name} has no such option"
        raise OptionError(problem(what, got=", ".join(unknown), expected=" | ".join(known), remedy=""))
    try:
        return factory(**options)
    except OptionError:
        raise
    except (TypeError, ValueError) as error:
        expected = "values as its documentation gives them"
        raise OptionError(problem(f"{name} refuses an option", got=error, expected=expected, remedy="")) from error
