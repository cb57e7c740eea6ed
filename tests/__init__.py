"""The tests of Synod; see README.md for the map."""
