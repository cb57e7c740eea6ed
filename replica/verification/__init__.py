"""Histories of what clients saw, and the checker that judges whether they are linearizable.

The history format imports nothing of the project. The checker's models are written independently of
`replica.kv` and never import it: a checker that shares code with what it judges shares its mistakes.
"""
