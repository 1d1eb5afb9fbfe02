"""What the model knows about one option: text, unit, range, default, and whether it has a meaning here."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

_NO_PATH: Final = re.compile(r"[\x00\ud800-\udfff]")  # what no call of the system takes


def _checked_path(text: str) -> str:
    if _NO_PATH.search(text):
        raise ValueError("must be a path")
    return text


FilePath = Annotated[str, AfterValidator(_checked_path)]


class Section(BaseModel):
    """A part of the configuration: frozen, strict in its types, closed to unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def option(
    default: Any,
    description: str,
    *,
    unit: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    allowed: str = "",
    inert: bool = False,
    secret: bool = False,
    validate_default: bool | None = None,
) -> Any:
    """Declare an option of a section.

    `unit` is the plural that follows a number. `allowed` says what values are taken where type and range do not say
    it, as with `gt`. `inert` marks a name that is accepted and has no meaning here; `secret` values are never shown.
    """
    extra: dict[str, Any] = {
        "unit": unit,
        "allowed": allowed,
        "inert": inert,
        "secret": secret,
    }
    return Field(
        default=default,
        description=description,
        ge=ge,
        gt=gt,
        le=le,
        validate_default=validate_default,
        json_schema_extra={name: value for name, value in extra.items() if value},
    )


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the model, addressed by its full path (`ct_log.batch_size`)."""

    path: str
    field: FieldInfo

    def _extra(self, name: str) -> Any:
        extra = self.field.json_schema_extra
        return extra.get(name) if isinstance(extra, dict) else None

    @property
    def inert(self) -> bool:
        """Whether the name is accepted and has no meaning here."""
        return bool(self._extra("inert"))

    @property
    def secret(self) -> bool:
        """Whether its value must never be shown."""
        return bool(self._extra("secret"))

    @property
    def description(self) -> str:
        """What the option does."""
        return self.field.description or ""

    @property
    def default(self) -> Any:
        """The value it has where neither file nor environment sets it."""
        return self.field.default

    @property
    def annotation(self) -> Any:
        """The option's type without its `| None`."""
        return without_none(self.field.annotation)

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return "CERTSTREAM_" + self.path.replace(".", "_").upper()

    @property
    def range(self) -> str:
        """The values it takes, with unit: `1 to 600 seconds`, `console or json`; empty for true and false."""
        text = self._extra("allowed") or self._values()
        return f"{text}, or null" if self.nullable else text

    @property
    def allowed(self) -> str:
        """The values it takes, as words that follow `must be`."""
        kind = {bool: "true or false", int: "an integer from ", float: "a number from "}.get(self.annotation, "")
        return self.range if self._extra("allowed") else kind + self.range

    @property
    def nullable(self) -> bool:
        """Whether null is a value of it."""
        return self.field.annotation is not self.annotation

    def _values(self) -> str:
        if get_origin(self.annotation) is Literal:
            return " or ".join(map(str, get_args(self.annotation)))
        if self.annotation in (int, float):
            low, high = bounds(self.field)
            return f"{low} to {high} {self._extra('unit') or ''}".rstrip()
        return "a string" if self.annotation is str else ""


def bounds(field: FieldInfo) -> tuple[float, float]:
    """The lowest and the highest value that a number takes."""
    low = next(limit.ge for limit in field.metadata if hasattr(limit, "ge"))
    high = next(limit.le for limit in field.metadata if hasattr(limit, "le"))
    return low, high


def without_none(annotation: Any) -> Any:
    """Return X for `X | None`, anything else as it is."""
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [argument for argument in get_args(annotation) if argument is not type(None)]
        if len(inner) == 1:
            return inner[0]
    return annotation


def section_of(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds, None for an option."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def list_item_of(field: FieldInfo) -> type[Section] | None:
    """The section that each element of a list is (`custom_logs`), None for anything else."""
    if get_origin(field.annotation) is not tuple:
        return None
    item = typing.get_args(field.annotation)[0]
    return item if isinstance(item, type) and issubclass(item, Section) else None


def options_of(model: type[BaseModel], prefix: str = "") -> Iterator[Option]:
    """Every option of a model in its order, sections opened, lists of logs as one option each."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield Option(prefix + name, field)
        else:
            yield from options_of(section, f"{prefix}{name}.")
