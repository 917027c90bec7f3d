"""Names in normal form: which spellings are one name, and which cells name nothing.

Classes, patients, columns, ids and paths are compared by these functions alone.
"""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wlsrl_jax.files import Mistake

_MISSING = frozenset(
    "na n/a n.a. nan -nan nat none null nil missing - -- --- \u2013 \u2014 . .. <na> (na) (null) "
    "#n/a #na #null! #value! #ref! #name? #num! #div/0! 1.#ind -1.#ind 1.#qnan -1.#qnan".split()
) | {"", "\\n", "(blank)", "not available", "not applicable", "#n/a n/a"}
_NO_PATIENT = frozenset("unknown unk ? ?? anonymous anonymized anonymised anon".split())
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_QUOTE = '"'
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".webp",
                  ".gif", ".jp2", ".j2k", ".jpx", ".avif", ".pgm", ".ppm", ".pnm", ".dcm",
                  ".dicom")  # fmt: skip
"""Of the image files that are read (``data/images/``), in lower case."""
UNWRITABLE = "its name cannot be written into a table; rename it"
"""Why a file is not used whose name has a line break, another control character, or no UTF-8."""


def is_missing(text: str) -> bool:
    """Whether a cell says that its value is missing, as pandas, R, Excel and people write it.

    >>> [is_missing(t) for t in ("", " NaN", "N/A", "None", "-", "#N/A", "0", "no")]
    [True, True, True, True, True, True, False, False]
    """
    return folded(text) in _MISSING


def is_no_patient(text: str) -> bool:
    """Whether a cell names no patient: it is missing, or says that nobody knows."""
    return is_missing(text) or folded(text) in _NO_PATIENT


def folded(text: str) -> str:
    """Without case, Unicode form, invisible characters and superfluous blanks."""
    if text.isascii() and text.isprintable():
        return " ".join(text.lower().split())  # most are, and tables are long
    text = unicodedata.normalize("NFKC", text).casefold()
    kept = (c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c.isspace())
    return unicodedata.normalize("NFKC", " ".join("".join(kept).split()))


def letters(text: str) -> str:
    """Letters and digits alone, as column names are compared: "Patient ID" is "patient_id"."""
    return "".join(c for c in folded(text) if c.isalnum())


def cleaned(text: str) -> str:
    """A name as it is shown: composed, without blanks at its ends or a control character."""
    text = unicodedata.normalize("NFC", text.replace("\ufeff", ""))
    return " ".join("".join(c for c in text if c.isspace() or is_writable(c)).split())


