"""Make the checks, one after another; one that crashes has failed, in a sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from saei.doctor import CHECKS, Finding, Patient
from saei.doctor.finding import NotHere, failed, not_run


def examine(patient: Patient, names: Sequence[str] = tuple(CHECKS)) -> Iterator[Finding]:
    """The finding of every named check, as it is made."""
    for name in names:
        try:
            finding = CHECKS[name](patient)
        except NotHere as reason:
            finding = not_run(str(reason))
        except Exception as error:  # whatever it is: the next check may still say what is behind it
            lines = str(error).strip().splitlines()
            said = f": {lines[0][:300]}" if lines else ""
            finding = failed(f"the check itself failed, {type(error).__name__}{said}", "see the checks before it")
        yield replace(finding, check=name)
