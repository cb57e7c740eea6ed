"""Following one command at a time."""

from replica.consensus.interface import Command
from replica.node.stages import SKIPPED_MAX, STAGES, Stages


def follow(stages: Stages, sequence: int = 1) -> None:
    stages.follow(Command(b"", 7, sequence), 10.0)


def totals(stages: Stages) -> dict[str, float]:
    return {name: round(stages.distributions[name].total, 6) for name in STAGES}


def test_the_stages_of_a_command_add_up_to_its_total():
    stages = Stages()
    follow(stages)
    stages.stepped(10.001, 10.003, group=5)
    stages.durable(10.004)
    stages.answered(10.008, 10.0085)
    assert totals(stages) == {
        "queue": 0.001, "batch": 0.002, "sync": 0.001, "decide": 0.005, "apply": 0.0005, "total": 0.0085
    }  # fmt: skip
    assert stages.sequence == -1


def test_a_command_that_was_lost_leaves_no_trace():
    stages = Stages()
    follow(stages)
    stages.stepped(10.001, 10.003, group=5)
    stages.expire(10.5)
    assert stages.sequence == 1
    stages.expire(30.0)
    assert stages.sequence == -1
    assert stages.group == 0
    assert set(totals(stages).values()) == {0.0}


def test_not_only_the_first_of_every_batch_is_followed():
    stages = Stages()
    skipped = []
    for sequence in range(SKIPPED_MAX):
        passed = 0
        while stages.passes():
            passed += 1
        skipped.append(passed)
        follow(stages, sequence)
        stages.lose()
    assert sorted(skipped) == list(range(SKIPPED_MAX))