def shown(path: str) -> str:
    r"""A path as any table or terminal can hold it: other characters stand as in ``\x0a``."""

    def escape(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"\\x{code & 0xFF:02x}" if code < 0x2000 or code >= 0xD800 else f"\\u{code:04x}"

    return _UNWRITABLE.sub(escape, path)


def is_writable(path: str) -> bool:
    """Whether a path has no character that would break a table."""
    return _UNWRITABLE.search(path) is None


def patient_key(text: str) -> str:
    """What patients are compared by; zeros in front count.

    >>> patient_key("5.0"), patient_key("P1 "), patient_key("05")
    ('5', 'p1', '05')
    """
    text = folded(text)
    return re.sub(r"(\d+)\.0*", r"\1", text) if re.fullmatch(r"\d+\.0*", text) else text


def number_key(text: str) -> str:
    """As ``patient_key``, and numbers as a spreadsheet leaves them: 007 is 7, 1e5 is 100000.

    >>> number_key("007"), number_key("1.00E+05"), number_key("img_007"), number_key("0.50")
    ('7', '100000', 'img_7', '0.50')
    """
    text = patient_key(text)
    number = re.fullmatch(r"(\d{1,30})(?:[.,](\d{0,30}))?e\+?(\d{1,2})", text)
    if number:
        whole, part, power = number[1], (number[2] or "").rstrip("0"), int(number[3])
        if len(part) <= power <= 30:
            return str(int(whole + part + "0" * (power - len(part))))
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def class_key(text: str) -> str:
    """What classes are compared by: "CNV " is "cnv", and 0 is 0.0."""
    text = patient_key(text)
    return str(int(text)) if re.fullmatch(r"[0-9]{1,30}", text) else text


def one_spelling(
    names: Iterable[str], key: Callable[[str], str]
) -> tuple[dict[str, str], list[str]]:
    """Chooses one spelling for all names of one normal form.

    Args:
      names: with repetitions; the commonest spelling is taken, then the shortest.
      key: the normal form.

    Returns:
      (name -> its spelling, what was joined, as "'Normal' (3), 'NORMAL' (9) -> 'NORMAL'").
    """
    groups: dict[str, collections.Counter[str]] = {}
    for name, count in collections.Counter(names).items():
        groups.setdefault(key(name), collections.Counter())[name] += count
    spelling: dict[str, str] = {}
    joined = []
    for found in groups.values():
        best = min(found, key=lambda n: (-found[n], len(n), n))
        spelling |= dict.fromkeys(found, cleaned(best) if len(found) > 1 else best)
        if len(found) > 1:
            several = ", ".join(f"{n!r} ({found[n]})" for n in sorted(found))
            joined.append(f"{several} -> {cleaned(best)!r}")
    return spelling, sorted(joined)


def one_patient_each(
    patients: Iterable[str], leading_zeros: str = "ask"
) -> tuple[dict[str, str], list[str]]:
    """Chooses one spelling for each patient.

    Args:
      patients: with repetitions.
      leading_zeros: whether 007 and 7 are "same" or "different" patients where both occur, or
        "ask".

    Returns:
      (patient -> spelling, what was joined).

    Raises:
      Mistake: where it must be asked.
    """
    patients = list(patients)
    if leading_zeros == "same":
        return one_spelling(patients, number_key)
    if leading_zeros == "ask":
        forms: dict[str, dict[str, str]] = {}
        for name in patients:
            forms.setdefault(number_key(name), {}).setdefault(patient_key(name), name)
        asked = [sorted(f.values()) for f in forms.values() if len(f) > 1]
        if asked:
            examples = "; ".join(" and ".join(map(repr, pair)) for pair in sorted(asked)[:3])
            raise Mistake(
                f"{len(asked)} patients stand with and without zeros in front, such as {examples}. "
                "Say whether each is one patient with --leading_zeros=same, or several with "
                "--leading_zeros=different."
            )
    return one_spelling(patients, patient_key)


def split_quoted(text: str, separator: str) -> list[str]:
    """Splits at a separator that does not stand in double quotes; a quote in them is doubled.

    >>> split_quoted('"AMD, wet", NO', ",")
    ['"AMD, wet"', ' NO']
    """
    parts, inside = [""], False
    for c in text:
        inside ^= c == _QUOTE
        if c == separator and not inside:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def unquoted(text: str) -> str:
    """A part of ``split_quoted`` as it is meant, without its quotes and the blanks around.

    >>> unquoted(' "say ""AMD, wet" ')
    'say "AMD, wet'
    """
    text = text.strip()
    if len(text) > 1 and text.startswith(_QUOTE) and text.endswith(_QUOTE):
        return text[1:-1].replace(_QUOTE * 2, _QUOTE)
    return text


def split_names(text: str, flag: str) -> tuple[str, ...]:
    """Names separated by commas; one with a comma stands in double quotes.

    Raises:
      Mistake: if one stands twice, naming the flag.
    """
    names = tuple(name for part in split_quoted(text, ",") if (name := unquoted(part)))
    _, joined = one_spelling(names, class_key)
    if joined or len(set(names)) < len(names):
        raise Mistake(f"{flag}={text} has a name twice; give each once.")
    return names


def are_different_names(found: Any) -> bool:
    """Whether something that was read is a list of texts, none empty and none twice."""
    return (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(name, str) and name for name in found)
        and len(set(found)) == len(found)
    )


def known_by(names: Iterable[str], key: Callable[[str], str] = class_key) -> Mapping[str, str]:
    """Normal form -> name."""
    return {key(name): name for name in names}
