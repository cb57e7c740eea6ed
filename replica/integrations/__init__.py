"""Synod as the storage of other people's programs. Each integration is a package with an extra of its own name."""
