"""The command line ``scidiff``: dispatch only; what a verb does lives in its domain.

A domain is a module named by an entry point of group ``scidiff.domains`` that holds a `Domain` called ``DOMAIN`` and
imports nothing heavy. Its verbs name the function that does the work as ``"package.module:function"``; it is imported
when called.
"""

from scidiff.cli.dispatch import main
from scidiff.cli.domain import Domain, Verb
from scidiff.cli.errors import UserError

__all__ = ["Domain", "UserError", "Verb", "main"]
