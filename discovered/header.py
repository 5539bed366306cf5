"""What exported Python files say first: what the program is, its text, and the license."""

from __future__ import annotations

from ..dsl import Program

LICENSE = "Exported by Stepsmith. SPDX-License-Identifier: Apache-2.0"
#: How the text of an update rule is announced.
RULE = "The program (the caller does w = w - update; every state is zero at the start):"


def header(program: Program, says: str = RULE) -> list[str]:
    r"""Lines of a comment: what the program's text says of itself, then the text.

    >>> header(Program.parse("# Descent.\ndef sgd(w, g, lr=0.1):\n  return lr * g"), "The program:")
    ['Descent.', '', 'The program:', '    def sgd(w, g, lr=0.1):', '        return lr * g']
    """
    about = program.doc.splitlines()
    text = str(program).splitlines()[len(about) :]
    return [*about, *([""] if about else []), says, *("    " + line for line in text)]
