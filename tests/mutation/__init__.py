"""Mutation testing of MultiPaxos and of the quorum systems: does anything notice when a guard is wrong?

cosmic-ray knows the mutations: another comparison, ``and`` for ``or``, a condition negated or no longer negated. A seed
draws a sample of all that apply to the guards and comparisons of `SOURCES`; each is made in a copy of the tree, and the
unit tests (the first failure ends them) and then some dozens of simulated seeds try to tell it from the original. What
nobody notices has *survived*, and `SURVIVORS.md` beside this file explains it or the command fails.

Left out are assertions, since a weaker one changes nothing that sound code does, and the lines that ask for a planted
bug, which are no part of the protocol.

``make mutants`` runs it; it is not among the tests, because it takes a quarter of an hour on two cores.
"""
