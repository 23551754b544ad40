"""Numbers in the text of a page come from the run."""

import importlib.util


def glue(**numbers: str) -> None:
    """Make formatted numbers available to the text of the page, under their names.

    Outside the book (on Colab, say) the numbers are printed instead.

    Parameters
    ----------
    **numbers
        Name and text, already formatted: ``best="93 %"``.

    Raises
    ------
    TypeError
        If a value is not text: the page would show it unformatted.
    """
    for name, text in numbers.items():
        if not isinstance(text, str):
            raise TypeError(f"glue: {name} must be formatted text, not {type(text).__name__} {text!r}")
    if importlib.util.find_spec("myst_nb") is None:
        print(", ".join(f"{name} = {text}" for name, text in numbers.items()))
        return
    from myst_nb import glue as glue_one

    for name, text in numbers.items():
        glue_one(name, text, display=False)
