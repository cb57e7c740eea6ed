"""A study with several workers: ``python -m replica.integrations.optuna.example ENDPOINTS [WORKERS] [TRIALS]``.

Every worker opens the study by its name and asks it for trials; they see each other's results through the journal.
"""

from __future__ import annotations

import multiprocessing
import sys

import optuna

from replica.integrations.optuna import storage


def objective(trial: optuna.Trial) -> float:
    """The function of Himmelblau, which has four minima of 0."""
    x = trial.suggest_float("x", -6, 6)
    y = trial.suggest_float("y", -6, 6)
    return float((x * x + y - 11) ** 2 + (x + y * y - 7) ** 2)


def work(url: str, name: str, trials: int) -> None:
    """One worker."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage(url), study_name=name, load_if_exists=True)
    study.optimize(objective, n_trials=trials)


def run(url: str, name: str, *, workers: int = 4, trials: int = 10) -> optuna.Study:
    """Run so many workers with so many trials each; returns the study."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(url, name, trials)) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"workers failed: {[process.exitcode for process in processes]}")
    return optuna.load_study(storage=storage(url), study_name=name)


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    if not 1 <= len(arguments) <= 3:
        sys.stderr.write("usage: python -m replica.integrations.optuna.example ENDPOINTS [WORKERS] [TRIALS]\n")
        return 2
    workers, trials = (int(arguments[at]) if len(arguments) > at else given for at, given in ((1, 4), (2, 10)))
    study = run(arguments[0], "himmelblau", workers=workers, trials=trials)
    sys.stdout.write(f"{len(study.trials)} trials, the best {study.best_value:.4f} at {study.best_params}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
