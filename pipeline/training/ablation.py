"""An ablation: a recipe, and the same recipe with one change at a time."""

import re
from collections.abc import Sequence

from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, load_recipe
from pipeline.settings import NAME


def ablations(
    source: str, changes: Sequence[str], *, overrides: Sequence[str] = (), suffix: str | None = None
) -> dict[str, Recipe]:
    """The recipe as it is, first, and once with each change, by the name of their experiments.

    Args:
        source: As of `load_recipe`.
        changes: Each `NAME:SETTING`, with further settings after blanks: `mixup:stages.0.mixup=0.2 stages.1.mixup=0.2`.
            The name goes after that of the recipe.
        overrides: Settings of all of them.
        suffix: What goes between the recipe's name and the change's.

    Raises:
        RecipeError: A recipe does not hold, a change cannot be read, or it changes no result.
    """
    base = load_recipe(source, overrides=overrides)
    first = f"{base.name}-{suffix}" if suffix else base.name
    found = {first: base}
    for change in changes:
        name, colon, text = change.partition(":")
        if not colon or not re.fullmatch(NAME, name):
            raise RecipeError(
                f"cannot read the change {change!r}",
                expected="NAME:SETTING, as in mixup:stages.1.mixup=0.2; the name in small letters, digits, dashes",
                next_step="write it so; further settings go after blanks, all of it in quotes",
            )
        # A blank begins another setting only where a path and `=` follow: values may have blanks, too.
        settings = re.split(r"\s+(?=[\w.*-]+=)", text.strip())
        try:
            recipe, experiment = load_recipe(source, overrides=[*overrides, *settings]), f"{first}-{name}"
        except RecipeError as error:
            raise RecipeError(
                f"the change {change!r}: {error.problem}", expected=error.expected, next_step="mend the change"
            ) from None
        same = [other for other, known in found.items() if known.fingerprint() == recipe.fingerprint()]
        if same or experiment in found:
            raise RecipeError(
                f"the change {change!r} changes nothing: it would be trained as {same[0]} is"
                if same
                else f"two changes are called {name!r}",
                expected="changes that differ from the recipe and from one another, each with a name of its own",
                next_step="change the value" if same else "rename one",
            )
        found[experiment] = recipe
    return found
