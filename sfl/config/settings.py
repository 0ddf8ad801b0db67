"""What all settings have in common: how they are checked, and the kinds of number."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, model_validator

Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Strict: unknown keys, `true` as a number, NaN and infinity are errors. null: the default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _fill_in(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(given, dict):
            return handler(given)
        given = {k: v for k, v in given.items() if v is not None or k not in cls.model_fields}
        filled = {k: v for k, v in cls.defaults_beside(given).items() if k not in given}
        settings = handler(given | filled)
        settings.model_fields_set.difference_update(filled)  # nobody has set them
        return settings

    @classmethod
    def defaults_beside(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """The defaults that depend on other settings, which have not been checked yet."""
        return {}

    def only_if(self, used: object, needs: str, *names: str) -> None:
        """Raises ValueError for one of these settings that isn't its default and is not used."""
        for name in names:
            if not used and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {needs}")
