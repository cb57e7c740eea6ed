"""The errors of the metadata store keep what the client's errors promise."""

import pickle

import pytest

from replica.client.errors import SynodError
from replica.metadata import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SynodError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_error_crosses_processes_and_says_whether_anything_changed(kind):
    error = pickle.loads(pickle.dumps(kind("something happened")))
    assert error.reason == "something happened"
    assert ("may have taken effect" in str(error)) == error.may_have_taken_effect


def test_what_an_error_knows_crosses_with_it():
    error = pickle.loads(pickle.dumps(errors.FilterError("a word is missing", "a = ", 4)))
    assert (error.source, error.position) == ("a = ", 4)
    assert "at position 4" in str(error)
    assert pickle.loads(pickle.dumps(errors.AliasMoved("elsewhere", 7))).current == 7
